package bootimage

import (
	"bytes"
	"errors"
	"io"
	"io/fs"
	"path"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/klauspost/compress/zstd"
	"github.com/u-root/u-root/pkg/cpio"
	"github.com/ulikunitz/xz"
	"pgregory.net/rapid"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

const kernel = "6.12.1-test"

type content map[tree.Digest][]byte

func (c content) Open(digest tree.Digest) (io.ReadCloser, error) {
	data, ok := c[digest]
	if !ok {
		return nil, fs.ErrNotExist
	}
	return io.NopCloser(bytes.NewReader(data)), nil
}

// treeOf returns a tree of files with their parent directories.
func treeOf(t *testing.T, files map[string]string) *tree.Tree {
	t.Helper()
	contents := content{}
	entries := []tree.Entry{{Path: ".", Type: tree.Directory, Mode: 0o755}}
	made := map[string]bool{".": true}
	for name, text := range files {
		for parent := path.Dir(name); !made[parent]; parent = path.Dir(parent) {
			made[parent] = true
			entries = append(entries, tree.Entry{Path: parent, Type: tree.Directory, Mode: 0o755})
		}
		digest := tree.Sum([]byte(text))
		contents[digest] = []byte(text)
		entries = append(entries,
			tree.Entry{Path: name, Type: tree.Regular, Mode: 0o644, Size: int64(len(text)), Digest: digest})
	}
	made2, err := tree.New(entries, contents)
	if err != nil {
		t.Fatal(err)
	}
	return made2
}

func xzOf(t *testing.T, text string) string {
	t.Helper()
	var packed bytes.Buffer
	w, err := xz.NewWriter(&packed)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := io.WriteString(w, text); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return packed.String()
}

func zstdOf(t *testing.T, text string) string {
	t.Helper()
	encoder, err := zstd.NewWriter(nil)
	if err != nil {
		t.Fatal(err)
	}
	return string(encoder.EncodeAll([]byte(text), nil))
}

// kernelTree returns the files of a tree with all required modules: some uncompressed, some compressed, two built in.
func kernelTree(t *testing.T) map[string]string {
	t.Helper()
	directory := "usr/lib/modules/" + kernel + "/"
	return map[string]string{
		"boot/config-" + kernel: "# configuration\nCONFIG_RD_ZSTD=y\nCONFIG_DEVTMPFS=y\n",
		directory + "modules.dep": strings.Join([]string{
			"kernel/virtio_blk.ko:",
			"kernel/dm-mod.ko.xz:",
			"kernel/dm-bufio.ko.xz:",
			"kernel/dm-verity.ko.xz: kernel/dm-bufio.ko.xz kernel/dm-mod.ko.xz",
			"kernel/erofs.ko.zst: kernel/crc.ko",
			"kernel/crc.ko:",
			"kernel/overlay.ko:",
			"kernel/virtio_net.ko: kernel/net_failover.ko kernel/failover.ko",
			"kernel/net_failover.ko: kernel/failover.ko",
			"kernel/failover.ko:",
			"kernel/vmw_vsock_virtio_transport.ko: kernel/vsock_common.ko kernel/vsock.ko",
			"kernel/vsock_common.ko: kernel/vsock.ko",
			"kernel/vsock.ko:",
			"kernel/unused.ko:",
		}, "\n") + "\n",
		directory + "modules.builtin":                      "kernel/fs/ext4/ext4.ko\nkernel/drivers/virtio/virtio_pci.ko\n",
		directory + "kernel/virtio_blk.ko":                 "virtio_blk",
		directory + "kernel/dm-mod.ko.xz":                  xzOf(t, "dm-mod"),
		directory + "kernel/dm-bufio.ko.xz":                xzOf(t, "dm-bufio"),
		directory + "kernel/dm-verity.ko.xz":               xzOf(t, "dm-verity"),
		directory + "kernel/erofs.ko.zst":                  zstdOf(t, "erofs"),
		directory + "kernel/crc.ko":                        "crc",
		directory + "kernel/overlay.ko":                    "overlay",
		directory + "kernel/virtio_net.ko":                 "virtio_net",
		directory + "kernel/net_failover.ko":               "net_failover",
		directory + "kernel/failover.ko":                   "failover",
		directory + "kernel/vmw_vsock_virtio_transport.ko": "transport",
		directory + "kernel/vsock_common.ko":               "common",
		directory + "kernel/vsock.ko":                      "vsock",
		directory + "kernel/unused.ko":                     "unused",
	}
}

// unpack returns the records of an archive as texts by their names.
func unpack(t *testing.T, archive []byte) map[string]string {
	t.Helper()
	files := map[string]string{}
	for reader := cpio.Newc.Reader(bytes.NewReader(archive)); ; {
		record, err := reader.ReadRecord()
		if errors.Is(err, io.EOF) {
			return files
		}
		if err != nil {
			t.Fatal(err)
		}
		data, err := io.ReadAll(io.NewSectionReader(record, 0, int64(record.FileSize)))
		if err != nil {
			t.Fatal(err)
		}
		if record.Mode&cpio.S_IFMT == cpio.S_IFREG {
			files[record.Name] = string(data)
		} else {
			files[record.Name] = ""
		}
	}
}

func TestModulesAreDecompressedInLoadOrder(t *testing.T) {
	archive, err := Modules(treeOf(t, kernelTree(t)), kernel)
	if err != nil {
		t.Fatal(err)
	}
	want := map[string]string{
		"modules": "", "modules/virtio_blk.ko": "virtio_blk",
		"modules/dm_mod.ko": "dm-mod", "modules/dm_bufio.ko": "dm-bufio", "modules/dm_verity.ko": "dm-verity",
		"modules/crc.ko": "crc", "modules/erofs.ko": "erofs", "modules/overlay.ko": "overlay",
		"modules/vsock.ko": "vsock", "modules/vsock_common.ko": "common",
		"modules/vmw_vsock_virtio_transport.ko": "transport",
		"modules/failover.ko":                   "failover", "modules/net_failover.ko": "net_failover",
		"modules/virtio_net.ko": "virtio_net",
		"modules/load-order": strings.Join([]string{
			"virtio_blk.ko", "dm_mod.ko", "dm_bufio.ko", "dm_verity.ko", "crc.ko", "erofs.ko", "overlay.ko",
			"vsock.ko", "vsock_common.ko", "vmw_vsock_virtio_transport.ko",
			"failover.ko device", "net_failover.ko device", "virtio_net.ko device",
		}, "\n") + "\n",
	}
	if diff := cmp.Diff(want, unpack(t, archive)); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

func TestEverythingThatIsMissingIsNamedAtOnce(t *testing.T) {
	files := kernelTree(t)
	directory := "usr/lib/modules/" + kernel + "/"
	files["boot/config-"+kernel] = "\nCONFIG_RD_GZIP=y\nCONFIG_DEVTMPFS=y\n"
	files[directory+"modules.builtin"] = ""
	files[directory+"modules.dep"] = "kernel/overlay.ko:\n"
	_, err := Modules(treeOf(t, files), kernel)
	if !errors.Is(err, ErrKernel) {
		t.Fatalf("got %v, want ErrKernel", err)
	}
	for _, name := range []string{"virtio_pci", "virtio_blk", "dm_mod", "dm_verity", "erofs", "ext4",
		"vmw_vsock_virtio_transport", "virtio_net", "CONFIG_RD_ZSTD=y"} {
		if !strings.Contains(err.Error(), name) {
			t.Errorf("%v does not name %s", err, name)
		}
	}
	for _, name := range []string{"overlay", "virtio_pmem", "sha256", "DEVTMPFS"} {
		if strings.Contains(err.Error(), name) {
			t.Errorf("%v names %s, which is there or not needed", err, name)
		}
	}
}

func TestModulesOfATreeThatIsNotWhole(t *testing.T) {
	directory := "usr/lib/modules/" + kernel + "/"
	for name, test := range map[string]struct {
		change func(map[string]string)
		reason string
	}{
		"no modules.dep":  {func(f map[string]string) { delete(f, directory+"modules.dep") }, "modules.dep"},
		"no module file":  {func(f map[string]string) { delete(f, directory+"kernel/overlay.ko") }, "overlay.ko"},
		"a broken module": {func(f map[string]string) { f[directory+"kernel/dm-mod.ko.xz"] = "not xz" }, "dm-mod.ko.xz"},
		"a broken index":  {func(f map[string]string) { f[directory+"modules.dep"] = "no colon\n" }, "no colon"},
	} {
		t.Run(name, func(t *testing.T) {
			files := kernelTree(t)
			test.change(files)
			if _, err := Modules(treeOf(t, files), kernel); err == nil || !strings.Contains(err.Error(), test.reason) {
				t.Errorf("got %v, want an error about %q", err, test.reason)
			}
		})
	}
}

func TestClosureLoadsEachModuleOnceAfterItsDependencies(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		// Module i may depend on modules below i. modules.dep lists indirect dependencies, too, the deepest last.
		count := rapid.IntRange(1, 12).Draw(t, "modules")
		index := moduleIndex{paths: map[string]string{}, dependencies: map[string][]string{},
			builtin: map[string]bool{}}
		file := func(i int) string { return "kernel/m" + string(rune('a'+i)) + ".ko" }
		reached := make([][]bool, count)
		var modules []wantedModule
		for i := range count {
			reached[i] = make([]bool, count)
			for j := i - 1; j >= 0; j-- {
				if rapid.Bool().Draw(t, "depends") {
					reached[i][j] = true
					for k, deeper := range reached[j] {
						reached[i][k] = reached[i][k] || deeper
					}
				}
			}
			for j := i - 1; j >= 0; j-- {
				if reached[i][j] {
					index.dependencies[file(i)] = append(index.dependencies[file(i)], file(j))
				}
			}
			index.paths[moduleName(file(i))] = file(i)
			if rapid.Bool().Draw(t, "wanted") {
				use := rapid.SampledFrom([]Use{Boot, Optional, Device}).Draw(t, "use")
				modules = append(modules, wantedModule{name: moduleName(file(i)), use: use})
			}
		}
		loads, missing := index.closure(modules)
		if len(missing) != 0 {
			t.Fatalf("missing %v", missing)
		}
		loaded := map[string]Use{}
		for _, load := range loads {
			for _, dependency := range index.dependencies[load.path] {
				if _, before := loaded[dependency]; !before {
					t.Fatalf("%s is loaded before %s, which it needs", load.path, dependency)
				}
			}
			if _, twice := loaded[load.path]; twice {
				t.Fatalf("%s is loaded twice", load.path)
			}
			loaded[load.path] = load.use
		}
		for _, module := range modules {
			needed := append([]string{index.paths[module.name]}, index.dependencies[index.paths[module.name]]...)
			for _, path := range needed {
				use, ok := loaded[path]
				if !ok {
					t.Fatalf("%s is not loaded", path)
				}
				if binds[use] < binds[module.use] {
					t.Fatalf("%s is loaded as %q, but %s is %q", path, use, module.name, module.use)
				}
			}
		}
	})
}

func TestArchivesAreEqualForEqualInput(t *testing.T) {
	var modules, initramfs [2][]byte
	for i := range modules {
		var err error
		if modules[i], err = Modules(treeOf(t, kernelTree(t)), kernel); err != nil {
			t.Fatal(err)
		}
		if initramfs[i], err = Initramfs(bytes.Repeat([]byte("agent "), 200_000), modules[i]); err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(modules[0], modules[1]) {
		t.Error("the modules archives differ")
	}
	if !bytes.Equal(initramfs[0], initramfs[1]) {
		t.Error("the initramfses differ")
	}
}

func TestInitramfsHoldsAgentAndModules(t *testing.T) {
	modules, err := Modules(treeOf(t, kernelTree(t)), kernel)
	if err != nil {
		t.Fatal(err)
	}
	packed, err := Initramfs([]byte("the agent"), modules)
	if err != nil {
		t.Fatal(err)
	}
	decoder, err := zstd.NewReader(nil)
	if err != nil {
		t.Fatal(err)
	}
	defer decoder.Close()
	archive, err := decoder.DecodeAll(packed, nil)
	if err != nil {
		t.Fatal(err)
	}
	got := unpack(t, archive)
	want := unpack(t, modules)
	want["init"] = "the agent"
	for _, name := range []string{"dev", "dev/console", "proc", "sys", "run"} {
		want[name] = ""
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

func TestInitramfsRefusesWhatIsNotAModulesArchive(t *testing.T) {
	archiveOf := func(records ...cpio.Record) []byte {
		var archive bytes.Buffer
		if err := writeArchive(&archive, records); err != nil {
			t.Fatal(err)
		}
		return archive.Bytes()
	}
	for name, modules := range map[string][]byte{
		"empty":      nil,
		"no records": archiveOf(),
		"not an archive": []byte(
			"garbage that is longer than one header of a cpio archive, which has one hundred and ten bytes, so that it is read"),
		"another init":           archiveOf(file("init", []byte("x"), 0o755)),
		"a path that leads out":  archiveOf(file("modules/../init", []byte("x"), 0o755)),
		"a link among modules":   archiveOf(directory("modules", 0o755), cpio.Symlink("modules/a.ko", "/init")),
		"a directory in modules": archiveOf(directory("modules/deeper", 0o755)),
		"cut short":              archiveOf(file("modules/a.ko", bytes.Repeat([]byte("x"), 1000), 0o644))[:600],
	} {
		t.Run(name, func(t *testing.T) {
			if _, err := Initramfs([]byte("agent"), modules); err == nil {
				t.Error("it was accepted")
			}
		})
	}
}

func TestInitramfsNeedsAnAgent(t *testing.T) {
	if _, err := Initramfs(nil, nil); !errors.Is(err, ErrNoAgent) {
		t.Errorf("got %v, want ErrNoAgent", err)
	}
}
