package agentlife_test

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
	"github.com/sharedos/terraform-provider-sharedos/testbed/guest"
	"github.com/sharedos/terraform-provider-sharedos/testbed/matrix"
)

// testDisks attaches, uses, grows and detaches further disks. The one that was given stays attached
// for the tests after it.
func testDisks(t *testing.T, v *guest.VM) {
	before := status(t, v)
	device := func(serial string) hypervisor.DiskDevice {
		return hypervisor.DiskDevice{Format: "raw", Cache: "writeback", Discard: "unmap", Serial: serial}
	}
	own := vm.Disk{DiskDevice: device("own"), Size: 128 << 20, FileSystem: "ext4", MountPoint: "/srv/my-data"}
	lent := vm.Disk{DiskDevice: device("lent-1"), Volume: "lent.img", FileSystem: "ext4", MountPoint: "/srv/lent"}
	room, err := v.World.Host.Fleet.Store.Room(t.Context())
	must(t, err)
	volume := filepath.Join(room.Directory, lent.Volume)
	must(t, os.WriteFile(volume, nil, 0o600))
	must(t, os.Truncate(volume, 64<<20))
	update := func(disks map[string]vm.Disk) error {
		spec := v.Spec
		spec.Disks = disks
		updated, _, err := v.World.Host.Fleet.Update(t.Context(), spec, func(step string) { t.Log(step) })
		if err != nil {
			return err
		}
		v.Spec = spec
		if updated.Agent.GetBootId() != before.GetBootId() || len(updated.Faults) > 0 {
			t.Fatalf("boot %s, faults %v", updated.Agent.GetBootId(), updated.Faults)
		}
		return nil
	}
	both := map[string]vm.Disk{"own": own, "lent": lent}
	must(t, update(both))
	run(t, v, "for d in my-data lent; do mountpoint -q /srv/$d && echo kept >/srv/$d/file || exit; done; "+
		"test -b /dev/disk/by-id/virtio-own && systemctl is-active srv-lent.mount srv-my\\\\x2ddata.mount")

	run(t, v, "systemd-run -q --unit=user --working-directory=/srv/lent sleep 1d")
	err = update(map[string]vm.Disk{"own": own})
	if !errors.Is(err, vm.ErrDiskInUse) || !strings.Contains(err.Error(), "user.service") {
		t.Errorf("a disk that is in use: %v", err)
	}
	run(t, v, "test $(cat /srv/lent/file) = kept; systemctl stop user")
	own.Size = 256 << 20
	must(t, update(map[string]vm.Disk{"own": own}))
	got := run(
		t, v, "cat /srv/my-data/file; ! test -e /dev/disk/by-id/virtio-lent-1 && ! mountpoint -q /srv/lent && df -B1M --output=size /srv/my-data | tail -1 | tr -d ' '")
	if size, err := strconv.Atoi(strings.TrimPrefix(got, "kept\n")); err != nil || size < 200 {
		t.Errorf("after the disk has grown: %q", got)
	}
	must(t, update(map[string]vm.Disk{"own": own, "lent": lent}))
	must(t, update(map[string]vm.Disk{"lent": lent}))
	if got := run(t, v, "cat /srv/lent/file; mountpoint -q /srv/my-data || echo gone"); got != "kept\ngone" {
		t.Errorf("attached again: %q", got)
	}
	matrix.Record(t, "a further disk that is removed", "while a program in the VM uses it",
		"refused with the name of the program, and nothing is changed")
	matrix.Record(t, "a disk with data that is attached again", "while the VM runs",
		"it is not formatted, and the data is there")
}
