package source_test

import (
	"archive/tar"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/directory"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/diskimage"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/oci"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/sourcetest"
)

// readLarge, in the environment of a process of this test, is the source that it is to read: its kind and its path.
const readLarge = "SHAREDOS_TEST_READ_LARGE"

// manyFiles is a layer of so many files.
func manyFiles(number int) tarball.Opener {
	return func() (io.ReadCloser, error) {
		r, w := io.Pipe()
		go func() {
			out := tar.NewWriter(w)
			var err error
			for i := 0; i < number && err == nil; i++ {
				content := fmt.Sprintf("%d", i)
				if err = out.WriteHeader(&tar.Header{Name: fmt.Sprintf("usr/share/d%d/a-file-of-a-package-%d", i/500,
					i), Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(content))}); err == nil {
					_, err = io.WriteString(out, content)
				}
			}
			if err == nil {
				err = out.Close()
			}
			_ = w.CloseWithError(err) // it returns nil always
		}()
		return r, nil
	}
}

// peakMemory is the most that this process has had in memory, in KiB. The value that wait4 reports
// of a child includes what its parent had.
func peakMemory(t *testing.T) (kib int) {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	sourcetest.Must(t, err)
	_, peak, found := strings.Cut(string(status), "VmHWM:")
	if _, err := fmt.Sscanf(peak, "%d kB", &kib); !found || err != nil {
		t.Fatalf("the kernel tells no peak: %v", err)
	}
	return kib
}

// kinds of sources, by name; that of a tar stream is tested by itself.
var kinds = map[string]func(t *testing.T, path string) source.Source{
	"OCI image": func(_ *testing.T, path string) source.Source { return &oci.Source{Layout: path} },
	"disk image": func(t *testing.T, path string) source.Source {
		return diskimage.Source{Path: path, CacheDir: sourcetest.TempDir(t)}
	},
	"directory": func(_ *testing.T, path string) source.Source { return directory.Source{Path: path} },
}

// A source of many files is read by a process of its own, whose memory can be measured.
func TestASourceOfManyEntriesIsReadInLittleMemory(t *testing.T) {
	if kind, path, reads := strings.Cut(os.Getenv(readLarge), ":"); reads {
		tr, done, err := sourcetest.Read(t, kinds[kind](t, path))
		sourcetest.Must(t, err)
		if took := peakMemory(t); len(tr.Entries) < many || took > 200<<10 {
			t.Errorf("%s: %d entries took %d MiB, more than %d", kind, len(tr.Entries), took>>10, 200)
		} else {
			t.Logf("%s: %d entries took %d MiB", kind, len(tr.Entries), took>>10)
		}
		sourcetest.Must(t, done())
		return
	}
	directory := manyOnDisk(t)
	for kind, path := range map[string]string{"OCI image": manyInLayout(t), "directory": directory,
		"disk image": manyInExt4(t, directory)} {
		cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.v", "-test.run=^"+t.Name()+"$")
		// GOGC is as the provider has it. A collection stops the program: otherwise, what is
		// allocated during it would depend on how many processors are free.
		cmd.Env = append(os.Environ(), readLarge+"="+kind+":"+path, "GOGC=50", "GODEBUG=gcstoptheworld=2")
		said, err := cmd.CombinedOutput()
		if err != nil {
			t.Errorf("%v: %s", err, said)
		}
		t.Logf("%s", said)
	}
}

// manyInLayout is an OCI layout with an image of many files.
func manyInLayout(t *testing.T) string {
	t.Helper()
	layer, err := tarball.LayerFromOpener(manyFiles(many), tarball.WithCompressionLevel(1))
	sourcetest.Must(t, err)
	return layoutOf(t, layer)
}

// layoutOf is the directory of an OCI layout with an image of one layer.
func layoutOf(t *testing.T, layer v1.Layer) string {
	t.Helper()
	image, err := mutate.AppendLayers(empty.Image, layer)
	sourcetest.Must(t, err)
	config, err := image.ConfigFile()
	sourcetest.Must(t, err)
	config.OS, config.Architecture = "linux", runtime.GOARCH
	image, err = mutate.ConfigFile(image, config)
	sourcetest.Must(t, err)
	dir := sourcetest.TempDir(t)
	at, err := layout.Write(dir, empty.Index)
	sourcetest.Must(t, err)
	sourcetest.Must(t, at.AppendImage(image))
	return dir
}

// manyOnDisk is a directory of many files, which are empty: so they take no more than their inodes.
func manyOnDisk(t *testing.T) string {
	t.Helper()
	dir := sourcetest.TempDir(t)
	for i := range many {
		at := fmt.Sprintf("%s/d%d", dir, i/500)
		if i%500 == 0 {
			sourcetest.Must(t, os.Mkdir(at, 0o755))
		}
		sourcetest.Must(t, os.WriteFile(fmt.Sprintf("%s/a-file-of-a-package-%d", at, i), nil, 0o644))
	}
	return dir
}

// manyInExt4 is a file system of what is in a directory of many files.
func manyInExt4(t *testing.T, dir string) string {
	t.Helper()
	path := filepath.Join(sourcetest.TempDir(t), "ext4")
	sourcetest.Must(t, os.WriteFile(path, nil, 0o600))
	sourcetest.Must(t, os.Truncate(path, 1<<30))
	sourcetest.Run(t, "", "mkfs.ext4", "-q", "-N", fmt.Sprint(many+many/100), "-d", dir, path)
	return path
}
