package release

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// MaxManifest is the maximum size of an encoded manifest in bytes. With its signatures it stays below 1 MiB, the
// maximum size of a record in a store.
const MaxManifest = 1000 << 10

var (
	// ErrSchema means that this program does not read the manifest's schema version.
	ErrSchema = errors.New("manifest schema not supported")
	// ErrManifest means that bytes are not a manifest in canonical form, or that the manifest violates a rule.
	ErrManifest = errors.New("not a valid manifest")
)

// document is the manifest of a release or of a stack.
type document interface {
	// schema returns the JSON name of the field with the schema version, the field's value, and the only valid value.
	schema() (field string, own, known int)
	// title describes the manifest in errors.
	title() string
	rules() []func() error
	canonical() any
}

// documentOf is a pointer to T that implements document.
type documentOf[T any] interface {
	*T
	document
}

func (m *Manifest) schema() (field string, own, known int) { return "schema", m.Schema, Schema }

func (m *Manifest) title() string { return fmt.Sprintf("%s %q", m.Kind, m.Name) }

// canonical returns a copy of m in which empty lists and maps are not nil, since JSON distinguishes them.
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

// Encode returns the canonical form: JSON on one line with maps sorted by key and a newline at the end. Equal manifests
// have equal bytes. The error matches ErrManifest if m violates a rule.
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
		return nil, fmt.Errorf("encode manifest of %s: %d bytes, more than %d: %w", m.title(), len(encoded),
			MaxManifest, ErrManifest)
	}
	return encoded, nil
}

// check returns an error for the first rule that m violates. It matches ErrManifest or ErrSchema.
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

// Decode decodes a release manifest. It accepts only the canonical form, so that a manifest has only one id: an
// unknown, duplicate or misplaced field is an error. Errors match ErrSchema or ErrManifest.
func Decode(encoded []byte) (*Manifest, error) { return decodeManifest[Manifest](encoded) }

func decodeManifest[T any, M documentOf[T]](encoded []byte) (*T, error) {
	if len(encoded) > MaxManifest {
		return nil, fmt.Errorf("decode manifest: %d bytes, more than %d: %w", len(encoded), MaxManifest, ErrManifest)
	}
	m := M(new(T))
	// The schema version is checked first, because another version may have fields that are unknown here.
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
		return nil, fmt.Errorf(
			"decode manifest: it has schema %d, this program reads schema %d; use the version that wrote it: %w",
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
