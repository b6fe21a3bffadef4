package units

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	systemd "github.com/coreos/go-systemd/v22/dbus"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/impact"
)

// maxFacts bounds how many units are asked about at once: one unit leads to others, and a hostile system has no end.
const maxFacts = 4096

var errNotLoaded = errors.New("not loaded")

// Facts tells, for each of the units and for those that are restarted with them, what they read and what they can do.
// Units that systemd does not know are left out: they ended meanwhile.
func (m *Manager) Facts(ctx context.Context, names []string) (map[string]impact.Unit, error) {
	facts := make(map[string]impact.Unit, len(names))
	asked := map[string]bool{}
	for names = slices.Clone(names); len(names) > 0; names = names[1:] {
		name := names[0]
		if asked[name] {
			continue
		}
		if asked[name] = true; len(asked) > maxFacts {
			return nil, fmt.Errorf("ask systemd for its units: more than %d", maxFacts)
		}
		unit, err := m.fact(ctx, name)
		if errors.Is(err, errNotLoaded) {
			continue
		}
		if err != nil {
			return nil, err
		}
		facts[name] = unit
		names = append(names, unit.Followers...)
	}
	return facts, nil
}

func (m *Manager) fact(ctx context.Context, name string) (impact.Unit, error) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	conn, err := m.connected(ctx)
	if err != nil {
		return impact.Unit{}, err
	}
	properties, err := conn.GetUnitPropertiesContext(ctx, name)
	if err != nil {
		return impact.Unit{}, fmt.Errorf("ask systemd for %s: %w", name, err)
	}
	if state, _ := properties["LoadState"].(string); state == "not-found" && properties["ActiveState"] == "inactive" {
		return impact.Unit{}, fmt.Errorf("unit %s: %w", name, errNotLoaded)
	}
	unit := impact.Unit{Name: name}
	unit.State, _ = properties["ActiveState"].(string)
	unit.CanReload, _ = properties["CanReload"].(bool)
	unit.Refuses, _ = properties["RefuseManualStop"].(bool)
	unit.After, _ = properties["After"].([]string)
	// To these a restart is passed on (systemd.unit(5)).
	for _, relation := range []string{"RequiredBy", "RequisiteOf", "BoundBy", "ConsistsOf"} {
		followers, _ := properties[relation].([]string)
		unit.Followers = append(unit.Followers, followers...)
	}
	fragment, _ := properties["FragmentPath"].(string)
	unit.Fragment, _ = impact.Resolve(fragment)
	dropIns, _ := properties["DropInPaths"].([]string)
	source, _ := properties["SourcePath"].(string) // a generator made the unit of it
	for _, file := range append(dropIns, source) {
		if resolved, _ := impact.Resolve(file); resolved != "" {
			unit.DropIns = append(unit.DropIns, resolved)
		}
	}
	environment, err := mayName(append(dropIns, fragment), source)
	if err != nil {
		return impact.Unit{}, err
	}
	if !strings.HasSuffix(name, ".service") {
		return unit, nil
	}
	if unit.State == "activating" {
		kind, err := text(ctx, conn, name, "Type")
		if err != nil {
			return impact.Unit{}, err
		}
		unit.Once = kind == "oneshot"
	}
	if environment {
		unit.EnvironmentFiles, err = environmentFiles(ctx, conn, name)
	}
	return unit, err
}

// mayName reports whether a unit of these files may name environment files: to look takes less than to ask. A unit that
// was made of something else is asked.
func mayName(files []string, source string) (bool, error) {
	if source != "" {
		return true, nil
	}
	for _, file := range files {
		if file == "" {
			continue
		}
		if found, err := refers(file); found || err != nil {
			return found, err
		}
	}
	return false, nil
}

// text is a property of a service.
func text(ctx context.Context, conn *systemd.Conn, name, property string) (string, error) {
	answer, err := conn.GetServicePropertyContext(ctx, name, property)
	if err != nil {
		return "", fmt.Errorf("ask systemd for %s of %s: %w", property, name, err)
	}
	value, _ := answer.Value.Value().(string)
	return value, nil
}

func environmentFiles(ctx context.Context, conn *systemd.Conn, name string) ([]string, error) {
	property, err := conn.GetServicePropertyContext(ctx, name, "EnvironmentFiles")
	if err != nil {
		return nil, fmt.Errorf("ask systemd for the environment files of %s: %w", name, err)
	}
	// a(sb): path, and whether it may be missing (org.freedesktop.systemd1(5)).
	files, _ := property.Value.Value().([][]any)
	var resolved []string
	for _, file := range files {
		if len(file) == 0 {
			continue
		}
		shown, _ := file[0].(string)
		if path, _ := impact.Resolve(shown); path != "" {
			resolved = append(resolved, path)
		}
	}
	return resolved, nil
}
