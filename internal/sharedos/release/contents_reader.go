package release

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// ContentsReader reads a contents list as a stream. It holds one line at a time.
type ContentsReader struct {
	lines   *bufio.Reader
	line    []byte
	entries int
	last    string
	err     error // sticky
}

// NewContentsReader returns a reader of a contents list. It checks form and order; Verified checks that the bytes
// are the ones that a manifest names.
func NewContentsReader(r io.Reader) *ContentsReader {
	return &ContentsReader{lines: bufio.NewReaderSize(r, 64<<10)}
}

// Next returns the next entry, and io.EOF once the list has ended as it should and nothing follows it.
// Errors in the list match ErrContents, or ErrSchema if it is of another version than this program reads.
func (c *ContentsReader) Next() (tree.Entry, error) {
	if c.err != nil {
		return tree.Entry{}, c.err
	}
	e, err := c.next()
	if err != nil && !errors.Is(err, io.EOF) {
		err = c.failure(err)
	}
	c.err = err
	return e, err
}

func (c *ContentsReader) failure(err error) error {
	return fmt.Errorf("contents list, entry %d: %w", c.entries, err)
}

func (c *ContentsReader) next() (tree.Entry, error) {
	if err := c.advance(); err != nil {
		return tree.Entry{}, err
	}
	return c.entry()
}

// advance reads the line of the next entry into c.line; io.EOF once the list has ended as it should.
func (c *ContentsReader) advance() error {
	if c.entries == 0 {
		if err := c.readLine(); err != nil {
			return err
		}
		if version, ok := strings.CutPrefix(string(c.line), contentsName); ok && string(c.line) != contentsHeader {
			return fmt.Errorf("it is of version %q, this program reads version %q; use the version of the program that wrote it: %w",
				version, strings.TrimPrefix(contentsHeader, contentsName), ErrSchema)
		}
		if string(c.line) != contentsHeader {
			return fmt.Errorf("the first line is not %q: %w", contentsHeader, ErrContents)
		}
	}
	if err := c.readLine(); err != nil {
		return err
	}
	if count, ok := bytes.CutPrefix(c.line, []byte("end ")); ok {
		if c.entries == 0 || string(count) != strconv.Itoa(c.entries) {
			return fmt.Errorf("the last line counts %q entries: %w", count, ErrContents)
		}
		switch _, err := c.lines.ReadByte(); {
		case err == nil:
			return fmt.Errorf("bytes after the last line: %w", ErrContents)
		default:
			return err // io.EOF if all is well
		}
	}
	if c.entries == maxEntries {
		return fmt.Errorf("more than %d entries: %w", maxEntries, ErrContents)
	}
	c.entries++
	return nil
}

// entry parses c.line, and checks that it stands after those that were parsed before.
func (c *ContentsReader) entry() (tree.Entry, error) {
	e, err := parseEntry(string(c.line))
	return c.checked(e, err)
}

// entryLike is entry of a line that is like that of another entry up to head, what follows its path.
func (c *ContentsReader) entryLike(other *tree.Entry, head int) (tree.Entry, error) {
	e := tree.Entry{Type: other.Type, Mode: other.Mode, UID: other.UID, GID: other.GID, Path: other.Path}
	fields := fieldReader{rest: string(c.line[head:])}
	err := fields.afterPath(&e)
	return c.checked(e, err)
}

func (c *ContentsReader) checked(e tree.Entry, err error) (tree.Entry, error) {
	if err != nil {
		return tree.Entry{}, fmt.Errorf("%w: %w", err, ErrContents)
	}
	if c.entries == 1 && (e.Path != tree.Root || e.Type != tree.Directory) {
		return tree.Entry{}, fmt.Errorf("the first entry is %q, not the root directory: %w", e.Path, ErrContents)
	}
	if c.entries > 1 && tree.Compare(c.last, e.Path) >= 0 {
		return tree.Entry{}, fmt.Errorf("%q stands after %q: %w", e.Path, c.last, ErrContents)
	}
	c.last = e.Path
	return e, nil
}

// readLine reads the next line, without its end, into c.line. The end of the stream is an error.
func (c *ContentsReader) readLine() error {
	c.line = c.line[:0]
	for {
		part, err := c.lines.ReadSlice('\n')
		if len(c.line)+len(part) > maxLine {
			return fmt.Errorf("a line of more than %d bytes: %w", maxLine, ErrContents)
		}
		c.line = append(c.line, part...)
		switch {
		case err == nil:
			c.line = c.line[:len(c.line)-1]
			return nil
		case errors.Is(err, bufio.ErrBufferFull):
		case errors.Is(err, io.EOF):
			return fmt.Errorf("it ends early: %w: %w", ErrContents, io.ErrUnexpectedEOF)
		default:
			return err
		}
	}
}

// parseEntry reads one line. Only the form that appendEntry writes is accepted.
func parseEntry(line string) (tree.Entry, error) {
	var e tree.Entry
	fields := fieldReader{rest: line}
	letter := fields.next()
	if len(letter) != 1 || letter == "?" || !strings.Contains(typeLetters, letter) {
		return e, fmt.Errorf("unknown type %q", abridged(letter))
	}
	e.Type = tree.Type(strings.Index(typeLetters, letter))
	e.Mode = uint32(fields.number(8, 0o7777))
	e.UID = uint32(fields.number(10, 1<<32-1))
	e.GID = uint32(fields.number(10, 1<<32-1))
	e.Path = fields.text(tree.MaxPath)
	if fields.err == nil {
		if err := tree.CheckPath(e.Path); err != nil {
			return e, fmt.Errorf("%q: %w", abridged(e.Path), err)
		}
	}
	err := fields.afterPath(&e)
	return e, err
}

// afterPath reads what follows an entry's path.
func (f *fieldReader) afterPath(e *tree.Entry) error {
	switch e.Type {
	case tree.Regular:
		e.Size = int64(f.number(10, 1<<63-1))
		e.Digest = f.digest()
	case tree.Symlink:
		e.Link = f.text(tree.MaxPath)
		if f.err == nil && (e.Link == "" || strings.IndexByte(e.Link, 0) >= 0) {
			return fmt.Errorf("%q: not a target of a symbolic link", abridged(e.Path))
		}
	case tree.CharDevice, tree.BlockDevice:
		e.Major = uint32(f.number(10, 1<<32-1))
		e.Minor = uint32(f.number(10, 1<<32-1))
	}
	e.Xattrs = f.xattrs()
	if f.err != nil {
		return fmt.Errorf("%q: %w", abridged(e.Path), f.err)
	}
	return nil
}

// fieldReader takes a line apart; its first error stays.
type fieldReader struct {
	rest string
	over bool // no field is left, not even an empty one
	err  error
}

func (f *fieldReader) fail(format string, arguments ...any) {
	if f.err == nil {
		f.err = fmt.Errorf(format, arguments...)
	}
}

func (f *fieldReader) next() string {
	if f.over {
		f.fail("a field is missing")
		return ""
	}
	field, rest, found := strings.Cut(f.rest, " ")
	f.rest, f.over = rest, !found
	return field
}

// number reads digits of a base of at most ten: without a sign, without a zero before others, and at most limit.
func (f *fieldReader) number(base, limit uint64) uint64 {
	field := f.next()
	if f.err != nil {
		return 0
	}
	var n uint64
	valid := field != "" && (field[0] != '0' || len(field) == 1)
	for i := 0; i < len(field) && valid; i++ {
		digit := uint64(field[i]) - '0' // wraps around for what stands before the digits
		valid = digit < base && n <= (limit-digit)/base
		n = n*base + digit
	}
	if !valid {
		f.fail("number %q", abridged(field))
		return 0
	}
	return n
}

func (f *fieldReader) digest() (d tree.Digest) {
	field := f.next()
	if f.err != nil {
		return d
	}
	valid := len(field) == 2*len(d)
	for i := 0; i < len(d) && valid; i++ {
		high, low := hexValue(field[2*i]), hexValue(field[2*i+1])
		valid = high >= 0 && low >= 0
		d[i] = byte(high<<4 | low)
	}
	if !valid {
		f.fail("digest %q: %w", abridged(field), tree.ErrDigest)
		return tree.Digest{}
	}
	return d
}

// hexValue is the value of a digit as digests have them, in small letters; -1 for others.
func hexValue(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'a' && c <= 'f':
		return int(c-'a') + 10
	default:
		return -1
	}
}

func (f *fieldReader) text(limit int) string {
	field := f.next()
	if f.err != nil {
		return ""
	}
	return f.unescape(field, limit)
}

func (f *fieldReader) xattrs() map[string]string {
	var attributes map[string]string
	last := ""
	for !f.over && f.err == nil {
		escapedName, escapedValue, found := strings.Cut(f.next(), "=")
		name := f.unescape(escapedName, tree.MaxName)
		value := f.unescape(escapedValue, MaxXattr)
		switch {
		case f.err != nil:
			return nil
		case !found || name == "" || strings.IndexByte(name, 0) >= 0:
			f.fail("extended attribute %q", abridged(escapedName))
			return nil
		case name <= last:
			f.fail("extended attribute %q is out of order", abridged(name))
			return nil
		case len(attributes) == maxXattrs:
			f.fail("more than %d extended attributes", maxXattrs)
			return nil
		}
		if attributes == nil {
			attributes = make(map[string]string)
		}
		attributes[name] = value
		last = name
	}
	return attributes
}

func (f *fieldReader) unescape(field string, limit int) string {
	if len(field) > 3*limit {
		f.fail("a text of more than %d bytes", limit)
		return ""
	}
	if strings.IndexByte(field, '%') < 0 {
		for i := range len(field) {
			if !plain(field[i]) {
				f.fail("byte %#x is not escaped", field[i])
				return ""
			}
		}
		if len(field) > limit {
			f.fail("a text of more than %d bytes", limit)
			return ""
		}
		return field
	}
	text := make([]byte, 0, len(field))
	for i := 0; i < len(field); i++ {
		c := field[i]
		if c == '%' {
			high, low := -1, -1
			if i+2 < len(field) {
				high, low = hexDigit(field[i+1]), hexDigit(field[i+2])
			}
			if high < 0 || low < 0 || plain(byte(high<<4|low)) {
				f.fail("an escape in %q", abridged(field))
				return ""
			}
			c = byte(high<<4 | low)
			i += 2
		} else if !plain(c) {
			f.fail("byte %#x is not escaped", c)
			return ""
		}
		text = append(text, c)
	}
	if len(text) > limit {
		f.fail("a text of more than %d bytes", limit)
		return ""
	}
	return string(text)
}

func hexDigit(c byte) int {
	switch {
	case c >= '0' && c <= '9':
		return int(c - '0')
	case c >= 'A' && c <= 'F':
		return int(c-'A') + 10
	default:
		return -1
	}
}

// abridged keeps hostile text in errors short.
func abridged(text string) string {
	if len(text) > 120 {
		return text[:120] + "…"
	}
	return text
}
