package impact

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
)

// Device is the number of a mounted file system, as /proc/<pid>/maps has it.
type Device struct{ Major, Minor uint32 }

// String is "major:minor", as mountinfo has it.
func (d Device) String() string { return fmt.Sprintf("%d:%d", d.Major, d.Minor) }

// Use is a file that a process uses.
type Use struct {
	// Path relative to the root, as contents lists have it.
	Path string
	// Device that it is used from; zero if unknown.
	Device Device
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
	// Program is the path of the executable relative to the root.
	Program string
	// Arguments of the command line that are absolute paths, relative to the root.
	Arguments []string
	// Namespace is the inode number of the mount namespace.
	Namespace uint64
	// SystemRoot is true when the process has the system's own root: neither a container nor a chroot.
	SystemRoot bool
	// Uses holds those files that differ between the stacks.
	Uses []Use
}

// Unit is what the manager knows of a unit that runs.
type Unit struct {
	Name string
	// Files are the unit file and its drop-ins, EnvironmentFiles what it reads, relative to the root.
	Files, EnvironmentFiles []string
	CanReload               bool
	// After names the units that are to be started before it.
	After []string
	// Refuses is true when it may not be stopped by hand (RefuseManualStop=).
	Refuses bool
}

// Snapshot is a system at one moment.
type Snapshot struct {
	Processes []Process
	// Units by name. One that is missing is taken for a plain unit without files.
	Units map[string]Unit
	// Usr are the devices of the /usr that is mounted and of those that were swapped out since boot.
	Usr []Device
	// Fresh is the device of the new /usr once it is swapped in: what is used from it is new. Before the swap it
	// is zero: whatever uses a path that differs is affected.
	Fresh Device
}

// Policy is what the user or the system wants beyond what is found.
type Policy struct {
	// Agent is the unit of this program. It is not from the stack and never touched.
	Agent string
	// Extra names, by unit, further paths (relative to the root) whose change affects it.
	Extra map[string][]string
	// RunningKernel and TargetKernel are kernel releases.
	RunningKernel, TargetKernel string
	// Obstacle says why /usr cannot be swapped live here; "" if it can.
	Obstacle string
}

// modules is where the modules of the running kernel are. A swap keeps them whatever the new stack brings, so who
// uses them (systemd-udevd maps their index) is not concerned.
func (p Policy) modules() string {
	return "usr/lib/modules/" + p.RunningKernel + "/"
}

// Affected is a unit that uses what changes.
type Affected struct {
	Unit      string
	Level     agentapi.Level
	Paths     []string
	PathCount int64
	Reason    string
	PIDs      []int
	// Kept says why a live refresh does not touch it though it is affected; "" if it is restarted or reloaded.
	Kept string
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
	// Sessions lists processes of user sessions that use what changes: "unit pid command".
	Sessions []string
	// Remaining lists processes that use what changes and that a live refresh does not touch: "unit pid path".
	Remaining []string
	Changed   uint64
}

// Message is the assessment as the host gets it.
func (a *Assessment) Message() *agentapi.Impact {
	message := &agentapi.Impact{
		Level: a.Level, Unaffected: a.Unaffected, Reasons: a.Reasons, ChangedPaths: a.Changed, Sessions: a.Sessions,
	}
	for _, affected := range a.Affected {
		if affected.Kept != "" {
			continue
		}
		message.Units = append(message.Units, &agentapi.UnitImpact{
			Unit: affected.Unit, Level: affected.Level, Paths: affected.Paths, PathCount: affected.PathCount, Reason: affected.Reason,
		})
	}
	return message
}

// Assess tells what the changes mean for a system as it is now.
func Assess(changes *Changes, snapshot Snapshot, policy Policy) *Assessment {
	a := &Assessment{Level: agentapi.Level_NONE, Changed: changes.Count()}
	units := map[string]*gathered{}
	for i := range snapshot.Processes {
		p := &snapshot.Processes[i]
		if p.Unit == "" || p.Unit == policy.Agent {
			continue
		}
		g := units[p.Unit]
		if g == nil {
			g = &gathered{name: p.Unit, session: p.Session}
			units[p.Unit] = g
		}
		g.process(changes, &snapshot, p, policy.modules())
	}
	for name, g := range units {
		if snapshot.Fresh == (Device{}) {
			// Files that the manager reads matter once: after the swap they were read again.
			g.files(changes, snapshot.Units[name], policy.Extra[name])
		}
		if busUnit(name) && snapshot.Fresh == (Device{}) {
			g.policy.merge(&changes.busPolicy)
		}
		if len(g.uses.paths)+len(g.open.paths)+len(g.manager.paths)+len(g.scripts.paths)+len(g.policy.paths) == 0 {
			if !g.session && !strings.HasSuffix(name, ".scope") {
				a.Unaffected = append(a.Unaffected, name)
			}
			continue
		}
		a.add(g, snapshot.Units[name])
	}
	slices.Sort(a.Unaffected)
	slices.SortFunc(a.Affected, func(x, y Affected) int { return cmp.Compare(x.Unit, y.Unit) })
	slices.Sort(a.Sessions)
	slices.Sort(a.Remaining)
	a.system(changes, units, policy)
	return a
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
	if changes.bus.count > 0 {
		for name := range units {
			if busUnit(name) {
				raise(agentapi.Level_SOFT_REBOOT, "the message bus differs and cannot be restarted in a running system: "+strings.Join(changes.bus.paths, ", "))
				break
			}
		}
	}
	if policy.TargetKernel != "" && policy.RunningKernel != policy.TargetKernel {
		a.Pending = append(a.Pending, KernelPending(policy.RunningKernel, policy.TargetKernel))
	}
	for _, affected := range a.Affected {
		if affected.Kept != "" && !affected.session() {
			a.Pending = append(a.Pending, fmt.Sprintf("%s still uses %s: %s", affected.Unit, affected.Paths[0], affected.Kept))
		}
	}
}

// gathered is what one unit uses of what changes.
type gathered struct {
	name    string
	session bool
	// uses are mapped files, open those merely held open, manager those that systemd reads for the unit.
	uses, open, manager, scripts, policy pathList

	seen map[string]bool
	pids []int
	// lines are "unit pid path", one for each process.
	lines    []string
	commands []string
}

func (g *gathered) process(changes *Changes, snapshot *Snapshot, p *Process, modules string) {
	affected := ""
	note := func(list *pathList, name string) {
		if affected == "" {
			affected = name
		}
		if g.seen == nil {
			g.seen = map[string]bool{}
		}
		if !g.seen[name] {
			g.seen[name] = true
			list.add(name)
		}
	}
	for _, use := range p.Uses {
		if !changes.Differs(use.Path) || strings.HasPrefix(use.Path, modules) || !snapshot.stale(p, use) {
			continue
		}
		if use.Mapped {
			note(&g.uses, use.Path)
		} else {
			note(&g.open, use.Path)
		}
	}
	// A script is read and closed, so nothing tells afterwards which one was read: it counts before the swap.
	if l := interpreterOf(p.Program); l != "" && p.SystemRoot && snapshot.Fresh == (Device{}) {
		for _, argument := range p.Arguments {
			if changes.Differs(argument) {
				note(&g.scripts, argument)
			}
		}
		if list := changes.scripts[l]; list != nil {
			for _, name := range list.paths {
				note(&g.scripts, name)
			}
			g.scripts.count += max(0, list.count-int64(len(list.paths)))
		}
	}
	if affected != "" {
		g.pids = append(g.pids, p.PID)
		g.lines = append(g.lines, fmt.Sprintf("%s %d /%s", p.Unit, p.PID, affected))
		g.commands = append(g.commands, fmt.Sprintf("%s %d %s", p.Unit, p.PID, p.Command))
	}
}

// stale reports whether a process uses the old file at a path that differs.
func (s *Snapshot) stale(p *Process, use Use) bool {
	ours := p.SystemRoot || slices.Contains(s.Usr, use.Device)
	if !ours {
		return false // a container's own file at the same path
	}
	if s.Fresh == (Device{}) {
		return true
	}
	if !strings.HasPrefix(use.Path, "usr/") {
		return use.Deleted // it was replaced by a rename
	}
	return use.Device != s.Fresh
}

// files adds what the manager reads for a unit.
func (g *gathered) files(changes *Changes, unit Unit, extra []string) {
	for _, name := range namesOf(g.name) {
		g.manager.merge(changes.unitFiles[name])
	}
	for _, name := range slices.Concat(unit.Files, unit.EnvironmentFiles, extra) {
		if changes.Differs(name) && !slices.Contains(g.manager.paths, name) {
			g.manager.add(name)
		}
	}
}

// busUnit reports whether a unit is the system's message bus.
func busUnit(name string) bool { return name == "dbus.service" || name == "dbus-broker.service" }

// session reports whether the unit serves a person: it is reported, and never ended.
func (a *Affected) session() bool { return a.Level == agentapi.Level_NONE }

// gettyPrefixes are the units that a person may be about to use.
var gettyPrefixes = []string{"getty@", "serial-getty@", "console-getty.", "container-getty@", "emergency.", "rescue.", "user@"}

// add places one affected unit.
func (a *Assessment) add(g *gathered, unit Unit) {
	affected := Affected{Unit: g.name, PIDs: g.pids, Level: agentapi.Level_RESTART}
	var all pathList
	for _, list := range []*pathList{&g.uses, &g.scripts, &g.manager, &g.open, &g.policy} {
		all.merge(list)
	}
	affected.PathCount = all.count
	for _, name := range all.paths {
		affected.Paths = append(affected.Paths, "/"+name)
	}
	code := g.uses.count+g.scripts.count > 0
	switch {
	case g.session || slices.ContainsFunc(gettyPrefixes, func(p string) bool { return strings.HasPrefix(g.name, p) }):
		affected.Level, affected.Kept = agentapi.Level_NONE, "it belongs to a user's session"
		a.Sessions = append(a.Sessions, g.commands...)
	case g.name == "init.scope":
		affected.Level, affected.Reason = agentapi.Level_RELOAD, "systemd re-executes itself in place"
	case busUnit(g.name) && code:
		affected.Kept = "a soft-reboot renews the message bus"
	case busUnit(g.name):
		affected.Level, affected.Reason = agentapi.Level_RELOAD, "its configuration differs"
	case strings.HasSuffix(g.name, ".scope"):
		affected.Kept = "a scope cannot be restarted"
	case unit.Refuses:
		affected.Kept = "it refuses to be stopped by hand; a soft-reboot renews it"
	case !code && g.manager.count == 0 && unit.CanReload:
		affected.Level, affected.Reason = agentapi.Level_RELOAD, "it holds files open that differ"
	default:
		affected.Reason = g.reason()
	}
	if affected.Kept != "" {
		a.Remaining = append(a.Remaining, g.lines...)
	} else {
		a.Level = max(a.Level, affected.Level)
	}
	a.Affected = append(a.Affected, affected)
}

func (g *gathered) reason() string {
	switch {
	case g.uses.count > 0:
		return "it runs code that differs"
	case g.scripts.count > 0:
		return "it interprets code that differs"
	case g.manager.count > 0:
		return "its unit files differ"
	default:
		return "it holds files open that differ"
	}
}

// KernelPending tells that another kernel waits. The host hands the kernel over when it starts the VM: a reboot from
// within goes on with the one that it was started with.
func KernelPending(from, to string) string {
	return fmt.Sprintf("kernel %s → %s at the next power-off and start", from, to)
}
