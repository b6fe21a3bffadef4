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

// Stack is the short record of a stack that host and guest store. It has everything that is needed to boot a VM.
// StackManifest describes the stack in full.
type Stack struct {
	// ID is the id of the stack's manifest. It is zero in records that were written before stacks had manifests.
	ID         tree.Digest   `json:"id,omitzero"`
	Base       tree.Digest   `json:"base"`
	Components []tree.Digest `json:"components,omitempty"`
	// Offered are the components of which the stack has stand-ins: the VM can attach them by itself.
	Offered []tree.Digest `json:"offered,omitempty"`
	// Layers are ordered bottom to top.
	Layers []Layer `json:"layers"`
	// BaseLayers is how many of the lowest layers are the base's; 0 if all are.
	BaseLayers int `json:"base_layers,omitempty"`
	// Prefer is sorted by path.
	Prefer []Preference `json:"prefer,omitempty"`
	// Kernel is the kernel release of the base.
	Kernel string `json:"kernel"`
}

// OfBase returns the layers of the base alone. The root file system of a VM stands on them: the layers of components
// come and go while it runs.
func (s Stack) OfBase() []Layer {
	if s.BaseLayers <= 0 || s.BaseLayers > len(s.Layers) {
		return s.Layers
	}
	return s.Layers[:s.BaseLayers]
}

// Same reports whether two records are of the same stack, by their ids. If a record has no id, Same compares releases,
// and layers if both records have them.
func (s Stack) Same(other Stack) bool {
	if !s.ID.IsZero() && !other.ID.IsZero() {
		return s.ID == other.ID
	}
	if !s.SameReleases(other) {
		return false
	}
	return len(s.Layers) == 0 || len(other.Layers) == 0 || s.layersKey() == other.layersKey()
}

// SameReleases reports whether two records are of the same releases, with the same preferences among them.
func (s Stack) SameReleases(other Stack) bool {
	return s.Base == other.Base && slices.Equal(s.Components, other.Components) &&
		slices.Equal(s.Offered, other.Offered) &&
		slices.Equal(s.Prefer, other.Prefer)
}

// Key is the name of the stack in the files of a guest: the 64 hexadecimal digits of its id.
func (s Stack) Key() string {
	if s.ID.IsZero() {
		return s.layersKey()
	}
	return s.ID.Hex()
}

// HasKey reports whether a key in the files of a guest is one of this stack. Keys that were written before stacks had
// ids are digests of the ids of their layers.
func (s Stack) HasKey(key string) bool { return key == s.Key() || key == s.layersKey() }

func (s Stack) layersKey() string {
	var ids bytes.Buffer
	for _, layer := range s.Layers {
		ids.WriteString(layer.ID.Hex())
		ids.WriteByte('\n')
	}
	return tree.Sum(ids.Bytes()).Hex()
}

// Releases returns the ids of the base, of the components and of those that are offered, in this order.
func (s Stack) Releases() []tree.Digest {
	return slices.Concat([]tree.Digest{s.Base}, s.Components, s.Offered)
}

// WithoutLayers returns a record that only identifies the stack.
func (s Stack) WithoutLayers() Stack {
	return Stack{ID: s.ID, Base: s.Base, Components: s.Components, Offered: s.Offered, Prefer: s.Prefer}
}
