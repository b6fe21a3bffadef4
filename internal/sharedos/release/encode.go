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

// Encode returns the canonical form: JSON on one line with maps sorted by key and a newline at the end.
// Equal manifests have equal bytes. The error matches ErrManifest if m breaks a rule of its own.
func (m *Manifest) Encode() ([]byte, error) {
	if err := m.check(); err != nil {
		return nil, fmt.Errorf("encode manifest of %q: %w", m.Name, err)
	}
	full := *m
	// Nil and empty mean the same, so they must not differ in bytes.
	if full.Packages == nil {
		full.Packages = []Package{}
	}
	if full.Users == nil {
		full.Users = map[string]uint32{}
	}
	if full.Groups == nil {
		full.Groups = map[string]uint32{}
	}
	encoded, err := json.Marshal(&full)
	if err != nil {
		return nil, fmt.Errorf("encode manifest of %q: %w", m.Name, err)
	}
	encoded = append(encoded, '\n')
	if len(encoded) > MaxManifest {
		return nil, fmt.Errorf("encode manifest of %q: %d bytes, more than %d: %w", m.Name, len(encoded), MaxManifest, ErrManifest)
	}
	return encoded, nil
}

// ID returns the release id of an encoded manifest: its SHA-256.
func ID(encoded []byte) tree.Digest { return tree.Sum(encoded) }

// Decode reads a manifest in canonical form and no other: a field that is unknown, doubled or out of place is an
// error, so that one manifest has one id. Errors match ErrSchema or ErrManifest.
func Decode(encoded []byte) (*Manifest, error) {
	if len(encoded) > MaxManifest {
		return nil, fmt.Errorf("decode manifest: %d bytes, more than %d: %w", len(encoded), MaxManifest, ErrManifest)
	}
	// The schema comes first and by itself: another schema may have fields that this one does not know.
	var head struct {
		Schema *int `json:"schema"`
	}
	if err := json.Unmarshal(encoded, &head); err != nil {
		return nil, fmt.Errorf("decode manifest: %w: %w", ErrManifest, err)
	}
	if head.Schema == nil {
		return nil, fmt.Errorf("decode manifest: no schema: %w", ErrManifest)
	}
	if *head.Schema != Schema {
		return nil, fmt.Errorf("decode manifest: it has schema %d, this program reads schema %d; use the version that wrote it: %w",
			*head.Schema, Schema, ErrSchema)
	}
	decoder := json.NewDecoder(bytes.NewReader(encoded))
	decoder.DisallowUnknownFields()
	var m Manifest
	if err := decoder.Decode(&m); err != nil {
		return nil, fmt.Errorf("decode manifest: %w: %w", ErrManifest, err)
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		return nil, fmt.Errorf("decode manifest: bytes after its end: %w", ErrManifest)
	}
	canonical, err := m.Encode()
	if err != nil {
		return nil, fmt.Errorf("decode manifest: %w", err)
	}
	if !bytes.Equal(canonical, encoded) {
		return nil, fmt.Errorf("decode manifest of %q: not in canonical form: %w", m.Name, ErrManifest)
	}
	return &m, nil
}
