package release

import (
	"bytes"
	"slices"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// Identified is a manifest with its id.
type Identified struct {
	ID       tree.Digest
	Manifest *Manifest
}

// Stack is the short record of a stack, as host and guest keep it: what a VM boots needs no more. StackManifest
// describes the stack in full.
type Stack struct {
	// ID of the stack's manifest. Records that were written before stacks had manifests have none.
	ID         tree.Digest   `json:"id,omitzero"`
	Base       tree.Digest   `json:"base"`
	Components []tree.Digest `json:"components,omitempty"`
	// Layers are ordered bottom to top.
	Layers []Layer `json:"layers"`
	// Kernel is the kernel release of the base.
	Kernel string `json:"kernel"`
}

// Same reports whether two records are of one stack: whether they have one id. A record without an id is compared by
// its releases, and by its layers where both records name them.
func (s Stack) Same(other Stack) bool {
	if !s.ID.IsZero() && !other.ID.IsZero() {
		return s.ID == other.ID
	}
	if s.Base != other.Base || !slices.Equal(s.Components, other.Components) {
		return false
	}
	return len(s.Layers) == 0 || len(other.Layers) == 0 || s.layersKey() == other.layersKey()
}

// Key names the stack in what a guest keeps: the 64 hexadecimal digits of its id.
func (s Stack) Key() string {
	if s.ID.IsZero() {
		return s.layersKey()
	}
	return s.ID.Hex()
}

// HasKey reports whether a key that a guest kept names this stack. Keys that were written before stacks had ids are
// digests of the ids of their layers.
func (s Stack) HasKey(key string) bool { return key == s.Key() || key == s.layersKey() }

func (s Stack) layersKey() string {
	var ids bytes.Buffer
	for _, layer := range s.Layers {
		ids.WriteString(layer.ID.Hex())
		ids.WriteByte('\n')
	}
	return tree.Sum(ids.Bytes()).Hex()
}

// Releases lists the ids of what the stack is made of, the base's first.
func (s Stack) Releases() []tree.Digest { return append([]tree.Digest{s.Base}, s.Components...) }

// WithoutLayers is the record for whoever only has to know which stack it is.
func (s Stack) WithoutLayers() Stack {
	return Stack{ID: s.ID, Base: s.Base, Components: s.Components}
}
