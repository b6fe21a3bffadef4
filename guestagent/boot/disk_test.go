package boot

import (
	"context"
	"encoding/binary"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/mounts"
)

// headOf is the head of a disk with a mark and, if asked for, an ext4 superblock.
func headOf(mark string, ext4 bool) []byte {
	head := make([]byte, diskHead)
	copy(head, mark)
	if ext4 {
		super := head[superOffset:]
		binary.LittleEndian.PutUint16(super[0x38:], superMagic)
		binary.LittleEndian.PutUint32(super[0x4:], 1<<20)
		binary.LittleEndian.PutUint32(super[0x18:], 2)
		binary.LittleEndian.PutUint16(super[0x3A:], 1)
	}
	return head
}

func TestClassifyDisk(t *testing.T) {
	stray := make([]byte, diskHead)
	stray[diskHead-1] = 1
	for name, test := range map[string]struct {
		head []byte
		want diskState
	}{
		"zeros":                                 {make([]byte, diskHead), diskBlank},
		"marked, nothing written":               {headOf(markFormatting, false), diskUnfinished},
		"marked, file system written":           {headOf(markFormatting, true), diskUnfinished},
		"complete":                              {headOf(markComplete, true), diskComplete},
		"complete once, superblock gone":        {headOf(markComplete, false), diskDamaged},
		"a file system of somebody else":        {headOf("", true), diskForeign},
		"a boot sector":                         {headOf("\xeb\x63\x90", false), diskForeign},
		"text like the mark":                    {headOf("sharedos private disk", true), diskForeign},
		"one byte at the end of the first MiB":  {stray, diskForeign},
		"a mark with something after it":        {headOf(markFormatting+"\x00x", false), diskForeign},
		"a complete mark with something behind": {headOf(markComplete+"\x00x", true), diskForeign},
	} {
		t.Run(name, func(t *testing.T) {
			if got, _ := classifyDisk(test.head); got != test.want {
				t.Errorf("got %v, want %v", got, test.want)
			}
		})
	}
}

func TestOnlyBlankAndUnfinishedDisksAreFormatted(t *testing.T) {
	for state, usable := range map[diskState]bool{diskBlank: true, diskUnfinished: true, diskComplete: true,
		diskDamaged: false, diskForeign: false} {
		if err := state.usable("/dev/vdb"); (err == nil) != usable {
			t.Errorf("%v: %v", state, err)
		}
	}
}

// inMountNamespace runs f in a mount namespace of its own with an empty /run.
func inMountNamespace(t *testing.T, f func(t *testing.T)) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // never unlocked: the namespace ends with the thread
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			t.Errorf("unshare: %v", err)
			return
		}
		for _, m := range []struct {
			source, target, kind string
			flags                uintptr
		}{{"", "/", "", unix.MS_REC | unix.MS_PRIVATE}, {"tmpfs", "/run", "tmpfs", 0}} {
			if err := unix.Mount(m.source, m.target, m.kind, m.flags, ""); err != nil {
				t.Errorf("mount %s: %v", m.target, err)
				return
			}
		}
		if err := os.MkdirAll(mounts.PrivateDir, 0o755); err != nil {
			t.Error(err)
			return
		}
		f(t)
	}()
	<-done
}

// loopDisk is a block device over a sparse file.
func loopDisk(t *testing.T, size int64) (node, backing string) {
	t.Helper()
	backing = filepath.Join(t.TempDir(), "disk.raw")
	file, err := os.Create(backing)
	if err != nil {
		t.Error(err)
		return "", ""
	}
	if err := file.Truncate(size); err != nil {
		t.Error(err)
	}
	if err := file.Close(); err != nil {
		t.Error(err)
	}
	out, err := exec.Command("losetup", "--find", "--show", backing).CombinedOutput()
	if err != nil {
		t.Errorf("losetup: %v: %s", err, out)
		return "", ""
	}
	node = strings.TrimSpace(string(out))
	t.Cleanup(func() {
		if out, err := exec.Command("losetup", "--detach", node).CombinedOutput(); err != nil {
			t.Errorf("losetup --detach: %v: %s", err, out)
		}
	})
	return node, backing
}

// toolTree is a lower tree with this machine's programs and a small /var.
func toolTree(t *testing.T) lowerTree {
	t.Helper()
	root := t.TempDir()
	for _, directory := range []string{"usr", "dev", "proc", "run", "etc", "var/lib/app", "home", "root", "srv"} {
		if err := os.MkdirAll(filepath.Join(root, directory), 0o755); err != nil {
			t.Error(err)
		}
	}
	for _, link := range []string{"bin", "sbin", "lib", "lib64"} {
		if err := os.Symlink("usr/"+link, filepath.Join(root, link)); err != nil {
			t.Error(err)
		}
	}
	for _, bind := range []string{"usr", "etc"} {
		if err := unix.Mount("/"+bind, filepath.Join(root, bind), "", unix.MS_BIND, ""); err != nil {
			t.Error(err)
		}
	}
	if err := os.WriteFile(filepath.Join(root, "var/lib/app/data"), []byte("seeded"), 0o640); err != nil {
		t.Error(err)
	}
	t.Cleanup(func() {
		// The mounts are in a namespace that is gone; only directories are left to remove.
		if err := os.RemoveAll(root); err != nil {
			t.Error(err)
		}
	})
	return lowerTree(root)
}

func stateOf(t *testing.T, node string) (diskState, superblock) {
	t.Helper()
	head, err := readHead(node)
	if err != nil {
		t.Error(err)
		return 0, superblock{}
	}
	return classifyDisk(head)
}

func TestAPrivateDiskIsMadeOnceAndKept(t *testing.T) {
	const size = 256 << 20
	node, backing := loopDisk(t, size)
	if node == "" {
		return
	}
	inMountNamespace(t, func(t *testing.T) {
		lower := toolTree(t)
		disk := privateDisk{Disk: mounts.Disk{Node: node, Size: size}, state: diskBlank}

		// A format that was cut off right after its mark, and one after the file system was written, leave an
		// unfinished disk, which is made again.
		if err := formatDisk(context.Background(), lower, disk.Disk); err != nil {
			t.Errorf("format: %v", err)
			return
		}
		state, _ := stateOf(t, node)
		if state != diskUnfinished {
			t.Errorf("a disk that was formatted and not seeded is %v", state)
		}
		disk.state = state
		if err := disk.make(context.Background(), lower, stackOf("one"), newStopwatch()); err != nil {
			t.Errorf("make: %v", err)
			return
		}
		content, err := os.ReadFile(filepath.Join(mounts.PrivateDir, "var/lib/app/data"))
		if err != nil || string(content) != "seeded" {
			t.Errorf("seeded file holds %q, %v", content, err)
		}
		for path, mode := range map[string]os.FileMode{".": 0o700, mounts.RootUpper: 0o755,
			mounts.RootWork: 0o700, "sharedos": 0o700} {
			info, err := os.Stat(filepath.Join(mounts.PrivateDir, path))
			if err != nil || info.Mode().Perm() != mode {
				t.Errorf("%s: %v, %v, want mode %v", path, info, err, mode)
			}
		}
		if err := unix.Unmount(mounts.PrivateDir, 0); err != nil {
			t.Error(err)
		}
		if out, err := exec.Command("e2fsck", "-fn", node).CombinedOutput(); err != nil {
			t.Errorf("e2fsck: %v: %s", err, out)
		}
		var stat unix.Stat_t
		if err := unix.Stat(backing, &stat); err != nil || stat.Blocks*512 > 24<<20 {
			t.Errorf("%d bytes are allocated, %v", stat.Blocks*512, err)
		}

		// Complete: it is mounted as it is, and never made again.
		state, super := stateOf(t, node)
		if state != diskComplete || super.size != size || super.errors {
			t.Errorf("state %v, superblock %+v", state, super)
		}
		again := privateDisk{Disk: disk.Disk, state: state, super: super}
		if err := again.mount(); err != nil {
			t.Errorf("mount: %v", err)
			return
		}
		if err := formatDisk(context.Background(), lower, again.Disk); err == nil {
			t.Error("a mounted disk was formatted")
		}
		if content, err = os.ReadFile(filepath.Join(mounts.PrivateDir, "var/lib/app/data")); err != nil ||
			string(content) != "seeded" {
			t.Errorf("seeded file holds %q, %v", content, err)
		}
		if err := unix.Unmount(mounts.PrivateDir, 0); err != nil {
			t.Error(err)
		}
	})
}
