package release

import (
	"crypto/ed25519"
	"errors"
	"strings"
	"testing"

	"golang.org/x/mod/sumdb/note"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

func operator(t testing.TB) (ed25519.PublicKey, ed25519.PrivateKey) {
	t.Helper()
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	return public, private
}

func TestATakeoverIsWhatAnOperatorSigned(t *testing.T) {
	public, private := operator(t)
	guest, _ := operator(t)
	want := Takeover{Guest: guest, From: tree.Digest{1}, To: tree.Digest{2}, Size: 8 << 20}
	signed, err := SignTakeover(want, private)
	if err != nil {
		t.Fatal(err)
	}
	got, err := OpenTakeover(signed, []ed25519.PublicKey{public})
	if err != nil || !got.Guest.Equal(guest) || got.From != want.From || got.To != want.To || got.Size != want.Size {
		t.Errorf("got %+v, %v", got, err)
	}
	stranger, _ := operator(t)
	if _, err := OpenTakeover(signed, []ed25519.PublicKey{stranger}); !errors.Is(err, ErrSignature) {
		t.Errorf("of a stranger: %v", err)
	}
	changed := []byte(strings.Replace(string(signed), "size 8388608", "size 8388609", 1))
	if _, err := OpenTakeover(changed, []ed25519.PublicKey{public}); !errors.Is(err, ErrSignature) {
		t.Errorf("changed: %v", err)
	}
	want.Size = MaxAgent + 1
	if _, err := SignTakeover(want, private); !errors.Is(err, ErrTakeover) {
		t.Errorf("too large: %v", err)
	}
}

func TestNoManifestIsATakeoverAndNoTakeoverAManifest(t *testing.T) {
	public, private := operator(t)
	guest, _ := operator(t)
	takeover, err := SignTakeover(Takeover{Guest: guest, From: tree.Digest{1}, To: tree.Digest{2}, Size: 1}, private)
	if err != nil {
		t.Fatal(err)
	}
	if _, _, err := Open(takeover, []ed25519.PublicKey{public}); !errors.Is(err, ErrManifest) {
		t.Errorf("a takeover was opened as a manifest: %v", err)
	}
	// A signed text is not a takeover unless it has the form of one.
	s, err := newSigner(private)
	if err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{`{"schema":1}` + "\n", takeoverForm + "\n",
		strings.Replace(decode(t, takeover), "from ", "from  ", 1)} {
		signed, err := note.Sign(&note.Note{Text: text}, s)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := OpenTakeover(signed, []ed25519.PublicKey{public}); !errors.Is(err, ErrTakeover) {
			t.Errorf("%q was opened as %+v, %v", text, got, err)
		}
	}
}

func decode(t *testing.T, signed []byte) string {
	t.Helper()
	text, _, found := strings.Cut(string(signed), "\n\n")
	if !found {
		t.Fatal("no signed note")
	}
	return text + "\n"
}

// Only the text that the operator signed can be opened, and every decoded takeover has the canonical form.
func FuzzOpenTakeover(f *testing.F) {
	public, private := operator(f)
	guest, _ := operator(f)
	signed, err := SignTakeover(Takeover{Guest: guest, From: tree.Digest{1}, To: tree.Digest{2}, Size: 3}, private)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(signed))
	f.Add(takeoverForm + "\nguest AAAA\nfrom x\nto y\nsize 1\n")
	f.Fuzz(func(t *testing.T, text string) {
		if got, err := OpenTakeover([]byte(text), []ed25519.PublicKey{public}); err == nil && got.Size != 3 {
			t.Errorf("opened %+v", got)
		}
		if got, err := decodeTakeover(text); err == nil && got.encode() != text {
			t.Errorf("%q is not canonical", text)
		}
	})
}
