package testbed_test

import (
	"context"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/daemon"
	"github.com/sharedos/terraform-provider-sharedos/testbed"
)

func dial(t *testing.T, b *testbed.Testbed) error {
	t.Helper()
	_, socket, _ := strings.Cut(b.URI(), "socket=")
	var dialer net.Dialer
	conn, err := dialer.DialContext(t.Context(), "unix", socket)
	if err != nil {
		return err
	}
	return conn.Close()
}

func TestTwoTestbedsRunSideBySide(t *testing.T) {
	a, b := testbed.New(t), testbed.New(t)
	for _, one := range []*testbed.Testbed{a, b} {
		if err := dial(t, one); err != nil {
			t.Error(err)
		}
	}
	if first, second := a.Name("vm"), a.Name("vm"); first == second || a.Dir() == b.Dir() {
		t.Error("names or directories are the same")
	}
}

func TestLibvirtStopsAndStartsAgain(t *testing.T) {
	b := testbed.New(t)
	for range 2 {
		if err := b.StopLibvirt(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := dial(t, b); err == nil {
			t.Error("libvirt answers although it was stopped")
		}
		if err := b.StartLibvirt(t.Context()); err != nil {
			t.Fatal(err)
		}
		if err := dial(t, b); err != nil {
			t.Error(err)
		}
	}
}

func TestNothingIsLeftAfterClose(t *testing.T) {
	dir, err := os.MkdirTemp("", "tb")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	b, err := testbed.Start(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	beside := filepath.Join(b.StateDir(), "x"+daemon.Suffix)
	if _, err := daemon.Start(beside, filepath.Join(dir, "x.log"), "sleep", "60"); err != nil {
		t.Fatal(err)
	}
	init, err := daemon.Read(filepath.Join(dir, "init"+daemon.Suffix))
	if err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := b.Close(); err != nil {
			t.Fatal(err)
		}
	}
	if running, err := init.Running(); err != nil || running {
		t.Errorf("the first process runs: %v, %v", running, err)
	}
	if alive, err := daemon.Alive(beside); err != nil || alive {
		t.Errorf("what was recorded beside domains runs: %v, %v", alive, err)
	}
	if err := dial(t, b); err == nil {
		t.Error("libvirt answers")
	}
}

func TestALongPathIsRefused(t *testing.T) {
	if _, err := testbed.Start(t.Context(), "/tmp/"+strings.Repeat("x", 60)); err == nil {
		t.Error("accepted")
	}
}

func TestACancelledStartLeavesNothing(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	short, err := os.MkdirTemp("", "tb")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(short); err != nil {
			t.Error(err)
		}
	})
	if _, err := testbed.Start(ctx, short); err == nil {
		t.Fatal("started although it was cancelled")
	}
	if alive, err := daemon.Alive(filepath.Join(short, "init"+daemon.Suffix)); err != nil || alive {
		t.Errorf("the first process runs: %v, %v", alive, err)
	}
}

func TestPortsAreGivenOnce(t *testing.T) {
	seen := map[uint16]bool{}
	for range 50 {
		port, err := testbed.FreePort()
		if err != nil {
			t.Fatal(err)
		}
		if seen[port] {
			t.Fatalf("port %d was given twice", port)
		}
		seen[port] = true
	}
}

func TestTheCacheIsWhereTheEnvironmentSays(t *testing.T) {
	want := filepath.Join(t.TempDir(), "cache")
	t.Setenv("SHAREDOS_CACHE", want)
	got, err := testbed.CacheDir()
	if err != nil || got != want {
		t.Fatalf("got %q, %v", got, err)
	}
	if _, err := os.Stat(got); err != nil {
		t.Error(err)
	}
}
