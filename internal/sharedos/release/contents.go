package release

import (
	"bufio"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"
	"maps"
	"slices"
	"strconv"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// A contents list is text: a first line with the format, one line for each entry in the order of package tree, and a
// last line "end <number of entries>". The fields of a line are separated by one space:
//
//	d <mode> <uid> <gid> <path>                     directory
//	f <mode> <uid> <gid> <path> <size> <digest>     regular file
//	l <mode> <uid> <gid> <path> <target>            symbolic link
//	c|b <mode> <uid> <gid> <path> <major> <minor>   device
//	p <mode> <uid> <gid> <path>                     fifo
//
// The mode is octal and other numbers are decimal. A digest has 64 hexadecimal digits. Extended attributes follow as
// <name>=<value>, sorted by name. In path, target, name and value, "%XX" stands for each byte that is not printable
// ASCII, and for "%", "=" and space. Each list of entries has exactly one form, and a reader refuses any other.
const (
	contentsName   = "sharedos-contents "
	contentsHeader = contentsName + "1"
	lastLine       = "end " // followed by the number of entries; no other line begins with "e"
)

// MaxXattr is the maximum size of an extended attribute's value in bytes, as in Linux (XATTR_SIZE_MAX).
const MaxXattr = 64 << 10

// Limits of a contents list. They bound the memory and time that a hostile list costs.
const (
	maxLine    = 1 << 20
	maxEntries = 4 << 20
	maxXattrs  = 256
)

// ErrContents means that bytes are not a contents list in the only valid form, or that they do not have the expected
// digest and size.
var ErrContents = errors.New("not a valid contents list")

const typeLetters = "?dflcbp" // indexed by tree.Type

// ContentsWriter writes a contents list as a stream.
type ContentsWriter struct {
	to      *bufio.Writer
	sum     hash.Hash
	size    int64
	line    []byte
	entries int
	last    string
	err     error // the first error; every later call returns it
}

// NewContentsWriter returns a writer that writes a contents list to w.
func NewContentsWriter(w io.Writer) *ContentsWriter {
	sum := sha256.New()
	return &ContentsWriter{to: bufio.NewWriterSize(io.MultiWriter(w, sum), 64<<10), sum: sum,
		line: append([]byte(contentsHeader), '\n')}
}

// Add writes the next entry, without its modification time. The caller adds entries in the order of package tree, the
// root first.
func (c *ContentsWriter) Add(e *tree.Entry) error {
	if c.err == nil {
		if err := c.add(e); err != nil {
			c.err = fmt.Errorf("write contents list: %q: %w", e.Path, err)
		}
	}
	return c.err
}

func (c *ContentsWriter) add(e *tree.Entry) error {
	switch {
	case c.entries == 0 && e.Path != tree.Root:
		return fmt.Errorf("it stands before the root: %w", ErrContents)
	case c.entries > 0 && tree.Compare(c.last, e.Path) >= 0:
		return fmt.Errorf("it stands after %q: %w", c.last, ErrContents)
	case c.entries == maxEntries:
		return fmt.Errorf("more than %d entries: %w", maxEntries, ErrContents)
	case c.entries == 0:
		if err := c.put(); err != nil {
			return err
		}
	}
	c.line = appendEntry(c.line[:0], e)
	// A reader must accept every line that is written.
	if err := readable(c.line, e); err != nil {
		return fmt.Errorf("%w: %w", err, ErrContents)
	}
	c.line = append(c.line, '\n')
	c.entries, c.last = c.entries+1, e.Path
	return c.put()
}

func (c *ContentsWriter) put() error {
	c.size += int64(len(c.line))
	_, err := c.to.Write(c.line)
	return err
}

// Close writes the end of the list and returns its digest and size. It does not close the underlying writer.
func (c *ContentsWriter) Close() (Blob, error) {
	if c.err == nil && c.entries == 0 {
		c.err = fmt.Errorf("write contents list: no entries: %w", ErrContents)
	}
	if c.err != nil {
		return Blob{}, c.err
	}
	c.line = fmt.Appendf(c.line[:0], lastLine+"%d\n", c.entries)
	if err := errors.Join(c.put(), c.to.Flush()); err != nil {
		return Blob{}, fmt.Errorf("write contents list: %w", err)
	}
	return Blob{Digest: tree.Digest(c.sum.Sum(nil)), Size: c.size}, nil
}

// WriteContents writes the contents list of a tree's entries, and returns its digest and size.
func WriteContents(w io.Writer, entries []tree.Entry) (Blob, error) {
	list := NewContentsWriter(w)
	for i := range entries {
		if err := list.Add(&entries[i]); err != nil {
			return Blob{}, err
		}
	}
	return list.Close()
}

func appendEntry(line []byte, e *tree.Entry) []byte {
	letter := byte('?')
	if int(e.Type) < len(typeLetters) {
		letter = typeLetters[e.Type]
	}
	line = append(line, letter, ' ')
	line = strconv.AppendUint(line, uint64(e.Mode), 8)
	line = strconv.AppendUint(append(line, ' '), uint64(e.UID), 10)
	line = strconv.AppendUint(append(line, ' '), uint64(e.GID), 10)
	line = appendEscaped(append(line, ' '), e.Path)
	switch e.Type {
	case tree.Regular:
		line = strconv.AppendInt(append(line, ' '), e.Size, 10)
		line = append(append(line, ' '), e.Digest.Hex()...)
	case tree.Symlink:
		line = appendEscaped(append(line, ' '), e.Link)
	case tree.CharDevice, tree.BlockDevice:
		line = strconv.AppendUint(append(line, ' '), uint64(e.Major), 10)
		line = strconv.AppendUint(append(line, ' '), uint64(e.Minor), 10)
	}
	if len(e.Xattrs) > 0 {
		for _, name := range slices.Sorted(maps.Keys(e.Xattrs)) {
			line = append(appendEscaped(append(line, ' '), name), '=')
			line = appendEscaped(line, e.Xattrs[name])
		}
	}
	return line
}

// readable returns an error unless reading the line yields the entry that it was written from.
func readable(line []byte, e *tree.Entry) error {
	if len(line) >= maxLine {
		return fmt.Errorf("a line of %d bytes, more than %d", len(line), maxLine)
	}
	read, _, err := parseEntry(line)
	if err != nil {
		return err
	}
	if !tree.Equal(read, *e) {
		return errors.New("it has what its type cannot have")
	}
	return nil
}

func plain(c byte) bool { return c > ' ' && c < 0x7f && c != '%' && c != '=' }

func appendEscaped(line []byte, text string) []byte {
	const digits = "0123456789ABCDEF"
	for i := range len(text) {
		if c := text[i]; plain(c) {
			line = append(line, c)
		} else {
			line = append(line, '%', digits[c>>4], digits[c&15])
		}
	}
	return line
}

// Verified returns a reader that yields the bytes of r, at most blob.Size of them. At their end it returns io.EOF if
// they have the size and digest of blob, and otherwise an error that matches ErrContents.
func Verified(r io.Reader, blob Blob) io.Reader {
	return &verified{from: r, blob: blob, sum: sha256.New()}
}

type verified struct {
	from io.Reader
	blob Blob
	sum  hash.Hash
	done int64
}

func (v *verified) Read(p []byte) (int, error) {
	if len(p) == 0 {
		return 0, nil
	}
	left := v.blob.Size - v.done
	if left <= 0 {
		return 0, v.end()
	}
	if int64(len(p)) > left {
		p = p[:left]
	}
	n, err := v.from.Read(p)
	v.sum.Write(p[:n])
	v.done += int64(n)
	if errors.Is(err, io.EOF) {
		if v.done < v.blob.Size {
			return n, fmt.Errorf("%s ends after %d of %d bytes: %w: %w", v.blob.Digest, v.done, v.blob.Size,
				ErrContents, io.ErrUnexpectedEOF)
		}
		err = nil // the next call checks the digest
	}
	return n, err
}

// end checks that nothing follows the bytes of the blob, and that they have its digest.
func (v *verified) end() error {
	var more [1]byte
	switch n, err := io.ReadFull(v.from, more[:]); {
	case n > 0:
		return fmt.Errorf("%s is longer than its %d bytes: %w", v.blob.Digest, v.blob.Size, ErrContents)
	case !errors.Is(err, io.EOF):
		return err
	}
	if got := tree.Digest(v.sum.Sum(nil)); got != v.blob.Digest {
		return fmt.Errorf("read %s instead of %s: %w", got, v.blob.Digest, ErrContents)
	}
	return io.EOF
}
