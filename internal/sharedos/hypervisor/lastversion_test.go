package hypervisor

import (
	"os"
	"testing"

	"github.com/google/go-cmp/cmp"
	"libvirt.org/go/libvirtxml"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// Definitions of the last version record what a VM is in texts by name.
func TestADefinitionOfTheLastVersionIsRead(t *testing.T) {
	digest := func(text string) tree.Digest {
		id, err := tree.ParseDigest("sha256:" + text)
		if err != nil {
			t.Fatal(err)
		}
		return id
	}
	first := digest("1138192438b411f4cfcc009716b30815151b3b34d1fd68a3f1bfe992d8d15e66")
	second := digest("675f01a703af15fcf654e7c58c0b52e9580d7b75316a3c4f8360c51154256f30")
	for name, want := range map[string]Metadata{
		"running":  {},
		"left":     {LeftWith: &release.Stack{Base: first}},
		"held":     {Pinned: []tree.Digest{first, second}},
		"fallback": {Fallback: &release.Stack{Base: first}},
	} {
		t.Run(name, func(t *testing.T) {
			text, err := os.ReadFile("testdata/last-version/" + name + ".xml")
			if err != nil {
				t.Fatal(err)
			}
			var defined libvirtxml.Domain
			if err := defined.Unmarshal(string(text)); err != nil {
				t.Fatal(err)
			}
			read, err := decode(&defined)
			if err != nil {
				t.Fatal(err)
			}
			got := read.Metadata
			if got.Initramfs.IsZero() || got.DiskSize != 1<<30 || got.Pool != "pool" ||
				got.PrivateVolume != "vm-web-a" || !got.Stack.ID.IsZero() ||
				got.Stack.Base != first && got.Stack.Base != second {
				t.Errorf("read %+v", got)
			}
			got.Initramfs, got.DiskSize, got.Pool, got.PrivateVolume, got.Stack = tree.Digest{},
				0, "", "", release.Stack{}
			if diff := cmp.Diff(want, got); diff != "" {
				t.Errorf("-want +got\n%s", diff)
			}
			// What this version writes of it reads back the same.
			again, err := embedMetadata(read.Metadata)
			if err != nil {
				t.Fatal(err)
			}
			if written, err := decodeMetadata(&libvirtxml.Domain{Metadata: again}); err != nil ||
				cmp.Diff(read.Metadata, written) != "" {
				t.Errorf("written and read it is %+v, %v", written, err)
			}
		})
	}
}
