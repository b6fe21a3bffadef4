package refresh

import (
	"context"
	"io"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/etcmerge"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/impact"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// Layers are the disks that the host plugged in.
type Layers interface {
	// Open mounts a layer over dm-verity and returns where. An open one is left as it is.
	Open(ctx context.Context, layer release.Layer) (path string, err error)
	// Read reads every block of an open layer, and so has every block verified.
	Read(ctx context.Context, layer release.Layer) error
}

// Usr is the mount of /usr.
type Usr interface {
	// Swap puts the /usr of the layers (mount points, bottom to top) in the place of the present one, in one
	// atomic operation. Doing it again is harmless.
	Swap(ctx context.Context, layers []string) error
	// Back undoes Swap: layers are those from before. It works after a restart of the agent, too.
	Back(ctx context.Context, layers []string) error
	// Prefetch reads files of the current /usr into the page cache, so that a unit that starts from them does not wait for
	// the disk. Paths that do not exist, or are no regular files, are skipped.
	Prefetch(ctx context.Context, paths []string) error
	// Settle gives up what Back would need to be quick.
	Settle() error
}

// Etc carries the configuration.
type Etc interface {
	// Carry brings what differs below /etc and /var to the new stack's version, three-way. It records how to undo
	// that before it changes anything, and the keys of both stacks (release.Stack.Key). from and to are the mount points
	// of their layers. Doing it again is harmless.
	Carry(ctx context.Context, ends etcmerge.Ends, differences []etcmerge.Difference, from, to []string) (etcmerge.Outcome, error)
	// RenewLoaderCache makes the dynamic loader's cache again, for the /usr that is mounted.
	RenewLoaderCache(ctx context.Context) error
	// Undo restores what the last Carry changed. Without one it does nothing.
	Undo(ctx context.Context) error
	// End ends the last Carry: it is settled if it was to the running stack, and undone otherwise.
	End(ctx context.Context, running release.Stack) error
}

// Units is the manager of services.
type Units interface {
	Reload(ctx context.Context) error
	Reexecute(ctx context.Context) error
	// Order sorts units so that each comes after those that it is to be started after, and that it is restarted with. It
	// tells which of the units these are.
	Order(ctx context.Context, units []string, facts map[string]impact.Unit) (ordered []string, after map[string][]string, err error)
	// Restart a unit that runs and wait until it is active; it returns for how long it was not. One that does not run
	// is left as it is.
	Restart(ctx context.Context, unit string) (time.Duration, error)
	// Restore restarts a unit that ran before, and starts it if it failed or was stopped meanwhile.
	Restore(ctx context.Context, unit string) (time.Duration, error)
	// Restarted waits for what is under way with a unit, and tells whether it was started since a moment of System, and
	// for how long it was not active before.
	Restarted(ctx context.Context, unit string, since uint64) (restarted bool, away time.Duration, err error)
	Stop(ctx context.Context, unit string) error
	ReloadUnit(ctx context.Context, unit string) error
	ActiveState(ctx context.Context, unit string) (string, error)
	// Active is ActiveState and the moment since which the unit is active: another moment is another start.
	Active(ctx context.Context, unit string) (state string, since uint64, err error)
	// Failure says why a unit does not run, with what it logged last.
	Failure(ctx context.Context, unit string) string
	ApplyAccounts(ctx context.Context) error
	ApplyTemporary(ctx context.Context) error
	// State of the manager, as "systemctl is-system-running" prints it.
	State(ctx context.Context) (string, error)
	// Failed names the units that have failed.
	Failed(ctx context.Context) ([]string, error)
}

// Starter starts a stack anew, together with the rest of the system. What it asks for ends the agent on its way, so none
// of its methods waits for that.
type Starter interface {
	// Obstacles say, by rung above Live, why it cannot be climbed here; one that can be is not among them.
	Obstacles(ctx context.Context) (map[Rung]string, error)
	// SoftReboot has the userland end and the stack begin that the journal wants: To when it is Starting, From when it is
	// RollingBack.
	SoftReboot(ctx context.Context) error
	// Kexec has the running kernel end in this one, which may boot the stack on trial. Whatever becomes of that, the machine
	// is reset after kexecLimit, unless it is called again without a kernel: by an agent that is up, or to give the kexec up.
	Kexec(ctx context.Context, kernel, initramfs io.Reader, commandLine string, trial release.Stack) error
	// Reboot has the machine start again. It boots what is committed.
	Reboot(ctx context.Context) error
}

// System is what is observed of the running system.
type System interface {
	// BootID changes with every boot.
	BootID() (string, error)
	// Root names the root file system: a soft-reboot to another stack changes it.
	Root() (string, error)
	// Kernel is the release of the running one.
	Kernel() (string, error)
	// Obstacle says why a live swap is impossible here; "" if it is not.
	Obstacle() string
	// Moment is now, in microseconds of the monotonic clock.
	Moment() (uint64, error)
	// Snapshot reads what runs; swapped tells whether what runs from the present /usr counts as new. It tells of the
	// named units, too, if no process of theirs runs.
	Snapshot(ctx context.Context, changes *impact.Changes, named []string, swapped bool) (impact.Snapshot, error)
	// Packages tells which packages what the units use is from.
	Packages(ctx context.Context, a *impact.Assessment) error
	// Pinned names the units that see an earlier /usr in a mount namespace of their own.
	Pinned(ctx context.Context) ([]string, error)
	// ForeignGenerators reports whether programs other than systemd bring generators of units (systemd.generator(7)).
	ForeignGenerators() (bool, error)
	// Room checks that the private disk and /run can be written to and have room.
	Room(ctx context.Context) error
}

// Health judges health checks.
type Health interface {
	// Check returns nil if the check is good now. It is bounded by ctx.
	Check(ctx context.Context, check *agentapi.HealthCheck) error
}

// Records are what survives the agent, and a power cut.
type Records interface {
	// Journal returns journal.ErrNone if there is none.
	Journal() (Record, error)
	SaveJournal(Record) error
	// Request is what the refresh of the journal was asked for, as a RefreshRequest message.
	Request() ([]byte, error)
	SaveRequest([]byte) error
	// Committed returns the stack of the newest commit, and its generation; false if there was none.
	Committed() (release.Stack, uint64, bool, error)
	Commit(stack release.Stack) (generation uint64, err error)
	// MarkBad has a stack booted only if there is no other one. MarkGood undoes that.
	MarkBad(stack release.Stack) error
	MarkGood(stack release.Stack) error
}

// Blobs are the contents lists that the host handed over, whose bytes match their digests.
type Blobs interface {
	Open(digest tree.Digest) (io.ReadCloser, error)
	Drop() error
}
