package disks

import (
	"context"
	"errors"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/mounts"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
)

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Only a disk with nothing at its start and at its end is blank.
func TestADiskIsBlankOrNot(t *testing.T) {
	const size = 4 << 20
	for name, test := range map[string]struct {
		at   int64 // where a byte is written; -1 for none
		want bool
	}{
		"zeros": {-1, true}, "a boot sector": {510, false}, "a file system of btrfs": {0x10040, false}, "the end of the start": {edge - 1, false},
		"in the middle": {2 << 20, true}, "the start of the end": {size - edge, false}, "a RAID": {size - 1, false},
	} {
		path := filepath.Join(t.TempDir(), "disk")
		data := make([]byte, size)
		if test.at >= 0 {
			data[test.at] = 1
		}
		must(t, os.WriteFile(path, data, 0o600))
		if blank, err := isBlank(path, size); err != nil || blank != test.want {
			t.Errorf("%s: blank is %v, %v", name, blank, err)
		}
	}
	small := filepath.Join(t.TempDir(), "small")
	must(t, os.WriteFile(small, make([]byte, 512), 0o600))
	if blank, err := isBlank(small, 512); err != nil || !blank {
		t.Errorf("a small disk: %v, %v", blank, err)
	}
	if _, err := isBlank(small, 4096); err == nil {
		t.Error("a disk that cannot be read to its end is blank")
	}
}

// The superblock that mkfs writes says how large the file system is.
func TestTheSizeOfAFileSystemIsRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "disk")
	must(t, os.WriteFile(path, nil, 0o600))
	must(t, os.Truncate(path, 64<<20))
	command := mkfs(agentapi.Ext4, path)
	if out, err := exec.CommandContext(t.Context(), command[0], command[1:]...).CombinedOutput(); err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	if blank, err := isBlank(path, 64<<20); err != nil || blank {
		t.Errorf("a disk with a file system is blank: %v, %v", blank, err)
	}
	head, err := os.ReadFile(path)
	must(t, err)
	found, err := geometryOf(agentapi.Ext4, head[:superBytes])
	if err != nil || found.blockSize*found.blocks != 64<<20 {
		t.Errorf("%+v, %v", found, err)
	}
	xfs := make([]byte, superBytes)
	copy(xfs, "XFSB\x00\x00\x10\x00\x00\x00\x00\x00\x00\x01\x00\x00")
	xfs[127] = 25
	if found, err := geometryOf(agentapi.XFS, xfs); err != nil || found != (geometry{4096, 1 << 16, 25}) {
		t.Errorf("%+v, %v", found, err)
	}
	for _, system := range agentapi.FileSystems {
		for _, bad := range [][]byte{nil, make([]byte, superBytes)} {
			if _, err := geometryOf(system, bad); !errors.Is(err, errSuperblock) {
				t.Errorf("%s: %v", system, err)
			}
		}
	}
	if _, err := geometryOf(agentapi.XFS, head[:superBytes]); !errors.Is(err, errSuperblock) {
		t.Errorf("ext4 is read as xfs: %v", err)
	}
}

func TestPathsAreEscapedAsSystemdDoes(t *testing.T) {
	for path, want := range map[string]string{
		"/srv/data": "srv-data", "/srv/my-data": `srv-my\x2ddata`, "/mnt/.x": `mnt-.x`, "/.x/y_1:2": `\x2ex-y_1:2`,
		byID + "s-1": `dev-disk-by\x2did-virtio\x2ds\x2d1`, "/é": `\xc3\xa9`,
	} {
		if got := escape(path); got != want {
			t.Errorf("%s is %s, want %s", path, got, want)
		}
	}
	files, link := filesOf(agentapi.MountedDisk{Serial: "s-1", FileSystem: "xfs",
		MountPoint: "/srv/my-data", ReadOnly: true}, 12)
	unit := files[`srv-my\x2ddata.mount`]
	for _, want := range []string{"What=/dev/disk/by-id/virtio-s-1\n", "Where=/srv/my-data\n", "Type=xfs\n",
		"Options=ro\n", `Requires=sharedos-make-s\x2d1.service`} {
		if !strings.Contains(unit, want) {
			t.Errorf("the unit has no %q:\n%s", want, unit)
		}
	}
	if drop := files[`dev-disk-by\x2did-virtio\x2ds\x2d1.device.d/50-sharedos.conf`]; !strings.Contains(drop,
		"JobRunningTimeoutSec=12s\n") {
		t.Errorf("the drop-in is %q", drop)
	}
	dir := t.TempDir()
	both := []agentapi.MountedDisk{{Serial: "there", FileSystem: "ext4", MountPoint: "/srv/a"},
		{Serial: "absent", FileSystem: "ext4", MountPoint: "/srv/b"}}
	must(t, writeUnits(dir, filepath.Join(dir, "current"), nil, both, []mounts.Disk{{Serial: "there"}}))
	for serial, wait := range map[string]string{"there": "600s", "absent": "30s"} {
		if text, err := os.ReadFile(filepath.Join(dir, escape(byID+serial)+".device.d",
			"50-sharedos.conf")); err != nil || !strings.Contains(string(text), wait) {
			t.Errorf("the wait for %s: %q, %v", serial, text, err)
		}
	}
	if link != `local-fs.target.wants/srv-my\x2ddata.mount` || len(files) != 4 {
		t.Errorf("link %s, files %v", link, slices.Sorted(maps.Keys(files)))
	}
}

// What the system was given counts until the VM was powered on with another definition.
func TestWhatASystemWasGivenCountsUntilItsNextPowerOn(t *testing.T) {
	file := filepath.Join(t.TempDir(), "disks.json")
	data := agentapi.MountedDisk{Serial: "data", FileSystem: "ext4", MountPoint: "/srv/data"}
	old := []agentapi.MountedDisk{{Serial: "old", FileSystem: "ext4", MountPoint: "/srv/old"}}
	firmware := Firmware{Disks: old}
	read := func(firmware Firmware, want []agentapi.MountedDisk, fails bool) {
		t.Helper()
		got, err := effective(file, firmware)
		if !slices.Equal(got, want) || (err != nil) != fails {
			t.Errorf("%v, %v; want %v", got, err, want)
		}
	}
	read(firmware, old, false)
	must(t, remember(file, firmware, []agentapi.MountedDisk{data}))
	read(firmware, []agentapi.MountedDisk{data}, false)
	read(firmware, []agentapi.MountedDisk{data}, false)
	// Powered on with a definition that came later, and has again what the first one had.
	read(Firmware{Disks: old, Changes: 2}, old, false)
	read(firmware, old, false) // the record is gone
	must(t, remember(file, firmware, []agentapi.MountedDisk{data}))
	read(Firmware{}, nil, false)
	read(firmware, old, false)
	must(t, os.WriteFile(file, []byte("{"), 0o600))
	read(firmware, old, true)
	// Powered on with a definition that came later, of the same disks.
	must(t, remember(file, Firmware{Disks: old, Changes: 1}, []agentapi.MountedDisk{data}))
	read(Firmware{Disks: old, Changes: 1}, []agentapi.MountedDisk{data}, false)
	read(Firmware{Disks: old, Changes: 2}, old, false)
	bad := data
	bad.MountPoint = "/usr/x"
	must(t, remember(file, firmware, []agentapi.MountedDisk{bad}))
	read(firmware, old, true)
	must(t, remember(file, Firmware{}, nil))
	read(Firmware{}, nil, false)
}

// guest is a system whose disks are mounted when their units start.
type guest struct {
	attached map[string]int64
	// mounted are serials by mount point.
	mounted  map[string]string
	units    string
	busy     map[string]bool // mount points and serials
	fails    string          // the unit that does not start
	did      []string
	reloaded int
}

func (g *guest) Disk(_ context.Context, serial string, size int64) (mounts.Disk, error) {
	disk, err := g.Attached(serial)
	if err == nil && disk.Size < size {
		err = context.DeadlineExceeded
	}
	return disk, err
}

func (g *guest) Attached(serial string) (mounts.Disk, error) {
	size, ok := g.attached[serial]
	if !ok {
		return mounts.Disk{}, mounts.ErrNoDisk
	}
	return mounts.Disk{Serial: serial, Size: size, Node: "/dev/" + serial}, nil
}

func (g *guest) MountedFrom(disk mounts.Disk, point string) (bool, error) {
	return g.mounted[point] == disk.Serial, nil
}

func (g *guest) Unmount(point string) error {
	if g.busy[point] {
		return unix.EBUSY
	}
	delete(g.mounted, point)
	g.did = append(g.did, "unmount "+point)
	return nil
}

func (g *guest) Exclusive(disk mounts.Disk) error {
	if g.busy[disk.Serial] || slices.Contains(slices.Collect(maps.Values(g.mounted)), disk.Serial) {
		return unix.EBUSY
	}
	return nil
}

func (g *guest) Users(_ context.Context, disk mounts.Disk) []string {
	if g.busy["hidden"] {
		return nil
	}
	return []string{"user of " + disk.Serial}
}

func (g *guest) Reload(context.Context) error { g.reloaded++; return nil }

func (g *guest) Start(_ context.Context, unit string) error {
	if unit == g.fails {
		return errors.New("it fails")
	}
	text, err := os.ReadFile(filepath.Join(g.units, unit))
	if err != nil {
		return err
	}
	var what, where string
	for line := range strings.Lines(string(text)) {
		if value, ok := strings.CutPrefix(line, "What="+byID); ok {
			what = strings.TrimSpace(value)
		}
		if value, ok := strings.CutPrefix(line, "Where="); ok {
			where = strings.TrimSpace(value)
		}
	}
	g.mounted[where] = what
	g.did = append(g.did, "mount "+where)
	return nil
}

func (g *guest) Grow(disk mounts.Disk, mounted agentapi.MountedDisk) error {
	g.did = append(g.did, "grow "+mounted.MountPoint)
	return nil
}

func TestARunningSystemMountsWhatItIsGiven(t *testing.T) {
	dir := t.TempDir()
	g := &guest{attached: map[string]int64{"a": 100, "b": 100, "c": 100}, mounted: map[string]string{},
		units: filepath.Join(dir, "units"), busy: map[string]bool{}}
	places := Places{Units: g.units, Current: filepath.Join(dir, "current.json"),
		Given: filepath.Join(dir, "given.json")}
	disk := func(serial, point string) Wanted {
		return Wanted{agentapi.MountedDisk{Serial: serial, FileSystem: "ext4", MountPoint: point}, 100}
	}
	set := func(release []string, wanted ...Wanted) (map[string][]string, error) {
		g.did = nil
		return Set(t.Context(), g, places, Firmware{}, wanted, release)
	}
	mustBe := func(held map[string][]string, err error, did []string, mounted map[string]string) {
		t.Helper()
		must(t, err)
		if diff := cmp.Diff(did, g.did); len(held) > 0 || diff != "" {
			t.Errorf("held %v, it did (-want +got)\n%s", held, diff)
		}
		if diff := cmp.Diff(mounted, g.mounted); diff != "" {
			t.Errorf("mounted (-want +got)\n%s", diff)
		}
	}
	ab := map[string]string{"/srv/a": "a", "/srv/a/b": "b"}
	held, err := set(nil, disk("b", "/srv/a/b"), disk("a", "/srv/a"))
	mustBe(held, err, []string{"mount /srv/a", "grow /srv/a", "mount /srv/a/b", "grow /srv/a/b"}, ab)
	held, err = set(nil, disk("b", "/srv/a/b"), disk("a", "/srv/a"))
	mustBe(held, err, []string{"grow /srv/a", "grow /srv/a/b"}, ab)
	if g.reloaded != 1 {
		t.Errorf("systemd was reloaded %d times", g.reloaded)
	}

	// What is in use stays as it is, with everything that was unmounted before that.
	g.busy["/srv/a"] = true
	held, err = set([]string{"a"})
	if want := map[string][]string{"a": {"user of a"}}; err != nil || !cmp.Equal(held, want) ||
		!maps.Equal(g.mounted, ab) {
		t.Errorf("held %v, %v; mounted %v", held, err, g.mounted)
	}
	if _, err := os.Stat(filepath.Join(g.units, "srv-a.mount")); err != nil {
		t.Error(err)
	}
	delete(g.busy, "/srv/a")
	g.busy["a"], g.busy["hidden"] = true, true // unmounted here, and not in another namespace
	held, err = set([]string{"a"}, disk("b", "/srv/a/b"))
	if err != nil || len(held["a"]) != 1 || !strings.Contains(held["a"][0], "another namespace") ||
		!maps.Equal(g.mounted, ab) {
		t.Errorf("held %v, %v; mounted %v", held, err, g.mounted)
	}
	g.busy = map[string]bool{}

	held, err = set([]string{"a", "b", "none"})
	mustBe(held, err, []string{"unmount /srv/a/b", "unmount /srv/a"}, map[string]string{})
	entries, err := os.ReadDir(filepath.Join(g.units, "local-fs.target.wants"))
	if err != nil || len(entries) > 0 {
		t.Errorf("units are left: %v, %v", entries, err)
	}
	if left, err := filepath.Glob(filepath.Join(g.units, "*.mount")); err != nil || len(left) > 0 {
		t.Errorf("units are left: %v, %v", left, err)
	}

	// A mount that fails is tried again, by the next call and by the next boot.
	g.fails = "srv-c.mount"
	if _, err := set(nil, disk("c", "/srv/c")); err == nil || !strings.Contains(err.Error(), "mount disk c at /srv/c") {
		t.Errorf("%v", err)
	}
	if next, err := effective(places.Given, Firmware{}); err != nil || len(next) != 1 {
		t.Errorf("the next boot mounts %v, %v", next, err)
	}
	g.fails = ""
	held, err = set(nil, disk("c", "/srv/c"))
	mustBe(held, err, []string{"mount /srv/c", "grow /srv/c"}, map[string]string{"/srv/c": "c"})
	held, err = set(nil, disk("c", "/srv/d"))
	mustBe(held, err, []string{"unmount /srv/c", "mount /srv/d", "grow /srv/d"}, map[string]string{"/srv/d": "c"})
	readOnly := disk("c", "/srv/d")
	readOnly.ReadOnly = true
	held, err = set(nil, readOnly)
	mustBe(held, err, []string{"unmount /srv/d", "mount /srv/d"}, map[string]string{"/srv/d": "c"})
	if _, err := set(nil, disk("c", "/usr/d")); err == nil || g.mounted["/srv/d"] != "c" {
		t.Errorf("a mount point of the system: %v", err)
	}
	if _, err := set(nil, readOnly, disk("d", "/srv/x")); !errors.Is(err, mounts.ErrNoDisk) {
		t.Errorf("a disk that is not attached: %v", err)
	}
}
