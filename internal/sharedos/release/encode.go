package release

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// MaxManifest is the largest encoded manifest in bytes that is written or read. With its signatures it is below
// 1 MiB, what a store takes as one record.
const MaxManifest = 1000 << 10

var (
	// ErrSchema means that a manifest is of another schema than this program reads.
	ErrSchema = errors.New("manifest schema not supported")
	// ErrManifest means that bytes are no manifest in canonical form, or that the manifest breaks a rule.
	ErrManifest = errors.New("not a valid manifest")
)

// document is a manifest of either kind.
type document interface {
	// schema is the JSON name of the schema's field, its value, and the only value that is read.
	schema() (field string, own, known int)
	// title names the manifest in errors.
	title() string
	rules() []func() error
	canonical() any
}

// documentOf is a T behind its pointer.
type documentOf[T any] interface {
	*T
	document
}

func (m *Manifest) schema() (field string, own, known int) { return "schema", m.Schema, Schema }

func (m *Manifest) title() string { return fmt.Sprintf("%s %q", m.Kind, m.Name) }

// canonical is m with one form for what can be written in two: nil and empty mean the same.
func (m *Manifest) canonical() any {
	full := *m
	full.Packages, full.Users, full.Groups = notNil(full.Packages), notNilMap(full.Users), notNilMap(full.Groups)
	return &full
}

func notNil[T any](list []T) []T {
	if list == nil {
		return []T{}
	}
	return list
}

func notNilMap(accounts map[string]uint32) map[string]uint32 {
	if accounts == nil {
		return map[string]uint32{}
	}
	return accounts
}

// Encode returns the canonical form: JSON on one line with maps sorted by key and a newline at the end.
// Equal manifests have equal bytes. The error matches ErrManifest if m breaks a rule of its own.
func (m *Manifest) Encode() ([]byte, error) { return encode(m) }

func encode(m document) ([]byte, error) {
	if err := check(m); err != nil {
		return nil, fmt.Errorf("encode manifest of %s: %w", m.title(), err)
	}
	encoded, err := json.Marshal(m.canonical())
	if err != nil {
		return nil, fmt.Errorf("encode manifest of %s: %w", m.title(), err)
	}
	encoded = append(encoded, '\n')
	if len(encoded) > MaxManifest {
		return nil, fmt.Errorf("encode manifest of %s: %d bytes, more than %d: %w", m.title(), len(encoded), MaxManifest, ErrManifest)
	}
	return encoded, nil
}

// check reports the first rule that m breaks. The error matches ErrManifest or ErrSchema.
func check(m document) error {
	if _, own, known := m.schema(); own != known {
		return fmt.Errorf("schema %d instead of %d: %w", own, known, ErrSchema)
	}
	for _, rule := range m.rules() {
		if err := rule(); err != nil {
			return fmt.Errorf("%w: %w", ErrManifest, err)
		}
	}
	return nil
}

// ID returns the id of an encoded manifest: its SHA-256.
func ID(encoded []byte) tree.Digest { return tree.Sum(encoded) }

// Decode reads a release manifest in canonical form and no other: a field that is unknown, doubled or out of place is
// an error, so that one manifest has one id. Errors match ErrSchema or ErrManifest.
func Decode(encoded []byte) (*Manifest, error) { return decodeManifest[Manifest](encoded) }

func decodeManifest[T any, M documentOf[T]](encoded []byte) (*T, error) {
	if len(encoded) > MaxManifest {
		return nil, fmt.Errorf("decode manifest: %d bytes, more than %d: %w", len(encoded), MaxManifest, ErrManifest)
	}
	m := M(new(T))
	// The schema comes first and by itself: another schema may have fields that this one does not know.
	field, _, known := m.schema()
	var head map[string]json.RawMessage
	if err := json.Unmarshal(encoded, &head); err != nil {
		return nil, fmt.Errorf("decode manifest: %w: %w", ErrManifest, err)
	}
	text, found := head[field]
	if !found {
		return nil, fmt.Errorf("decode manifest: no %s: %w", field, ErrManifest)
	}
	var schema int
	if err := json.Unmarshal(text, &schema); err != nil {
		return nil, fmt.Errorf("decode manifest: %s: %w: %w", field, ErrManifest, err)
	}
	if schema != known {
		return nil, fmt.Errorf("decode manifest: it has schema %d, this program reads schema %d; use the version that wrote it: %w",
			schema, known, ErrSchema)
	}
	decoder := json.NewDecoder(bytes.NewReader(encoded))
	decoder.DisallowUnknownFields()
	if err := decoder.Decode(m); err != nil {
		return nil, fmt.Errorf("decode manifest: %w: %w", ErrManifest, err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("decode manifest: bytes after its end: %w", ErrManifest)
	}
	canonical, err := encode(m)
	if err != nil {
		return nil, fmt.Errorf("decode manifest: %w", err)
	}
	if !bytes.Equal(canonical, encoded) {
		return nil, fmt.Errorf("decode manifest of %s: not in canonical form: %w", m.title(), ErrManifest)
	}
	return m, nil
}
