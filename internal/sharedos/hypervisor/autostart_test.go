package hypervisor_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor/hypervisortest"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/machine"
	"github.com/sharedos/terraform-provider-sharedos/testbed"
)

const exampleHook = "../../../examples/host/libvirt-hook-vsock"

// A VM on a host without vhost-vsock comes up with the host only if a hook starts its vsock daemon.
func TestADomainComesUpWithTheHostIfItsDaemonDoes(t *testing.T) {
	if _, err := os.Stat("/dev/vhost-vsock"); err == nil {
		return // it needs no daemon
	}
	bed := testbed.New(t)
	h := open(t, bed)
	d := hypervisortest.Domain(t, h)
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	inside := func(command ...string) {
		t.Helper()
		if out, err := bed.Inside(t.Context(), command...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v: %s", command, err, out)
		}
	}
	must(h.Define(t.Context(), d))
	must(h.SetAutostart(t.Context(), d.Name, true))
	must(h.Start(t.Context(), d.Name)) // the hook relies on the directory of its sockets
	must(h.PowerOff(t.Context(), d.Name))
	comesUp := func() bool {
		t.Helper()
		must(bed.StopLibvirt(t.Context()))
		inside("rm", "-f", "/run/libvirt/qemu/autostarted") // libvirt starts domains once after each boot of the host
		must(bed.StartLibvirt(t.Context()))
		for range 100 {
			_, state, err := h.Lookup(t.Context(), d.Name)
			must(err)
			if state == hypervisor.Running {
				return true
			}
			time.Sleep(50 * time.Millisecond)
		}
		return false
	}
	if comesUp() {
		t.Error("it comes up without its vsock daemon: a plan need not warn")
	}
	hook, err := filepath.Abs(exampleHook)
	must(err)
	inside("install", "-D", "-m", "0755", hook, "/etc/libvirt/hooks/qemu.d/sharedos-vsock")
	if !comesUp() {
		t.Error("it does not come up with the hook")
	}
}

// hooks is a machine without vhost-vsock and with these hooks of libvirt.
type hooks struct {
	machine.Local
	dir      string
	fails    error
	hasVSock bool
}

// path is where this machine has a file of /etc.
func (h hooks) path(path string) string {
	if !strings.HasPrefix(path, "/etc/") {
		return path
	}
	return filepath.Join(h.dir, path)
}

func (h hooks) Exists(_ context.Context, path string) (bool, error) {
	return path == "/dev/vhost-vsock" && h.hasVSock, nil
}

func (h hooks) ListDir(ctx context.Context, path string) ([]string, error) {
	if h.fails != nil {
		return nil, h.fails
	}
	return h.Local.ListDir(ctx, h.path(path))
}

func (h hooks) Owner(ctx context.Context, path string) (int, fs.FileMode, error) {
	return h.Local.Owner(ctx, h.path(path))
}

func (h hooks) ReadTail(ctx context.Context, path string, limit int64) ([]byte, error) {
	return h.Local.ReadTail(ctx, h.path(path), limit)
}

func TestWhetherAHookStartsTheDaemonIsFoundOut(t *testing.T) {
	example, err := os.ReadFile(exampleHook)
	if err != nil {
		t.Fatal(err)
	}
	type file struct {
		name, text string
		mode       fs.FileMode
	}
	const other = "#!/bin/sh\nexit 0\n"
	broken := errors.New("broken")
	for name, c := range map[string]struct {
		machine hooks
		files   []file
		want    bool
		err     error
	}{
		"no hook":                     {},
		"vhost-vsock":                 {machine: hooks{hasVSock: true}, want: true},
		"the example":                 {files: []file{{"qemu.d/sharedos-vsock", string(example), 0o755}}, want: true},
		"the example as the one hook": {files: []file{{"qemu", string(example), 0o755}}, want: true},
		"beside others": {files: []file{{"qemu", other, 0o755}, {"qemu.d/a", other, 0o755},
			{"qemu.d/b", string(example), 0o755}}, want: true},
		"only others":                 {files: []file{{"qemu", other, 0o755}, {"qemu.d/a", other, 0o755}}},
		"one that libvirt cannot run": {files: []file{{"qemu.d/sharedos-vsock", string(example), 0o644}}},
		"one that may not be seen":    {machine: hooks{fails: fs.ErrPermission}, want: true},
		"a machine that is broken":    {machine: hooks{fails: broken}, err: broken},
	} {
		t.Run(name, func(t *testing.T) {
			c.machine.dir = t.TempDir()
			for _, file := range c.files {
				path := c.machine.path(filepath.Join("/etc/libvirt/hooks", file.name))
				if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755),
					os.WriteFile(path, []byte(file.text), 0o600), os.Chmod(path, file.mode)); err != nil {
					t.Fatal(err)
				}
			}
			h, err := hypervisor.New(t.Context(), nil, c.machine, shortDir(t))
			if err != nil {
				t.Fatal(err)
			}
			if got, err := h.StartsAlone(t.Context()); got != c.want || !errors.Is(err, c.err) {
				t.Errorf("got %v, %v", got, err)
			}
		})
	}
}

// shortDir is a directory whose path is short enough for sockets.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "state")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) }) // it is empty
	return dir
}
