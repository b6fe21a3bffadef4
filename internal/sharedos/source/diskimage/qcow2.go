package diskimage

import (
	"bytes"
	"compress/flate"
	"encoding/binary"
	"errors"
	"fmt"
	"io"

	"github.com/klauspost/compress/zstd"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
)

// qcow2 reads the disk in a qcow2 image of version 2 or 3 (QEMU, docs/interop/qcow2.txt). The image is not trusted:
// memory is bounded, and no other file is opened.
//
// It is code of ours although others exist. qemu-img converts a truncated image without an error and fills in zeros,
// and would have to be installed wherever Terraform runs. go-qcow2reader 0.7 allocates what the header asks for (up to
// 32 GiB), opens the backing files that the image names, and decompresses a cluster again for every 32 KiB of it. To
// guard against each of these took half the lines of this file.
type qcow2 struct {
	file io.ReaderAt
	// fileSize is the size of the image, and size that of its disk, both in bytes.
	fileSize, size int64
	clusterBits    uint
	zstd           bool
	l1             []uint64

	// The table and the decompressed cluster that were read last: most reads are sequential.
	l2         []uint64
	l2At       uint64
	unpacked   []byte
	unpackedAt uint64
}

const (
	qcow2Magic = "QFI\xfb"
	// Bits of the field incompatible_features.
	qcow2Dirty       = 1 << 0 // the reference counts are out of date; reading does not need them
	qcow2Compression = 1 << 3
	// The largest level 1 table that QEMU reads, in bytes.
	qcow2MaxL1 = 32 << 20
	// Parts of an entry: the offset of a table or cluster, and flags.
	qcow2Offset     = 0x00fffffffffffe00
	qcow2Compressed = 1 << 62
	qcow2Zero       = 1 << 0
)

// errQcow2 means that an image uses a feature that is not supported.
var errQcow2 = errors.New("it cannot be read: convert it with qemu-img convert -O qcow2")

func openQcow2(file io.ReaderAt, fileSize int64) (*qcow2, error) {
	header := make([]byte, 112)
	if _, err := file.ReadAt(header, 0); err != nil && !errors.Is(err, io.EOF) {
		return nil, err
	}
	word, long := binary.BigEndian.Uint32, binary.BigEndian.Uint64
	q := &qcow2{file: file, fileSize: fileSize, clusterBits: uint(word(header[20:])), size: int64(long(header[24:]))}
	version, l1Size, l1At := word(header[4:]), word(header[36:]), long(header[40:])
	var features uint64
	if version == 3 {
		features = long(header[72:])
	}
	switch {
	case version != 2 && version != 3:
		return nil, fmt.Errorf("qcow2 of version %d: %w", version, errQcow2)
	case long(header[8:]) != 0:
		// Its author could name any file of this machine as the backing file.
		return nil, fmt.Errorf("it is the difference to another image: %w: %w", source.ErrRefused, errQcow2)
	case word(header[32:]) != 0:
		return nil, fmt.Errorf("it is encrypted: %w", errQcow2)
	case features&^(qcow2Dirty|qcow2Compression) != 0:
		return nil, fmt.Errorf("it has the features %#x: %w", features, errQcow2)
	case q.clusterBits < 9 || q.clusterBits > 21:
		return nil, fmt.Errorf("clusters of 2^%d bytes: %w", q.clusterBits, source.ErrCorrupt)
	case q.size < 0 || q.size > qcow2MaxL1/8<<(2*q.clusterBits-3):
		return nil, fmt.Errorf("a disk of %d bytes: %w", q.size, source.ErrCorrupt)
	}
	if features&qcow2Compression != 0 {
		switch header[104] {
		case 0:
		case 1:
			q.zstd = true
		default:
			return nil, fmt.Errorf("it has the compression type %d: %w", header[104], errQcow2)
		}
	}
	// Each entry of the level 1 table refers to a level 2 table: a cluster full of entries of 8 bytes.
	need := (q.size + 1<<(2*q.clusterBits-3) - 1) >> (2*q.clusterBits - 3)
	if int64(l1Size) < need {
		return nil, fmt.Errorf("%d tables for a disk of %d bytes: %w", l1Size, q.size, source.ErrCorrupt)
	}
	var err error
	q.l1, err = q.table(l1At, int(need))
	return q, err
}

// table reads a table at an offset in the image.
func (q *qcow2) table(at uint64, entries int) ([]uint64, error) {
	if at > uint64(q.fileSize) || int64(entries)*8 > q.fileSize-int64(at) {
		return nil, fmt.Errorf("a table at byte %d of %d: %w", at, q.fileSize, source.ErrCorrupt)
	}
	raw := make([]byte, entries*8)
	if _, err := q.file.ReadAt(raw, int64(at)); err != nil {
		return nil, err
	}
	table := make([]uint64, entries)
	for i := range table {
		table[i] = binary.BigEndian.Uint64(raw[8*i:])
	}
	return table, nil
}

// Size is that of the disk in bytes.
func (q *qcow2) Size() int64 { return q.size }

// entry returns the level 2 entry for an offset on the disk, and how many bytes from there on belong to the same
// cluster. If there is no level 2 table, the entry is 0, and the bytes are those that the table would cover.
func (q *qcow2) entry(at int64) (entry uint64, length int64, err error) {
	perTable := int64(1) << (2*q.clusterBits - 3)
	l2At := q.l1[at/perTable] & qcow2Offset
	if l2At == 0 {
		return 0, min(perTable-at%perTable, q.size-at), nil
	}
	if q.l2 == nil || q.l2At != l2At {
		if q.l2, err = q.table(l2At, 1<<(q.clusterBits-3)); err != nil {
			return 0, 0, err
		}
		q.l2At = l2At
	}
	cluster := int64(1) << q.clusterBits
	entry = q.l2[at%perTable/cluster]
	if entry&qcow2Compressed == 0 && (entry&qcow2Zero != 0 || entry&qcow2Offset == 0) {
		entry = 0
	}
	return entry, min(cluster-at%cluster, q.size-at), nil
}

// hole reports whether the disk has no data at an offset, and for how many bytes the answer holds.
func (q *qcow2) hole(at int64) (bool, int64, error) {
	entry, length, err := q.entry(at)
	return entry == 0, length, err
}

// ReadAt implements io.ReaderAt, except that it must not be called concurrently.
func (q *qcow2) ReadAt(p []byte, at int64) (n int, err error) {
	if at < 0 {
		return 0, fmt.Errorf("read at byte %d", at)
	}
	for n < len(p) {
		if at >= q.size {
			return n, io.EOF
		}
		entry, length, err := q.entry(at)
		if err != nil {
			return n, err
		}
		part := p[n:][:min(int64(len(p)-n), length)]
		within := at & (1<<q.clusterBits - 1)
		switch {
		case entry == 0:
			clear(part)
		case entry&qcow2Compressed != 0:
			cluster, err := q.unpack(entry)
			if err != nil {
				return n, err
			}
			copy(part, cluster[within:])
		default:
			if err := q.readFile(part, entry&qcow2Offset+uint64(within)); err != nil {
				return n, err
			}
		}
		n, at = n+len(part), at+int64(len(part))
	}
	return n, nil
}

// readFile reads from the image. The last cluster need not be complete.
func (q *qcow2) readFile(p []byte, at uint64) error {
	if at >= uint64(q.fileSize) {
		return fmt.Errorf("a cluster at byte %d of %d: %w", at, q.fileSize, source.ErrCorrupt)
	}
	n, err := q.file.ReadAt(p, int64(at))
	if errors.Is(err, io.EOF) {
		clear(p[n:])
		return nil
	}
	return err
}

// unpack returns a decompressed cluster.
func (q *qcow2) unpack(entry uint64) ([]byte, error) {
	if q.unpacked != nil && q.unpackedAt == entry {
		return q.unpacked, nil
	}
	// The larger a cluster is, the fewer bits the offset has. The remaining bits count sectors.
	bits := 62 - (q.clusterBits - 8)
	at := entry & (1<<bits - 1)
	sectors := entry&(qcow2Compressed-1)>>bits + 1
	packed := make([]byte, sectors*512-at%512)
	if err := q.readFile(packed, at); err != nil {
		return nil, err
	}
	cluster := make([]byte, 1<<q.clusterBits)
	var from io.Reader
	if q.zstd {
		z, err := zstd.NewReader(bytes.NewReader(packed), zstd.WithDecoderMaxWindow(1<<23),
			zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, err
		}
		defer z.Close()
		from = z
	} else {
		from = flate.NewReader(bytes.NewReader(packed))
	}
	if _, err := io.ReadFull(from, cluster); err != nil {
		return nil, fmt.Errorf("a compressed cluster at byte %d: %w: %w", at, source.ErrCorrupt, err)
	}
	q.unpacked, q.unpackedAt = cluster, entry
	return cluster, nil
}
