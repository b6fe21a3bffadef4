package archive_test

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/static"
	"github.com/google/go-containerregistry/pkg/v1/types"
	"github.com/klauspost/compress/zstd"
	"github.com/ulikunitz/xz"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/archive"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/oci"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/sourcetest"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/tarstream"
)

// xzOf packs data with blocks of a size in bytes.
func xzOf(t sourcetest.T, data []byte, block int64, check byte) []byte {
	t.Helper()
	var b bytes.Buffer
	w, err := xz.WriterConfig{DictCap: 1 << 20, BlockSize: block, CheckSum: check}.NewWriter(&b)
	sourcetest.Must(t, err)
	_, err = w.Write(data)
	sourcetest.Must(t, errors.Join(err, w.Close()))
	return b.Bytes()
}

// asking is an xz file whose first block asks for a window, in the form of the block's header.
func asking(file []byte, window byte) []byte {
	file = slices.Clone(file)
	header := file[12:][:(int(file[12])+1)*4]
	at := bytes.Index(header, []byte{0x21, 1}) + 2
	header[at] = window
	end := len(header) - 4
	binary.LittleEndian.PutUint32(header[end:], crc32.ChecksumIEEE(header[:end]))
	return file
}

// What may be asked for in the header of a block, as the form has it.
const (
	window128MiB, window192MiB, window4GiB = 30, 31, 40
)

func TestAnArchiveThatAsksForTooMuchMemoryIsRefused(t *testing.T) {
	stream := sourcetest.Tar(t, sourcetest.File("a", strings.Repeat("content", 10_000)))
	small := xzOf(t, stream, 1<<20, xz.CRC64)
	half := len(stream) / 2
	second := slices.Concat(xzOf(t, stream[:half], 1<<20, xz.CRC64),
		asking(xzOf(t, stream[half:], 1<<20, xz.CRC64), window4GiB))
	var packed bytes.Buffer
	w, err := zstd.NewWriter(&packed, zstd.WithWindowSize(256<<20), zstd.WithSingleSegment(false))
	sourcetest.Must(t, err)
	_, err = w.Write(make([]byte, 1<<20))
	sourcetest.Must(t, errors.Join(err, w.Close()))
	// A frame of one segment has no window, and a size of its content instead: here 60 GiB.
	oneSegment := binary.LittleEndian.AppendUint64([]byte{0x28, 0xb5, 0x2f, 0xfd, 0xe0}, 60<<30)
	oneSegment = append(oneSegment, 1, 0, 0)
	for name, c := range map[string]struct {
		file []byte
		want string
	}{
		"xz of 192 MiB": {asking(small, window192MiB), "xz -9"},
		"xz of 4 GiB":   {asking(small, window4GiB), "xz -9"},
		// What was read before it does not help.
		"xz of 4 GiB in a later stream": {second, "xz -9"},
		"zstd of 256 MiB":               {packed.Bytes(), "zstd --long=27"},
		"zstd of 60 GiB in one segment": {oneSegment, "zstd --long=27"},
	} {
		path := filepath.Join(t.TempDir(), "rootfs")
		sourcetest.WriteOld(t, path, c.file)
		_, _, err := sourcetest.Read(t, archive.Source{Path: path})
		if !errors.Is(err, source.ErrRefused) || errors.Is(err, source.ErrCorrupt) ||
			!strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want ErrRefused that says %s", name, err, c.want)
		}
	}
	image := sourcetest.ImageOfLayers(t, static.NewLayer(asking(small, window4GiB), types.OCILayer))
	if _, _, err := sourcetest.Read(t,
		&oci.Source{Layout: sourcetest.Layout(t, map[string]v1.Image{"it": image})}); !errors.Is(err,
		source.ErrRefused) || errors.Is(err, source.ErrCorrupt) {
		t.Errorf("a layer of 4 GiB: %v, want ErrRefused", err)
	}
	path := filepath.Join(t.TempDir(), "rootfs")
	sourcetest.WriteOld(t, path, asking(small, window128MiB))
	_, done, err := sourcetest.Read(t, archive.Source{Path: path})
	sourcetest.Must(t, err)
	sourcetest.Must(t, done())
}

func TestArchiveMayBeOfManyXZBlocksAndStreams(t *testing.T) {
	stream := sourcetest.Tar(t, sourcetest.File("a", strings.Repeat("content", 10_000)),
		sourcetest.File("b", sourcetest.Noise(200_000)))
	third := len(stream) / 3
	for name, file := range map[string][]byte{
		"blocks": xzOf(t, stream, 10_000, xz.CRC32), "SHA-256": xzOf(t, stream, 1<<20, xz.SHA256),
		"streams": slices.Concat(xzOf(t, stream[:third], 5000, xz.CRC64),
			xzOf(t, stream[third:third+1], 1<<20, xz.CRC32),
			make([]byte, 8), xzOf(t, stream[third+1:], 1<<20, xz.CRC64), make([]byte, 4)),
	} {
		path := filepath.Join(t.TempDir(), "rootfs")
		sourcetest.WriteOld(t, path, file)
		tr, done, err := sourcetest.Read(t, archive.Source{Path: path})
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if e, ok := tr.Lookup("b"); !ok || e.Size != 200_000 {
			t.Errorf("%s: %+v", name, e)
		}
		sourcetest.Must(t, done())
	}
	// As the tool writes them: with the sizes of blocks in their headers.
	path := filepath.Join(t.TempDir(), "rootfs.tar")
	sourcetest.WriteOld(t, path, stream)
	sourcetest.Run(t, "", "xz", "--threads=2", "--block-size=65536", path)
	_, done, err := sourcetest.Read(t, archive.Source{Path: path + ".xz"})
	sourcetest.Must(t, err)
	sourcetest.Must(t, done())
}

func TestAnXZFileThatIsCutOffBetweenBlocksIsSeen(t *testing.T) {
	stream := sourcetest.Tar(t, sourcetest.File("a", sourcetest.Noise(20_000)))
	stream = append(stream, make([]byte, 10_240)...) // a block of what follows the archive alone
	block := int64(len(stream) - 10_000)
	one := xzOf(t, stream[:block], block, xz.CRC32)
	whole := xzOf(t, stream, block, xz.CRC32)
	cut := 0
	for cut < len(one) && one[cut] == whole[cut] { // where the index of the one begins, and another block of the other
		cut++
	}
	path := filepath.Join(t.TempDir(), "rootfs")
	sourcetest.WriteOld(t, path, whole[:cut])
	if _, _, err := sourcetest.Read(t, archive.Source{Path: path}); !errors.Is(err, source.ErrCorrupt) {
		t.Errorf("cut off after %d of %d bytes: %v, want ErrCorrupt", cut, len(whole), err)
	}
}

// Whatever the bytes, unpacking returns, and what it takes for whole is what another reader takes it for, whose author
// is somebody else.
func FuzzXZ(f *testing.F) {
	data := []byte(strings.Repeat("content ", 100))
	whole := xzOf(f, data, 200, xz.CRC32)
	f.Add(whole)
	f.Add(slices.Concat(whole, make([]byte, 4), xzOf(f, data, 1<<20, xz.SHA256)))
	f.Add(asking(whole, window4GiB))
	f.Add(whole[:len(whole)-30])
	f.Fuzz(func(t *testing.T, file []byte) {
		if !bytes.HasPrefix(file, whole[:6]) {
			return
		}
		in, done, err := tarstream.Decompress(bytes.NewReader(file))
		if err != nil {
			return
		}
		defer done()
		got, err := io.ReadAll(io.LimitReader(in, 1<<20))
		if err != nil || len(got) == 1<<20 {
			return
		}
		other, err := xz.NewReader(bytes.NewReader(file))
		sourcetest.Must(t, err)
		if want, err := io.ReadAll(other); err == nil && !bytes.Equal(got, want) {
			t.Fatalf("%d bytes, and the other reader has %d", len(got), len(want))
		}
	})
}
