package disks

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/mounts"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
)

func TestADiskIsFoundByItsSerial(t *testing.T) {
	attached := []mounts.Disk{{Node: "/dev/vda", Serial: "a"}, {Node: "/dev/vdb", Serial: "b"}}
	if disk, err := bySerial(attached, "b"); err != nil || disk.Node != "/dev/vdb" {
		t.Errorf("%+v, %v", disk, err)
	}
	if disk, err := bySerial(attached, "c"); !errors.Is(err, mounts.ErrNoDisk) {
		t.Errorf("%+v, %v", disk, err)
	}
}

// Who only sees a disk mounted is named if nobody else uses it: the mount is why it cannot be detached.
func TestProcessesThatUseADiskAreNamed(t *testing.T) {
	sees := mounts.User{PID: 1, Unit: "init.scope", Command: "systemd", How: mounts.SeesMounted, Path: "/srv"}
	opens := mounts.User{PID: 7, Command: "tail", How: "has open", Path: "/srv/log"}
	const seen, opened = "init.scope: process 1 (systemd) sees mounted /srv", "process 7 (tail) has open /srv/log"
	for _, test := range []struct {
		found []mounts.User
		want  []string
	}{
		{nil, nil},
		{[]mounts.User{sees}, []string{seen}},
		{[]mounts.User{opens}, []string{opened}},
		{[]mounts.User{sees, opens}, []string{opened}},
	} {
		if got := processes(test.found); !slices.Equal(got, test.want) {
			t.Errorf("%q, want %q", got, test.want)
		}
	}
}

// A file system on a disk that has grown is as large as the disk afterwards, and still mounted.
func TestAMountedFileSystemGrowsToItsDisk(t *testing.T) {
	const before, after = 320 << 20, 384 << 20 // mkfs.xfs makes none of less than 300 MiB
	for _, system := range agentapi.FileSystems {
		t.Run(system, func(t *testing.T) {
			dir := t.TempDir()
			file, point := filepath.Join(dir, "disk.raw"), filepath.Join(dir, "mounted")
			must(t, os.WriteFile(file, nil, 0o600))
			must(t, os.Truncate(file, before))
			must(t, os.Mkdir(point, 0o700))
			run(t, mkfs(system, file)...)
			must(t, os.Truncate(file, after))
			node := run(t, "losetup", "--find", "--show", file)
			t.Cleanup(func() { run(t, "losetup", "--detach", node) })
			must(t, unix.Mount(node, point, system, 0, ""))
			t.Cleanup(func() { must(t, unix.Unmount(point, 0)) })

			small := blocksOf(t, point)
			must(t, Grow(node, system, point, before))
			if now := blocksOf(t, point); now != small {
				t.Errorf("a file system that fills its disk has %d blocks, and had %d", now, small)
			}
			if err := Grow(node, system, point, after); system == agentapi.Ext4 && !mayGrowExt4(t) {
				if !errors.Is(err, unix.EPERM) {
					t.Errorf("ext4 answers a process without CAP_SYS_RESOURCE: %v", err)
				}
			} else if now := blocksOf(t, point); err != nil || now <= small {
				t.Errorf("it has %d blocks, and had %d: %v", now, small, err)
			}
			// The kernel refuses what is larger than the disk.
			if err := Grow(node, system, point, 2*after); err == nil || !strings.Contains(err.Error(), point) {
				t.Errorf("growing to twice the disk: %v", err)
			}
			// A directory of another file system knows no such request, and what fills its disk needs none.
			if err := Grow(node, system, "/proc", 2*after); !errors.Is(err, unix.ENOTTY) {
				t.Errorf("growing /proc: %v", err)
			}
			must(t, Grow(node, system, filepath.Join(dir, "none"), before))
		})
	}
}

// mayGrowExt4 reports whether the test has CAP_SYS_RESOURCE, which ext4 asks for, and XFS does not.
func mayGrowExt4(t *testing.T) bool {
	t.Helper()
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	must(t, unix.Capget(&header, &sets[0]))
	return sets[0].Effective&(1<<unix.CAP_SYS_RESOURCE) != 0
}

// Only the file systems that the guest mounts for writing grow.
func TestAReadOnlyDiskDoesNotGrow(t *testing.T) {
	disks := []agentapi.MountedDisk{{Serial: "r", ReadOnly: true}, {Serial: "w", MountPoint: "/srv/w"}}
	for serial, point := range map[string]string{"r": "", "w": "/srv/w", "none": ""} {
		if disk, ok := writable(disks, serial); disk.MountPoint != point || ok != (point != "") {
			t.Errorf("%s: %+v, %v", serial, disk, ok)
		}
	}
}

// A blank disk gets its file system, unless it is read-only. Any other disk stays as it is.
func TestAFileSystemIsMadeOnABlankDiskAlone(t *testing.T) {
	const size = 64 << 20
	for name, test := range map[string]struct {
		readOnly bool
		content  string
		made     bool
		fails    bool
	}{
		"blank":               {made: true},
		"blank and read-only": {readOnly: true, fails: true},
		"not blank":           {content: "data"},
	} {
		disk := mounts.Disk{Node: filepath.Join(t.TempDir(), "disk"), Serial: "s", Size: size, ReadOnly: test.readOnly}
		must(t, os.WriteFile(disk.Node, []byte(test.content), 0o600))
		must(t, os.Truncate(disk.Node, size))
		err := makeOn(t.Context(), disk, agentapi.Ext4)
		head, readErr := os.ReadFile(disk.Node)
		must(t, readErr)
		_, missing := geometryOf(agentapi.Ext4, head[:superBytes])
		if (err != nil) != test.fails || (missing == nil) != test.made ||
			!strings.HasPrefix(string(head), test.content) {
			t.Errorf("%s: %v, its file system: %v", name, err, missing)
		}
	}
}

// Disks of a boot configuration that are wrong have no units, and the system boots.
func TestABootInstallsTheUnitsOfItsDisks(t *testing.T) {
	for point, installed := range map[string]bool{"/srv/data": true, "/usr/data": false} {
		dir := t.TempDir()
		places := Places{Units: filepath.Join(dir, "units"), Current: filepath.Join(dir, "current"),
			Given: filepath.Join(dir, "given")}
		data := agentapi.MountedDisk{Serial: "data", FileSystem: agentapi.Ext4, MountPoint: point}
		err := install(places, Firmware{Disks: []agentapi.MountedDisk{data}}, nil)
		units, globErr := filepath.Glob(filepath.Join(places.Units, "*.mount"))
		must(t, globErr)
		if (err == nil) != installed || (len(units) == 1) != installed {
			t.Errorf("%s: %v, units %v", point, err, units)
		}
	}
}

// blocksOf is how many blocks of data a mounted file system has.
func blocksOf(t *testing.T, point string) uint64 {
	t.Helper()
	var found unix.Statfs_t
	must(t, unix.Statfs(point, &found))
	return found.Blocks
}

// run returns what a command writes. The context of a test has ended when its cleanups run.
func run(t *testing.T, command ...string) string {
	t.Helper()
	out, err := exec.Command(command[0], command[1:]...).CombinedOutput()
	if err != nil {
		t.Fatalf("%q: %v: %s", command, err, out)
	}
	return strings.TrimSpace(string(out))
}
