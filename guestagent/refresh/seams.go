package refresh

import (
	"context"
	"io"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/etcmerge"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/impact"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/network"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// Layers are the layers that the host has attached.
type Layers interface {
	// Open mounts a layer on dm-verity and returns its mount point. An open layer stays as it is.
	Open(ctx context.Context, layer release.Layer) (path string, err error)
	// Check checks that an open layer can still be read: its disk is attached, and a sample of its blocks is readable.
	Check(ctx context.Context, layer release.Layer) error
	// Read reads every block of an open layer, so that every block is verified.
	Read(ctx context.Context, layer release.Layer) error
}

// Usr is the mount of /usr.
type Usr interface {
	// Swap replaces the current /usr by that of the layers (mount points, bottom to top), in one atomic operation. It
	// can be repeated.
	Swap(ctx context.Context, layers []string) error
	// Back undoes Swap. layers are those of the old stack. It also works after a restart of the agent.
	Back(ctx context.Context, layers []string) error
	// Prefetch reads files of the current /usr into the page cache, so that a unit that starts from them does not wait
	// for the disk. Paths that do not exist, or are no regular files, are skipped.
	Prefetch(ctx context.Context, paths []string) error
	// Settle makes the last Swap or Back final.
	Settle() error
}

// Etc carries the configuration.
type Etc interface {
	// Room checks that the private disk has room for what Carry would write.
	Room(differences []etcmerge.Difference) error
	// Carry brings what differs and is not of the OS alone to the new stack's version, three-way. It records how to
	// undo that before it changes anything, and the keys of both stacks (release.Stack.Key). from and to are the mount
	// points of their layers; the lowest base of to are those of the new stack's base. Doing it again is harmless.
	Carry(ctx context.Context, ends etcmerge.Ends, differences []etcmerge.Difference, from, to []string,
		base int) (etcmerge.Outcome, error)
	// Keep records the patterns of paths that this carry, and those of later boots, leave as they
	// are, and whether what a component brought is to go with it.
	Keep(patterns []string, purge bool) error
	// Accounts returns this VM's etc/passwd and etc/group.
	Accounts() (etcmerge.AccountTexts, error)
	// Generate runs the named etcmerge.Generators, for the mounted /usr, and returns those that failed.
	Generate(ctx context.Context, names []string) []etcmerge.Conflict
	// Undo restores what the last Carry changed, and returns what it left in place. Without a carry it does nothing.
	Undo(ctx context.Context) ([]etcmerge.Conflict, error)
	// End ends the last Carry: it settles it if it was to the running stack, and undoes it otherwise.
	End(ctx context.Context, running release.Stack) error
	// Purge removes what components that are gone have brought and nobody has changed, if Keep said so before
	// the carry that was ended last. From then on that carry cannot be taken back. Doing it again is harmless.
	Purge(ctx context.Context) (etcmerge.Purged, error)
	// Behind returns an error, with the way out, if /etc belongs to another stack than the running one, because a boot
	// could not carry it.
	Behind(running release.Stack) error
}

// Units is systemd.
type Units interface {
	Reload(ctx context.Context) error
	Reexecute(ctx context.Context) error
	// Order sorts units so that each comes after the units it is ordered after, and after those it is restarted with.
	// after has those units for each unit.
	Order(ctx context.Context, units []string, facts map[string]impact.Unit) (ordered []string,
		after map[string][]string, err error)
	// Restart restarts a running unit, waits until it is active, and returns for how long it was not. A unit that does
	// not run stays as it is.
	Restart(ctx context.Context, unit string) (time.Duration, error)
	// Restore restarts a unit that ran before, and starts it if it has failed or was stopped.
	Restore(ctx context.Context, unit string) (time.Duration, error)
	// Restarted waits until a unit has no job, and reports whether it was started since a moment of System, and for how
	// long it was not active before.
	Restarted(ctx context.Context, unit string, since uint64) (restarted bool, away time.Duration, err error)
	Stop(ctx context.Context, unit string) error
	// Startable says why a unit that a release enables by a symbolic link cannot be started now, ""
	// if it can, and whether it runs already.
	Startable(ctx context.Context, unit, link string) (running bool, why string, err error)
	// Start starts a unit and waits until it is active. skipped is true if a condition of the unit was not met.
	Start(ctx context.Context, unit string) (took time.Duration, skipped bool, err error)
	// Withdraw stops a unit that did not run before, and has systemd forget that it has failed.
	Withdraw(ctx context.Context, unit string) error
	// Ran returns the units that have been active in this boot and have not failed since.
	Ran(ctx context.Context) ([]string, error)
	ReloadUnit(ctx context.Context, unit string) error
	ActiveState(ctx context.Context, unit string) (string, error)
	// Active returns ActiveState and since when the unit is active: another moment means another start.
	Active(ctx context.Context, unit string) (state string, since uint64, err error)
	// Failure describes why a unit does not run, with what it logged last.
	Failure(ctx context.Context, unit string) string
	// ApplyAccounts makes the accounts that the files of sysusers.d with these names declare, as far as they exist.
	ApplyAccounts(ctx context.Context, names []string) error
	// ApplyTemporary applies the files of tmpfiles.d with these names, as far as they exist.
	ApplyTemporary(ctx context.Context, names []string) error
	// State returns the state of the system, as "systemctl is-system-running" prints it.
	State(ctx context.Context) (string, error)
	// Failed returns the units that have failed.
	Failed(ctx context.Context) ([]string, error)
}

// Starter starts a stack together with the whole userland. That ends the agent, so its methods only request it and do
// not wait.
type Starter interface {
	// Obstacles say, for each rung above Live that is not possible in this system, why.
	Obstacles(ctx context.Context) (map[Rung]string, error)
	// SoftReboot ends the userland and starts the stack that the journal names: To in Starting, From in RollingBack.
	SoftReboot(ctx context.Context) error
	// Kexec has the running kernel start another one, which may boot the stack on trial. If that fails, a watchdog
	// resets the machine, unless Kexec is called again without a kernel: by the agent of the new system, or to give the
	// kexec up.
	Kexec(ctx context.Context, kernel, initramfs io.Reader, commandLine string, trial release.Stack) error
	// Reboot reboots the machine, which boots the committed stack.
	Reboot(ctx context.Context) error
}

// System observes the running system.
type System interface {
	// BootID changes with every boot.
	BootID() (string, error)
	// Root identifies the root file system: a soft-reboot to another stack changes it.
	Root() (string, error)
	// Kernel is the release of the running kernel.
	Kernel() (string, error)
	// Obstacle says why a live swap is impossible here; "" if it is not.
	Obstacle() string
	// Moment is now, in microseconds of the monotonic clock.
	Moment() (uint64, error)
	// Snapshot reads what runs. If swapped is true, files of the current /usr count as new. The snapshot includes the
	// named units even without a process.
	Snapshot(ctx context.Context, changes *impact.Changes, named []string, swapped bool) (impact.Snapshot, error)
	// Swapped reports whether /usr was swapped in this boot.
	Swapped() (bool, error)
	// Packages sets the packages to which the files that the units use belong.
	Packages(ctx context.Context, a *impact.Assessment) error
	// Pinned returns the units that see an earlier /usr in a mount namespace of their own.
	Pinned(ctx context.Context) ([]string, error)
	// ForeignGenerators reports whether programs other than systemd bring generators of units (systemd.generator(7)).
	ForeignGenerators() (bool, error)
	// Room checks that the private disk and /run are writable and have room.
	Room(ctx context.Context) error
}

// Network keeps what was added by hand to the network of the VM while its network manager is restarted, also by a
// soft-reboot. What is kept outlives the agent, but not the kernel.
type Network interface {
	// Keep records addresses, routes, rules, neighbours and nexthops, unless a record is there. From then on, until
	// Release or Stop, it adds again what goes of them and is surely not the manager's.
	Keep(ctx context.Context, sure network.Sure) error
	// Continue goes on with what an earlier agent kept, and reports whether there is such a record.
	Continue(ctx context.Context) (found bool, err error)
	// Release waits until nothing more goes, adds again what is missing, removes the record, and returns what is still
	// missing and why, in words. It waits for less if manager, the unit that was restarted, is known and idle. Without
	// a record it does nothing.
	Release(ctx context.Context, manager string) (missing []string, err error)
	// Stop ends what Keep began, and leaves the record to the next agent.
	Stop()
	// Forget removes the record of an earlier refresh.
	Forget() error
}

// Health carries out health checks.
type Health interface {
	// Check returns nil if the check is good now. It is bounded by ctx.
	Check(ctx context.Context, check *agentapi.HealthCheck) error
}

// Records survive the agent, and a power cut.
type Records interface {
	// Journal returns journal.ErrNone if there is none.
	Journal() (Record, error)
	SaveJournal(Record) error
	// Request returns the request of the last refresh, as a RefreshRequest message; nil if there was none. A power cut
	// leaves a whole one, which may be newer than the refresh in the journal.
	Request() ([]byte, error)
	SaveRequest([]byte) error
	// Committed returns the stack of the newest commit, and its generation; false if there was none.
	Committed() (release.Stack, uint64, bool, error)
	// Commit makes a stack the one that is booted. own is true if the VM moves to it by itself.
	Commit(stack release.Stack, own bool) (generation uint64, err error)
	// MarkBad has a stack booted only if there is no other one. MarkGood undoes that.
	MarkBad(stack release.Stack) error
	MarkGood(stack release.Stack) error
}

// Blobs are what the host has uploaded, such as contents lists. Their bytes match their digests.
type Blobs interface {
	Open(digest tree.Digest) (io.ReadCloser, error)
	Drop() error
}
