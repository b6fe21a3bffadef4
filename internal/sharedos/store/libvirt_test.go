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
		out, err := exec.CommandContext(t.Context(), "virsh", "-c", bed.URI(), "pool-list", "--all", "--name").CombinedOutput()
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
		if _, _, err := s.CreatePrivateDisk(t.Context(), "web", 1<<20); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Sweep(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		if !strings.Contains(pools(), config.Pool) {
			t.Fatal("the pool is gone, and a private disk was in it")
		}
		if err := s.DeletePrivateDisk(t.Context(), "web"); err != nil {
			t.Fatal(err)
		}
		if _, err := s.Sweep(t.Context(), nil); err != nil {
			t.Fatal(err)
		}
		if _, err := os.Stat(config.CreatePath); strings.Contains(pools(), config.Pool) || !errors.Is(err, fs.ErrNotExist) {
			t.Fatalf("left are %s and its directory: %v", pools(), err)
		}
	}
}

func TestAPoolOfSomebodyElseStays(t *testing.T) {
	bed := testbed.New(t)
	name, dir := bed.Name("pool"), t.TempDir()
	if out, err := exec.CommandContext(t.Context(), "virsh", "-c", bed.URI(), "pool-create-as", name, "dir", "--target", dir).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	s, err := connect(t.Context(), bed.URI(), store.Config{Pool: name, CreatePath: filepath.Join(t.TempDir(), "elsewhere")})
	if err != nil {
		t.Fatal(err)
	}
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
	if _, err := os.Stat(dir); err != nil {
		t.Error(err)
	}
}
