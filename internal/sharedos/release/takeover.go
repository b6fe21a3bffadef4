package release

import (
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"golang.org/x/mod/sumdb/note"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

const (
	// MaxAgent is the maximum size in bytes of an agent that takes over.
	MaxAgent = 16 << 20
	// maxTakeover bounds a signed takeover in bytes.
	maxTakeover = 1<<10 + maxSignatures
	// takeoverForm is the first line of a takeover. No manifest begins with it, because a manifest is one line of JSON.
	takeoverForm = "sharedos agent takeover, version 1"
)

// ErrTakeover means that a text is not a takeover.
var ErrTakeover = errors.New("not a takeover")

// Takeover is an operator's permission that one agent takes over from another one in one VM. It contains the key of the
// VM and the digest of the previous agent, so it cannot be replayed in another VM, nor later to bring an older agent
// back. The operator has to know which agent is the newer one.
type Takeover struct {
	// Guest is the key of the VM's agent. All agents of a VM have the same key.
	Guest ed25519.PublicKey
	// From and To are the SHA-256 of the previous and of the next agent.
	From, To tree.Digest
	// Size is the size of the next agent in bytes.
	Size int64
}

func (t Takeover) encode() string {
	return fmt.Sprintf("%s\nguest %s\nfrom %s\nto %s\nsize %d\n", takeoverForm,
		base64.StdEncoding.EncodeToString(t.Guest), t.From, t.To, t.Size)
}

func decodeTakeover(text string) (Takeover, error) {
	var t Takeover
	lines := strings.Split(text, "\n")
	if len(lines) != 6 || lines[0] != takeoverForm {
		return t, fmt.Errorf("%w: it does not begin with %q", ErrTakeover, takeoverForm)
	}
	values := make([]string, 0, 4)
	for i, name := range []string{"guest", "from", "to", "size"} {
		value, found := strings.CutPrefix(lines[i+1], name+" ")
		if !found {
			return t, fmt.Errorf("%w: line %d does not tell %q", ErrTakeover, i+2, name)
		}
		values = append(values, value)
	}
	key, keyErr := base64.StdEncoding.Strict().DecodeString(values[0])
	from, fromErr := tree.ParseDigest(values[1])
	to, toErr := tree.ParseDigest(values[2])
	size, sizeErr := strconv.ParseInt(values[3], 10, 64)
	if err := errors.Join(keyErr, fromErr, toErr, sizeErr); err != nil {
		return t, fmt.Errorf("%w: %w", ErrTakeover, err)
	}
	t = Takeover{Guest: key, From: from, To: to, Size: size}
	if len(key) != ed25519.PublicKeySize || size < 1 || size > MaxAgent || t.encode() != text {
		return Takeover{}, fmt.Errorf("%w: not in canonical form, or an agent of more than %d bytes", ErrTakeover,
			MaxAgent)
	}
	return t, nil
}

// SignTakeover signs a takeover as a note (golang.org/x/mod/sumdb/note).
func SignTakeover(t Takeover, key ed25519.PrivateKey) ([]byte, error) {
	if _, err := decodeTakeover(t.encode()); err != nil {
		return nil, fmt.Errorf("sign takeover: %w", err)
	}
	s, err := newSigner(key)
	if err != nil {
		return nil, fmt.Errorf("sign takeover: %w", err)
	}
	signed, err := note.Sign(&note.Note{Text: t.encode()}, s)
	if err != nil {
		return nil, fmt.Errorf("sign takeover: %w", err)
	}
	return signed, nil
}

// OpenTakeover checks that one of the trusted operators signed the takeover, and only then decodes it. Errors match
// ErrSignature or ErrTakeover.
func OpenTakeover(signed []byte, trusted []ed25519.PublicKey) (Takeover, error) {
	if len(signed) > maxTakeover {
		return Takeover{}, fmt.Errorf("open takeover: %w: %d bytes, more than %d", ErrTakeover,
			len(signed), maxTakeover)
	}
	text, err := signedText(signed, trusted)
	if err != nil {
		return Takeover{}, fmt.Errorf("open takeover: %w", err)
	}
	t, err := decodeTakeover(text)
	if err != nil {
		return Takeover{}, fmt.Errorf("open takeover: %w", err)
	}
	return t, nil
}
