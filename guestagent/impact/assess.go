package impact

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/proc"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
)

// Use is a file that a process uses.
type Use struct {
	// Path relative to the root, as contents lists have it.
	Path string
	// Device that the file is used from; zero if unknown.
	Device proc.Device
	// Mapped is true for a file that is mapped or run, false for one that is only open.
	Mapped bool
	// Deleted is true when the kernel shows the file as unlinked.
	Deleted bool
	// Version says whether it is the file that is mounted at its path now.
	Version Version
	// Interpreted is true for a file that a process has read and does not use any more (Interpreted).
	Interpreted bool
}

// Version says which of the files that were at one path since the boot a process uses.
type Version int

// The versions.
const (
	// NotCompared: the file is not from a /usr that was swapped out, or could not be compared.
	NotCompared Version = iota
	// Mounted: the file has the same content as the one that is mounted at its path.
	Mounted
	// Earlier: the file is from a /usr that was swapped out, and another one is mounted at its path, or none.
	Earlier
)

// Interpreted is code that a process has read before a refresh brought another version of it. An
// interpreter closes what it has read, so that nothing in /proc shows it later.
type Interpreted struct {
	PID int `json:"pid"`
	// Started is when the process was started, in clock ticks since boot: with the PID it identifies the process.
	Started uint64 `json:"started"`
	Path    string `json:"path"`
	// Stack is the key of the stack from which the code is (release.Stack.Key).
	Stack string `json:"stack,omitempty"`
}

// Process is one process, with those files that it uses which differ between the stacks.
type Process struct {
	PID int
	// Unit of the system manager, "" if the process belongs to none.
	Unit string
	// Session is true for a process of a user's session.
	Session bool
	// Command is the name that the kernel shows.
	Command string
	// Program is the path of the executable, relative to the root, and ProgramDevice the file system it is run from.
	Program       string
	ProgramDevice proc.Device
	// Arguments are the differing files on an interpreter's command line, relative to the root.
	Arguments []string
	// Started is when the process was started, in clock ticks since boot.
	Started uint64
	// SystemRoot is true when the process has the system's own root, false in a container or a chroot.
	SystemRoot bool
	// Confined is the AppArmor profile that denies the process files on a detached mount; "" if none does.
	Confined string
	// Uses are the differing files, and those of an earlier version.
	Uses []Use
}

// Swap is one swap of /usr.
type Swap struct {
	// Ticks is when it was done, in clock ticks since boot: no process that started later has seen the /usr before.
	Ticks uint64
	// Usr is what was swapped in.
	Usr proc.Device
}

// Snapshot is a system at one moment.
type Snapshot struct {
	Processes []Process
	// Units by name. One that is missing counts as a plain unit without files.
	Units map[string]Unit
	// Usr are the file systems of the mounted /usr and of those that were swapped out since boot.
	Usr []proc.Device
	// Fresh is the file system of the new /usr once it is swapped in: what is used from it is new. Before the swap it
	// is zero, and using any differing path affects a unit.
	Fresh proc.Device
	// Swaps are the swaps of this boot, in their order.
	Swaps []Swap
}

// Affected is a unit that uses what changes.
type Affected struct {
	Unit    string
	Outcome Outcome
	// Reason says why the unit is affected, KeptBecause why it is left as it is nevertheless: all of it
	// (Outcome.Keeps), or its code alone, for a message bus that only reads its configuration again.
	Reason, KeptBecause string
	// Paths are the first of the differing paths that the unit uses, and PathCount is the number of all of them.
	// Packages are those that Paths belong to.
	Paths     []string
	PathCount int64
	Packages  []string
	PIDs      []int

	lines, commands []string
	interpreted     []Interpreted
}

// FirstUse names one differing thing that the unit uses.
func (a *Affected) FirstUse() string {
	if len(a.Paths) == 0 {
		return a.Reason
	}
	return a.Paths[0]
}

// Left is a unit that the user's policy leaves as it is.
type Left struct {
	Unit string `json:"unit"`
	// Text is "unit: why it is affected; the policy".
	Text string `json:"text"`
}

// Assessment is what a move from one stack to another interrupts.
type Assessment struct {
	Level agentapi.Level
	// Affected is sorted by unit.
	Affected   []Affected
	Unaffected []string
	// Reasons say why a level above restart is needed.
	Reasons []string
	// Pending says what takes effect only with a soft-reboot or a reboot after a live refresh.
	Pending []string
	// Boot are the files that the running system has loaded at boot and that differ once the change
	// is made, by whichever refresh of this boot. Pending has them, too.
	Boot []BootFile
	// Starts are the units that the new stack enables.
	Starts []Start
	// Left are the units that are left as they are because of the user's policy.
	Left []Left
	// Unmatched are the units that the policy names and that neither the system nor the new stack has.
	Unmatched []string
	// Sessions are processes of user sessions that use what changes: "unit pid command".
	Sessions []string
	// Remaining are processes that use what changes, or what an earlier refresh changed, and that a
	// live refresh leaves as they are: "unit pid path".
	Remaining []string
	// Interpreted is what of this /proc does not show later.
	Interpreted []Interpreted
	Changed     uint64
}

// Names are the names of all units with processes.
func (a *Assessment) Names() []string {
	names := slices.Clone(a.Unaffected)
	for _, affected := range a.Affected {
		names = append(names, affected.Unit)
	}
	return names
}

// Message is the assessment in the form of the agent's API.
func (a *Assessment) Message() *agentapi.Impact {
	message := &agentapi.Impact{
		Level: a.Level, Unaffected: a.Unaffected, Reasons: a.Reasons, ChangedPaths: a.Changed, Sessions: a.Sessions,
		Left: LeftTexts(a.Left), Pending: a.Pending, Remaining: a.Remaining, UnmatchedUnits: a.Unmatched,
	}
	for _, start := range a.Starts {
		message.Starts = append(message.Starts,
			&agentapi.UnitStart{Unit: start.Unit, WantedBy: start.By, Skipped: start.Skipped})
	}
	for _, affected := range a.Affected {
		if affected.Outcome.Keeps() {
			continue
		}
		message.Units = append(message.Units, &agentapi.UnitImpact{
			Unit: affected.Unit, Level: affected.Outcome.Level(), Paths: affected.Paths,
			PathCount: affected.PathCount, Reason: affected.Reason,
			Packages: affected.Packages,
		})
	}
	return message
}

// LeftTexts returns the text of each unit that is left as it is.
func LeftTexts(all []Left) (texts []string) {
	for _, left := range all {
		texts = append(texts, left.Text)
	}
	return texts
}

// Assess returns what the changes interrupt in a system as it is now.
func Assess(changes *Changes, snapshot Snapshot, policy Policy) *Assessment {
	a := &Assessment{Level: agentapi.Level_NONE, Changed: changes.Count()}
	units := gather(changes, &snapshot, policy)
	for name, g := range units {
		unit := snapshot.Units[name]
		if snapshot.Fresh == (proc.Device{}) {
			// Files that systemd reads count only before the swap: after it, systemd reads them again.
			g.files(changes, unit, policy.extra(name))
			if busUnit(name) {
				g.policy.merge(&changes.busPolicy)
			}
		}
		if !g.affected() && !changes.takesOver(unit) {
			if !g.session && len(g.pids) > 0 && !strings.HasSuffix(name, ".scope") && !strings.HasPrefix(name, noUnit) {
				a.Unaffected = append(a.Unaffected, name)
			}
			continue
		}
		a.add(changes, g, unit, policy)
	}
	a.spare(snapshot.Units, policy.Agent)
	a.follow(snapshot.Units, policy.Agent)
	slices.Sort(a.Unaffected)
	slices.SortFunc(a.Affected, func(x, y Affected) int { return strings.Compare(x.Unit, y.Unit) })
	a.conclude(changes)
	if snapshot.Fresh == (proc.Device{}) {
		a.Boot = changes.bootFiles(snapshot.Units, a.renews)
		a.Starts, a.Unmatched = starts(changes, snapshot.Units, policy), policy.unmatched(snapshot.Units, changes)
	}
	a.system(changes, units, policy)
	return a
}

// conclude derives the level, and what is left as it is.
func (a *Assessment) conclude(changes *Changes) {
	for i := range a.Affected {
		affected := &a.Affected[i]
		affected.Reason += sideEffect(affected.Unit, affected.Outcome, changes)
		a.Interpreted = append(a.Interpreted, affected.interpreted...)
		a.Level = max(a.Level, affected.Outcome.Level())
		if affected.KeptBecause == "" {
			continue
		}
		a.Remaining = append(a.Remaining, affected.lines...)
		switch affected.Outcome {
		case KeptInSession:
			a.Sessions = append(a.Sessions, affected.commands...)
		case KeptByPolicy:
			text := fmt.Sprintf("%s: %s; %s", affected.Unit, affected.Reason, affected.KeptBecause)
			a.Left = append(a.Left, Left{Unit: affected.Unit, Text: text})
		}
	}
	slices.Sort(a.Sessions)
	slices.Sort(a.Remaining)
}

// system adds what concerns the system as a whole.
func (a *Assessment) system(changes *Changes, units map[string]*gathered, policy Policy) {
	raise := func(level agentapi.Level, reason string) {
		a.Level = max(a.Level, level)
		a.Reasons = append(a.Reasons, reason)
	}
	if policy.Obstacle != "" {
		raise(agentapi.Level_SOFT_REBOOT, policy.Obstacle)
	}
	if changes.loader.count > 0 {
		raise(agentapi.Level_SOFT_REBOOT,
			"the dynamic loader differs, which every process has mapped: "+strings.Join(changes.loader.paths, ", "))
	}
	if changes.bus.count > 0 && slices.ContainsFunc(slices.Collect(maps.Keys(units)), busUnit) {
		raise(agentapi.Level_SOFT_REBOOT, "the message bus differs and cannot be restarted in a running system: "+
			strings.Join(changes.bus.paths, ", "))
	}
	if policy.TargetKernel != "" && policy.RunningKernel != policy.TargetKernel {
		a.Pending = append(a.Pending, KernelPending(policy.RunningKernel, policy.TargetKernel))
	}
	for _, affected := range a.Affected {
		if affected.Outcome == Kept || affected.Outcome == Reloaded && affected.KeptBecause != "" {
			a.Pending = append(a.Pending,
				fmt.Sprintf("%s still uses %s: %s", affected.Unit, affected.FirstUse(), affected.KeptBecause))
		}
	}
	a.Pending = append(a.Pending, BootTexts(a.Boot)...)
}

// renews reports whether the refresh starts a unit again, or has it reload its configuration.
func (a *Assessment) renews(unit string) bool {
	at := a.index(unit)
	return at >= 0 && slices.Contains([]Outcome{Reloaded, Restarted, RestartedAlong}, a.Affected[at].Outcome)
}

// add decides the outcome of one affected unit.
func (a *Assessment) add(changes *Changes, g *gathered, unit Unit, policy Policy) {
	affected := Affected{
		Unit: g.name, PIDs: g.stale, Outcome: Restarted, Reason: g.reason(), lines: g.lines, commands: g.commands,
		interpreted: g.interpreted,
	}
	var all pathList
	for _, list := range g.lists() {
		all.merge(list)
	}
	affected.PathCount = all.count
	for _, name := range all.paths {
		affected.Paths = append(affected.Paths, "/"+name)
	}
	code := g.uses.count+g.scripts.count > 0 || g.confined != ""
	removed := changes.removes(unit)
	switch {
	case g.session || personalUnit(g.name):
		affected.Outcome, affected.KeptBecause = KeptInSession, "it belongs to a user's session"
	case strings.HasPrefix(g.name, noUnit):
		affected.Outcome, affected.KeptBecause = Kept, "it belongs to no unit"
	case g.name == ManagerUnit:
		affected.Outcome, affected.Reason = Reloaded, "systemd re-executes itself in place"
	case busUnit(g.name):
		affected.Outcome = Reloaded
		if g.policy.count == 0 && code {
			affected.Outcome = Kept
		} else {
			affected.Reason = "its configuration differs"
		}
		if code {
			affected.KeptBecause = "a soft-reboot renews the message bus"
		}
	case changes.takesOver(unit):
		affected.Outcome, affected.Reason = TakenOver, "it stands in for a unit of a component, which is attached"
	case unit.unstoppable(g.name, removed) != "":
		affected.Outcome, affected.KeptBecause = Kept, unit.unstoppable(g.name, removed)
	case removed:
		affected.Outcome, affected.Reason = Stopped, "it is no part of the new stack and is stopped"
	case unit.CanReload && g.reloads():
		affected.Outcome = Reloaded
	}
	if !affected.Outcome.Keeps() && affected.Outcome != TakenOver {
		policy.apply(&affected, unit)
	}
	if removed && unit.Once {
		// Without its file systemd would apply its default time limit to it, and end it.
		a.Level = max(a.Level, agentapi.Level_SOFT_REBOOT)
		a.Reasons = append(a.Reasons,
			g.name+" is in progress, and the new stack has no such unit: wait until it has ended")
	}
	a.Affected = append(a.Affected, affected)
}

// KernelPending says that another kernel takes effect later. The host supplies the kernel when it starts the VM: a
// reboot from within boots the kernel that the VM was started with.
func KernelPending(from, to string) string {
	return fmt.Sprintf("kernel %s → %s at the next power-off and start", from, to)
}
