package release

import "github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"

// Identified is a manifest with its id.
type Identified struct {
	ID       tree.Digest
	Manifest *Manifest
}

// StackOf orders the layers of a base and of components, in the order given, as one VM runs them. A layer that
// two components share stands once, where it comes first: overlayfs refuses a lower directory that stands twice.
func StackOf(base *Manifest, baseID tree.Digest, components ...Identified) Stack {
	stack := Stack{Base: baseID}
	if base.Kernel != nil {
		stack.Kernel = base.Kernel.Release
	}
	seen := make(map[tree.Digest]bool)
	add := func(layers []Layer) {
		for _, layer := range layers {
			if !seen[layer.ID] {
				seen[layer.ID] = true
				stack.Layers = append(stack.Layers, layer)
			}
		}
	}
	add(base.Layers)
	for _, component := range components {
		stack.Components = append(stack.Components, component.ID)
		add(component.Manifest.Layers)
	}
	return stack
}
