package impact

import (
	"path"
	"slices"
	"strings"
)

// ManagerUnit is the unit of PID 1 itself.
const ManagerUnit = "init.scope"

// Unit is what the manager knows of a unit.
type Unit struct {
	Name string
	// State is the ActiveState: "active", "activating" and so on; "" if it is not known.
	State string
	// Once is true for a service that runs to its end (Type=oneshot) and has not yet come there.
	Once bool
	// Fragment is the unit file and DropIns what adds to it, EnvironmentFiles what it reads (patterns as glob(7) has
	// them), all relative to the root.
	Fragment                  string
	DropIns, EnvironmentFiles []string
	CanReload                 bool
	// After names the units that are to be started before it.
	After []string
	// Followers names the units that the manager restarts when this one is: those that require it, are bound to it or
	// are part of it.
	Followers []string
	// Refuses is true when it may not be stopped by hand (RefuseManualStop=).
	Refuses bool
}

// runs reports whether the unit is up, so that a restart of what it follows restarts it.
func (u Unit) runs() bool {
	return u.State == "active" || u.State == "reloading" || u.State == "refreshing" || u.State == "activating"
}

// busUnit reports whether a unit is the system's message bus.
func busUnit(name string) bool { return name == "dbus.service" || name == "dbus-broker.service" }

// personal are the units that a person may be about to use.
var personal = []string{"getty@", "serial-getty@", "console-getty.", "container-getty@", "emergency.", "rescue.", "user@"}

func personalUnit(name string) bool {
	return slices.ContainsFunc(personal, func(prefix string) bool { return strings.HasPrefix(name, prefix) })
}

// unstoppable says why a unit is not renewed in a running system, whatever it uses; "" if it can be.
func (u Unit) unstoppable(name string) string {
	switch path.Ext(name) {
	case ".service":
	case ".scope":
		return "a scope cannot be restarted"
	case ".socket":
		return "connections would be refused while it is restarted; a reboot renews it"
	default:
		return "only services are restarted; a reboot renews it"
	}
	switch {
	case u.Refuses:
		return "it refuses to be stopped by hand; a soft-reboot renews it"
	case u.Once:
		return "it runs once, to its end"
	case u.State == "deactivating":
		return "it is being stopped"
	case u.State == "inactive" || u.State == "failed":
		return "it does not run, and left processes behind"
	}
	return ""
}

// unitOfFile names the unit that a unit file or a drop-in belongs to, "" for other files. A drop-in of a template
// or of a type ("service.d") is one of every instance: the name is "x@.service" or "service" then.
func unitOfFile(name string) string {
	for _, directory := range []string{"usr/lib/systemd/system/", "etc/systemd/system/"} {
		rest, below := strings.CutPrefix(name, directory)
		if !below {
			continue
		}
		first, dropIn, nested := strings.Cut(rest, "/")
		if !nested {
			return first
		}
		unit, isDropIn := strings.CutSuffix(first, ".d")
		if !isDropIn || !strings.HasSuffix(dropIn, ".conf") {
			return "" // a link of an enabled unit: it starts nothing and stops nothing by itself
		}
		return unit
	}
	return ""
}

// NamesOf lists the names under which files of a unit can stand: its own, its template's, those that systemd cuts
// at dashes ("foo-.service", "foo-@x.service", "foo-@.service") and its type's (systemd.unit(5)).
func NamesOf(unit string) []string {
	dot := strings.LastIndexByte(unit, '.')
	if dot < 0 {
		return []string{unit}
	}
	prefix, suffix := unit[:dot], unit[dot:]
	suffixes := []string{suffix}
	if at := strings.IndexByte(prefix, '@'); at >= 0 {
		suffixes = []string{prefix[at:] + suffix, "@" + suffix}
		prefix = prefix[:at]
	}
	prefixes := []string{prefix}
	for i := len(prefix) - 2; i > 0; i-- {
		if prefix[i] == '-' {
			prefixes = append(prefixes, prefix[:i+1])
		}
	}
	var names []string
	for _, p := range prefixes {
		for _, s := range suffixes {
			names = append(names, p+s)
		}
	}
	return append(names, suffix[1:])
}
