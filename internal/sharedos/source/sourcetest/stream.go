package sourcetest

import (
	"archive/tar"
	"bytes"
	"context"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"

	"pgregory.net/rapid"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// T is what tests, fuzz targets and checks of package rapid have in common.
type T interface {
	Helper()
	Fatal(args ...any)
}

// Must ends a test on an error.
func Must(t T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// Item is one entry of a tar stream.
type Item struct {
	tar.Header
	Content string
}

// Dir returns a directory with mode 0755.
func Dir(name string) Item {
	return Item{Header: tar.Header{Name: name, Typeflag: tar.TypeDir, Mode: 0o755}}
}

// File returns a regular file with mode 0644.
func File(name, content string) Item {
	return Item{Header: tar.Header{Name: name, Typeflag: tar.TypeReg, Mode: 0o644}, Content: content}
}

// Program returns a regular file with mode 0755.
func Program(name, content string) Item {
	i := File(name, content)
	i.Mode = 0o755
	return i
}

// Link returns a symbolic link.
func Link(name, target string) Item {
	return Item{Header: tar.Header{Name: name, Typeflag: tar.TypeSymlink, Linkname: target, Mode: 0o777}}
}

// HardLink returns a hard link.
func HardLink(name, target string) Item {
	return Item{Header: tar.Header{Name: name, Typeflag: tar.TypeLink, Linkname: target, Mode: 0o644}}
}

// Tar returns a tar stream of items.
func Tar(t T, items ...Item) []byte {
	t.Helper()
	var b bytes.Buffer
	w := tar.NewWriter(&b)
	for _, i := range items {
		i.Size = int64(len(i.Content))
		Must(t, w.WriteHeader(&i.Header))
		_, err := io.WriteString(w, i.Content)
		Must(t, err)
	}
	Must(t, w.Close())
	return b.Bytes()
}

// elfHeader is the start of an amd64 program.
const elfHeader = "\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x03\x00\x3e\x00"

// Kernel returns a kernel built like Debian's cloud kernel: some modules built in, some compressed.
func Kernel(release string) []Item {
	dir := "usr/lib/modules/" + release + "/"
	modules := []string{
		"kernel/fs/overlayfs/overlay.ko.xz", "kernel/fs/erofs/erofs.ko.zst", "kernel/drivers/block/virtio_blk.ko",
		"kernel/drivers/net/virtio_net.ko.gz", "kernel/drivers/md/dm-mod.ko.xz", "kernel/drivers/md/dm-verity.ko.xz",
		"kernel/net/vmw_vsock/vmw_vsock_virtio_transport.ko.xz",
	}
	items := []Item{
		File("boot/vmlinuz-"+release, "kernel "+release),
		File(dir+"modules.builtin", "kernel/fs/ext4/ext4.ko\nkernel/drivers/virtio/virtio_pci.ko\n"),
		File(dir+"modules.dep", strings.Join(modules, ":\n")+": kernel/net/vmw_vsock/vsock.ko.xz\n"),
	}
	for _, m := range modules {
		items = append(items, File(dir+m, m))
	}
	return items
}

// DpkgStatus is a package database with four installed packages, one of them for another architecture.
const DpkgStatus = `Package: zlib1g
Status: install ok installed
Architecture: amd64
Version: 1:1.3
Description: x
 .
 Version: 9

Package: dpkg
Status: hold ok installed
Architecture: amd64
Version: 1.22

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1

Package: zlib1g
Status: install ok triggers-pending
Architecture: i386
Version: 1:1.3

Package: tzdata
Status: install ok installed
Architecture: all
Version: 2026a
`

// Bootable returns a minimal bootable system with a kernel of the given release.
func Bootable(kernel string) []Item {
	return append(Kernel(kernel),
		Link("bin", "usr/bin"), Link("sbin", "usr/sbin"), Link("lib", "usr/lib"), Dir("usr/bin"),
		Link("usr/sbin/init", "/lib/systemd/systemd"), Program("usr/lib/systemd/systemd", elfHeader),
		Program("usr/sbin/mke2fs", "mke2fs"), Link("usr/sbin/mkfs.ext4", "mke2fs"),
		File("etc/passwd", "root:x:0:0:root:/root:/bin/bash\nwww-data:x:33:33::/:/bin/false\n"),
		File("etc/group", "root:x:0:\nwww-data:x:33:www-data\n"),
		File("etc/os-release", "NAME=Debian\nPRETTY_NAME=\"Debian GNU/Linux 13 (trixie)\"\n"),
		File("var/lib/dpkg/status", DpkgStatus))
}

// DrawTree draws a small tree and its contents.
func DrawTree(t *rapid.T) (*tree.Tree, map[tree.Digest]string) {
	contents := map[tree.Digest]string{}
	number := rapid.Uint32Range(0, 1<<32-2)
	attributes := rapid.MapOfN(rapid.SampledFrom([]string{"user.a", "security.capability", "trusted.b",
		"system.posix_acl_access"}),
		rapid.StringN(1, 5, 20), 0, 3)
	entries := []tree.Entry{{Path: ".", Type: tree.Directory, Mode: 0o755, ModTime: time.Unix(1, 0)}}
	seen := map[string]bool{}
	for range rapid.IntRange(0, 20).Draw(t, "entries") {
		parents := slices.DeleteFunc(slices.Clone(entries), func(e tree.Entry) bool { return e.Type != tree.Directory })
		p := path.Join(rapid.SampledFrom(parents).Draw(t, "parent").Path,
			rapid.SampledFrom([]string{"a", "b", "a b", "\xff\n", "ä", "-", strings.Repeat("long", 30)}).Draw(t,
				"name"))
		if seen[p] {
			continue
		}
		seen[p] = true
		e := tree.Entry{
			Path: p, Type: tree.Type(rapid.IntRange(int(tree.Directory), int(tree.FIFO)).Draw(t, "type")),
			Mode: rapid.Uint32Range(0, 0o7777).Draw(t, "mode"), UID: number.Draw(t, "uid"), GID: number.Draw(t, "gid"),
			ModTime: time.Unix(rapid.Int64Range(0, 1<<40).Draw(t, "time"), 0), Xattrs: attributes.Draw(t, "xattrs"),
		}
		switch e.Type {
		case tree.Regular:
			content := rapid.StringN(0, 30, 100).Draw(t, "content")
			e.Size, e.Digest = int64(len(content)), tree.Sum([]byte(content))
			contents[e.Digest] = content
		case tree.Symlink:
			e.Mode, e.Link = 0o777, rapid.StringMatching(`[a-z/.]{1,150}`).Draw(t, "target")
		case tree.CharDevice, tree.BlockDevice:
			e.Major, e.Minor = rapid.Uint32Range(1, 4095).Draw(t, "major"),
				rapid.Uint32Range(0, 1<<20-1).Draw(t, "minor")
		}
		entries = append(entries, e)
	}
	tr, err := tree.New(entries, nil)
	Must(t, err)
	return tr, contents
}

// Paths returns the paths of a tree's entries.
func Paths(tr *tree.Tree) []string {
	var all []string
	for _, e := range tr.Entries {
		all = append(all, e.Path)
	}
	return all
}

// Describe lists a tree as "path content", "path/" or "path -> target".
func Describe(t T, tr *tree.Tree) []string {
	t.Helper()
	var all []string
	for _, e := range tr.Entries {
		switch e.Type {
		case tree.Directory:
			all = append(all, e.Path+"/")
		case tree.Symlink:
			all = append(all, e.Path+" -> "+e.Link)
		case tree.Regular:
			data, err := tr.ReadFile(e.Path, 1<<20)
			Must(t, err)
			all = append(all, fmt.Sprintf("%s %s", e.Path, data))
		default:
			all = append(all, e.Path+" "+e.Type.String())
		}
	}
	return all
}

// Bytes is a source that yields a tar stream.
type Bytes []byte

// Fingerprint implements source.Source.
func (b Bytes) Fingerprint(context.Context) (string, error) { return tree.Sum(b).String(), nil }

// Open implements source.Source.
func (b Bytes) Open(context.Context, source.Progress) (io.ReadCloser, error) {
	return io.NopCloser(bytes.NewReader(b)), nil
}
