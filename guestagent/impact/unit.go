package impact

import (
	"path"
	"slices"
	"strings"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/standin/paths"
)

// ManagerUnit is the unit of PID 1 itself.
const ManagerUnit = "init.scope"

// Unit is what systemd knows of a unit.
type Unit struct {
	Name string
	// State is the ActiveState: "active", "activating" and so on; "" if unknown.
	State string
	// Once is true for a service of Type=oneshot that has not finished yet.
	Once bool
	// Fragment is the unit file, DropIns are its drop-ins and the files that a generator made it from, EnvironmentFiles
	// the patterns (glob(7)) of EnvironmentFile=. All are relative to the root.
	Fragment                  string
	DropIns, EnvironmentFiles []string
	CanReload                 bool
	// After are the units that are started before this one.
	After []string
	// Followers are the units that systemd restarts together with this one: those that require it, are bound to it or
	// are part of it.
	Followers []string
	// Masked is true for a unit that was masked: it cannot be started.
	Masked bool
	// Refuses is true when the unit may not be stopped by hand (RefuseManualStop=).
	Refuses bool
}

// runs reports whether the unit is active or becomes active, so that a restart of its leader restarts it, too.
func (u Unit) runs() bool {
	return u.State == "active" || u.State == "reloading" || u.State == "refreshing" || u.State == "activating"
}

// busUnit reports whether a unit is the system's message bus.
func busUnit(name string) bool { return name == "dbus.service" || name == "dbus-broker.service" }

// personal are prefixes of units that a person may be logged in to.
var personal = []string{"getty@", "serial-getty@", "console-getty.", "container-getty@",
	"emergency.", "rescue.", "user@",
	"display-manager.", "gdm.", "gdm3.", "sddm.", "lightdm.", "lxdm.", "xdm."}

func personalUnit(name string) bool {
	return slices.ContainsFunc(personal, func(prefix string) bool { return strings.HasPrefix(name, prefix) })
}

// unstoppable says why a unit cannot be renewed in a running system, whatever it uses; "" if it can. A unit that is
// removed is only stopped.
func (u Unit) unstoppable(name string, removed bool) string {
	switch kind := path.Ext(name); {
	case kind == ".service":
	case kind == ".scope":
		return "a scope cannot be restarted"
	case removed && kind != ".slice" && kind != ".device":
	case kind == ".socket":
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

// unitDirectories are the directories of unit files of a release.
var unitDirectories = []string{
	"usr/lib/systemd/system/", "var/usrlocal/lib/systemd/system/", "etc/systemd/system/", standInUnits,
}

// standInUnits is the directory of a release's stand-ins for units of components on demand. The agent's generator
// copies them to generatedUnits, where a unit file of the same name in any other directory wins (systemd.unit(5)).
const standInUnits = paths.Units + "/"

// unitOfFile returns the unit to which a unit file or a drop-in belongs, "" for other files. A drop-in of a template or
// of a type ("service.d") belongs to every instance: then the name is "x@.service" or "service".
func unitOfFile(name string) string {
	for _, directory := range unitDirectories {
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
			return "" // the link of an enabled unit, which by itself starts and stops nothing
		}
		return unit
	}
	return ""
}

// Template returns the template of an instance: "x@.service" for "x@1.service"; "" for other units.
func Template(name string) string {
	dot := strings.LastIndexByte(name, '.')
	if at := strings.IndexByte(name, '@'); at >= 0 && at < dot {
		return name[:at+1] + name[dot:]
	}
	return ""
}

// IsTemplate reports whether a name is that of a template: "x@.service".
func IsTemplate(name string) bool { return name != "" && Template(name) == name }

// NamesOf returns the names that the files of a unit can have: the unit's own, its template's, those truncated at
// dashes ("foo-.service", "foo-@x.service", "foo-@.service") and its type's (systemd.unit(5)).
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
