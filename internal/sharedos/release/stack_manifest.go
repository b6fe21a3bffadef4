package release

import (
	"crypto/ed25519"
	"fmt"
	"slices"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// StackSchema is the schema version of stack manifests. This program writes and reads only this one.
const StackSchema = 1

// Member is one of the releases of a stack.
type Member struct {
	ID       tree.Digest `json:"id"`
	Name     string      `json:"name"`
	Sequence uint64      `json:"sequence"`
}

// StackManifest describes what a VM runs: a base and the components on it, merged into one tree. Encode returns its
// canonical form, whose SHA-256 is the id of the stack. A base without components is a stack, too.
type StackManifest struct {
	// Schema has another JSON name than the schema of a release, so that neither can be decoded as the other.
	Schema int    `json:"stack_schema"`
	Base   Member `json:"base"`
	// Components are ordered bottom to top.
	Components []Member `json:"components"`
	// Offered are the components that the stack has stand-ins of. The VM can attach them by itself.
	Offered []Member `json:"offered,omitempty"`
	// Architecture and OS are the base's.
	Architecture string `json:"architecture"`
	OS           string `json:"os"`
	// Layers are ordered bottom to top: a full layer, then deltas.
	Layers []Layer `json:"layers"`
	// BaseLayers is how many of the lowest layers are the base's, if there are others; 0 otherwise.
	BaseLayers int `json:"base_layers,omitempty"`
	// Prefer says which component a path is of that several have with different content. It is sorted by path.
	Prefer []Preference `json:"prefer,omitempty"`
	// Contents is the contents list of the tree that results from merging all layers.
	Contents Blob   `json:"contents"`
	Kernel   Kernel `json:"kernel"`
	// Packages are sorted by name.
	Packages []Package `json:"packages"`
	// Users and Groups map account names to uids and gids.
	Users  map[string]uint32 `json:"users"`
	Groups map[string]uint32 `json:"groups"`
}

// Record returns the short record of the stack, which has this id.
func (m *StackManifest) Record(id tree.Digest) Stack {
	record := Stack{ID: id, Base: m.Base.ID, Layers: m.Layers, BaseLayers: m.BaseLayers,
		Kernel: m.Kernel.Release, Prefer: m.Prefer}
	for _, component := range m.Components {
		record.Components = append(record.Components, component.ID)
	}
	for _, component := range m.Offered {
		record.Offered = append(record.Offered, component.ID)
	}
	return record
}

// Encode returns the canonical form, as Manifest.Encode does.
func (m *StackManifest) Encode() ([]byte, error) { return encode(m) }

// DecodeStack decodes a stack manifest. It accepts only the canonical form. Errors match ErrSchema or ErrManifest.
func DecodeStack(encoded []byte) (*StackManifest, error) {
	return decodeManifest[StackManifest](encoded)
}

// SignStack encodes m and signs it as Sign does.
func SignStack(m *StackManifest, key ed25519.PrivateKey) (signed []byte, id tree.Digest, err error) {
	return sign(m, key)
}

// OpenStack checks that one of the trusted operators signed the stack manifest, and only then decodes it. Errors match
// ErrSignature, ErrSchema or ErrManifest.
func OpenStack(signed []byte, trusted []ed25519.PublicKey) (*StackManifest, tree.Digest, error) {
	return open[StackManifest](signed, trusted)
}

func (m *StackManifest) schema() (field string, own, known int) {
	return "stack_schema", m.Schema, StackSchema
}

func (m *StackManifest) title() string { return fmt.Sprintf("stack of base %q", m.Base.Name) }

// canonical returns a copy of m in which empty lists and maps are not nil, since JSON distinguishes them.
func (m *StackManifest) canonical() any {
	full := *m
	full.Components = notNil(full.Components)
	full.Packages, full.Users, full.Groups = notNil(full.Packages), notNilMap(full.Users), notNilMap(full.Groups)
	return &full
}

// rules returns the checks of a stack manifest.
func (m *StackManifest) rules() []func() error {
	return []func() error{
		m.checkMembers,
		func() error { return checkSystem(m.Architecture, m.OS) },
		func() error { return checkLayers(m.Layers, MaxStackLayers, true) },
		m.checkBaseLayers,
		func() error { return CheckPreferences(m.Prefer) },
		func() error { return checkBlob("contents", m.Contents) },
		m.Kernel.check,
		func() error { return checkPackages(m.Packages) },
		func() error { return checkAccounts(m.Users, m.Groups) },
	}
}

func (m *StackManifest) checkBaseLayers() error {
	if m.BaseLayers < 0 || m.BaseLayers > 0 && m.BaseLayers >= len(m.Layers) {
		return fmt.Errorf("%d layers of the base, of %d layers", m.BaseLayers, len(m.Layers))
	}
	return nil
}

func (m *StackManifest) checkMembers() error {
	if len(m.Components) > MaxComponents {
		return fmt.Errorf("%d components: a stack may have %d", len(m.Components), MaxComponents)
	}
	if len(m.Offered) > MaxOnDemand {
		return fmt.Errorf("%d components on demand: a stack may have stand-ins of %d", len(m.Offered), MaxOnDemand)
	}
	if err := m.Base.check("base"); err != nil {
		return err
	}
	ids, names := map[tree.Digest]bool{m.Base.ID: true}, map[string]bool{}
	for _, component := range slices.Concat(m.Components, m.Offered) {
		if err := component.check("component"); err != nil {
			return err
		}
		if ids[component.ID] || names[component.Name] {
			return fmt.Errorf("component %q, release %s, stands twice", component.Name, component.ID)
		}
		ids[component.ID], names[component.Name] = true, true
	}
	return nil
}

func (m Member) check(kind string) error {
	if m.ID.IsZero() || m.Sequence == 0 || !ValidName(m.Name) {
		return fmt.Errorf("%s %q, release %d with id %s: a release has a name, a sequence from 1 and an id", kind,
			m.Name, m.Sequence, m.ID)
	}
	return nil
}
