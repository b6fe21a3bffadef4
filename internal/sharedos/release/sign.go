package release

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// signerName is the name of every operator in a signed note. The key hash in the signature identifies the operator.
const signerName = "sharedos-operator"

// maxSignatures bounds the signatures below a manifest in bytes.
const maxSignatures = 16 << 10

// MaxSigned is the maximum size of a signed manifest in bytes.
const MaxSigned = MaxManifest + maxSignatures

// ErrSignature means that no trusted operator signed a manifest, or that a signature is invalid.
var ErrSignature = errors.New("not signed by a trusted operator")

// Sign encodes m and signs it as a note (golang.org/x/mod/sumdb/note) whose text is the canonical form.
func Sign(m *Manifest, key ed25519.PrivateKey) (signed []byte, id tree.Digest, err error) {
	return sign(m, key)
}

func sign(m document, key ed25519.PrivateKey) (signed []byte, id tree.Digest, err error) {
	encoded, err := encode(m)
	if err != nil {
		return nil, tree.Digest{}, err
	}
	s, err := newSigner(key)
	if err != nil {
		return nil, tree.Digest{}, fmt.Errorf("sign manifest of %s: %w", m.title(), err)
	}
	signed, err = note.Sign(&note.Note{Text: string(encoded)}, s)
	if err != nil {
		return nil, tree.Digest{}, fmt.Errorf("sign manifest of %s: %w", m.title(), err)
	}
	return signed, ID(encoded), nil
}

// Open checks that one of the trusted operators signed the release manifest, and only then decodes it. Errors match
// ErrSignature, ErrSchema or ErrManifest.
func Open(signed []byte, trusted []ed25519.PublicKey) (*Manifest, tree.Digest, error) {
	return open[Manifest](signed, trusted)
}

func open[T any, M documentOf[T]](signed []byte, trusted []ed25519.PublicKey) (*T, tree.Digest, error) {
	if len(signed) > MaxSigned {
		return nil, tree.Digest{},
			fmt.Errorf("open signed manifest: %d bytes, more than %d: %w", len(signed), MaxSigned, ErrManifest)
	}
	text, err := signedText(signed, trusted)
	if err != nil {
		return nil, tree.Digest{}, fmt.Errorf("open signed manifest: %w", err)
	}
	encoded := []byte(text)
	m, err := decodeManifest[T, M](encoded)
	if err != nil {
		return nil, tree.Digest{}, fmt.Errorf("open signed manifest: %w", err)
	}
	return m, ID(encoded), nil
}

// signedText returns the text of a note that one of the trusted operators signed; ErrSignature if none did.
func signedText(signed []byte, trusted []ed25519.PublicKey) (string, error) {
	verifiers := make([]note.Verifier, 0, len(trusted))
	known := make(map[string]bool, len(trusted))
	for i, key := range trusted {
		text, err := note.NewEd25519VerifierKey(signerName, key)
		if err != nil {
			return "", fmt.Errorf("operator key %d: %w: %w", i, ErrSignature, err)
		}
		if known[text] {
			continue // note refuses a key that it has twice
		}
		known[text] = true
		verifier, err := note.NewVerifier(text)
		if err != nil {
			return "", fmt.Errorf("operator key %d: %w: %w", i, ErrSignature, err)
		}
		verifiers = append(verifiers, verifier)
	}
	opened, err := note.Open(signed, note.VerifierList(verifiers...))
	if err != nil {
		return "", fmt.Errorf("%w: %w", ErrSignature, err)
	}
	return opened.Text, nil
}

// OpenUnsigned decodes a signed manifest without verifying its signatures. It serves to find the objects to which
// another operator's release refers, so that they are not deleted. Its result must not be trusted for anything else,
// and never booted.
func OpenUnsigned(signed []byte) (*Manifest, tree.Digest, error) {
	if len(signed) > MaxSigned {
		return nil, tree.Digest{},
			fmt.Errorf("read signed manifest: %d bytes, more than %d: %w", len(signed), MaxSigned, ErrManifest)
	}
	// A blank line ends the text of a note. The canonical form is one line, so it contains no blank line.
	end := bytes.Index(signed, []byte("\n\n"))
	if end < 0 {
		return nil, tree.Digest{}, fmt.Errorf("read signed manifest: it is no signed note: %w", ErrManifest)
	}
	encoded := signed[:end+1]
	m, err := Decode(encoded)
	if err != nil {
		return nil, tree.Digest{}, fmt.Errorf("read signed manifest: %w", err)
	}
	return m, ID(encoded), nil
}

// signer signs notes with an Ed25519 key, like the signer of package note, which needs the key in a text form.
type signer struct {
	key  ed25519.PrivateKey
	hash uint32
}

func newSigner(key ed25519.PrivateKey) (*signer, error) {
	if len(key) != ed25519.PrivateKeySize {
		return nil, fmt.Errorf("operator key of %d bytes instead of %d", len(key), ed25519.PrivateKeySize)
	}
	public, ok := key.Public().(ed25519.PublicKey)
	if !ok {
		return nil, errors.New("operator key has no Ed25519 public key")
	}
	text, err := note.NewEd25519VerifierKey(signerName, public)
	if err != nil {
		return nil, err
	}
	// The text is <name>+<hash in hexadecimal>+<key>.
	_, rest, _ := strings.Cut(text, "+")
	hexadecimal, _, _ := strings.Cut(rest, "+")
	hash, err := strconv.ParseUint(hexadecimal, 16, 32)
	if err != nil {
		return nil, fmt.Errorf("key hash %q: %w", hexadecimal, err)
	}
	return &signer{key: key, hash: uint32(hash)}, nil
}

func (s *signer) Name() string                     { return signerName }
func (s *signer) KeyHash() uint32                  { return s.hash }
func (s *signer) Sign(text []byte) ([]byte, error) { return ed25519.Sign(s.key, text), nil }
