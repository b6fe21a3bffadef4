package testbed

import (
	"bytes"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// lvm is a script that replaces LVM's commands below libvirt.
//
//go:embed standin/lvm
var lvm string

// replaceCommand runs a script in the place of a command, for libvirt alone. values are pairs of a placeholder in
// the script and its value.
func (b *Testbed) replaceCommand(t testing.TB, command, script string, values ...string) {
	t.Helper()
	path := filepath.Join(b.dir, filepath.Base(command))
	err := os.WriteFile(path, []byte(strings.NewReplacer(values...).Replace(script)), 0o755)
	if err == nil {
		var said []byte
		if said, err = b.Inside(t.Context(), "mount", "--bind", path, command).CombinedOutput(); err != nil {
			err = fmt.Errorf("%w: %s", err, said)
		}
	}
	if err != nil {
		t.Fatalf("replace %s by a script: %v", command, err)
	}
}

// LogicalPool makes a storage pool of libvirt's type "logical". Such a pool rounds sizes up to extents of 4 MiB,
// and a new volume has the content of a deleted one: stale, repeated. Many containers have no device-mapper and so
// no LVM; therefore a script replaces LVM's commands, and the volumes are loop devices. A testbed can have one such
// pool. LogicalPool returns the pool's name and the directory of its devices. Pool and volumes end with the test.
func (b *Testbed) LogicalPool(t testing.TB, stale []byte) (name, devices string) {
	t.Helper()
	group := strings.ReplaceAll(b.Name("vg"), "-", "_")
	devices = filepath.Join("/dev", group)
	garbage := filepath.Join(b.dir, "stale")
	err := errors.Join(
		os.WriteFile(garbage, bytes.Repeat(stale, (8<<20)/len(stale)+1), 0o600),
		os.MkdirAll(devices, 0o755),
	)
	if err != nil {
		t.Fatalf("make a volume group: %v", err)
	}
	removeDevices(t, devices)
	b.replaceCommand(t, "/usr/sbin/lvm", lvm, "@state@", t.TempDir(), "@group@", group, "@stale@", garbage)
	name = b.Name("pool")
	b.Virsh(t, "pool-define-as", name, "logical", "--source-name", group, "--target", devices)
	b.Virsh(t, "pool-start", name)
	return name, devices
}

// removeDevices removes loop devices, and the directory with links to them, at the end of the test.
func removeDevices(t testing.TB, devices string) {
	t.Cleanup(func() {
		links, err := filepath.Glob(filepath.Join(devices, "*"))
		for _, link := range links {
			if device, gone := os.Readlink(link); gone == nil {
				err = errors.Join(err, exec.Command("losetup", "--detach", device).Run())
			}
		}
		if err = errors.Join(err, os.RemoveAll(devices)); err != nil {
			t.Errorf("remove %s: %v", devices, err)
		}
	})
}

// zfs is a script that replaces ZFS's commands below libvirt.
//
//go:embed standin/zfs
var zfs string

// ZFSPool makes a storage pool of libvirt's type "zfs", which only accepts whole blocks of 16 KiB. A script
// replaces ZFS's commands, and the volumes are loop devices. ZFSPool returns the pool's name. Pool and volumes end
// with the test.
func (b *Testbed) ZFSPool(t testing.TB) string {
	t.Helper()
	dataset := b.Name("tank")
	devices, commands := filepath.Join("/dev/zvol", dataset), filepath.Join(b.dir, "zfs")
	script := strings.NewReplacer("@state@", t.TempDir(), "@dataset@", dataset).Replace(zfs)
	err := errors.Join(os.MkdirAll(devices, 0o755), os.MkdirAll(commands, 0o755))
	for _, name := range []string{"zfs", "zpool"} {
		err = errors.Join(err, os.WriteFile(filepath.Join(commands, name), []byte(script), 0o755))
	}
	if err != nil {
		t.Fatalf("replace ZFS by a script: %v", err)
	}
	removeDevices(t, devices)
	// libvirt looks for the commands in its PATH.
	if said, err := b.Inside(t.Context(), "mount", "--bind", commands, "/usr/local/sbin").CombinedOutput(); err != nil {
		t.Fatalf("replace ZFS by a script: %v: %s", err, said)
	}
	name := b.Name("pool")
	b.Virsh(t, "pool-define-as", name, "zfs", "--source-name", dataset, "--target", devices)
	b.Virsh(t, "pool-start", name)
	return name
}

// Virsh runs virsh with the arguments and fails the test if that fails.
func (b *Testbed) Virsh(t testing.TB, args ...string) string {
	t.Helper()
	said, err := exec.CommandContext(t.Context(), "virsh", append([]string{"-c", b.URI()}, args...)...).CombinedOutput()
	if err != nil {
		t.Fatalf("virsh %v: %v: %s", args, err, said)
	}
	return string(said)
}
