package impact

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/proc"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// noUnit is the prefix of the name for a process that belongs to no unit: "process 17".
const noUnit = "process "

// gathered is what one unit uses of what changes.
type gathered struct {
	name    string
	session bool
	// uses are mapped files, open files that are only open, manager files that systemd reads for the unit, declared
	// files that the user named for it, policy the configuration of the message bus.
	uses, open, manager, scripts, declared, policy pathList
	// confined is an AppArmor profile that denies a process files of the /usr that it was started from.
	confined string

	seen map[string]bool
	// pids are all processes of the unit, stale those that use what changes.
	pids, stale []int
	// lines are "unit pid path", one for each process.
	lines    []string
	commands []string
	// interpreted is what the processes have read and do not use any more.
	interpreted []Interpreted
	// differs is true if a process uses what changes now, not only what an earlier refresh changed.
	differs bool
}

// gather collects by unit what its processes use. A unit that the policy names is included without a process, too.
func gather(changes *Changes, snapshot *Snapshot, policy Policy) map[string]*gathered {
	units := map[string]*gathered{}
	for i := range snapshot.Processes {
		p := &snapshot.Processes[i]
		if p.Unit == policy.Agent && p.Unit != "" {
			continue
		}
		name := p.Unit
		if name == "" {
			name = fmt.Sprintf("%s%d", noUnit, p.PID)
		}
		g := units[name]
		if g == nil {
			g = &gathered{name: name, session: p.Session}
			units[name] = g
		}
		g.pids = append(g.pids, p.PID)
		g.process(changes, snapshot, p, policy.modules())
	}
	if snapshot.Fresh == (proc.Device{}) { // after the swap, systemd does not know their files any more
		for name, unit := range snapshot.Units {
			// A unit is not asked for by its other names.
			own := path.Base(unit.Fragment)
			if (own == name || own == Template(name)) && units[name] == nil && unit.runs() && changes.removes(unit) {
				units[name] = &gathered{name: name}
			}
		}
	}
	for name, unit := range snapshot.Units {
		if units[name] == nil && unit.runs() && len(policy.extra(name)) > 0 {
			units[name] = &gathered{name: name}
		}
	}
	return units
}

// Concerned reports whether the changes may concern the unit of a process, judging by the process and by the names of
// unit files. Only for such units systemd has to be asked what it knows of them.
func (c *Changes) Concerned(p *Process) bool {
	if len(p.Uses)+len(p.Arguments) > 0 || p.Confined != "" || busUnit(p.Unit) ||
		c.scripts[interpreterOf(p.Program)] != nil {
		return true
	}
	for _, name := range NamesOf(p.Unit) {
		if c.unitFiles[name] != nil {
			return true
		}
	}
	return false
}

// affected reports whether anything of what changes is used.
func (g *gathered) affected() bool {
	for _, list := range g.lists() {
		if list.count > 0 {
			return true
		}
	}
	return g.confined != ""
}

// lists are all lists of what is used, the most important first.
func (g *gathered) lists() []*pathList {
	return []*pathList{&g.uses, &g.scripts, &g.manager, &g.declared, &g.open, &g.policy}
}

// reloads reports whether a reload is enough for the change: for files that are only open, and for configuration that
// the user named.
func (g *gathered) reloads() bool {
	below := slices.ContainsFunc(g.declared.paths, func(name string) bool { return !strings.HasPrefix(name, "etc/") })
	return g.uses.count+g.scripts.count+g.manager.count == 0 && g.confined == "" && !below
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
	interprets := interpreterOf(p.Program)
	for _, use := range p.Uses {
		differs := changes.Differs(use.Path)
		if !differs && use.Version != Earlier || strings.HasPrefix(use.Path, modules) || !snapshot.stale(p, use) {
			continue
		}
		g.differs = g.differs || differs
		switch {
		case use.Interpreted:
			note(&g.scripts, use.Path)
			g.interpreted = append(g.interpreted, Interpreted{PID: p.PID, Started: p.Started, Path: use.Path})
		case use.Mapped:
			note(&g.uses, use.Path)
			if tree.OwnerOf(use.Path) == tree.CarriedByOS && p.Started > 0 {
				// It is on the private disk, where a file that was replaced shows no later than by that.
				g.interpreted = append(g.interpreted, Interpreted{PID: p.PID, Started: p.Started, Path: use.Path})
			}
		case interprets == shell:
			note(&g.scripts, use.Path) // a shell has its script open while it runs it
		default:
			note(&g.open, use.Path)
		}
	}
	if interprets != "" && snapshot.readOld(p) {
		first := ""
		script := func(name string) {
			note(&g.scripts, name)
			first = cmp.Or(first, name)
			g.differs = true
		}
		for _, argument := range p.Arguments {
			if changes.Differs(argument) {
				script(argument)
			}
		}
		if list := changes.scripts[interprets]; list != nil {
			for _, name := range list.paths {
				script(name)
			}
			g.scripts.count += max(0, list.count-int64(len(list.paths)))
		}
		if first != "" && p.Started > 0 {
			g.interpreted = append(g.interpreted, Interpreted{PID: p.PID, Started: p.Started, Path: first})
		}
	}
	if affected == "" && p.Confined != "" && snapshot.runsFromUsr(p) && p.ProgramDevice != snapshot.Fresh {
		affected, g.confined = p.Program, p.Confined
	}
	if affected != "" {
		g.stale = append(g.stale, p.PID)
		g.lines = append(g.lines, fmt.Sprintf("%s %d /%s", g.name, p.PID, affected))
		g.commands = append(g.commands, fmt.Sprintf("%s %d %s", g.name, p.PID, p.Command))
	}
}

// runsFromUsr reports whether a process runs from the system's /usr, even with a root of its own. Processes of a
// container do not.
func (s *Snapshot) runsFromUsr(p *Process) bool {
	return p.SystemRoot || slices.Contains(s.Usr, p.ProgramDevice)
}

// stale reports whether a process uses the old file at a path that differs.
func (s *Snapshot) stale(p *Process, use Use) bool {
	if !p.SystemRoot && !slices.Contains(s.Usr, use.Device) {
		return false // a container has a file of its own at this path
	}
	switch {
	case use.Version == Earlier, s.Fresh == (proc.Device{}):
		return true
	case use.Version == Mounted:
		return false
	case !strings.HasPrefix(use.Path, "usr/"):
		return use.Deleted // the carry replaces files by rename
	}
	return use.Device != s.Fresh
}

// readOld reports whether a process was started on another /usr than the new one. An interpreter closes the code that
// it has read, so only the time of the start shows what was read.
func (s *Snapshot) readOld(p *Process) bool {
	if !s.runsFromUsr(p) {
		return false
	}
	if s.Fresh == (proc.Device{}) {
		return true
	}
	at := s.first()
	for _, swap := range s.Swaps {
		if p.Started > swap.Ticks {
			at = swap.Usr
		}
	}
	return at != s.Fresh
}

// first is the /usr from before all swaps.
func (s *Snapshot) first() proc.Device {
	if len(s.Usr) == 0 {
		return s.Fresh
	}
	return s.Usr[0]
}

// files adds the differing files that systemd reads for a unit, and those that the user declared for it.
func (g *gathered) files(changes *Changes, unit Unit, extra []string) {
	for _, name := range NamesOf(g.name) {
		g.manager.merge(changes.unitFiles[name])
	}
	add := func(name string) {
		if !slices.Contains(g.manager.paths, name) {
			g.manager.add(name)
		}
	}
	for _, name := range append([]string{unit.Fragment}, unit.DropIns...) {
		if changes.Differs(name) {
			add(name)
		}
	}
	for _, pattern := range unit.EnvironmentFiles {
		for _, name := range changes.matching(pattern) {
			add(name)
		}
	}
	for _, named := range extra {
		g.declared.merge(changes.declared(named))
	}
}

func (g *gathered) reason() string {
	switch {
	case !g.differs && g.uses.count+g.scripts.count+g.open.count > 0 &&
		g.manager.count+g.declared.count+g.policy.count == 0:
		return "it still runs code of an earlier release"
	case g.uses.count > 0:
		return "it runs code that differs"
	case g.scripts.count > 0:
		return "it interprets code that differs"
	case g.manager.count > 0:
		return "its unit files differ"
	case g.declared.count > 0:
		return "files that were declared for it differ"
	case g.confined != "":
		return "its AppArmor profile " + g.confined + " refuses files of a /usr that is swapped out"
	case g.policy.count > 0:
		return "its configuration differs"
	default:
		return "it has files open that differ"
	}
}
