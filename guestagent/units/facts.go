package units

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/impact"
)

// maxFacts bounds how many units are read at once: one unit leads to others, without end in a hostile system.
const maxFacts = 4096

// factProperties are read of each unit. One property costs half a millisecond under emulation, so properties that the
// unit's files can rule out are read only if they do not (further).
var factProperties = []string{
	"ActiveState", "CanReload", "After", "FragmentPath", "DropInPaths",
	// systemd restarts these units, too (systemd.unit(5)).
	"RequiredBy", "RequisiteOf", "BoundBy", "ConsistsOf",
}

// Facts returns what systemd knows of the units, and of those that are restarted together with them. Units that systemd
// does not know are left out: they ended meanwhile, or there are no such units. Of a template, which is no unit of
// systemd's, it returns the file.
func (m *Manager) Facts(ctx context.Context, names []string) (map[string]impact.Unit, error) {
	facts, err := templatesIn(unitDirs,
		slices.DeleteFunc(slices.Clone(names), func(name string) bool { return !impact.IsTemplate(name) }))
	names = slices.DeleteFunc(slices.Clone(names), impact.IsTemplate)
	if err != nil || len(names) == 0 {
		return facts, err
	}
	err = m.connected(ctx, callLimit, func(c *connection) error {
		known, err := factsOf(c, names)
		maps.Copy(facts, known)
		return err
	})
	return facts, err
}

// templatesIn returns those of the templates that have a file in one of the directories.
func templatesIn(directories, names []string) (map[string]impact.Unit, error) {
	facts := map[string]impact.Unit{}
	for _, name := range names {
		for _, directory := range directories {
			file, err := filepath.EvalSymlinks(filepath.Join(directory, name))
			if errors.Is(err, fs.ErrNotExist) {
				continue
			}
			if err != nil {
				return facts, fmt.Errorf("look for the file of %s: %w", name, err)
			}
			unit := impact.Unit{Name: name, Masked: file == os.DevNull}
			if !unit.Masked {
				unit.Fragment, _ = impact.Resolve(file)
			}
			facts[name] = unit
			break
		}
	}
	return facts, nil
}

func factsOf(c *connection, names []string) (map[string]impact.Unit, error) {
	facts := make(map[string]impact.Unit, len(names))
	asked := map[string]bool{}
	for len(names) > 0 {
		var round []string
		var properties []property
		for _, name := range names {
			if asked[name] {
				continue
			}
			if asked[name] = true; len(asked) > maxFacts {
				return nil, fmt.Errorf("ask systemd for its units: more than %d", maxFacts)
			}
			round = append(round, name)
			for _, wanted := range factProperties {
				properties = append(properties, property{name, unitInterface, wanted})
			}
		}
		values, err := c.get(properties)
		if err != nil {
			return nil, err
		}
		names = nil
		var more []property
		for i, name := range round {
			unit, files := fact(name, values[i*len(factProperties):][:len(factProperties)])
			facts[name] = unit
			names = append(names, unit.Followers...)
			further, err := further(unit, files)
			if err != nil {
				return nil, err
			}
			more = append(more, further...)
		}
		if values, err = c.get(more); err != nil {
			return nil, err
		}
		for i, p := range more {
			learn(facts, p, values[i])
		}
	}
	return facts, nil
}

// fact makes a unit of the values of factProperties, and returns the files that systemd read it from.
func fact(name string, values []value) (unit impact.Unit, files []string) {
	state, reload, after, fragment, dropIns := values[0], values[1], values[2], values[3], values[4]
	unit = impact.Unit{Name: name, State: state.text(), CanReload: reload.set, After: after.texts}
	for _, relation := range values[5:] {
		unit.Followers = append(unit.Followers, relation.texts...)
	}
	unit.Fragment, _ = impact.Resolve(fragment.text())
	for _, file := range dropIns.texts {
		unit.DropIns = appendFile(unit.DropIns, file)
	}
	if fragment.text() != "" {
		files = append(files, fragment.text())
	}
	return unit, append(files, dropIns.texts...)
}

func appendFile(files []string, shown string) []string {
	if file, _ := impact.Resolve(shown); file != "" {
		return append(files, file)
	}
	return files
}

// further returns the further properties to be read of a unit.
func further(unit impact.Unit, files []string) (more []property, err error) {
	read := func(iface, name string) { more = append(more, property{unit.Name, iface, name}) }
	service := strings.HasSuffix(unit.Name, ".service")
	switch {
	case unit.State == "inactive":
		read(unitInterface, "LoadState") // there may be no such unit
	case unit.State == "activating" && service:
		read(serviceInterface, "Type")
	}
	words := []string{"RefuseManualStop", "SourcePath", "EnvironmentFile"}
	if unit.Fragment != "" { // a unit without a file was made by systemd itself, or for a mount or a device of the kernel
		if words, err = mention(files, words...); err != nil {
			return nil, err
		}
	}
	for _, word := range words {
		switch {
		case word != "EnvironmentFile":
			read(unitInterface, word)
		case service:
			read(serviceInterface, "EnvironmentFiles")
		}
	}
	return more, nil
}

// learn adds the value of a further property to its unit.
func learn(facts map[string]impact.Unit, p property, v value) {
	unit, known := facts[p.unit]
	if !known {
		return
	}
	switch p.name {
	case "LoadState":
		switch v.text() {
		case "not-found":
			delete(facts, p.unit)
			return
		case "masked":
			unit.Masked = true
		}
	case "Type":
		unit.Once = v.text() == "oneshot"
	case "RefuseManualStop":
		unit.Refuses = v.set
	case "SourcePath": // the file that a generator made the unit from
		unit.DropIns = appendFile(unit.DropIns, v.text())
	case "EnvironmentFiles": // a(sb): path, and whether it may be missing (org.freedesktop.systemd1(5))
		for _, shown := range v.texts {
			unit.EnvironmentFiles = appendFile(unit.EnvironmentFiles, shown)
		}
	}
	facts[p.unit] = unit
}
