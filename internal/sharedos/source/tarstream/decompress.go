package tarstream

import (
	"bufio"
	"bytes"
	"compress/bzip2"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/klauspost/compress/gzip"
	"github.com/klauspost/compress/zstd"
	"github.com/xi2/xz"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
)

// maxWindow bounds the memory in bytes that a file can request for its decompression. zstd --long=27 needs that much;
// xz -9 needs half of it.
const maxWindow = 128 << 20

// Decompress returns the tar stream in a file that is plain tar or compressed with gzip, zstd, xz or bzip2. It detects
// the format from the first bytes. The returned function frees the decompressor. The stream's errors match
// source.ErrRefused if the file requests too much memory; anything else that is not a read error means that the file is
// damaged.
func Decompress(file io.Reader) (io.Reader, func(), error) { return decompress(file, false) }

// Unpack is Decompress for a compressed file that need not be a tar stream.
func Unpack(file io.Reader) (io.Reader, func(), error) { return decompress(file, true) }

func decompress(file io.Reader, compressedOnly bool) (io.Reader, func(), error) {
	r := bufio.NewReaderSize(file, 1<<20)
	head, err := r.Peek(512)
	if err != nil && !errors.Is(err, io.EOF) {
		return nil, nil, err
	}
	nothing := func() {}
	switch {
	case bytes.HasPrefix(head, []byte("\x1f\x8b")):
		z, err := gzip.NewReader(r)
		if err != nil {
			return nil, nil, err
		}
		z.Multistream(false)
		return &gzipReader{from: r, member: z}, nothing, nil
	case bytes.HasPrefix(head, []byte("\x28\xb5\x2f\xfd")):
		// With a concurrency of 1 the decoder starts no goroutines that would read from the file on their own.
		from := &zerosAtEnd{from: r}
		z, err := zstd.NewReader(from, zstd.WithDecoderMaxWindow(maxWindow), zstd.WithDecoderConcurrency(1))
		if err != nil {
			return nil, nil, err
		}
		return zstdReader{z, from}, z.Close, nil
	case bytes.HasPrefix(head, []byte("\xfd7zXZ\x00")):
		z, err := xz.NewReader(r, maxWindow)
		return xzReader{z}, nothing, explainXZ(err)
	case bytes.HasPrefix(head, []byte("BZh")):
		from := &zerosAtEnd{from: r}
		return bzip2Reader{bzip2.NewReader(from), from}, nothing, nil
	case !compressedOnly && isTar(head):
		return r, nothing, nil
	default:
		return nil, nil, fmt.Errorf("it is no tar file, nor one compressed with gzip, zstd, xz or bzip2: %w",
			source.ErrCorrupt)
	}
}

// gzipReader reads the members of a file one after the other (RFC 1952, section 2.2). Like gzip itself,
// it ignores zeros after the last one, with which tapes and other devices of fixed blocks are filled.
type gzipReader struct {
	from   *bufio.Reader
	member *gzip.Reader
}

func (g *gzipReader) Read(p []byte) (int, error) {
	for {
		n, err := g.member.Read(p)
		if n > 0 && errors.Is(err, io.EOF) {
			return n, nil
		}
		if !errors.Is(err, io.EOF) {
			return n, err
		}
		// A decompressor that reads from an io.ByteReader stops after its member.
		head, err := g.from.Peek(1)
		switch {
		case errors.Is(err, io.EOF):
			return 0, io.EOF
		case err != nil:
			return 0, err
		case head[0] == 0:
			return 0, g.skipPadding()
		}
		if err := g.member.Reset(g.from); err != nil {
			return 0, err
		}
		g.member.Multistream(false)
	}
}

// skipPadding returns io.EOF if only zeros follow.
func (g *gzipReader) skipPadding() error {
	for range maxPadding {
		switch b, err := g.from.ReadByte(); {
		case err != nil:
			return err
		case b != 0:
			return fmt.Errorf("there are other data after the zeros that fill the file: %w", source.ErrCorrupt)
		}
	}
	return fmt.Errorf("more than %d zeros fill the file: %w", maxPadding, source.ErrLimit)
}

// zerosAtEnd counts the zeros at the end of what a decompressor has read.
type zerosAtEnd struct {
	from  *bufio.Reader
	zeros int64
}

func (z *zerosAtEnd) Read(p []byte) (int, error) {
	n, err := z.from.Read(p)
	z.count(p[:n])
	return n, err
}

func (z *zerosAtEnd) ReadByte() (byte, error) {
	b, err := z.from.ReadByte()
	if err == nil {
		z.count([]byte{b})
	}
	return b, err
}

func (z *zerosAtEnd) count(p []byte) {
	if other := len(bytes.TrimRight(p, "\x00")); other > 0 {
		z.zeros = int64(len(p) - other)
	} else {
		z.zeros += int64(len(p))
	}
}

// end is called with the error of a decompressor that has found something else than another frame. It returns io.EOF if
// the file has only zeros from there on: head is how many bytes of a frame tell what it is.
func (z *zerosAtEnd) end(cause error, head int64) error {
	if z.zeros < head {
		return cause
	}
	for range maxPadding {
		switch b, err := z.from.ReadByte(); {
		case err != nil:
			return err
		case b != 0:
			return cause
		}
	}
	return fmt.Errorf("more than %d zeros fill the file: %w", maxPadding, source.ErrLimit)
}

// bzip2Reader ignores zeros after the last stream of a file.
type bzip2Reader struct {
	io.Reader
	from *zerosAtEnd
}

// errNoStream is what compress/bzip2 finds after a stream if it is no other stream.
const errNoStream = bzip2.StructuralError("bad magic value in continuation file")

func (z bzip2Reader) Read(p []byte) (int, error) {
	n, err := z.Reader.Read(p)
	if errors.Is(err, errNoStream) {
		err = z.from.end(err, 2)
	}
	return n, err
}

// zstdReader distinguishes a file that requests more than maxWindow from a damaged one, and ignores zeros after the
// last frame.
type zstdReader struct {
	*zstd.Decoder
	from *zerosAtEnd
}

func (z zstdReader) Read(p []byte) (int, error) {
	n, err := z.Decoder.Read(p)
	if errors.Is(err, zstd.ErrMagicMismatch) {
		err = z.from.end(err, 4)
	}
	// A frame of a single segment yields ErrDecoderSizeExceeded: its window is its whole content.
	if errors.Is(err, zstd.ErrWindowSizeExceeded) || errors.Is(err, zstd.ErrDecoderSizeExceeded) {
		err = windowError("zstd --long=27")
	}
	return n, err
}

// xzReader does the same for xz.
type xzReader struct{ *xz.Reader }

func (z xzReader) Read(p []byte) (int, error) {
	n, err := z.Reader.Read(p)
	return n, explainXZ(err)
}

func explainXZ(err error) error {
	if errors.Is(err, xz.ErrMemlimit) {
		return windowError("xz -9")
	}
	return err
}

func windowError(most string) error {
	return fmt.Errorf("its decompression needs a window of more than %d bytes: %w; compress it with %s or less",
		int64(maxWindow), source.ErrRefused, most)
}

// isTar reports whether a first block is a tar header of any age. It verifies the header's checksum: the sum of all
// bytes, with spaces in place of the checksum itself. Some programs have summed signed bytes (tar(5) of libarchive).
func isTar(block []byte) bool {
	if len(block) != 512 {
		return false
	}
	want, err := strconv.ParseInt(strings.Trim(string(block[148:156]), " \x00"), 8, 64)
	if err != nil {
		return false
	}
	var unsigned, signed int64
	for i, b := range block {
		if i >= 148 && i < 156 {
			b = ' '
		}
		unsigned += int64(b)
		signed += int64(int8(b))
	}
	// A block of zeros is the end of an archive that has no entries.
	return want != 0 && (want == unsigned || want == signed)
}
