package proc

import "strings"

// unit is the unit of a control group.
type unit struct {
	name    string
	session bool
}

// Unit returns the unit of the system manager that the process belongs to, "" if it belongs to none, and whether it
// belongs to the session of a user.
func (p *Process) Unit() (name string, session bool, err error) {
	data, err := p.readSmall("cgroup")
	if err != nil {
		return "", false, err
	}
	known, seen := p.scanner.units[string(data)]
	if !seen {
		known.name, known.session = UnitOf(string(data))
		if len(p.scanner.units) < maxUnits {
			p.scanner.units[string(data)] = known
		}
	}
	return known.name, known.session, nil
}

// UnitOf reads a file /proc/<pid>/cgroup. A process of a container, or of a user's own manager, belongs to the unit of
// the system manager that contains it.
func UnitOf(cgroup string) (name string, session bool) {
	for line := range strings.Lines(cgroup) {
		controllers, rest, _ := strings.Cut(strings.TrimSpace(line), ":")
		names, group, _ := strings.Cut(rest, ":")
		if (controllers != "0" || names != "") && names != "name=systemd" {
			continue // a version 1 hierarchy of a controller
		}
		for part := range strings.SplitSeq(group, "/") {
			// systemd puts "_" before names that the kernel could take for its own.
			part = strings.TrimPrefix(part, "_")
			if part == "user.slice" {
				session = true
			}
			if hasUnitType(part) {
				return part, session
			}
		}
	}
	return "", session
}

func hasUnitType(name string) bool {
	for _, suffix := range []string{".service", ".scope", ".socket", ".mount", ".swap"} {
		if strings.HasSuffix(name, suffix) {
			return true
		}
	}
	return false
}
