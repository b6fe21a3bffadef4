package sources

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/testbed"
	"github.com/sharedos/terraform-provider-sharedos/testbed/guest"
)

// formerDisk returns the former content of the blocks of new volumes: another VM's disk.
func formerDisk(t *testing.T) []byte {
	t.Helper()
	path := filepath.Join(t.TempDir(), "former")
	must(t, os.WriteFile(path, nil, 0o600))
	must(t, os.Truncate(path, 64<<20))
	run(t, "", "mkfs.ext4", "-q", "-O", "^has_journal", path)
	data, err := os.ReadFile(path)
	must(t, err)
	return data[:8<<20]
}

// In a pool of devices, such as LVM's, layers and private disk are block devices. QEMU boots from copies in files.
func TestAVMLivesOnAPoolOfBlockDevices(t *testing.T) {
	bed := testbed.New(t)
	pool, devices := bed.LogicalPool(t, formerDisk(t))
	w := guest.On(t, bed, pool)
	w.Expected = 2 * time.Minute
	ctx := t.Context()
	release := func(mark string) []guest.Edit {
		return append(guest.Lean(), guest.Write("usr/share/mark", 0o644, mark))
	}
	ids, err := w.Releases(ctx, "os", guest.Updated, release("one"), release("two"))
	must(t, err)
	vm, err := w.Create(ctx, "devices", ids[0], nil)
	must(t, err)
	mark := func(want string) {
		t.Helper()
		if said, err := vm.Run(ctx, "cat /usr/share/mark; cat /root/kept 2>/dev/null; :"); err != nil ||
			strings.TrimSpace(said) != want {
			t.Fatalf("the guest says %q, %v, want %q", said, err, want)
		}
	}
	mark("one")
	domain, _, err := w.Host.Fleet.Hypervisor.Lookup(ctx, vm.Spec.Name)
	must(t, err)
	boot := filepath.Join(bed.StateDir(), "boot", pool)
	for _, path := range []string{domain.Kernel, domain.Initramfs} {
		if filepath.Dir(path) != boot {
			t.Errorf("it boots %s, which is not in %s", path, boot)
		}
	}
	for _, path := range []string{domain.PrivateDisk, domain.Layers[0].Path} {
		if !hypervisor.IsDevice(path) {
			t.Errorf("%s is not a device", path)
		}
	}

	report, err := vm.Refresh(ctx, ids[1])
	must(t, err)
	if !report.GetCommitted() {
		t.Fatalf("the refresh: %v", report)
	}
	mark("two")
	if _, err := vm.Run(ctx, "echo kept >/root/kept && sync"); err != nil {
		t.Fatal(err)
	}
	// The files from which the definition boots remain when other releases are deleted, and when the host was off.
	_, err = w.Host.Publisher.Retain(ctx, "os", 1, w.Host.Fleet.InUse)
	must(t, err)
	must(t, vm.CutPower(ctx))
	must(t, bed.StopLibvirt(ctx))
	must(t, bed.StartLibvirt(ctx))
	if _, err := vm.Start(ctx); err != nil {
		t.Fatal(err)
	}
	mark("twokept")

	must(t, vm.Delete(ctx))
	must(t, w.Host.Publisher.Delete(ctx, "os", w.Host.Fleet.InUse))
	left, err := filepath.Glob(filepath.Join(devices, "*"))
	must(t, err)
	if _, err := os.Stat(boot); !errors.Is(err, fs.ErrNotExist) || len(left) > 0 {
		t.Errorf("left are the devices %v; of %s it is said: %v", left, boot, err)
	}
}
