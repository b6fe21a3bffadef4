package refresh

import (
	"crypto/ed25519"
	"testing"

	"google.golang.org/protobuf/proto"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/compose"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// FuzzTarget: a request is refused or is one that an operator signed, whatever its bytes are.
func FuzzTarget(f *testing.F) {
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		f.Fatal(err)
	}
	blob := release.Blob{Digest: tree.Digest{1}, Size: 1}
	var notes [][]byte
	var stacks []release.Stack
	for i := range 2 {
		m := &release.Manifest{
			Schema: release.Schema, Kind: release.Base, Name: "debian", Sequence: uint64(i + 1),
			Architecture: "amd64", OS: "Debian",
			Layers: []release.Layer{{ID: tree.Digest{byte(i + 2)}, DataSize: 4096, Size: 8192}}, Contents: blob,
			Kernel: &release.Kernel{Release: "6.12.0", Image: blob, Modules: blob},
			Users:  map[string]uint32{"root": 0}, Groups: map[string]uint32{"root": 0},
		}
		if i > 0 {
			m.Previous = stacks[0].Base
		}
		encoded, err := m.Encode()
		if err != nil {
			f.Fatal(err)
		}
		stack, _, err := compose.Compose(compose.Parts{Base: release.Identified{ID: release.ID(encoded), Manifest: m}},
			nil)
		if err != nil {
			f.Fatal(err)
		}
		note, id, err := release.SignStack(stack, private)
		if err != nil {
			f.Fatal(err)
		}
		notes, stacks = append(notes, note), append(stacks, stack.Record(id))
	}
	for _, request := range []*agentapi.RefreshRequest{
		{}, {Target: &agentapi.Target{To: notes[1], From: notes[0]}}, {Target: &agentapi.Target{To: notes[0], From: notes[0]}},
		{Target: &agentapi.Target{To: []byte("garbage\n\n— x y\n")}},
	} {
		data, err := proto.Marshal(request)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var request agentapi.RefreshRequest
		if proto.Unmarshal(data, &request) != nil {
			return
		}
		got, err := openTarget(request.GetTarget(), stacks[0], []ed25519.PublicKey{public}, request.GetAllowDowngrade())
		if err != nil {
			return
		}
		if !got.to.stack.Same(stacks[0]) && !got.to.stack.Same(stacks[1]) {
			t.Errorf("opened %+v, which nobody signed", got.to.stack)
		}
	})
}
