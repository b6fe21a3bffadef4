package units

import (
	"context"
	"fmt"
	"strings"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/impact"
)

// maxFacts bounds how many units are asked about at once: one unit leads to others, and a hostile system has no end.
const maxFacts = 4096

// factProperties are what is asked of each unit. An answer costs systemd and this program half a millisecond under emulation,
// so what the unit's files tell as well is asked only where they do not rule it out (further).
var factProperties = []string{
	"ActiveState", "CanReload", "After", "FragmentPath", "DropInPaths",
	// To these a restart is passed on (systemd.unit(5)).
	"RequiredBy", "RequisiteOf", "BoundBy", "ConsistsOf",
}

// Facts tells, for each of the units and for those that are restarted with them, what they read and what they can do.
// Units that systemd does not know are left out: they ended meanwhile.
func (m *Manager) Facts(ctx context.Context, names []string) (facts map[string]impact.Unit, err error) {
	if len(names) == 0 {
		return map[string]impact.Unit{}, nil
	}
	err = m.converse(ctx, callLimit, func(c *conversation) (err error) {
		facts, err = factsOf(c, names)
		return err
	})
	return facts, err
}

func factsOf(c *conversation, names []string) (map[string]impact.Unit, error) {
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
		answers, err := c.ask(questions)
		if err != nil {
			return nil, err
		}
		names = nil
		var more []question
		for i, name := range round {
			unit, files := fact(name, answers[i*len(factProperties):][:len(factProperties)])
			facts[name] = unit
			names = append(names, unit.Followers...)
			further, err := further(unit, files)
			if err != nil {
				return nil, err
			}
			more = append(more, further...)
		}
		if answers, err = c.ask(more); err != nil {
			return nil, err
		}
		for i, q := range more {
			learn(facts, q, answers[i])
		}
	}
	return facts, nil
}

// fact makes a unit of the answers, and tells which files it was made of.
func fact(name string, answers []answer) (unit impact.Unit, files []string) {
	state, reload, after, fragment, dropIns := answers[0], answers[1], answers[2], answers[3], answers[4]
	unit = impact.Unit{Name: name, State: state.text(), CanReload: reload.set, After: after.texts}
	for _, relation := range answers[5:] {
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

// further lists what is to be asked of a unit besides.
func further(unit impact.Unit, files []string) (more []question, err error) {
	ask := func(face, property string) { more = append(more, question{unit.Name, face, property}) }
	service := strings.HasSuffix(unit.Name, ".service")
	switch {
	case unit.State == "inactive":
		ask(unitFace, "LoadState") // it may be none
	case unit.State == "activating" && service:
		ask(serviceFace, "Type")
	}
	words := []string{"RefuseManualStop", "SourcePath", "EnvironmentFile"}
	if unit.Fragment != "" { // one without a file was made by systemd itself, or of what a generator or the kernel tells
		if words, err = mention(files, words...); err != nil {
			return nil, err
		}
	}
	for _, word := range words {
		switch {
		case word != "EnvironmentFile":
			ask(unitFace, word)
		case service:
			ask(serviceFace, "EnvironmentFiles")
		}
	}
	return more, nil
}

// learn adds to the units what only of some of them is asked.
func learn(facts map[string]impact.Unit, q question, a answer) {
	unit, known := facts[q.unit]
	if !known {
		return
	}
	switch q.property {
	case "LoadState":
		if a.text() == "not-found" {
			delete(facts, q.unit)
			return
		}
	case "Type":
		unit.Once = a.text() == "oneshot"
	case "RefuseManualStop":
		unit.Refuses = a.set
	case "SourcePath": // a generator made the unit of it
		unit.DropIns = appendFile(unit.DropIns, a.text())
	case "EnvironmentFiles": // a(sb): path, and whether it may be missing (org.freedesktop.systemd1(5))
		for _, shown := range a.texts {
			unit.EnvironmentFiles = appendFile(unit.EnvironmentFiles, shown)
		}
	}
	facts[q.unit] = unit
}
