package diskimage_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/diskimage"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/fetch"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/sourcetest"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// mebibytes that test disks and their partitions have.
const (
	diskMiB = 64
	partMiB = 24
)

// diskOf makes a raw disk with a partition table in sfdisk's words, and file systems from mebibytes on.
func diskOf(t *testing.T, table string, at map[int64]string) string {
	t.Helper()
	path := filepath.Join(sourcetest.TempDir(t), "disk.raw")
	sourcetest.Must(t, os.WriteFile(path, nil, 0o600))
	sourcetest.Must(t, os.Truncate(path, diskMiB<<20))
	if table != "" {
		sourcetest.Run(t, table, "sfdisk", "-q", path)
	}
	disk, err := os.OpenFile(path, os.O_WRONLY, 0)
	sourcetest.Must(t, err)
	for mib, part := range at {
		data, err := os.ReadFile(part)
		sourcetest.Must(t, err)
		_, err = disk.WriteAt(data, mib<<20)
		sourcetest.Must(t, err)
	}
	sourcetest.Must(t, disk.Close())
	past := time.Now().Add(-time.Hour)
	sourcetest.Must(t, os.Chtimes(path, past, past))
	return path
}

// smallRoot lays out a root file system with all that an image can hold.
func smallRoot(t *testing.T) (dir string, entries []tree.Entry) {
	t.Helper()
	dir = sourcetest.TempDir(t)
	contents := map[tree.Digest]string{tree.Sum([]byte("ping")): "ping"}
	at := time.Unix(1_700_000_000, 0)
	entries = []tree.Entry{
		{Path: ".", Type: tree.Directory, Mode: 0o755, ModTime: at},
		{Path: "boot", Type: tree.Directory, Mode: 0o755, ModTime: at},
		{Path: "boot/hidden", Type: tree.Regular, Mode: 0o644, ModTime: at, Size: 4, Digest: tree.Sum([]byte("ping"))},
		{Path: "console", Type: tree.CharDevice, Mode: 0o600, Major: 5, Minor: 1, ModTime: at},
		{Path: "dev", Type: tree.Directory, Mode: 0o755, ModTime: at},
		{Path: "not-\xff-utf8", Type: tree.Symlink, Mode: 0o777, Link: "/etc", ModTime: at},
		{Path: "ping", Type: tree.Regular, Mode: 0o4755, UID: 70_000, GID: 5, Size: 4,
			Digest: tree.Sum([]byte("ping")), ModTime: at,
			Xattrs: map[string]string{"security.capability": "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00", "user.a": strings.Repeat("a", 100)}},
	}
	sourcetest.LayOut(t, dir, entries, contents)
	sourcetest.Must(t, os.WriteFile(filepath.Join(dir, "dev/left-out"), nil, 0o600))
	return dir, entries
}

func requireEntries(t *testing.T, src source.Source, want []tree.Entry) {
	t.Helper()
	got, done, err := sourcetest.Read(t, src)
	if err != nil {
		t.Error(err)
		return
	}
	for i, e := range want {
		e.ModTime = time.Time{}
		if i >= len(got.Entries) || !tree.Equal(got.Entries[i], e) {
			t.Errorf("entry %d of %q is not %+v", i, sourcetest.Paths(got), e)
		}
	}
	if len(got.Entries) != len(want) {
		t.Errorf("got %q", sourcetest.Paths(got))
	}
	sourcetest.Must(t, done())
}

const (
	rootType  = "type=4F68BCE3-E8CD-4DB1-96E7-FBCAF984B709"
	linuxType = "type=0FC63DAF-8483-4772-8E79-3D69D8477DE4"
	bootType  = "type=BC13C2FF-59E6-4262-A352-B275FD6F7172"
)

func part(start int, kind string) string {
	return fmt.Sprintf("start=%d, size=%d, %s\n", start*2048, partMiB*2048, kind)
}

func TestDiskImageOfEveryForm(t *testing.T) {
	dir, want := smallRoot(t)
	ext4 := sourcetest.Ext4(t, dir)
	other := sourcetest.Ext4(t, sourcetest.TempDir(t))
	bootDir := sourcetest.TempDir(t)
	sourcetest.Must(t, os.WriteFile(filepath.Join(bootDir, "vmlinuz"), []byte("ping"), 0o600))
	for name, c := range map[string]struct {
		table     string
		at        map[int64]string
		partition int
	}{
		"GPT, by the type of the root": {"label: gpt\n" + part(1, linuxType) + part(30, rootType),
			map[int64]string{1: other, 30: ext4}, 0},
		"GPT, the only one of Linux's type": {"label: gpt\n" + part(1, "type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B") + part(30, linuxType), map[int64]string{30: ext4}, 0},
		"GPT, by number": {"label: gpt\n" + part(1, linuxType) + part(30, linuxType),
			map[int64]string{1: other, 30: ext4}, 2},
		"GPT of large sectors": {"label: gpt\nsector-size: 4096\n" +
			fmt.Sprintf("start=%d, size=%d, %s\n", 256, partMiB*256, rootType), map[int64]string{1: ext4}, 0},
		"MBR": {"label: dos\n" + part(1, "type=82") + part(30, "type=83, bootable"),
			map[int64]string{30: ext4}, 0},
		"no partition table": {"", map[int64]string{0: ext4}, 0},
	} {
		t.Run(name, func(t *testing.T) {
			raw := diskOf(t, c.table, c.at)
			requireEntries(t, diskimage.Source{Path: raw, Partition: c.partition}, want)
			for _, options := range [][]string{nil, {"-c"}, {"-c", "-o", "compression_type=zstd"},
				{"-o", "compat=0.10,cluster_size=4096"}} {
				packed := filepath.Join(sourcetest.TempDir(t), "disk.qcow2")
				sourcetest.Run(t, "", "qemu-img",
					append(append([]string{"convert", "-O", "qcow2"}, options...), raw, packed)...)
				requireEntries(t, diskimage.Source{Path: packed, Partition: c.partition,
					CacheDir: sourcetest.TempDir(t)}, want)
			}
		})
	}
	t.Run("GPT with a partition for /boot", func(t *testing.T) {
		raw := diskOf(t, "label: gpt\n"+part(1, rootType)+part(30, bootType),
			map[int64]string{1: ext4, 30: sourcetest.Ext4(t, bootDir)})
		want := slices.Clone(want)
		i := slices.IndexFunc(want, func(e tree.Entry) bool { return e.Path == "boot/hidden" })
		want[i].Path, want[i].Mode = "boot/vmlinuz", 0o600
		requireEntries(t, diskimage.Source{Path: raw}, want)
	})
	if loops := attachedLoops(t); len(loops) > 0 {
		t.Errorf("loop devices are left: %v", loops)
	}
}

// attachedLoops are loop devices on files of this test.
func attachedLoops(t *testing.T) (mine []string) {
	t.Helper()
	for range 50 {
		mine = nil
		files, err := filepath.Glob("/sys/block/loop*/loop/backing_file")
		sourcetest.Must(t, err)
		for _, file := range files {
			if name, err := os.ReadFile(file); err == nil && strings.Contains(string(name), "TestDiskImage") {
				mine = append(mine, file)
			}
		}
		if len(mine) == 0 {
			return nil
		}
		time.Sleep(100 * time.Millisecond) // the kernel takes them down after the last one closes
	}
	return mine
}

func TestDiskImageThatIsNotClearIsRefused(t *testing.T) {
	ext4 := sourcetest.Ext4(t, sourcetest.TempDir(t))
	gpt := func(parts ...string) string { return "label: gpt\n" + strings.Join(parts, "") }
	for name, c := range map[string]struct {
		table     string
		at        map[int64]string
		partition int
		want      string
	}{
		"two of the general type": {gpt(part(1, linuxType), part(30, linuxType+", name=data")), nil, 0,
			`set its number; there are 1 (type 0FC63DAF-8483-4772-8E79-3D69D8477DE4, 24 MiB), 2 (type`},
		"no such number":        {gpt(part(1, rootType)), map[int64]string{1: ext4}, 3, "no partition 3"},
		"a number and no table": {"", map[int64]string{0: ext4}, 1, "no partition 1"},
		"none of a type":        {gpt(part(1, "type=C12A7328-F81F-11D2-BA4B-00A0C93EC93B")), nil, 0, "not clear"},
		"nothing in it":         {gpt(part(1, rootType)), nil, 0, "no file system that is supported"},
		"nothing at all":        {"", nil, 0, "neither a partition table nor a supported file system"},
	} {
		t.Run(name, func(t *testing.T) {
			raw := diskOf(t, c.table, c.at)
			if _, _, err := sourcetest.Read(t, diskimage.Source{Path: raw, Partition: c.partition}); err == nil ||
				!strings.Contains(err.Error(), c.want) {
				t.Errorf("got %v, want an error that says %s", err, c.want)
			}
		})
	}
}

func TestDiskImageRefusesHostileImages(t *testing.T) {
	raw := diskOf(t, "", map[int64]string{0: sourcetest.Ext4(t, sourcetest.TempDir(t))})
	secret := filepath.Join(sourcetest.TempDir(t), "secret")
	sourcetest.Must(t, os.WriteFile(secret, make([]byte, 1<<20), 0o600))
	difference := filepath.Join(sourcetest.TempDir(t), "difference.qcow2")
	sourcetest.Run(t, "", "qemu-img", "create", "-q", "-f", "qcow2", "-b", secret, "-F", "raw", difference)
	vmdk := filepath.Join(sourcetest.TempDir(t), "disk.vmdk")
	sourcetest.Run(t, "", "qemu-img", "convert", "-O", "vmdk", raw, vmdk)
	packed := filepath.Join(sourcetest.TempDir(t), "disk.qcow2")
	sourcetest.Run(t, "", "qemu-img", "convert", "-O", "qcow2", raw, packed)
	for path, want := range map[string]string{difference: "the difference to another image", vmdk: "qemu-img convert"} {
		if _, _, err := sourcetest.Read(t, diskimage.Source{Path: path}); err == nil ||
			!strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v, want an error that says %s", filepath.Base(path), err, want)
		}
	}
	if _, _, err := sourcetest.Read(t,
		diskimage.Source{Path: packed, Limits: source.Limits{Content: 1000}}); !errors.Is(err, source.ErrLimit) {
		t.Errorf("an image over the limit: %v, want ErrLimit", err)
	}
	whole, err := os.ReadFile(packed)
	sourcetest.Must(t, err)
	cut := filepath.Join(sourcetest.TempDir(t), "cut.qcow2")
	for _, n := range []int{1, 31, 100, 70_000, len(whole) / 2} {
		sourcetest.Must(t, os.WriteFile(cut, whole[:n], 0o600))
		if _, done, err := sourcetest.Read(t, diskimage.Source{Path: cut}); err == nil {
			t.Errorf("an image that is cut off at %d of %d is read", n, len(whole))
			sourcetest.Must(t, done())
		}
	}
	if loops := attachedLoops(t); len(loops) > 0 {
		t.Errorf("loop devices are left: %v", loops)
	}
}

func TestDiskImageThatWasNotShutDownIsRefused(t *testing.T) {
	ext4 := sourcetest.Ext4(t, sourcetest.TempDir(t))
	image, err := os.OpenFile(ext4, os.O_RDWR, 0)
	sourcetest.Must(t, err)
	// The flag of a journal that has to be replayed (ext4(5), s_feature_incompat), without its checksum.
	sourcetest.Run(t, "", "tune2fs", "-O", "^metadata_csum", ext4)
	flags := make([]byte, 4)
	_, err = image.ReadAt(flags, 1024+0x60)
	sourcetest.Must(t, err)
	binary.LittleEndian.PutUint32(flags, binary.LittleEndian.Uint32(flags)|4)
	_, err = image.WriteAt(flags, 1024+0x60)
	sourcetest.Must(t, errors.Join(err, image.Close()))
	if _, _, err := sourcetest.Read(t, diskimage.Source{Path: ext4}); err == nil ||
		!strings.Contains(err.Error(), "shut it down") {
		t.Errorf("got %v", err)
	}
}

func TestDiskImageIsKnownByItsBytes(t *testing.T) {
	raw := diskOf(t, "", map[int64]string{0: sourcetest.Ext4(t, sourcetest.TempDir(t))})
	image := diskimage.Source{Path: raw, CacheDir: sourcetest.TempDir(t)}
	first, err := image.Fingerprint(t.Context())
	sourcetest.Must(t, err)
	before := sourcetest.BytesRead(t)
	if again, err := image.Fingerprint(t.Context()); err != nil || again != first ||
		sourcetest.BytesRead(t)-before > diskMiB<<19 {
		t.Errorf("%s, %v after %s; %d bytes read", again, err, first, sourcetest.BytesRead(t)-before)
	}
	image.Partition = 1
	if other, err := image.Fingerprint(t.Context()); err != nil || other == first {
		t.Errorf("another partition: %s, %v", other, err)
	}
}

// A user who may not mount gets an error that says what to do.
func TestDiskImageNeedsRoot(t *testing.T) {
	raw := diskOf(t, "", map[int64]string{0: sourcetest.Ext4(t, sourcetest.TempDir(t))})
	sourcetest.Must(t, os.Chmod(raw, 0o644))
	for dir := filepath.Dir(raw); strings.Contains(dir, t.Name()); dir = filepath.Dir(dir) {
		sourcetest.Must(t, os.Chmod(dir, 0o755))
	}
	// Another process of this test, as the user nobody.
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run", "^TestDiskImageAsNobody$", "-test.v")
	cmd.Env = append(os.Environ(), "SHAREDOS_TEST_IMAGE="+raw)
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	cmd.Dir = "/"
	said, err := cmd.CombinedOutput()
	if err != nil || !bytes.Contains(said, []byte("a requirement is missing: only root may use loop devices")) {
		t.Errorf("%v\n%s", err, said)
	}
}

// It is the other process of TestDiskImageNeedsRoot, and reads an image only as that.
func TestDiskImageAsNobody(t *testing.T) {
	path := os.Getenv("SHAREDOS_TEST_IMAGE")
	if path == "" {
		return
	}
	_, _, err := sourcetest.Read(t, diskimage.Source{Path: path})
	if !errors.Is(err, source.ErrRequirement) {
		t.Errorf("got %v, want ErrRequirement", err)
	}
	t.Log(err)
}

func TestDiskImageIsDownloaded(t *testing.T) {
	dir, want := smallRoot(t)
	raw := diskOf(t, "", map[int64]string{0: sourcetest.Ext4(t, dir)})
	data, err := os.ReadFile(raw)
	sourcetest.Must(t, err)
	server := httptest.NewServer(http.FileServer(http.Dir(filepath.Dir(raw))))
	defer server.Close()
	download := &fetch.Download{URL: server.URL + "/" + filepath.Base(raw), Digest: tree.Sum(data)}
	requireEntries(t, diskimage.Source{Download: download, CacheDir: sourcetest.TempDir(t)}, want)
}
