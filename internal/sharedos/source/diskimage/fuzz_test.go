package diskimage

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"io"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
)

// Whatever the bytes, an image is read or refused, within bounds of time and memory.
func FuzzDisk(f *testing.F) {
	f.Add(smallQcow2(0, 0))
	f.Add(smallQcow2(qcow2Compressed|0x400, 0))
	f.Add(smallQcow2(0x600, 0x1234))
	f.Add(smallGPT())
	f.Add(append(make([]byte, 510), 0x55, 0xaa))
	f.Fuzz(func(t *testing.T, data []byte) {
		from := disk(rawBytes{bytes.NewReader(data)})
		if bytes.HasPrefix(data, []byte(qcow2Magic)) {
			q, err := openQcow2(bytes.NewReader(data), int64(len(data)))
			if err != nil {
				if !errors.Is(err, errQcow2) && !errors.Is(err, source.ErrCorrupt) && !errors.Is(err, io.EOF) {
					t.Fatalf("error of no known kind: %v", err)
				}
				return
			}
			from = q
			buf := make([]byte, 4096)
			for at, steps := int64(0), 0; at < q.Size() && steps < 100; steps++ {
				_, length, err := q.hole(at)
				if err != nil {
					break
				}
				if length <= 0 || at+length > q.Size() {
					t.Fatalf("%d bytes from %d of %d are said to be alike", length, at, q.Size())
				}
				if n, err := q.ReadAt(buf, at); err == nil && n != len(buf) {
					t.Fatalf("%d bytes are read of %d, and no error", n, len(buf))
				}
				at += length
			}
		}
		found, err := findRoots(from, from.Size(), 0, "amd64")
		if err == nil && (found.root.offset < 0 || found.root.size <= 0 ||
			found.root.offset > from.Size()-found.root.size) {
			t.Fatalf("a disk of %d bytes has the partition %+v", from.Size(), found.root)
		}
	})
}

type rawBytes struct{ *bytes.Reader }

// smallQcow2 is an image of a disk of two clusters of 512 bytes, with these entries.
func smallQcow2(first, second uint64) []byte {
	image := make([]byte, 2048)
	copy(image, qcow2Magic)
	for at, value := range map[int]uint32{4: 2, 20: 9, 36: 1} {
		binary.BigEndian.PutUint32(image[at:], value)
	}
	for at, value := range map[int]uint64{24: 1024, 40: 112, 112: 512, 512: first, 520: second} {
		binary.BigEndian.PutUint64(image[at:], value)
	}
	return image
}

// smallGPT is a disk with one partition.
func smallGPT() []byte {
	image := make([]byte, 8*512)
	entries := image[2*512:][:128]
	copy(entries, "\xe3\xbc\x68\x4f\xcd\xe8\xb1\x4d\x96\xe7\xfb\xca\xf9\x84\xb7\x09 of a partition")
	binary.LittleEndian.PutUint64(entries[32:], 4)
	binary.LittleEndian.PutUint64(entries[40:], 7)
	header := image[512:][:92]
	copy(header, "EFI PART")
	for at, value := range map[int]uint32{12: 92, 72: 2, 80: 1, 84: 128, 88: crc32.ChecksumIEEE(entries)} {
		binary.LittleEndian.PutUint32(header[at:], value)
	}
	binary.LittleEndian.PutUint32(header[16:], crc32.ChecksumIEEE(header))
	return image
}

func TestTheSmallDisksAreRead(t *testing.T) {
	gpt := rawBytes{bytes.NewReader(smallGPT())}
	if found, err := findRoots(gpt, gpt.Size(), 0, "amd64"); err != nil || found.root.offset != 4*512 ||
		found.root.size != 4*512 {
		t.Errorf("%+v, %v", found, err)
	}
	packed := smallQcow2(0x600, 0)
	copy(packed[0x600:], "cluster")
	q, err := openQcow2(bytes.NewReader(packed), int64(len(packed)))
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 1024)
	if _, err := q.ReadAt(got, 0); err != nil || !bytes.HasPrefix(got, []byte("cluster\x00")) ||
		!bytes.Equal(got[512:], make([]byte, 512)) {
		t.Errorf("%q, %v", got, err)
	}
}
