package archive_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/archive"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/rootfs"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/sourcetest"
)

// packers pack a stream in each form that an archive can have.
var packers = map[string]func(io.Writer) (io.WriteCloser, error){
	"tar":     func(w io.Writer) (io.WriteCloser, error) { return plain{w}, nil },
	"tar.gz":  func(w io.Writer) (io.WriteCloser, error) { return gzip.NewWriter(w), nil },
	"tar.zst": func(w io.Writer) (io.WriteCloser, error) { return zstd.NewWriter(w) },
	"tar.xz":  func(w io.Writer) (io.WriteCloser, error) { return xz.NewWriter(w) },
	"tar.bz2": func(w io.Writer) (io.WriteCloser,
		error) {
		return &tool{exec.Command("bzip2"), w, bytes.Buffer{}}, nil
	},
}

type plain struct{ io.Writer }

func (plain) Close() error { return nil }

// tool packs with a program, once all is written.
type tool struct {
	*exec.Cmd
	to io.Writer
	bytes.Buffer
}

func (p *tool) Close() error {
	p.Stdin, p.Stdout = &p.Buffer, p.to
	return p.Run()
}

func pack(t *testing.T, form string, data []byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := packers[form](&b)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(data); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return b.Bytes()
}

func TestReadTreeOfEveryFormOfArchive(t *testing.T) {
	stream := sourcetest.Tar(t, sourcetest.Bootable("6.1")...)
	for form := range packers {
		t.Run(form, func(t *testing.T) {
			// The name says nothing of the form.
			path := filepath.Join(t.TempDir(), "rootfs")
			data := pack(t, form, stream)
			sourcetest.WriteOld(t, path, data)
			var done, total int64
			r, err := sourcetest.ReadSystem(t, archive.Source{Path: path},
				func(_ string, d, n int64) { done, total = d, n })
			if err != nil {
				t.Fatal(err)
			}
			if done != int64(len(data)) || total != done {
				t.Errorf("progress ends at %d of %d, want %d", done, total, len(data))
			}
			if r.Architecture != "amd64" || r.OS != "Debian GNU/Linux 13 (trixie)" || r.Kernel.Release != "6.1" ||
				len(r.Packages) != 4 || r.Users["www-data"] != 33 || r.Groups["root"] != 0 {
				t.Errorf("%+v", r)
			}
			if _, ok := r.Tree.Lookup(r.Kernel.ImagePath); ok {
				t.Error("the kernel image is in the normalised tree")
			}
			image, err := r.OpenKernel()
			if err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(image); err != nil || string(got) != "kernel 6.1" {
				t.Errorf("kernel image %q, %v", got, err)
			}
			if err := image.Close(); err != nil {
				t.Error(err)
			}
			module, err := r.Open(r.Kernel.ModulesDir + "/kernel/fs/erofs/erofs.ko.zst")
			if err != nil {
				t.Fatal(err)
			}
			if err := module.Close(); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestArchiveMayBeginWithAnExtendedHeader(t *testing.T) {
	first := sourcetest.File("a", "1")
	first.PAXRecords = map[string]string{"SCHILY.xattr.user.a": "x"}
	path := filepath.Join(t.TempDir(), "rootfs")
	sourcetest.WriteOld(t, path, sourcetest.Tar(t, first))
	tr, done, err := sourcetest.Read(t, archive.Source{Path: path})
	sourcetest.Must(t, err)
	if e, ok := tr.Lookup("a"); !ok || e.Xattrs["user.a"] != "x" {
		t.Errorf("%+v", e)
	}
	sourcetest.Must(t, done())
}

func TestArchiveThatIsCutOffOrDamagedIsNamed(t *testing.T) {
	stream := sourcetest.Tar(t,
		append(sourcetest.Bootable("6.1"), sourcetest.File("big", strings.Repeat("0123456789abcdef", 40_000)))...)
	for form := range packers {
		path := filepath.Join(t.TempDir(), "rootfs."+form)
		whole := pack(t, form, stream)
		damage := map[string][]byte{
			"half":        whole[:len(whole)/2],
			"two thirds":  whole[:len(whole)*2/3],
			"twenty":      whole[:20],
			"stray bytes": append(bytes.Clone(whole), "stray"...),
		}
		if form != "tar" {
			// A flipped bit in the middle; a plain tar has no checksum of its contents.
			flipped := bytes.Clone(whole)
			flipped[len(flipped)/2] ^= 0x10
			damage["flipped bit"] = flipped
		}
		for name, data := range damage {
			sourcetest.WriteOld(t, path, data)
			_, err := sourcetest.ReadSystem(t, archive.Source{Path: path}, nil)
			if !errors.Is(err, source.ErrCorrupt) || strings.Count(err.Error(), path) != 1 {
				t.Errorf("%s, %s: error %v, want ErrCorrupt that names %s once", form, name, err, path)
			}
		}
	}
}

func TestArchiveThatIsNoneIsNamed(t *testing.T) {
	dir := t.TempDir()
	text := filepath.Join(dir, "text")
	sourcetest.WriteOld(t, text, []byte(strings.Repeat("this is no archive\n", 100)))
	empty := filepath.Join(dir, "empty")
	sourcetest.WriteOld(t, empty, nil)
	pipe := filepath.Join(dir, "pipe")
	if err := syscall.Mkfifo(pipe, 0o600); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{
		text: "no tar file", empty: "no tar file", dir: "not a regular file", pipe: "not a regular file",
		filepath.Join(dir, "none"): "no such file",
	} {
		_, err := sourcetest.ReadSystem(t, archive.Source{Path: path}, nil)
		if err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: error %v, want one that says %q", path, err, want)
		}
	}
}

func TestReadTreeOfATreeThatCannotBootNamesTheArchive(t *testing.T) {
	path := filepath.Join(t.TempDir(), "rootfs.tar")
	sourcetest.WriteOld(t, path, sourcetest.Tar(t, sourcetest.File("a", "")))
	_, err := sourcetest.ReadSystem(t, archive.Source{Path: path}, nil)
	if !errors.Is(err, rootfs.ErrNotBootable) || !strings.Contains(err.Error(), path) {
		t.Errorf("error %v, want ErrNotBootable with the path", err)
	}
}

func TestArchiveHoldsItsOwnLimits(t *testing.T) {
	path := filepath.Join(t.TempDir(), "rootfs.tar")
	sourcetest.WriteOld(t, path, sourcetest.Tar(t, sourcetest.Bootable("6.1")...))
	_, err := sourcetest.ReadSystem(t, archive.Source{Path: path, Limits: source.Limits{Entries: 3}}, nil)
	if !errors.Is(err, source.ErrLimit) || !strings.Contains(err.Error(), "more than 3 entries") {
		t.Errorf("error %v, want ErrLimit", err)
	}
}

func TestReadTreeEndsWithItsContext(t *testing.T) {
	path := filepath.Join(t.TempDir(), "rootfs.tar")
	sourcetest.WriteOld(t, path, sourcetest.Tar(t, sourcetest.Bootable("6.1")...))
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	_, err := rootfs.Read(ctx, archive.Source{Path: path}, t.TempDir(), nil)
	if !errors.Is(err, context.Canceled) || errors.Is(err, source.ErrCorrupt) {
		t.Errorf("error %v, want context.Canceled", err)
	}
}

func TestArchiveThatChangesWhileReadIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "rootfs.tar")
	data := sourcetest.Tar(t, sourcetest.Bootable("6.1")...)
	sourcetest.WriteOld(t, path, data)
	stream, err := archive.Source{Path: path}.Open(t.Context(), nil)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, append(data, make([]byte, 512)...), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := stream.Close(); err == nil || !strings.Contains(err.Error(), "changed") {
		t.Errorf("Close: %v, want an error about the change", err)
	}
}

func TestArchiveFingerprintIsOfTheBytes(t *testing.T) {
	dir, cache := t.TempDir(), t.TempDir()
	path := filepath.Join(dir, "rootfs.tar")
	fingerprint := func(a archive.Source) string {
		t.Helper()
		f, err := a.Fingerprint(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	sourcetest.WriteOld(t, path, []byte("one"))
	a := archive.Source{Path: path, CacheDir: cache}
	first := fingerprint(a)
	if !strings.HasPrefix(first, "archive:sha256:") || fingerprint(a) != first {
		t.Errorf("%q, then %q", first, fingerprint(a))
	}
	other := filepath.Join(dir, "copy.tar")
	sourcetest.WriteOld(t, other, []byte("one"))
	if got := fingerprint(archive.Source{Path: other, CacheDir: cache}); got != first {
		t.Errorf("a copy elsewhere has %q, want %q", got, first)
	}
	if err := os.Rename(other, path); err != nil {
		t.Fatal(err)
	}
	if got := fingerprint(a); got != first {
		t.Errorf("the same bytes in another inode have %q, want %q", got, first)
	}
	sourcetest.WriteOld(t, path, []byte("two"))
	second := fingerprint(a)
	if second == first {
		t.Error("other bytes have the same fingerprint")
	}
	// Damaged digests in the cache are as good as none.
	for _, broken := range []string{"", "{", "sharedos digests 1\n", "sharedos digests 1\nmore than a checksum"} {
		files, err := filepath.Glob(filepath.Join(cache, "digests", "*"))
		if err != nil || len(files) != 2 {
			t.Fatalf("%q, %v, want one file of digests for each path", files, err)
		}
		for _, file := range files {
			sourcetest.WriteOld(t, file, []byte(broken))
		}
		if got := fingerprint(a); got != second {
			t.Errorf("with %q stored: %q, want %q", broken, got, second)
		}
	}
}

// A file is read again only when its size, time or inode say that it may be another.
func TestArchiveFingerprintIsRemembered(t *testing.T) {
	path, cache := filepath.Join(t.TempDir(), "rootfs.tar"), t.TempDir()
	sourcetest.WriteOld(t, path, []byte("one"))
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	a := archive.Source{Path: path, CacheDir: cache}
	first, err := a.Fingerprint(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	// Bytes that change behind the back of size, time and inode are not seen: so the file was not read.
	if err := os.WriteFile(path, []byte("two"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chtimes(path, info.ModTime(), info.ModTime()); err != nil {
		t.Fatal(err)
	}
	if again, err := a.Fingerprint(t.Context()); err != nil || again != first {
		t.Errorf("%q, %v, want %q as remembered", again, err, first)
	}
	if fresh, err := (archive.Source{Path: path}).Fingerprint(t.Context()); err != nil || fresh == first {
		t.Errorf("%q, %v, without a cache", fresh, err)
	}
	if left, err := os.ReadDir(cache); err != nil || len(left) != 1 {
		t.Errorf("the cache holds %v, %v, want one directory", left, err)
	}
}
