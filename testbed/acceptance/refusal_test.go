package acceptance

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// mustRefuse fails unless an apply fails with an error that contains each of the words.
func (w *world) mustRefuse(t *testing.T, words ...string) {
	t.Helper()
	plan, err := w.work.Plan(t.Context())
	if err == nil {
		err = w.work.Apply(t.Context(), plan)
	}
	if err == nil {
		t.Fatal("it was taken")
	}
	// Terraform wraps messages at any space.
	said := strings.Join(strings.Fields(err.Error()), " ")
	for _, word := range words {
		if !strings.Contains(said, word) {
			t.Errorf("the error does not say %q:\n%v", word, err)
		}
	}
}

func writeTar(t *testing.T, headers ...tar.Header) []byte {
	t.Helper()
	var archive bytes.Buffer
	writer := tar.NewWriter(&archive)
	for _, header := range headers {
		if err := writer.WriteHeader(&header); err != nil {
			t.Fatal(err)
		}
	}
	if err := writer.Close(); err != nil {
		t.Fatal(err)
	}
	return archive.Bytes()
}

func gzipped(t *testing.T, data []byte) []byte {
	t.Helper()
	var out bytes.Buffer
	writer := gzip.NewWriter(&out)
	_, err := writer.Write(data)
	if err := errors.Join(err, writer.Close()); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func TestBadArchivesAreRefusedAndNothingIsStored(t *testing.T) {
	w := newWorld(t)
	dir := t.TempDir()
	hollow := writeTar(t,
		tar.Header{Name: "bin/", Typeflag: tar.TypeDir, Mode: 0o755},
		tar.Header{Name: "usr/", Typeflag: tar.TypeDir, Mode: 0o755},
	)
	whole := gzipped(t, writeTar(t, tar.Header{Name: "usr/", Typeflag: tar.TypeDir, Mode: 0o755}))
	for name, c := range map[string]struct {
		data  []byte
		words []string
	}{
		// One error names everything that is missing.
		"hollow.tar": {hollow, []string{"merged /usr", "systemd", "kernel", "mkfs.ext4"}},
		"cut.tar.gz": {whole[:len(whole)/2], []string{"cut.tar.gz"}},
		"escape.tar": {writeTar(t, tar.Header{Name: "../etc/passwd", Typeflag: tar.TypeReg}),
			[]string{"../etc/passwd"}},
		"no-archive.txt": {[]byte(strings.Repeat("hello ", 200)), []string{"no-archive.txt"}},
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(dir, name)
			if err := os.WriteFile(path, c.data, 0o644); err != nil {
				t.Fatal(err)
			}
			w.work.Variables = map[string]any{"base": "bad", "archive": path}
			w.mustRefuse(t, c.words...)
		})
	}
	w.work.Variables = map[string]any{"base": "bad", "archive": filepath.Join(dir, "missing.tar")}
	w.mustRefuse(t, "missing.tar")
	w.mustBeEmpty(t)
}

func TestAnotherOnesVMIsLeftAlone(t *testing.T) {
	w := newWorld(t)
	name := w.bed.Name("web")
	definition := filepath.Join(t.TempDir(), "foreign.xml")
	xml := "<domain type='qemu'><name>" + name + "</name><memory unit='MiB'>64</memory>" +
		"<os><type arch='x86_64' machine='q35'>hvm</type></os></domain>"
	if err := os.WriteFile(definition, []byte(xml), 0o644); err != nil {
		t.Fatal(err)
	}
	virsh := func(arguments ...string) string {
		out, err := exec.CommandContext(t.Context(), "virsh",
			append([]string{"-c", w.bed.URI()}, arguments...)...).CombinedOutput()
		if err != nil {
			t.Fatalf("virsh %v: %v: %s", arguments, err, out)
		}
		return string(out)
	}
	virsh("define", definition)
	before := virsh("dumpxml", name)
	w.work.Variables = map[string]any{
		"base": "debian-13", "archive": debianTar(t, []string{}),
		"vms": map[string]any{name: map[string]any{"http": 1}},
	}
	w.mustRefuse(t, name, "exists")
	if after := virsh("dumpxml", name); after != before {
		t.Errorf("the domain was changed:\n%s", after)
	}
	if err := w.work.Destroy(t.Context()); err != nil {
		t.Fatal(err)
	}
	if after := virsh("dumpxml", name); after != before {
		t.Errorf("destroy changed the domain:\n%s", after)
	}
}

func TestAnUnreachableLibvirtIsNamed(t *testing.T) {
	socket := filepath.Join(t.TempDir(), "no-such-socket")
	w := newWorld(t, "SHAREDOS_URI=qemu:///system?socket="+socket)
	w.work.Variables = map[string]any{"base": "debian-13", "archive": debianTar(t, []string{})}
	w.mustRefuse(t, socket, "libvirt")
}

func TestAPoolDirectoryThatCannotBeMadeIsNamed(t *testing.T) {
	// The file system is read-only, since root may write anywhere else.
	sealed := t.TempDir()
	if err := unix.Mount("tmpfs", sealed, "tmpfs", unix.MS_RDONLY, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(sealed, 0); err != nil {
			t.Error(err)
		}
	})
	path := filepath.Join(sealed, "pool")
	w := newWorld(t, "SHAREDOS_POOL_PATH="+path, "SHAREDOS_POOL=sealed")
	w.work.Variables = map[string]any{"base": "debian-13", "archive": debianTar(t, []string{})}
	w.mustRefuse(t, "sealed", path)
}
