package mounts

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// sysBlockOf is a /sys/block with one directory of attributes a disk.
func sysBlockOf(t *testing.T, disks map[string]map[string]string) string {
	t.Helper()
	root := t.TempDir()
	for name, attributes := range disks {
		must(t, os.Mkdir(filepath.Join(root, name), 0o755))
		for attribute, value := range attributes {
			must(t, os.WriteFile(filepath.Join(root, name, attribute), []byte(value), 0o644))
		}
	}
	return root
}

func TestDisksAreThoseWithASerial(t *testing.T) {
	sys := sysBlockOf(t, map[string]map[string]string{
		"vdb":   {"serial": "sharedos-private", "dev": "254:16\n", "size": "8388608\n", "ro": "0\n"},
		"vda":   {"serial": "0123456789abcdef0123\n", "dev": "254:0\n", "size": "8\n", "ro": "1\n"},
		"loop0": {"dev": "7:0\n", "size": "0\n", "ro": "0\n"},
	})
	got, err := disksIn(sys)
	must(t, err)
	want := []Disk{
		{Node: "/dev/vda", Number: "254:0", Serial: "0123456789abcdef0123", Size: 4096, ReadOnly: true},
		{Node: "/dev/vdb", Number: "254:16", Serial: "sharedos-private", Size: 4 << 30},
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

func TestADiskWithANonsensicalSizeIsAnError(t *testing.T) {
	for _, size := range []string{"", "-1", "many", "99999999999999999999"} {
		sys := sysBlockOf(t,
			map[string]map[string]string{"vda": {"serial": "s", "dev": "254:0", "size": size, "ro": "0"}})
		if _, err := disksIn(sys); err == nil {
			t.Errorf("size %q was accepted", size)
		}
	}
}

func TestPickDisk(t *testing.T) {
	disks := []Disk{{Node: "/dev/vda", Serial: "one"}, {Node: "/dev/vdb", Serial: "two"},
		{Node: "/dev/vdc", Serial: "two"}}
	if disk, err := pickDisk(disks, "one"); err != nil || disk.Node != "/dev/vda" {
		t.Errorf("got %+v, %v", disk, err)
	}
	if _, err := pickDisk(disks, "three"); !errors.Is(err, ErrNoDisk) {
		t.Errorf("got %v, want ErrNoDisk", err)
	}
	if _, err := pickDisk(disks, "two"); err == nil || errors.Is(err, ErrNoDisk) {
		t.Errorf("two disks of one serial: got %v", err)
	}
}

func TestWaitForDiskEndsWithItsContext(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := WaitForDisk(ctx, "no such serial anywhere"); !errors.Is(err, ErrNoDisk) ||
		!errors.Is(err, context.Canceled) {
		t.Errorf("got %v, want ErrNoDisk and the context's reason", err)
	}
}

func TestVerityTable(t *testing.T) {
	layer := release.Layer{ID: tree.Sum([]byte("layer")), DataSize: 10 * 4096}
	target, err := verityTable(layer, "254:16")
	must(t, err)
	// version, data and hash device, block sizes, data blocks, first hash block (after the superblock), no salt
	want := "1 254:16 254:16 4096 4096 10 11 sha256 " + layer.ID.Hex() + " -"
	if target.Params != want || target.Type != "verity" || target.SectorStart != 0 || target.Length != 80 {
		t.Errorf("got %+v, want params %q over 80 sectors", target, want)
	}
	for _, size := range []int64{0, -4096, 4095} {
		if _, err := verityTable(release.Layer{ID: layer.ID, DataSize: size}, "254:16"); err == nil {
			t.Errorf("data size %d was accepted", size)
		}
	}
}

func TestALayersSerialFitsVirtio(t *testing.T) {
	id := tree.Sum([]byte("layer"))
	if serial := LayerSerial(id); len(serial) != 20 || !strings.HasPrefix(id.Hex(), serial) {
		t.Errorf("serial %q of %s", serial, id)
	}
}

func TestTheDevicesOfLayersAreKnownByTheirNames(t *testing.T) {
	sys := t.TempDir()
	for node, name := range map[string]string{"dm-0": "sharedos-ab\n", "dm-1": "vg-root\n", "dm-2": "sharedos-cd\n",
		"dm-3": "", "vda": "sharedos-ef\n"} {
		must(t, os.MkdirAll(filepath.Join(sys, node, "dm"), 0o755))
		if name != "" {
			must(t, os.WriteFile(filepath.Join(sys, node, "dm/name"), []byte(name), 0o644))
		}
	}
	if got, err := verityNames(sys); err != nil || !slices.Equal(got, []string{"sharedos-ab", "sharedos-cd"}) {
		t.Errorf("%v, %v", got, err)
	}
}
