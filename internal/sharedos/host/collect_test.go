package host_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"github.com/google/uuid"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/host"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/publish"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/archive"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/sourcetest"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
	"github.com/sharedos/terraform-provider-sharedos/testbed"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// openTwo opens one host twice, as two operators' processes do: with caches of their own, and one key.
func openTwo(t *testing.T) (a, b *host.Host) {
	t.Helper()
	bed := testbed.New(t)
	pool := bed.Name("pool")
	open := func(cache string) *host.Host {
		h, err := host.Open(t.Context(), host.Config{
			URI: bed.URI(), Pool: pool, PoolPath: filepath.Join(bed.Dir(), pool), StateDir: bed.StateDir(),
			OperatorKey: filepath.Join(bed.Dir(), "operator.key"), Cache: filepath.Join(bed.Dir(), cache),
		})
		must(t, err)
		t.Cleanup(func() {
			if err := h.Close(); err != nil {
				t.Error(err)
			}
		})
		// No guest boots it.
		h.Fleet.AgentBinary = func() ([]byte, error) { return []byte("agent"), nil }
		return h
	}
	return open("a"), open("b")
}

// publishOn publishes a version of a small system.
func publishOn(t *testing.T, h *host.Host, version string) tree.Digest {
	t.Helper()
	stream, err := sourcetest.NewSystem("6.12."+version).With("usr/bin/server", "version "+version).Tar()
	must(t, err)
	path := filepath.Join(t.TempDir(), "rootfs.tar")
	must(t, os.WriteFile(path, stream, 0o600))
	prepared, err := h.Publisher.Prepare(t.Context(), publish.Spec{Name: "os", Source: archive.Source{Path: path}}, nil)
	must(t, err)
	must(t, h.Publisher.Publish(t.Context(), prepared, nil))
	return prepared.ID
}

// requireBootable checks that all that a VM's definition refers to is in the pool, whole.
func requireBootable(t *testing.T, h *host.Host, name string) {
	t.Helper()
	domain, _, err := h.Fleet.Hypervisor.Lookup(t.Context(), name)
	must(t, err)
	for _, layer := range domain.Metadata.Stack.Layers {
		_, err := h.Store.LayerPath(t.Context(), layer.ID)
		must(t, err)
	}
	manifest, err := h.Publisher.Get(t.Context(), domain.Metadata.Stack.Base)
	must(t, err)
	_, err = h.Store.GetBlob(t.Context(), manifest.Contents)
	must(t, err)
	for _, path := range []string{domain.Kernel, domain.Initramfs, domain.PrivateDisk} {
		_, err := os.Stat(path)
		must(t, err)
	}
}

// While one operator makes a VM on a release, another one drops that release: the VM is not made,
// and the error names what is missing, or the release stays.
func TestAReleaseIsNotDeletedUnderAVMThatIsBeingMade(t *testing.T) {
	a, b := openTwo(t)
	made, refused := 0, 0
	for i := 0; i < 60 && (i < 12 || made < 3 || refused < 3); i++ {
		old := publishOn(t, a, fmt.Sprint(2*i+1))
		publishOn(t, a, fmt.Sprint(2*i+2))
		name := fmt.Sprintf("web-%d", i)
		spec := vm.Spec{
			Name: name, UUID: uuid.NewString(), Base: old, VCPUs: 1, Memory: 512 << 20,
			DiskSize: 64 << 20, Hostname: name,
		}
		var wait sync.WaitGroup
		var createErr, retainErr error
		wait.Go(func() {
			// Publishing leaves a lock of the pool for half a second (store.Locker), in which this
			// joins it, and the other waits.
			time.Sleep(time.Duration(rand.Int64N(int64(time.Second))))
			_, createErr = a.Fleet.Create(t.Context(), spec, func(string) {})
		})
		wait.Go(func() {
			time.Sleep(time.Duration(rand.Int64N(int64(60 * time.Millisecond))))
			_, retainErr = b.Publisher.Retain(t.Context(), "os", 1, b.Fleet.InUse)
		})
		wait.Wait()
		must(t, retainErr)
		if createErr == nil {
			made++
			requireBootable(t, a, name)
			must(t, a.Fleet.Delete(t.Context(), name, spec.UUID, func(string) {}))
			continue
		}
		refused++
		if !errors.Is(createErr, store.ErrNotFound) || !bytes.Contains([]byte(createErr.Error()), []byte(old.Hex())) {
			t.Fatalf("the VM was refused without the release's name: %v", createErr)
		}
		if _, _, err := a.Fleet.Hypervisor.Lookup(t.Context(), name); !errors.Is(err, hypervisor.ErrNotFound) {
			t.Fatalf("the VM was refused and is there: %v", err)
		}
		if volume, err := store.DiskName(name, spec.UUID); err != nil {
			t.Fatal(err)
		} else if _, err := a.Store.PrivateDisk(t.Context(), volume); !errors.Is(err, store.ErrNotFound) {
			t.Fatalf("the VM was refused and has a private disk: %v", err)
		}
	}
	t.Logf("%d VMs were made, %d refused", made, refused)
	if made == 0 || refused == 0 {
		t.Error("one of the two never came first, so this shows nothing")
	}
}

// Two operators who publish and delete at once leave a pool in which every recorded release is whole.
func TestOperatorsWhoPublishAndDeleteAtOnceLeaveAWholePool(t *testing.T) {
	a, b := openTwo(t)
	var wait sync.WaitGroup
	work := func(h *host.Host, base string) {
		for i := range 6 {
			if err := churn(t.Context(), h, base, fmt.Sprint(i%3), filepath.Join(t.TempDir(), base)); err != nil {
				t.Errorf("%s: %v", base, err)
			}
		}
	}
	wait.Go(func() { work(a, "one") })
	wait.Go(func() { work(b, "two") })
	wait.Wait()
	histories, err := a.Store.Histories(t.Context())
	must(t, err)
	if len(histories) != 2 {
		t.Errorf("the pool holds %v", histories)
	}
	for named, history := range histories {
		for _, id := range history.IDs() {
			manifest, err := a.Publisher.Get(t.Context(), id)
			must(t, err)
			for _, layer := range manifest.Layers {
				if _, err := a.Store.LayerPath(t.Context(), layer.ID); err != nil {
					t.Errorf("%s: %v", named.Name, err)
				}
			}
			if _, err := a.Store.GetBlob(t.Context(), manifest.Contents); err != nil {
				t.Errorf("%s: %v", named.Name, err)
			}
		}
	}
}

// churn publishes a version of a base, and deletes another base that only comes and goes.
func churn(ctx context.Context, h *host.Host, base, version, path string) error {
	stream, err := sourcetest.NewSystem("6.12.1").With("usr/bin/server", "version "+version).Tar()
	if err != nil {
		return err
	}
	if err := os.WriteFile(path, stream, 0o600); err != nil {
		return err
	}
	for _, name := range []string{base, base + "-gone"} {
		prepared, err := h.Publisher.Prepare(ctx, publish.Spec{Name: name, Source: archive.Source{Path: path}}, nil)
		if err == nil {
			err = h.Publisher.Publish(ctx, prepared, nil)
		}
		if err != nil {
			return err
		}
	}
	if _, err := h.Publisher.Retain(ctx, base, 2, h.Fleet.InUse); err != nil {
		return err
	}
	return h.Publisher.Delete(ctx, base+"-gone", h.Fleet.InUse)
}
