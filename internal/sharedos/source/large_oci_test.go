package source_test

import (
	"archive/tar"
	"fmt"
	"io"
	"os"
	"os/exec"
	"runtime"
	"strings"
	"testing"

	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/mutate"
	"github.com/google/go-containerregistry/pkg/v1/tarball"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
)

// readImage, in the environment of a process of this test, is the image that it is to read.
const readImage = "SHAREDOS_TEST_READ_IMAGE"

// manyFiles is a layer of so many files.
func manyFiles(number int) tarball.Opener {
	return func() (io.ReadCloser, error) {
		r, w := io.Pipe()
		go func() {
			out := tar.NewWriter(w)
			var err error
			for i := 0; i < number && err == nil; i++ {
				content := fmt.Sprintf("%d", i)
				if err = out.WriteHeader(&tar.Header{Name: fmt.Sprintf("usr/share/d%d/a-file-of-a-package-%d", i/500, i), Typeflag: tar.TypeReg, Mode: 0o644, Size: int64(len(content))}); err == nil {
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

// peakMemory is the most that this process has had in memory, in KiB. What wait4 tells of a child counts what its parent had.
func peakMemory(t *testing.T) (kib int) {
	t.Helper()
	status, err := os.ReadFile("/proc/self/status")
	must(t, err)
	_, peak, found := strings.Cut(string(status), "VmHWM:")
	if _, err := fmt.Sscanf(peak, "%d kB", &kib); !found || err != nil {
		t.Fatalf("the kernel tells no peak: %v", err)
	}
	return kib
}

// An image of many files is read by a process of its own, whose memory can be told.
func TestAnImageOfManyEntriesIsReadInLittleMemory(t *testing.T) {
	if dir := os.Getenv(readImage); dir != "" {
		tr, done, err := readSource(t, &source.OCI{Layout: dir})
		must(t, err)
		if took := peakMemory(t); len(tr.Entries) < many || took > raceFactor*200<<10 {
			t.Errorf("%d entries took %d MiB, more than %d", len(tr.Entries), took>>10, raceFactor*200)
		} else {
			t.Logf("%d entries took %d MiB", len(tr.Entries), took>>10)
		}
		must(t, done())
		return
	}
	layer, err := tarball.LayerFromOpener(manyFiles(many), tarball.WithCompressionLevel(1))
	must(t, err)
	image, err := mutate.AppendLayers(empty.Image, layer)
	must(t, err)
	config, err := image.ConfigFile()
	must(t, err)
	config.OS, config.Architecture = "linux", runtime.GOARCH
	image, err = mutate.ConfigFile(image, config)
	must(t, err)
	dir := t.TempDir()
	at, err := layout.Write(dir, empty.Index)
	must(t, err)
	must(t, at.AppendImage(image))

	cmd := exec.CommandContext(t.Context(), os.Args[0], "-test.v", "-test.run=^"+t.Name()+"$")
	cmd.Env = append(os.Environ(), readImage+"="+dir, "GOGC=50") // as the provider has it
	said, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%v: %s", err, said)
	}
	t.Logf("%s", said)
}
