package faults

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
	"github.com/sharedos/terraform-provider-sharedos/testbed/guest"
	"github.com/sharedos/terraform-provider-sharedos/testbed/matrix"
)

const (
	// superblock is where an EROFS image has its superblock, block the unit of dm-verity, in bytes.
	superblock = 1024
	block      = 4096

	flippedData = "flipped byte in a layer's data"
	truncated   = "truncated layer"
)

// damage is a way to change the bytes of a layer in the pool.
type damage struct {
	fault string
	do    func(layer release.Layer, data []byte) []byte
}

func flip(data []byte, offset int64) []byte {
	data = slices.Clone(data)
	data[offset] ^= 0x01
	return data
}

var damages = []damage{
	{flippedData, func(l release.Layer, data []byte) []byte { return flip(data, l.DataSize-block) }},
	{"flipped byte in a layer's metadata", func(_ release.Layer, data []byte) []byte { return flip(data, superblock+16) }},
	{"flipped byte in a layer's hash tree", func(l release.Layer, data []byte) []byte { return flip(data, l.DataSize+block) }},
	{truncated, func(l release.Layer, data []byte) []byte { return data[:l.DataSize] }},
	{"wrong disk with the right serial", func(_ release.Layer, data []byte) []byte {
		other := slices.Clone(data)
		slices.Reverse(other)
		return other
	}},
}

// delta is the layer that only the second release has.
func (w *world) delta(t *testing.T) release.Layer {
	t.Helper()
	manifest, err := w.Host.Publisher.Get(t.Context(), w.two)
	if err != nil {
		t.Fatal(err)
	}
	if len(manifest.Layers) != 2 || !manifest.Layers[1].Delta {
		t.Fatalf("the second release is made of %v", manifest.Layers)
	}
	return manifest.Layers[1]
}

func (w *world) layerPath(t *testing.T, id tree.Digest) string {
	t.Helper()
	path, err := w.Host.Store.LayerPath(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	return path
}

// refusesDamage refreshes the VM to a layer that is damaged, in each way. The refresh is refused before
// anything changes, and the error names the layer. Afterwards a refresh to the undamaged layer succeeds.
func (s *subject) refusesDamage(t *testing.T) {
	s.reset(t)
	layer := s.delta(t)
	whole, err := os.ReadFile(s.layerPath(t, layer.ID))
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range damages {
		t.Run(d.fault, func(t *testing.T) {
			path := filepath.Join(s.Bed.Dir(), "damaged")
			if err := os.WriteFile(path, d.do(layer, whole), 0o644); err != nil {
				t.Fatal(err)
			}
			if err := s.Host.Fleet.Hypervisor.AttachLayer(t.Context(), s.Spec.Name,
				hypervisor.LayerDevice{ID: layer.ID, Path: path}); err != nil {
				t.Fatal(err)
			}
			_, err := s.Refresh(t.Context(), s.two)
			if !errors.Is(err, vm.ErrRefused) || !guest.Says(err, layer.ID.Hex()) {
				t.Errorf("the refresh: %v", err)
			}
			outcome, _ := s.ended(t)
			attached, err := s.Host.Fleet.Hypervisor.AttachedLayers(t.Context(), s.Spec.Name)
			if err != nil || slices.Contains(attached, layer.ID) {
				t.Fatalf("the damaged layer is still attached: %v, %v", attached, err)
			}
			matrix.Record(t, d.fault, "in a refresh", "refused, "+outcome)
		})
	}
	s.apply(t)
}

// bootsWithoutDamage damages a layer of the committed stack while the VM is off. The VM boots the whole previous
// stack and reports why. The next apply is refused while the layer is damaged, and succeeds when it is not.
func (s *subject) bootsWithoutDamage(t *testing.T) {
	layer := s.delta(t)
	path := s.layerPath(t, layer.ID)
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	write := func(t *testing.T, data []byte) {
		t.Helper()
		if err := os.WriteFile(path, data, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	for _, d := range damages {
		if d.fault == flippedData || d.fault == truncated {
			continue // a boot reads little of the data, see below; package ladder boots from a truncated layer
		}
		t.Run(d.fault, func(t *testing.T) {
			if s.at == s.one {
				s.apply(t)
			}
			if err := s.CutPower(t.Context()); err != nil {
				t.Fatal(err)
			}
			write(t, d.do(layer, whole))
			status, err := s.Start(t.Context())
			if err != nil {
				t.Fatal(err)
			}
			if refused := strings.Join(status.GetRefused(), "\n"); !strings.Contains(refused, layer.ID.Hex()) {
				t.Errorf("the refused stacks do not name layer %s: %q", layer.ID, refused)
			}
			if s.ended(t); s.at != s.one {
				t.Error("it does not run the previous stack")
			}
			if _, err := s.Refresh(t.Context(), s.two); !errors.Is(err, vm.ErrRefused) ||
				!guest.Says(err, layer.ID.Hex()) {
				t.Errorf("the next apply, with the damaged layer: %v", err)
			}
			write(t, whole)
			s.apply(t)
			if s.ended(t); s.at != s.two {
				t.Error("the apply with the undamaged layer succeeded, but the VM runs the old release")
			}
			matrix.Record(t, d.fault, "in a boot", "old stack, reported; the next apply converges")
		})
	}
	t.Run(flippedData, func(t *testing.T) {
		if err := s.CutPower(t.Context()); err != nil {
			t.Fatal(err)
		}
		// The library is the only ELF file in the layer, and nginx reads its head.
		head := bytes.Index(whole, []byte("\x7fELF"))
		if head < 0 {
			t.Fatal("the layer has no ELF file")
		}
		write(t, flip(whole, int64(head)))
		if _, err := s.Start(t.Context()); err != nil {
			t.Fatal(err)
		}
		said := s.run(t, "systemctl is-active nginx.service; journalctl -b --no-pager -u nginx.service")
		if !strings.HasPrefix(said, "failed") || !strings.Contains(said, "Input/output error") {
			t.Errorf("nginx, whose library cannot be read, logs %s", said)
		}
		write(t, whole)
		s.run(t, "systemctl restart nginx.service")
		if s.ended(t); s.at != s.two {
			t.Error("it does not run the committed stack")
		}
		matrix.Record(t, flippedData, "in a boot", "new stack; the read fails, and so does the reading process")
	})
}
