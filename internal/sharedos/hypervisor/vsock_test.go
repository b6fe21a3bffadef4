package hypervisor_test

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor/hypervisortest"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/machine"
	"github.com/sharedos/terraform-provider-sharedos/testbed"
)

// Nobody but QEMU's user may connect to the vsock daemon of a VM: who is first serves the guest.
func TestNoOtherUserReachesTheVSockDaemon(t *testing.T) {
	if _, err := os.Stat("/dev/vhost-vsock"); err == nil {
		return // there is no daemon to reach: the kernel of this host serves vsock
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
	must(h.Define(t.Context(), d))
	must(h.Start(t.Context(), d.Name))
	dir := filepath.Join(bed.StateDir(), "vsock-"+strings.ReplaceAll(d.UUID, "-", ""))
	for _, socket := range []string{"vhost", "sock"} {
		if info, err := os.Stat(filepath.Join(dir, socket)); err != nil || info.Mode().Type() != fs.ModeSocket {
			t.Errorf("%s is %v, %v", socket, info, err)
		}
	}
	// With an access control list, the bits of the group are those of its mask (acl(5)).
	if info, err := os.Stat(dir); err != nil || info.Mode().Perm()&0o067 != 0 {
		t.Errorf("the directory is %v, %v", info, err)
	}
	if out, err := as(65534, "test", "-e", filepath.Join(dir, "vhost")); err == nil {
		t.Errorf("another user reaches the socket: %s", out)
	}
	must(h.PowerOff(t.Context(), d.Name))
	for _, left := range []string{"vhost", "sock"} {
		if _, err := os.Stat(filepath.Join(dir, left)); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("%s is left: %v", left, err)
		}
	}
	startByHook(t, bed, d)
	if _, err := h.Dialer(t.Context(), d.Name); err != nil {
		t.Errorf("the domain that was started by virsh: %v", err)
	}
	if out, err := as(65534, "test", "-e", filepath.Join(dir, "vhost")); err == nil {
		t.Errorf("another user reaches the socket: %s", out)
	}
	must(h.PowerOff(t.Context(), d.Name))
	must(h.Undefine(t.Context(), d.Name))
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the directory is left: %v", err)
	}
}

// startByHook starts a domain as libvirt and an administrator do who have installed the hook.
func startByHook(t *testing.T, bed *testbed.Testbed, d hypervisor.Domain) {
	t.Helper()
	definition := bed.Virsh(t, "dumpxml", "--inactive", d.Name)
	hook := func(operation ...string) {
		t.Helper()
		cmd := exec.CommandContext(t.Context(), "../../../examples/host/libvirt-hook-vsock",
			append([]string{d.Name}, operation...)...)
		cmd.Stdin = strings.NewReader(definition)
		if out, err := cmd.CombinedOutput(); err != nil || len(out) > 0 {
			t.Fatalf("the hook: %v: %s", err, out)
		}
	}
	hook("started", "begin", "-") // it does nothing
	hook("prepare", "begin", "-")
	hook("prepare", "begin", "-") // the daemon runs
	bed.Virsh(t, "start", d.Name)
	bed.Virsh(t, "destroy", d.Name)
	hook("release", "end", "-")
	hook("prepare", "begin", "-")
	bed.Virsh(t, "start", d.Name)
}

// as runs a command as another user.
func as(uid uint32, command ...string) (string, error) {
	cmd := exec.Command(command[0], command[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uid, Gid: uid}}
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// The user of QEMU, and that user alone, gets to the sockets in a private directory.
func TestAPrivateDirectoryIsReachableForOneUser(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("run it as root, since it acts as other users")
	}
	parent, err := os.MkdirTemp("", "private")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(parent) })
	if err := os.Chmod(parent, 0o755); err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(parent, "vsock")
	const qemu, other = 64055, 65534
	for range 2 {
		err := machine.Local{}.MakePrivateDir(t.Context(), dir, qemu)
		if errors.Is(err, unix.ENOTSUP) {
			t.Fatal("set TMPDIR to a file system with access control lists")
		}
		if err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "vhost"), nil, 0o666); err != nil {
		t.Fatal(err)
	}
	for _, test := range []struct {
		uid     uint32
		command []string
		want    bool
	}{
		{qemu, []string{"test", "-e", dir + "/vhost"}, true},
		{qemu, []string{"ls", dir}, false},
		{qemu, []string{"touch", dir + "/new"}, false},
		{qemu, []string{"rm", "-f", dir + "/vhost"}, false},
		{other, []string{"test", "-e", dir + "/vhost"}, false},
	} {
		if out, err := as(test.uid, test.command...); (err == nil) != test.want {
			t.Errorf("user %d, %v: %v: %s", test.uid, test.command, err, out)
		}
	}
	// Without another user, the list goes.
	if err := (machine.Local{}).MakePrivateDir(t.Context(), dir, 0); err != nil {
		t.Fatal(err)
	}
	if out, err := as(qemu, "test", "-e", dir+"/vhost"); err == nil {
		t.Errorf("the user still reaches it: %s", out)
	}
	link := filepath.Join(parent, "link")
	if err := os.Symlink(dir, link); err != nil {
		t.Fatal(err)
	}
	if err := (machine.Local{}).MakePrivateDir(t.Context(), link, qemu); err == nil {
		t.Error("a link was taken for a directory")
	}
	if err := os.Chown(dir, other, other); err != nil {
		t.Fatal(err)
	}
	if err := (machine.Local{}).MakePrivateDir(t.Context(), dir, qemu); err == nil {
		t.Error("a directory of another user was taken")
	}
}

func TestAStateDirectoryThatOthersCanChangeIsRefused(t *testing.T) {
	dir, err := os.MkdirTemp("", "state")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	if _, err := hypervisor.New(t.Context(), nil, machine.Local{}, dir); err == nil ||
		!strings.Contains(err.Error(), "chmod go-w") {
		t.Errorf("with mode 0777: %v", err)
	}
}
