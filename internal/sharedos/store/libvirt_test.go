package store_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/libvirtconn"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/machine"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store/storetest"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
	"github.com/sharedos/terraform-provider-sharedos/testbed"
)

// connected is a store with a connection of its own.
type connected struct {
	*store.Libvirt
	client *libvirtconn.Client
}

// connect opens a store with a connection of its own. ErrUnreachable if libvirt is.
func connect(ctx context.Context, uri string, config store.Config) (*connected, error) {
	client, err := libvirtconn.Open(ctx, uri, machine.Local{})
	if errors.Is(err, libvirtconn.ErrUnreachable) {
		err = fmt.Errorf("%w: %w", store.ErrUnreachable, err)
	}
	if err != nil {
		return nil, err
	}
	s, err := store.New(client, config)
	if err != nil {
		return nil, errors.Join(err, client.Close())
	}
	return &connected{s, client}, nil
}

// Close closes the store and its connection.
func (c *connected) Close() error { return errors.Join(c.Libvirt.Close(), c.client.Close()) }

func open(t *testing.T, bed *testbed.Testbed) *connected {
	t.Helper()
	name := bed.Name("pool")
	s, err := connect(t.Context(), bed.URI(), store.Config{Pool: name, CreatePath: filepath.Join(t.TempDir(), name)})
	must(t, err)
	return s
}

func TestLibvirtKeepsTheContract(t *testing.T) {
	bed := testbed.New(t)
	storetest.Contract(t, func(t *testing.T) store.Store { return open(t, bed) })
}

func TestAPoolThatWasMadeGoesWithTheLastVolume(t *testing.T) {
	bed := testbed.New(t)
	config := store.Config{Pool: bed.Name("pool"), CreatePath: filepath.Join(t.TempDir(), "pool")}
	s, err := connect(t.Context(), bed.URI(), config)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	pools := func() string {
		out, err := exec.CommandContext(t.Context(), "virsh", "-c", bed.URI(), "pool-list", "--all",
			"--name").CombinedOutput()
		if err != nil {
			t.Fatalf("%v: %s", err, out)
		}
		return string(out)
	}
	for range 2 {
		blob := release.Blob{Digest: tree.Sum([]byte("text")), Size: 4}
		if err := s.PutBlob(t.Context(), blob, strings.NewReader("text"), nil); err != nil {
			t.Fatal(err)
		}
		if _, err := s.CreatePrivateDisk(t.Context(), "vm-web", 1<<20); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Sweep(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(pools(), config.Pool) {
			t.Fatal("the pool is gone, and a private disk was in it")
		}
		if err := s.DeletePrivateDisk(t.Context(), "vm-web"); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Sweep(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(config.CreatePath); strings.Contains(pools(), config.Pool) ||
			!errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("left are %s and its directory: %v", pools(), err)
		}
	}
}

func TestAPoolOfSomebodyElseStays(t *testing.T) {
	bed := testbed.New(t)
	for what, elsewhere := range map[string]bool{"in another directory": true,
		"in the directory that ours would have": false} {
		t.Run(what, func(t *testing.T) {
			name, dir := bed.Name("pool"), t.TempDir()
			bed.Virsh(t, "pool-define-as", name, "dir", "--target", dir)
			bed.Virsh(t, "pool-start", name)
			config := store.Config{Pool: name, CreatePath: dir}
			if elsewhere {
				config.CreatePath = filepath.Join(t.TempDir(), "elsewhere")
			}
			requireSweptAndKept(t, bed, config, dir)
			if !strings.Contains(bed.Virsh(t, "pool-list", "--name"), name) {
				t.Error("the pool is gone")
			}
		})
	}
}

// A directory that was there before stays, too. The pool in it goes.
func TestADirectoryOfSomebodyElseStays(t *testing.T) {
	bed := testbed.New(t)
	config := store.Config{Pool: bed.Name("pool"), CreatePath: t.TempDir()}
	requireSweptAndKept(t, bed, config, config.CreatePath)
	if strings.Contains(bed.Virsh(t, "pool-list", "--all", "--name"), config.Pool) {
		t.Error("the pool is left")
	}
}

// A process that was killed between removing the directory and the definition leaves a pool that cannot be started.
func TestAPoolThatIsHalfRemovedIsUsedAgain(t *testing.T) {
	bed := testbed.New(t)
	config := store.Config{Pool: bed.Name("pool"), CreatePath: filepath.Join(t.TempDir(), "pool")}
	s, err := connect(t.Context(), bed.URI(), config)
	must(t, err)
	defer s.Close()
	blob := release.Blob{Digest: tree.Sum([]byte("text")), Size: 4}
	must(t, s.PutBlob(t.Context(), blob, strings.NewReader("text"), nil))
	bed.Virsh(t, "vol-delete", store.BlobName(blob.Digest), "--pool", config.Pool)
	bed.Virsh(t, "pool-destroy", config.Pool)
	bed.Virsh(t, "pool-delete", config.Pool)
	must(t, s.PutBlob(t.Context(), blob, strings.NewReader("text"), nil))
	_, err = s.Sweep(t.Context(), nil)
	must(t, err)
	if _, err := os.Stat(config.CreatePath); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("its directory is left: %v", err)
	}
}

// requireSweptAndKept stores something in a pool and sweeps it, and requires that the directory is there afterwards.
func requireSweptAndKept(t *testing.T, bed *testbed.Testbed, config store.Config, dir string) {
	t.Helper()
	s, err := connect(t.Context(), bed.URI(), config)
	must(t, err)
	defer s.Close()
	blob := release.Blob{Digest: tree.Sum([]byte("text")), Size: 4}
	if err := s.PutBlob(t.Context(), blob, strings.NewReader("text"), nil); err != nil {
		t.Fatal(err)
	}
	if swept, err := s.Sweep(t.Context(), nil); err != nil || len(swept) != 1 {
		t.Fatalf("swept %v, %v", swept, err)
	}
	if err := s.PutBlob(t.Context(), blob, strings.NewReader("text"), nil); err != nil {
		t.Fatal(err)
	}
	if swept, err := s.Sweep(t.Context(), nil); err != nil || len(swept) != 1 {
		t.Fatalf("swept again %v, %v", swept, err)
	}
	if _, err := os.Stat(dir); err != nil {
		t.Error(err)
	}
}
