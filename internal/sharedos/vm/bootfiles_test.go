package vm_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store/storetest"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// devices is a store that keeps blobs on block devices.
type devices struct{ *storetest.Store }

func (d devices) BlobPath(ctx context.Context, digest tree.Digest) (string, error) {
	path, err := d.Store.BlobPath(ctx, digest)
	return filepath.Join("/dev/group", filepath.Base(path)), err
}

// onDevices is a host whose pool is one of block devices.
func onDevices(t *testing.T) *world {
	w := newWorld(t)
	w.fleet.Store, w.fleet.BootDir = devices{w.store}, filepath.Join(t.TempDir(), "boot", "pool")
	return w
}

// bootFiles are the names of the files that are kept for QEMU.
func (w *world) bootFiles(t *testing.T) []string {
	t.Helper()
	paths, err := filepath.Glob(filepath.Join(w.fleet.BootDir, "*"))
	if err != nil {
		t.Fatal(err)
	}
	return paths
}

// mustBoot fails unless what the domain is defined to boot are files that everybody may read and that hold what they
// are named for.
func (w *world) mustBoot(t *testing.T, kernel string) {
	t.Helper()
	domain, _, err := w.hypervisor.Lookup(t.Context(), "web-a")
	if err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{domain.Kernel: "kernel " + kernel,
		domain.Initramfs: "agentmodules " + kernel} {
		got, err := os.ReadFile(path)
		if err != nil || string(got) != want {
			t.Errorf("%s holds %q, %v, want %q", path, got, err, want)
		}
		if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o644 {
			t.Errorf("%s is %v, %v", path, info, err)
		}
		if path != filepath.Join(w.fleet.BootDir, tree.Sum([]byte(want)).Hex()) {
			t.Errorf("%q is kept as %s", want, path)
		}
	}
}

func TestAVMOfAPoolOfDevicesBootsFromFiles(t *testing.T) {
	w := onDevices(t)
	w.create(t, w.spec())
	w.mustBoot(t, "6.12.1")
	spec := w.spec()
	spec.Base = w.new
	if _, _, err := w.fleet.Update(within(t, time.Minute), spec, quiet); err != nil {
		t.Fatal(err)
	}
	w.mustBoot(t, "6.12.2")
}

func TestAFileToBootFromThatIsDamagedIsWrittenAgain(t *testing.T) {
	w := onDevices(t)
	w.create(t, w.spec())
	for _, path := range w.bootFiles(t) {
		if err := os.WriteFile(path, []byte("somebody else's"), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if _, _, err := w.fleet.Update(within(t, time.Minute), w.renamed(), quiet); err != nil {
		t.Fatal(err)
	}
	w.mustBoot(t, "6.12.1")
}

func TestAFileToBootFromStaysAsLongAsADomainNamesIt(t *testing.T) {
	w := onDevices(t)
	sweep := func(want int) {
		t.Helper()
		if err := w.fleet.SweepBootFiles(t.Context()); err != nil {
			t.Fatal(err)
		}
		if left := w.bootFiles(t); len(left) != want {
			t.Fatalf("%d files are left, want %d: %v", len(left), want, left)
		}
	}
	sweep(0) // there is no directory
	w.create(t, w.spec())
	before := w.bootFiles(t)
	stray := filepath.Join(w.fleet.BootDir, ".new-1")
	if err := os.WriteFile(stray, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	sweep(2)
	spec := w.spec()
	spec.Base = w.new
	if _, _, err := w.fleet.Update(within(t, time.Minute), spec, quiet); err != nil {
		t.Fatal(err)
	}
	sweep(4) // it runs with the ones and is defined with the others
	spec.Running = false
	if _, _, err := w.fleet.Update(within(t, time.Minute), spec, quiet); err != nil {
		t.Fatal(err)
	}
	sweep(2)
	if left := w.bootFiles(t); slices.ContainsFunc(left,
		func(path string) bool { return slices.Contains(before, path) }) {
		t.Errorf("what nothing boots is left: %v", left)
	}
	if err := w.fleet.Delete(within(t, time.Minute), spec.Name, spec.UUID, quiet); err != nil {
		t.Fatal(err)
	}
	sweep(0)
	if _, err := os.Stat(w.fleet.BootDir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the directory is left: %v", err)
	}
}
