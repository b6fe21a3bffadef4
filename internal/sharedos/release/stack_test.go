package release

import (
	"bytes"
	"crypto/ed25519"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// exampleStack returns a valid manifest of a stack of a base and a component.
func exampleStack() *StackManifest {
	base := example()
	return &StackManifest{
		Schema: StackSchema, Base: Member{ID: digestOf("base"), Name: base.Name, Sequence: base.Sequence},
		Components:   []Member{{ID: digestOf("component"), Name: "nginx", Sequence: 1}},
		Architecture: base.Architecture, OS: base.OS, Layers: base.Layers,
		Contents: base.Contents, Kernel: *base.Kernel,
		Packages: base.Packages, Users: base.Users, Groups: base.Groups,
	}
}

func TestASignedStackReadsBack(t *testing.T) {
	key := testKey(t, 1)
	public := []ed25519.PublicKey{key.Public().(ed25519.PublicKey)}
	signed, id, err := SignStack(exampleStack(), key)
	if err != nil {
		t.Fatal(err)
	}
	read, readID, err := OpenStack(signed, public)
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(exampleStack(), read); diff != "" || readID != id {
		t.Errorf("id %s, want %s; manifest (-want +got):\n%s", readID, id, diff)
	}
	other, _, err := SignStack(exampleStack(), testKey(t, 2))
	if err != nil {
		t.Fatal(err)
	}
	for name, note := range map[string][]byte{
		"signed by another": other,
		"changed":           bytes.Replace(signed, []byte("nginx"), []byte("Nginx"), 1), "nothing": nil,
	} {
		if _, _, err := OpenStack(note, public); !errors.Is(err, ErrSignature) {
			t.Errorf("%s: %v, want ErrSignature", name, err)
		}
	}
}

func TestAStackIsNoReleaseAndAReleaseNoStack(t *testing.T) {
	key := testKey(t, 1)
	public := []ed25519.PublicKey{key.Public().(ed25519.PublicKey)}
	stack, _, err := SignStack(exampleStack(), key)
	if err != nil {
		t.Fatal(err)
	}
	base, _, err := Sign(example(), key)
	if err != nil {
		t.Fatal(err)
	}
	if m, _, err := Open(stack, public); !errors.Is(err, ErrManifest) {
		t.Errorf("a stack was decoded as the release %+v, %v", m, err)
	}
	if m, _, err := OpenUnsigned(stack); !errors.Is(err, ErrManifest) {
		t.Errorf("a stack was decoded as the release %+v, %v", m, err)
	}
	if m, _, err := OpenStack(base, public); !errors.Is(err, ErrManifest) {
		t.Errorf("a release was decoded as the stack %+v, %v", m, err)
	}
}

func TestEncodeRefusesAStackThatBreaksARule(t *testing.T) {
	for name, spoil := range map[string]func(*StackManifest){
		"base without an id":            func(m *StackManifest) { m.Base.ID = tree.Digest{} },
		"base without a sequence":       func(m *StackManifest) { m.Base.Sequence = 0 },
		"base with a slash in its name": func(m *StackManifest) { m.Base.Name = "a/b" },
		"component without a name":      func(m *StackManifest) { m.Components[0].Name = "" },
		"one component twice": func(m *StackManifest) {
			m.Components = append(
				m.Components, m.Components[0])
		},
		"two releases of one component": func(m *StackManifest) {
			m.Components = append(
				m.Components, Member{digestOf("2"), "nginx", 2})
		},
		"the base among its components": func(m *StackManifest) { m.Components[0].ID = m.Base.ID },
		"more components than a VM has": func(m *StackManifest) { m.Components = manyMembers(MaxComponents + 1) },
		"more on demand than a VM has":  func(m *StackManifest) { m.Offered = manyMembers(MaxOnDemand + 1) },
		"on demand twice": func(m *StackManifest) {
			m.Offered = append(
				manyMembers(1), manyMembers(1)...)
		},
		"attached and on demand":      func(m *StackManifest) { m.Offered = m.Components },
		"attached in another release": func(m *StackManifest) { m.Offered = []Member{{digestOf("2"), "nginx", 2}} },
		"on demand without a name": func(m *StackManifest) {
			m.Offered = []Member{{ID: digestOf(
				"2"), Sequence: 1}}
		},
		"the base on demand":             func(m *StackManifest) { m.Offered = []Member{{m.Base.ID, "x", 1}} },
		"no layer":                       func(m *StackManifest) { m.Layers = nil },
		"more layers than a VM can have": func(m *StackManifest) { m.Layers = manyLayers(MaxStackLayers + 1) },
		"first layer is a delta":         func(m *StackManifest) { m.Layers = m.Layers[1:] },
		"no contents":                    func(m *StackManifest) { m.Contents = Blob{} },
		"no kernel":                      func(m *StackManifest) { m.Kernel = Kernel{} },
		"no architecture":                func(m *StackManifest) { m.Architecture = "" },
		"os with a newline":              func(m *StackManifest) { m.OS = "Debian\n" },
		"packages out of order":          func(m *StackManifest) { m.Packages[0].Name = "zlib" },
		"user without a name":            func(m *StackManifest) { m.Users[""] = 1 },
	} {
		t.Run(name, func(t *testing.T) {
			m := exampleStack()
			spoil(m)
			if _, err := m.Encode(); !errors.Is(err, ErrManifest) {
				t.Errorf("got %v, want ErrManifest", err)
			}
		})
	}
	m := exampleStack()
	m.Components, m.Layers = manyMembers(MaxComponents), manyLayers(MaxStackLayers)
	if encoded, err := m.Encode(); err != nil || bytes.Contains(encoded, []byte("offered")) {
		t.Errorf("a stack as large as it may be: %s, %v", encoded, err)
	}
	m.Components, m.Offered = manyMembers(MaxComponents + MaxOnDemand)[:MaxComponents],
		manyMembers(MaxComponents + MaxOnDemand)[MaxComponents:]
	encoded, err := m.Encode()
	if err != nil {
		t.Fatalf("with components on demand: %v", err)
	}
	if read, err := DecodeStack(encoded); err != nil || !slices.Equal(read.Offered, m.Offered) ||
		len(read.Record(digestOf("id")).Offered) != MaxOnDemand {
		t.Errorf("with components on demand it is read as %+v, %v", read, err)
	}
}

func manyMembers(n int) []Member {
	members := make([]Member, n)
	for i := range members {
		members[i] = Member{ID: digestOf(fmt.Sprint("component ", i)), Name: fmt.Sprint("c", i), Sequence: 1}
	}
	return members
}

func TestDecodeReadsTheCanonicalFormOfAStackOnly(t *testing.T) {
	encoded, err := exampleStack().Encode()
	if err != nil {
		t.Fatal(err)
	}
	text := string(encoded)
	for name, test := range map[string]struct {
		text string
		want error
	}{
		"no schema": {"{}\n", ErrManifest},
		"null":      {"null\n", ErrManifest},
		"a later schema": {strings.Replace(text, `"stack_schema":1`, `"stack_schema":2,"news":true`, 1),
			ErrSchema},
		"an unknown field": {strings.Replace(text, `"stack_schema":1`, `"stack_schema":1,"news":true`, 1),
			ErrManifest},
		"a field twice": {strings.Replace(text, `"stack_schema":1`, `"stack_schema":1,"stack_schema":1`, 1),
			ErrManifest},
		"the schema of a release": {strings.Replace(text, `"stack_schema":1`, `"schema":1,"stack_schema":1`, 1), ErrManifest},
		"components null":         {strings.Replace(text, `"components":[`, `"components":null,"x":[`, 1), ErrManifest},
		"another letter case":     {strings.Replace(text, `"os"`, `"OS"`, 1), ErrManifest},
		"more after the end":      {text + "{}\n", ErrManifest},
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := DecodeStack([]byte(test.text)); !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
		})
	}
}

func FuzzDecodeStack(f *testing.F) {
	encoded, err := exampleStack().Encode()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(encoded)
	f.Add([]byte("{\"stack_schema\":2}\n"))
	f.Fuzz(func(t *testing.T, data []byte) {
		m, err := DecodeStack(data)
		if err != nil {
			if !errors.Is(err, ErrManifest) && !errors.Is(err, ErrSchema) {
				t.Fatalf("an error of no kind: %v", err)
			}
			return
		}
		if again, err := m.Encode(); err != nil || !bytes.Equal(again, data) {
			t.Fatalf("accepted, but not canonical: %q, %v", data, err)
		}
		if _, err := Decode(data); err == nil {
			t.Fatal("it is a release, too")
		}
	})
}

// Records with ids are compared by them, others by releases and layers.
func TestWhenTwoRecordsAreOfOneStack(t *testing.T) {
	whole := exampleStack().Record(digestOf("stack"))
	change := func(spoil func(*Stack)) Stack {
		s := whole
		s.Components = append([]tree.Digest(nil), whole.Components...)
		spoil(&s)
		return s
	}
	last := change(func(s *Stack) { s.ID = tree.Digest{} })
	for name, test := range map[string]struct {
		other Stack
		same  bool
	}{
		"itself":                        {whole, true},
		"its id without its layers":     {whole.WithoutLayers(), true},
		"its releases under another id": {change(func(s *Stack) { s.ID = digestOf("joined otherwise") }), false},
		"a record without an id":        {last, true},
		"without an id, another base": {change(
			func(s *Stack) { s.ID, s.Base = tree.Digest{}, digestOf("other") }), false},
		"without an id, without components": {change(func(s *Stack) { s.ID, s.Components = tree.Digest{}, nil }), false},
		"without an id, another component": {change(
			func(s *Stack) { s.ID, s.Components[0] = tree.Digest{}, digestOf("other") }), false},
		"without an id, other layers": {change(func(s *Stack) { s.ID, s.Layers = tree.Digest{}, s.Layers[:1] }),
			false},
		"without id and layers": {last.WithoutLayers(), true},
	} {
		if whole.Same(test.other) != test.same || test.other.Same(whole) != test.same {
			t.Errorf("%s: %v and %v, want %v", name, whole.Same(test.other), test.other.Same(whole), test.same)
		}
	}
	if !last.Same(last) {
		t.Error("a record without an id is not the same as itself")
	}
}

func TestAStackIsKnownByTheKeysOfBothVersions(t *testing.T) {
	whole := exampleStack().Record(digestOf("stack"))
	last := whole
	last.ID = tree.Digest{}
	if !whole.HasKey(whole.Key()) || !whole.HasKey(last.Key()) || whole.Key() == last.Key() ||
		whole.Key() != digestOf("stack").Hex() {
		t.Errorf("keys %s and %s", whole.Key(), last.Key())
	}
	turned := last
	turned.Layers = []Layer{last.Layers[1], last.Layers[0]}
	renamed := last
	renamed.Kernel = "6.13"
	if turned.Key() == last.Key() || renamed.Key() != last.Key() {
		t.Error("the key of a record without an id is not that of its layers in their order")
	}
	if whole.HasKey("") || whole.HasKey(turned.Key()) {
		t.Error("it has the key of another stack")
	}
	if got := whole.Releases(); len(got) != 2 || got[0] != whole.Base || got[1] != whole.Components[0] {
		t.Errorf("it is made of %v", got)
	}
}
