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

// lvm stands in for LVM's commands below libvirt.
//
//go:embed standin/lvm
var lvm string

// standsIn puts a script in the place of a command, for libvirt alone. What stands between @ in it is replaced.
func (b *Testbed) standsIn(t testing.TB, command, script string, values ...string) {
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
		t.Fatalf("have a script stand in for %s: %v", command, err)
	}
}

// LogicalPool makes a storage pool of libvirt's type "logical", which rounds sizes up to extents of 4 MiB and hands out
// volumes that hold what was there before: stale, again and again. Where a kernel has no device-mapper, as in many containers,
// there is no LVM: a script stands in for its commands, and the volumes are loop devices. Of a testbed one pool can be of this
// type. It returns the pool's name. With the test end pool and volumes.
func (b *Testbed) LogicalPool(t testing.TB, stale []byte) string {
	t.Helper()
	group := strings.ReplaceAll(b.Name("vg"), "-", "_")
	devices, garbage := filepath.Join("/dev", group), filepath.Join(b.dir, "stale")
	err := errors.Join(
		os.WriteFile(garbage, bytes.Repeat(stale, (8<<20)/len(stale)+1), 0o600),
		os.MkdirAll(devices, 0o755),
	)
	if err != nil {
		t.Fatalf("make a volume group: %v", err)
	}
	removeDevices(t, devices)
	b.standsIn(t, "/usr/sbin/lvm", lvm, "@state@", t.TempDir(), "@group@", group, "@stale@", garbage)
	name := b.Name("pool")
	b.Virsh(t, "pool-define-as", name, "logical", "--source-name", group, "--target", devices)
	b.Virsh(t, "pool-start", name)
	return name
}

// removeDevices removes, with the test, loop devices and the directory that has links to them.
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

// zfs stands in for ZFS's commands below libvirt.
//
//go:embed standin/zfs
var zfs string

// ZFSPool makes a storage pool of libvirt's type "zfs", which takes whole blocks of 16 KiB only. A script stands in for ZFS's
// commands, and the volumes are loop devices. It returns the pool's name. With the test end pool and volumes.
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
		t.Fatalf("have a script stand in for ZFS: %v", err)
	}
	removeDevices(t, devices)
	// libvirt looks for the commands in its PATH.
	if said, err := b.Inside(t.Context(), "mount", "--bind", commands, "/usr/local/sbin").CombinedOutput(); err != nil {
		t.Fatalf("have a script stand in for ZFS: %v: %s", err, said)
	}
	name := b.Name("pool")
	b.Virsh(t, "pool-define-as", name, "zfs", "--source-name", dataset, "--target", devices)
	b.Virsh(t, "pool-start", name)
	return name
}

// Virsh gives virsh a command.
func (b *Testbed) Virsh(t testing.TB, args ...string) {
	t.Helper()
	if said, err := exec.CommandContext(t.Context(), "virsh", append([]string{"-c", b.URI()}, args...)...).CombinedOutput(); err != nil {
		t.Fatalf("virsh %v: %v: %s", args, err, said)
	}
}
