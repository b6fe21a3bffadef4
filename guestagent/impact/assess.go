package impact

import (
	"fmt"
	"maps"
	"slices"
	"sort"
	"strings"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/proc"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
)

// Use is a file that a process uses.
type Use struct {
	// Path relative to the root, as contents lists have it.
	Path string
	// Device that it is used from; zero if unknown.
	Device proc.Device
	// Mapped tells mapped (or run) from merely held open.
	Mapped bool
	// Deleted is true when the kernel shows it as unlinked.
	Deleted bool
}

// Process is one process and what it uses of what changes.
type Process struct {
	PID int
	// Unit of the system manager, "" if it is in none.
	Unit string
	// Session is true for processes of users' sessions.
	Session bool
	// Command is the name as the kernel has it.
	Command string
	// Program is the path of the executable relative to the root, and ProgramDevice what it is run from.
	Program       string
	ProgramDevice proc.Device
	// Arguments of an interpreter's command line that may be files, relative to the root.
	Arguments []string
	// Started is when, in clock ticks since boot.
	Started uint64
	// SystemRoot is true when the process has the system's own root: neither a container nor a chroot.
	SystemRoot bool
	// Confined names the AppArmor profile that refuses it files of a mount that was detached; "" if none does.
	Confined string
	// Uses holds those files that differ between the stacks.
	Uses []Use
}

// Swap is a /usr that was put in the place of another one.
type Swap struct {
	// Ticks is when, in clock ticks since boot: no process that started later has seen the /usr before.
	Ticks uint64
	// Usr is what was put there.
	Usr proc.Device
}

// Snapshot is a system at one moment.
type Snapshot struct {
	Processes []Process
	// Units by name. One that is missing is taken for a plain unit without files.
	Units map[string]Unit
	// Usr are the devices of the /usr that is mounted and of those that were swapped out since boot.
	Usr []proc.Device
	// Fresh is the device of the new /usr once it is swapped in: what is used from it is new. Before the swap it
	// is zero: whatever uses a path that differs is affected.
	Fresh proc.Device
	// Swaps are those of this boot, in their order.
	Swaps []Swap
}

// Affected is a unit that uses what changes.
type Affected struct {
	Unit  string
	Level agentapi.Level
	// Paths are the first of what it uses, and PathCount how much that is; Packages are those that Paths are from.
	Paths     []string
	PathCount int64
	Packages  []string
	Reason    string
	PIDs      []int
	// Gone is true when the new stack has no such unit any more: it is stopped, and not started.
	Gone bool
	// With is true when the manager restarts it together with another one.
	With bool
	// Kept says why a live refresh does not touch it though it is affected; "" if it is restarted or reloaded.
	Kept string
	// Left is true when it is kept because the user wants that.
	Left bool

	session         bool
	lines, commands []string
}

// Uses names one thing that the unit uses of what changes.
func (a *Affected) Uses() string {
	if len(a.Paths) == 0 {
		return a.Reason
	}
	return a.Paths[0]
}

// Assessment is what a move from one stack to another means.
type Assessment struct {
	Level agentapi.Level
	// Affected is sorted by unit.
	Affected   []Affected
	Unaffected []string
	// Reasons say why a level above restart is needed.
	Reasons []string
	// Pending says what waits for a soft-reboot or a reboot after a live refresh.
	Pending []string
	// Left says which units are left alone because the user wants that: "unit: why it is affected; the policy".
	Left []string
	// Sessions lists processes of user sessions that use what changes: "unit pid command".
	Sessions []string
	// Remaining lists processes that use what changes and that a live refresh does not touch: "unit pid path".
	Remaining []string
	Changed   uint64
}

// Message is the assessment as the host gets it.
func (a *Assessment) Message() *agentapi.Impact {
	message := &agentapi.Impact{
		Level: a.Level, Unaffected: a.Unaffected, Reasons: a.Reasons, ChangedPaths: a.Changed, Sessions: a.Sessions, Left: a.Left,
		Pending: a.Pending,
	}
	for _, affected := range a.Affected {
		if affected.Kept != "" {
			continue
		}
		message.Units = append(message.Units, &agentapi.UnitImpact{
			Unit: affected.Unit, Level: affected.Level, Paths: affected.Paths, PathCount: affected.PathCount, Reason: affected.Reason,
			Packages: affected.Packages,
		})
	}
	return message
}

// Assess tells what the changes mean for a system as it is now.
func Assess(changes *Changes, snapshot Snapshot, policy Policy) *Assessment {
	a := &Assessment{Level: agentapi.Level_NONE, Changed: changes.Count()}
	units := gather(changes, &snapshot, policy)
	for name, g := range units {
		unit := snapshot.Units[name]
		if snapshot.Fresh == (proc.Device{}) {
			// Files that the manager reads matter once: after the swap they were read again.
			g.files(changes, unit, policy.Extra[name])
			if busUnit(name) {
				g.policy.merge(&changes.busPolicy)
			}
		}
		if !g.affected() {
			if !g.session && len(g.pids) > 0 && !strings.HasSuffix(name, ".scope") && !strings.HasPrefix(name, noUnit) {
				a.Unaffected = append(a.Unaffected, name)
			}
			continue
		}
		a.add(changes, g, unit, policy)
	}
	a.follow(snapshot.Units, policy.Agent)
	slices.Sort(a.Unaffected)
	sort.Slice(a.Affected, func(i, j int) bool { return a.Affected[i].Unit < a.Affected[j].Unit })
	a.conclude()
	a.system(changes, units, policy)
	return a
}

// conclude tells the level, and what is left.
func (a *Assessment) conclude() {
	for i := range a.Affected {
		affected := &a.Affected[i]
		if affected.Kept == "" {
			a.Level = max(a.Level, affected.Level)
			continue
		}
		a.Remaining = append(a.Remaining, affected.lines...)
		switch {
		case affected.session:
			a.Sessions = append(a.Sessions, affected.commands...)
		case affected.Left:
			a.Left = append(a.Left, fmt.Sprintf("%s: %s; %s", affected.Unit, affected.Reason, affected.Kept))
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
		raise(agentapi.Level_SOFT_REBOOT, "the dynamic loader differs, which every process has mapped: "+strings.Join(changes.loader.paths, ", "))
	}
	if changes.bus.count > 0 && slices.ContainsFunc(slices.Collect(maps.Keys(units)), busUnit) {
		raise(agentapi.Level_SOFT_REBOOT, "the message bus differs and cannot be restarted in a running system: "+strings.Join(changes.bus.paths, ", "))
	}
	if policy.TargetKernel != "" && policy.RunningKernel != policy.TargetKernel {
		a.Pending = append(a.Pending, KernelPending(policy.RunningKernel, policy.TargetKernel))
	}
	for _, affected := range a.Affected {
		if affected.Kept == "" || affected.session || affected.Left {
			continue
		}
		a.Pending = append(a.Pending, fmt.Sprintf("%s still uses %s: %s", affected.Unit, affected.Uses(), affected.Kept))
	}
}

// add places one affected unit.
func (a *Assessment) add(changes *Changes, g *gathered, unit Unit, policy Policy) {
	affected := Affected{
		Unit: g.name, PIDs: g.stale, Level: agentapi.Level_RESTART, Reason: g.reason(), lines: g.lines, commands: g.commands,
	}
	var all pathList
	for _, list := range g.lists() {
		all.merge(list)
	}
	affected.PathCount = all.count
	for _, name := range all.paths {
		affected.Paths = append(affected.Paths, "/"+name)
	}
	code := g.uses.count+g.scripts.count > 0
	switch {
	case g.session || personalUnit(g.name):
		affected.Level, affected.session, affected.Kept = agentapi.Level_NONE, true, "it belongs to a user's session"
	case strings.HasPrefix(g.name, noUnit):
		affected.Kept = "it belongs to no unit"
	case g.name == ManagerUnit:
		affected.Level, affected.Reason = agentapi.Level_RELOAD, "systemd re-executes itself in place"
	case busUnit(g.name) && g.policy.count == 0 && (code || g.confined != ""):
		affected.Kept = "a soft-reboot renews the message bus"
	case busUnit(g.name):
		affected.Level, affected.Reason = agentapi.Level_RELOAD, "its configuration differs"
	default:
		if affected.Kept = unit.unstoppable(g.name); affected.Kept != "" {
			break
		}
		if _, removed := changes.removed[unit.Fragment]; removed {
			affected.Gone, affected.Reason = true, "it is no part of the new stack and is stopped"
		} else if unit.CanReload && g.reloads() {
			affected.Level = agentapi.Level_RELOAD
		}
	}
	if affected.Kept == "" {
		policy.apply(&affected, unit)
	}
	a.Affected = append(a.Affected, affected)
}

// KernelPending tells that another kernel waits. The host hands the kernel over when it starts the VM: a reboot from
// within goes on with the one that it was started with.
func KernelPending(from, to string) string {
	return fmt.Sprintf("kernel %s → %s at the next power-off and start", from, to)
}
