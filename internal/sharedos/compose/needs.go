package compose

import (
	"fmt"
	"path"
	"strings"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// checkNeeds checks that the stack has what files of components need and neither these nor the base have.
func (p Parts) checkNeeds(lists Lists) error {
	var needing []release.Identified
	for _, component := range p.Components {
		if len(component.Manifest.Needs) > 0 {
			needing = append(needing, component)
		}
	}
	if len(needing) == 0 {
		return nil
	}
	names, paths := map[string]bool{}, map[string]bool{}
	err := p.visit(lists, func(at string, _ *tree.Entry, components []*tree.Entry) error {
		for _, own := range components {
			if own != nil && own.Type != tree.Directory {
				names[path.Base(at)], paths[at] = true, true
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	for _, component := range needing {
		for _, need := range component.Manifest.Needs {
			for _, library := range need.Libraries {
				if !names[library] {
					return fmt.Errorf("%w: component %q: /%s needs the library %s", ErrNeeds,
						component.Manifest.Name, need.File, library)
				}
			}
			if program := need.Program; program != "" && !hasProgram(program, names, paths) {
				return fmt.Errorf("%w: component %q: /%s is to be run by %s", ErrNeeds,
					component.Manifest.Name, need.File, program)
			}
		}
	}
	return nil
}

// hasProgram reports whether there is a program: at an absolute path, below /usr as well where the
// root has links to there, or anywhere under a name.
func hasProgram(program string, names, paths map[string]bool) bool {
	at, absolute := strings.CutPrefix(program, "/")
	return !absolute && names[program] || absolute && (paths[at] || paths["usr/"+at])
}
