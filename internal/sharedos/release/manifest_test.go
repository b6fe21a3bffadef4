package release

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

func digestOf(text string) tree.Digest { return tree.Sum([]byte(text)) }

func blobOf(text string) Blob { return Blob{Digest: digestOf(text), Size: int64(len(text))} }

// example returns a valid manifest of a base with one full layer and one delta.
func example() *Manifest {
	return &Manifest{
		Schema: Schema, Kind: Base, Name: "debian-13", Sequence: 2, Previous: digestOf("first"),
		Architecture: "amd64", OS: "Debian GNU/Linux 13 (trixie)",
		Layers: []Layer{
			{ID: digestOf("full"), DataSize: 8 * BlockSize, Size: 10 * BlockSize},
			{ID: digestOf("delta"), DataSize: BlockSize, Size: 3 * BlockSize, Delta: true},
		},
		Contents: blobOf("contents"),
		Kernel:   &Kernel{Release: "6.12.48-cloud-amd64", Image: blobOf("image"), Modules: blobOf("modules")},
		Packages: []Package{{"libssl3t64", "3.5.1-1"}, {"nginx", "1.26.3-3"}},
		Users:    map[string]uint32{"root": 0, "www-data": 33},
		Groups:   map[string]uint32{"root": 0},
	}
}

func testKey(t testing.TB, seed byte) ed25519.PrivateKey {
	t.Helper()
	return ed25519.NewKeyFromSeed(bytes.Repeat([]byte{seed}, ed25519.SeedSize))
}

func TestAManifestHasOneFormAndOneID(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		m := example()
		m.Name = rapid.StringMatching(`[a-z0-9][a-z0-9._-]{0,62}`).Draw(t, "name")
		m.Users = rapid.MapOf(rapid.StringMatching(`[a-zé<&]{1,8}`), rapid.Uint32()).Draw(t, "users")
		if rapid.Bool().Draw(t, "no packages") {
			m.Packages = nil
		}
		first, err := m.Encode()
		if err != nil {
			t.Fatal(err)
		}
		second, err := m.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(first, second) || first[len(first)-1] != '\n' {
			t.Fatalf("two encodings of one manifest:\n%s\n%s", first, second)
		}
		read, err := Decode(first)
		if err != nil {
			t.Fatal(err)
		}
		again, err := read.Encode()
		if err != nil {
			t.Fatal(err)
		}
		if ID(again) != ID(first) {
			t.Fatalf("the id changed on the way through Decode:\n%s\n%s", first, again)
		}
	})
}

func TestEncodeRefusesAManifestThatBreaksARule(t *testing.T) {
	for name, spoil := range map[string]func(*Manifest){
		"unknown kind":                    func(m *Manifest) { m.Kind = "image" },
		"name with a slash":               func(m *Manifest) { m.Name = "../debian" },
		"name that starts with a dot":     func(m *Manifest) { m.Name = ".debian" },
		"name of 64 bytes":                func(m *Manifest) { m.Name = strings.Repeat("a", 64) },
		"no sequence":                     func(m *Manifest) { m.Sequence = 0 },
		"second release without previous": func(m *Manifest) { m.Previous = tree.Digest{} },
		"first release with previous":     func(m *Manifest) { m.Sequence = 1 },
		"no architecture":                 func(m *Manifest) { m.Architecture = "" },
		"no os":                           func(m *Manifest) { m.OS = "" },
		"os with a newline":               func(m *Manifest) { m.OS = "Debian\n" },
		"os that is not UTF-8":            func(m *Manifest) { m.OS = "\xff" },
		"no layer":                        func(m *Manifest) { m.Layers = nil },
		"65 layers":                       func(m *Manifest) { m.Layers = manyLayers(65) },
		"first layer is a delta":          func(m *Manifest) { m.Layers[0].Delta = true },
		"second layer is full":            func(m *Manifest) { m.Layers[1].Delta = false },
		"one layer twice":                 func(m *Manifest) { m.Layers[1].ID = m.Layers[0].ID },
		"layer without id":                func(m *Manifest) { m.Layers[1].ID = tree.Digest{} },
		"data size of no whole blocks":    func(m *Manifest) { m.Layers[0].DataSize-- },
		"no data":                         func(m *Manifest) { m.Layers[0].DataSize = 0 },
		"negative data size":              func(m *Manifest) { m.Layers[0].DataSize = -BlockSize },
		"no hash tree":                    func(m *Manifest) { m.Layers[0].Size = m.Layers[0].DataSize },
		"size of no whole blocks":         func(m *Manifest) { m.Layers[0].Size++ },
		"enormous layer":                  func(m *Manifest) { m.Layers[0].Size = 1 << 62 },
		"no contents":                     func(m *Manifest) { m.Contents = Blob{} },
		"contents of negative size":       func(m *Manifest) { m.Contents.Size = -1 },
		"base without kernel":             func(m *Manifest) { m.Kernel = nil },
		"component with kernel":           func(m *Manifest) { toComponent(m); m.Kernel = example().Kernel },
		"component with a full layer":     func(m *Manifest) { toComponent(m); m.Layers = example().Layers },
		"component built on nothing":      func(m *Manifest) { toComponent(m); m.BuiltOn = tree.Digest{} },
		"base built on a base":            func(m *Manifest) { m.BuiltOn = digestOf("base") },
		"kernel without release":          func(m *Manifest) { m.Kernel.Release = "" },
		"kernel without modules":          func(m *Manifest) { m.Kernel.Modules = Blob{} },
		"packages out of order":           func(m *Manifest) { m.Packages[0].Name = "zlib" },
		"one package twice":               func(m *Manifest) { m.Packages[0].Name = "nginx" },
		"package without version":         func(m *Manifest) { m.Packages[0].Version = "" },
		"base with needs":                 func(m *Manifest) { m.Needs = []Need{{File: "a", Program: "/bin/sh"}} },
		"need of nothing":                 func(m *Manifest) { toComponent(m); m.Needs = []Need{{File: "a"}} },
		"need of no file":                 func(m *Manifest) { toComponent(m); m.Needs = []Need{{Program: "/bin/sh"}} },
		"need of a nameless library": func(m *Manifest) {
			toComponent(
				m)
			m.Needs = []Need{{File: "a", Libraries: []string{""}}}
		},
		"need of both": func(m *Manifest) {
			toComponent(m)
			m.Needs = []Need{{File: "a", Program: "b", Libraries: []string{"c"}}}
		},
		"user without a name":            func(m *Manifest) { m.Users[""] = 1 },
		"group whose name has an escape": func(m *Manifest) { m.Groups["a\x1b[0m"] = 1 },
	} {
		t.Run(name, func(t *testing.T) {
			m := example()
			spoil(m)
			if _, err := m.Encode(); !errors.Is(err, ErrManifest) {
				t.Errorf("got %v, want ErrManifest", err)
			}
		})
	}
}

// toComponent turns an example into a valid component.
func toComponent(m *Manifest) {
	m.Kind, m.BuiltOn, m.Layers, m.Kernel = Component, digestOf("base"), m.Layers[1:], nil
}

func TestAComponentSaysWhatItWasBuiltOn(t *testing.T) {
	m := example()
	toComponent(m)
	encoded, err := m.Encode()
	if err != nil {
		t.Fatal(err)
	}
	read, err := Decode(encoded)
	if err != nil || read.BuiltOn != digestOf("base") {
		t.Errorf("%+v, %v", read, err)
	}
}

// toOffer turns an example into a valid offer.
func toOffer(m *Manifest) {
	m.Kind, m.BuiltOn, m.Layers, m.Kernel = Offer, digestOf("base"), m.Layers[:1], nil
	m.Packages, m.Users, m.Groups = nil, nil, nil
}

func TestReleasesThatAreMadeOfOthers(t *testing.T) {
	layers := example().Layers
	for name, test := range map[string]struct {
		change func(*Manifest)
		valid  bool
	}{
		"a joining layer":  {func(m *Manifest) { toComponent(m); m.Kind = Joining }, true},
		"a stand-in layer": {func(m *Manifest) { toComponent(m); m.Kind = StandIn }, true},
		"a full stand-in layer": {func(m *Manifest) { toComponent(m); m.Kind, m.Layers = StandIn, layers[:1] },
			false},
		"a stand-in layer on no base": {func(m *Manifest) {
			toComponent(
				m)
			m.Kind, m.BuiltOn = StandIn, tree.Digest{}
		}, false},
		"an offer":                      {toOffer, true},
		"an offer that is a delta":      {func(m *Manifest) { toOffer(m); m.Layers = layers[1:] }, false},
		"an offer of two layers":        {func(m *Manifest) { toOffer(m); m.Layers = layers }, false},
		"an offer on no base":           {func(m *Manifest) { toOffer(m); m.BuiltOn = tree.Digest{} }, false},
		"an offer with a kernel":        {func(m *Manifest) { toOffer(m); m.Kernel = example().Kernel }, false},
		"an offer with packages":        {func(m *Manifest) { toOffer(m); m.Packages = example().Packages }, false},
		"an offer with users":           {func(m *Manifest) { toOffer(m); m.Users = example().Users }, false},
		"an offer with groups":          {func(m *Manifest) { toOffer(m); m.Groups = example().Groups }, false},
		"an offer with another release": {func(m *Manifest) { toOffer(m); m.Previous = tree.Digest{} }, false},
	} {
		m := example()
		test.change(m)
		encoded, err := m.Encode()
		if !test.valid {
			if !errors.Is(err, ErrManifest) {
				t.Errorf("%s: got %v, want ErrManifest", name, err)
			}
			continue
		}
		if err != nil {
			t.Errorf("%s: %v", name, err)
		} else if read, err := Decode(encoded); err != nil || read.Kind != m.Kind || !read.Kind.Derived() {
			t.Errorf("%s: read as %+v, %v", name, read, err)
		}
	}
	if Base.Derived() || Component.Derived() || Kind("image").Derived() || Kind("image").Known() || Kind("").Known() {
		t.Error("a kind is taken for another one")
	}
}

// Manifests of the last version can be read and have the same ids.
func TestABaseHasTheBytesOfTheLastVersion(t *testing.T) {
	const last = `{"schema":1,"kind":"base","name":"debian-13","sequence":1,"architecture":"amd64","os":"Debian","layers":[{"id":"sha256:` +
		`8d3f0b5d6b3a1a9f7e3f9c6b5f2f1f0a9b8c7d6e5f4a3b2c1d0e9f8a7b6c5d4e","data_size":4096,"size":8192,"delta":false}],"contents":{"digest":"sha256:` +
		`1111111111111111111111111111111111111111111111111111111111111111","size":1},"kernel":{"release":"6.12.1","image":{"digest":"sha256:` +
		`2222222222222222222222222222222222222222222222222222222222222222","size":2},"modules":{"digest":"sha256:` +
		`3333333333333333333333333333333333333333333333333333333333333333","size":3}},"packages":[],"users":{"root":0},"groups":{"root":0},` +
		`"input":"archive:sha256:00"}` + "\n"
	m, err := Decode([]byte(last))
	if err != nil {
		t.Fatal(err)
	}
	if encoded, err := m.Encode(); err != nil || string(encoded) != last {
		t.Errorf("it is written as %s, %v", encoded, err)
	}
}

func manyLayers(n int) []Layer {
	layers := make([]Layer, n)
	for i := range layers {
		layers[i] = Layer{ID: digestOf(fmt.Sprint(i)), DataSize: BlockSize, Size: 3 * BlockSize, Delta: i > 0}
	}
	return layers
}

func TestDecodeReadsTheCanonicalFormOnly(t *testing.T) {
	encoded, err := example().Encode()
	if err != nil {
		t.Fatal(err)
	}
	text := string(encoded)
	for name, test := range map[string]struct {
		text string
		want error
	}{
		"nothing":                {"", ErrManifest},
		"not JSON":               {"layers", ErrManifest},
		"an array":               {"[]\n", ErrManifest},
		"no schema":              {"{}\n", ErrManifest},
		"schema of another type": {strings.Replace(text, `"schema":1`, `"schema":"1"`, 1), ErrManifest},
		"a later schema":         {strings.Replace(text, `"schema":1`, `"schema":2,"news":true`, 1), ErrSchema},
		"no newline at the end":  {strings.TrimSuffix(text, "\n"), ErrManifest},
		"white space":            {strings.Replace(text, `"schema":1`, `"schema": 1`, 1), ErrManifest},
		"an unknown field":       {strings.Replace(text, `"schema":1`, `"schema":1,"news":true`, 1), ErrManifest},
		"a field twice":          {strings.Replace(text, `"schema":1`, `"schema":1,"schema":1`, 1), ErrManifest},
		"another letter case":    {strings.Replace(text, `"os"`, `"OS"`, 1), ErrManifest},
		"more after the end":     {text + "{}\n", ErrManifest},
		"cut off":                {text[:len(text)/2], ErrManifest},
		"too long":               {text + strings.Repeat(" ", MaxManifest), ErrManifest},
		"packages null": {strings.Replace(text, `"users":{"root":0,"www-data":33}`, `"users":null`, 1),
			ErrManifest},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := Decode([]byte(test.text)); !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
		})
	}
}

func FuzzDecode(f *testing.F) {
	encoded, err := example().Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(encoded)
	f.Add([]byte("{\"schema\":2}\n"))
	f.Add(bytes.Replace(encoded, []byte("4096"), []byte("1e3"), 1))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := Decode(data)
		if err != nil {
			if !errors.Is(err, ErrManifest) && !errors.Is(err, ErrSchema) {
				t.Fatalf("an error of no kind: %v", err)
			}
			return
		}
		again, err := m.Encode()
		if err != nil || !bytes.Equal(again, data) {
			t.Fatalf("accepted, but not canonical: %q, %v", data, err)
		}
	})
}

func TestOpenAcceptsWhatATrustedOperatorSigned(t *testing.T) {
	key, other := testKey(t, 1), testKey(t, 2)
	public, otherPublic := key.Public().(ed25519.PublicKey), other.Public().(ed25519.PublicKey)
	signed, id, err := Sign(example(), key)
	if err != nil {
		t.Fatal(err)
	}
	for _, trusted := range [][]ed25519.PublicKey{{public}, {otherPublic, public}, {public, public}} {
		m, gotID, err := Open(signed, trusted)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(example(), m); diff != "" || gotID != id {
			t.Errorf("id %s, want %s; manifest (-want +got):\n%s", gotID, id, diff)
		}
	}
	forged := bytes.Replace(signed, []byte("trixie"), []byte("sid   "), 1)
	otherSigned, _, err := Sign(example(), other)
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		signed  []byte
		trusted []ed25519.PublicKey
	}{
		"signed by another":      {otherSigned, []ed25519.PublicKey{public}},
		"changed after signing":  {forged, []ed25519.PublicKey{public}},
		"nobody trusted":         {signed, nil},
		"a key of no key's size": {signed, []ed25519.PublicKey{public[:4]}},
		"no signature":           {signed[:bytes.LastIndex(signed, []byte("\n\n"))+1], []ed25519.PublicKey{public}},
		"empty":                  {nil, []ed25519.PublicKey{public}},
	} {
		t.Run(name, func(t *testing.T) {
			if _, _, err := Open(test.signed, test.trusted); !errors.Is(err, ErrSignature) {
				t.Errorf("got %v, want ErrSignature", err)
			}
		})
	}
}

func TestOpenUnsignedReadsWhatAnyoneSigned(t *testing.T) {
	signed, id, err := Sign(example(), testKey(t, 9))
	if err != nil {
		t.Fatal(err)
	}
	m, gotID, err := OpenUnsigned(signed)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(example(), m); diff != "" || gotID != id {
		t.Errorf("id %s, want %s; manifest (-want +got):\n%s", gotID, id, diff)
	}
	for _, text := range []string{"", "\n\n", "{}\n\n"} {
		if _, _, err := OpenUnsigned([]byte(text)); !errors.Is(err, ErrManifest) {
			t.Errorf("%q: got %v, want ErrManifest", text, err)
		}
	}
}

func TestTheOperatorKeyIsMadeOnceAndKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "new", "operator.pem")
	keys := make([]ed25519.PrivateKey, 8)
	var group sync.WaitGroup
	for i := range keys {
		group.Go(func() {
			key, err := LoadOrCreateKey(path)
			if err != nil {
				t.Error(err)
			}
			keys[i] = key
		})
	}
	group.Wait()
	for _, key := range keys {
		if !key.Equal(keys[0]) {
			t.Fatal("processes that started together got different keys")
		}
	}
	for path, want := range map[string]os.FileMode{path: 0o600, filepath.Dir(path): 0o700 | os.ModeDir} {
		info, err := os.Stat(path)
		if err != nil {
			t.Fatal(err)
		}
		if info.Mode() != want {
			t.Errorf("%s has mode %s, want %s", path, info.Mode(), want)
		}
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil || len(entries) != 1 {
		t.Errorf("the key's directory holds %v, want the key alone (%v)", entries, err)
	}
}

func TestAKeyThatOthersMayReadIsRefusedWithTheRemedy(t *testing.T) {
	path := filepath.Join(t.TempDir(), "operator.pem")
	if _, err := LoadOrCreateKey(path); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, 0o640); err != nil {
		t.Fatal(err)
	}
	_, err := LoadOrCreateKey(path)
	if !errors.Is(err, ErrKeyMode) || !strings.Contains(err.Error(), "chmod 600 "+path) {
		t.Errorf("got %v, want ErrKeyMode and the remedy", err)
	}
}

func TestAFileThatIsNoKeyIsRefusedAndKept(t *testing.T) {
	path := filepath.Join(t.TempDir(), "operator.pem")
	if err := os.WriteFile(path, []byte("no key"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := LoadOrCreateKey(path); err == nil {
		t.Error("no error")
	}
	if kept, err := os.ReadFile(path); err != nil || string(kept) != "no key" {
		t.Errorf("the file was changed: %q, %v", kept, err)
	}
}
