package units

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/impact"
)

// maxFacts bounds how many units are asked about at once: one unit leads to others, and a hostile system has no end.
const maxFacts = 4096

var errNotLoaded = errors.New("not loaded")

// factProperties are what is asked of each unit.
var factProperties = []string{
	"LoadState", "ActiveState", "CanReload", "RefuseManualStop", "After", "FragmentPath", "SourcePath", "DropInPaths",
	// To these a restart is passed on (systemd.unit(5)).
	"RequiredBy", "RequisiteOf", "BoundBy", "ConsistsOf",
}

// Facts tells, for each of the units and for those that are restarted with them, what they read and what they can do.
// Units that systemd does not know are left out: they ended meanwhile.
func (m *Manager) Facts(ctx context.Context, names []string) (map[string]impact.Unit, error) {
	facts := make(map[string]impact.Unit, len(names))
	asked := map[string]bool{}
	for len(names) > 0 {
		var round []string
		var questions []question
		for _, name := range names {
			if asked[name] {
				continue
			}
			if asked[name] = true; len(asked) > maxFacts {
				return nil, fmt.Errorf("ask systemd for its units: more than %d", maxFacts)
			}
			round = append(round, name)
			for _, property := range factProperties {
				questions = append(questions, question{name, unitFace, property})
			}
		}
		answers, err := ask(ctx, questions)
		if err != nil {
			return nil, err
		}
		names = nil
		var further []question
		for i, name := range round {
			unit, more, err := fact(name, answers[i*len(factProperties):][:len(factProperties)])
			if errors.Is(err, errNotLoaded) {
				continue
			}
			if err != nil {
				return nil, err
			}
			facts[name] = unit
			further = append(further, more...)
			names = append(names, unit.Followers...)
		}
		if err := furtherFacts(ctx, facts, further); err != nil {
			return nil, err
		}
	}
	return facts, nil
}

// fact makes a unit of the answers, and tells what is to be asked of it besides.
func fact(name string, answers []answer) (impact.Unit, []question, error) {
	load, state, reload, refuses, after, fragment, source, dropIns := answers[0], answers[1], answers[2], answers[3], answers[4], answers[5], answers[6], answers[7]
	unit := impact.Unit{Name: name, State: state.text(), CanReload: reload.set, Refuses: refuses.set, After: after.texts}
	if load.text() == "not-found" && unit.State == "inactive" {
		return impact.Unit{}, nil, fmt.Errorf("unit %s: %w", name, errNotLoaded)
	}
	for _, relation := range answers[8:] {
		unit.Followers = append(unit.Followers, relation.texts...)
	}
	unit.Fragment, _ = impact.Resolve(fragment.text())
	for _, file := range append(slices.Clone(dropIns.texts), source.text()) { // a generator made the unit of the source
		if resolved, _ := impact.Resolve(file); resolved != "" {
			unit.DropIns = append(unit.DropIns, resolved)
		}
	}
	if !strings.HasSuffix(name, ".service") {
		return unit, nil, nil
	}
	var further []question
	if unit.State == "activating" {
		further = append(further, question{name, serviceFace, "Type"})
	}
	environment, err := mayName(append(slices.Clone(dropIns.texts), fragment.text()), source.text())
	if environment {
		further = append(further, question{name, serviceFace, "EnvironmentFiles"})
	}
	return unit, further, err
}

// furtherFacts adds to units what only of some of them is asked.
func furtherFacts(ctx context.Context, facts map[string]impact.Unit, questions []question) error {
	answers, err := ask(ctx, questions)
	if err != nil {
		return err
	}
	for i, q := range questions {
		unit := facts[q.unit]
		if q.property == "Type" {
			unit.Once = answers[i].text() == "oneshot"
		} else {
			// a(sb): path, and whether it may be missing (org.freedesktop.systemd1(5)).
			for _, shown := range answers[i].texts {
				if path, _ := impact.Resolve(shown); path != "" {
					unit.EnvironmentFiles = append(unit.EnvironmentFiles, path)
				}
			}
		}
		facts[q.unit] = unit
	}
	return nil
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
