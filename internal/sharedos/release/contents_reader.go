package release

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"strconv"
	"strings"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/scan"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// maxIdle is how many successive reads may return neither bytes nor an error.
const maxIdle = 100

// window is the initial size of the buffer in bytes. The buffer grows for a longer line.
const window = 64 << 10

// ContentsReader reads a contents list as a stream. Its memory use depends on the longest line and not on the list.
type ContentsReader struct {
	from   io.Reader
	buffer []byte
	// buffer[at:filled] was read and not yet used. ended is the error of the last read, io.EOF at the end of the
	// stream.
	at, filled int
	ended      error
	// line is the current line, a part of the buffer.
	line    []byte
	entries int
	last    string
	err     error // the first error; every later call returns it
}

// NewContentsReader returns a reader of a contents list. It checks the form and the order of entries. It does not check
// the list's digest, which Verified does.
func NewContentsReader(r io.Reader) *ContentsReader {
	return &ContentsReader{from: r, buffer: make([]byte, window)}
}

// Next returns the next entry, and io.EOF after the last line if nothing follows it. Errors in the list match
// ErrContents, or ErrSchema if this program does not read the list's version.
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

// advance reads the line of the next entry into c.line. It returns io.EOF at the valid end of the list.
func (c *ContentsReader) advance() error {
	if c.entries == 0 {
		if err := c.readLine(); err != nil {
			return err
		}
		if version, ok := strings.CutPrefix(string(c.line), contentsName); ok && string(c.line) != contentsHeader {
			return fmt.Errorf(
				"it is of version %q, this program reads version %q; use the version of the program that wrote it: %w",
				version, strings.TrimPrefix(contentsHeader, contentsName), ErrSchema)
		}
		if string(c.line) != contentsHeader {
			return fmt.Errorf("the first line is not %q: %w", contentsHeader, ErrContents)
		}
	}
	if err := c.readLine(); err != nil {
		return err
	}
	if count, ok := bytes.CutPrefix(c.line, []byte(lastLine)); ok {
		if c.entries == 0 || string(count) != strconv.Itoa(c.entries) {
			return fmt.Errorf("the last line counts %q entries: %w", count, ErrContents)
		}
		if err := c.fill(1); err != nil {
			return err // io.EOF at the valid end
		}
		return fmt.Errorf("bytes after the last line: %w", ErrContents)
	}
	if c.entries >= maxEntries {
		return fmt.Errorf("more than %d entries: %w", maxEntries, ErrContents)
	}
	c.entries++
	return nil
}

// entry parses c.line, and checks that its path follows the path of the entry that was parsed before.
func (c *ContentsReader) entry() (tree.Entry, error) {
	e, _, err := parseEntry(c.line)
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

// readLine sets c.line to the next line, without its newline. The end of the stream is an error.
func (c *ContentsReader) readLine() error {
	for looked := 0; ; {
		length := scan.IndexByte(c.buffer[c.at+looked:c.filled], '\n')
		if length >= 0 {
			length += looked
		}
		if looked = c.filled - c.at; length >= maxLine || length < 0 && looked >= maxLine {
			return fmt.Errorf("a line of more than %d bytes: %w", maxLine, ErrContents)
		}
		if length >= 0 {
			c.line = c.buffer[c.at : c.at+length]
			c.at += length + 1
			return nil
		}
		switch err := c.fill(looked + 1); {
		case errors.Is(err, io.EOF):
			return fmt.Errorf("it ends early: %w: %w", ErrContents, io.ErrUnexpectedEOF)
		case err != nil:
			return err
		}
	}
}

// fill reads until the buffer has at least want unused bytes. It overwrites used bytes, including c.line.
func (c *ContentsReader) fill(want int) error {
	for idle := 0; c.filled-c.at < want; {
		if c.ended != nil {
			return c.ended
		}
		c.filled = copy(c.buffer, c.buffer[c.at:c.filled])
		if c.at = 0; c.filled == len(c.buffer) {
			c.buffer = append(c.buffer, make([]byte, len(c.buffer))...)
		}
		n, err := c.from.Read(c.buffer[c.filled:])
		c.filled, c.ended = c.filled+n, err
		if idle++; n > 0 {
			idle = 0
		}
		if idle > maxIdle {
			return io.ErrNoProgress
		}
	}
	return nil
}

// skipSame skips equal lines at the current positions of both lists. It may leave some of them.
func skipSame(a, b *ContentsReader) {
	for a.fill(1) == nil && b.fill(1) == nil { // the next advance returns the error
		length, lines := scan.SameLines(a.buffer[a.at:a.filled], b.buffer[b.at:b.filled], lastLine[0])
		if lines == 0 {
			return
		}
		for _, c := range []*ContentsReader{a, b} {
			c.at += length
			c.entries += lines
		}
	}
}

// parseEntry parses one line. behind is the offset of the field after the path, or 0 if the path is the last field.
// Only the form that appendEntry writes is accepted.
func parseEntry(line []byte) (e tree.Entry, behind int, err error) {
	fields := fieldReader{rest: line}
	letter := fields.next()
	if len(letter) != 1 || letter[0] == typeLetters[0] || strings.IndexByte(typeLetters, letter[0]) < 0 {
		return e, 0, fmt.Errorf("unknown type %q", abridged(letter))
	}
	e.Type = tree.Type(strings.IndexByte(typeLetters, letter[0]))
	e.Mode = uint32(fields.number(8, 0o7777))
	e.UID = uint32(fields.number(10, 1<<32-1))
	e.GID = uint32(fields.number(10, 1<<32-1))
	e.Path = fields.text(tree.MaxPath)
	if fields.err == nil {
		if err := tree.CheckPath(e.Path); err != nil {
			return e, 0, fmt.Errorf("%q: %w", abridged([]byte(e.Path)), err)
		}
	}
	if !fields.over {
		behind = len(line) - len(fields.rest)
	}
	return e, behind, fields.afterPath(&e)
}

// parseLike parses a line that equals the line of another entry before the offset behind.
func parseLike(line []byte, other *tree.Entry, behind int) (tree.Entry, error) {
	e := tree.Entry{Type: other.Type, Mode: other.Mode, UID: other.UID, GID: other.GID, Path: other.Path}
	fields := fieldReader{rest: line[behind:]}
	return e, fields.afterPath(&e)
}

// afterPath parses the fields after the path of an entry.
func (f *fieldReader) afterPath(e *tree.Entry) error {
	switch e.Type {
	case tree.Regular:
		e.Size = int64(f.number(10, 1<<63-1))
		e.Digest = f.digest()
	case tree.Symlink:
		e.Link = f.text(tree.MaxPath)
		if f.err == nil && (e.Link == "" || strings.IndexByte(e.Link, 0) >= 0) {
			return fmt.Errorf("%q: not a target of a symbolic link", abridged([]byte(e.Path)))
		}
	case tree.CharDevice, tree.BlockDevice:
		e.Major = uint32(f.number(10, 1<<32-1))
		e.Minor = uint32(f.number(10, 1<<32-1))
	}
	e.Xattrs = f.xattrs()
	if f.err != nil {
		return fmt.Errorf("%q: %w", abridged([]byte(e.Path)), f.err)
	}
	return nil
}

// fieldReader splits a line into fields. It keeps its first error.
type fieldReader struct {
	rest []byte
	over bool // no field is left, not even an empty one
	err  error
}

func (f *fieldReader) fail(format string, arguments ...any) {
	if f.err == nil {
		f.err = fmt.Errorf(format, arguments...)
	}
}

func (f *fieldReader) next() []byte {
	if f.over {
		f.fail("a field is missing")
		return nil
	}
	field := f.rest
	if end := scan.IndexByte(field, ' '); end >= 0 {
		field, f.rest = field[:end], field[end+1:]
	} else {
		f.rest, f.over = nil, true
	}
	return field
}

// number parses a number of at most limit in a base of at most ten. It accepts neither a sign nor leading zeros.
func (f *fieldReader) number(base, limit uint64) uint64 {
	field := f.next()
	if f.err != nil {
		return 0
	}
	var n uint64
	valid := len(field) > 0 && (field[0] != '0' || len(field) == 1)
	for i := 0; i < len(field) && valid; i++ {
		digit := uint64(field[i]) - '0' // wraps around for bytes below '0'
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
		high, low := hexValues[field[2*i]], hexValues[field[2*i+1]]
		valid = high&low&aDigit != 0
		d[i] = high<<4 | low&^aDigit
	}
	if !valid {
		f.fail("digest %q: %w", abridged(field), tree.ErrDigest)
		return tree.Digest{}
	}
	return d
}

// aDigit is a bit that is set in the values of bytes that are digits.
const aDigit = 0x10

// hexValues has the values of lower-case hexadecimal digits; 0 for other bytes.
var hexValues = [256]byte{
	'0': aDigit, '1': aDigit | 1, '2': aDigit | 2, '3': aDigit | 3, '4': aDigit | 4, '5': aDigit | 5,
	'6': aDigit | 6, '7': aDigit | 7,
	'8': aDigit | 8, '9': aDigit | 9, 'a': aDigit | 10, 'b': aDigit | 11, 'c': aDigit | 12, 'd': aDigit | 13,
	'e': aDigit | 14, 'f': aDigit | 15,
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
		escapedName, escapedValue, found := bytes.Cut(f.next(), []byte("="))
		name := f.unescape(escapedName, tree.MaxName)
		value := f.unescape(escapedValue, MaxXattr)
		switch {
		case f.err != nil:
			return nil
		case !found || name == "" || strings.IndexByte(name, 0) >= 0:
			f.fail("extended attribute %q", abridged(escapedName))
			return nil
		case name <= last:
			f.fail("extended attribute %q is out of order", abridged(escapedName))
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

func (f *fieldReader) unescape(field []byte, limit int) string {
	if len(field) > 3*limit {
		f.fail("a text of more than %d bytes", limit)
		return ""
	}
	first := 0
	for first < len(field) && plain(field[first]) {
		first++
	}
	if first == len(field) {
		if len(field) > limit {
			f.fail("a text of more than %d bytes", limit)
			return ""
		}
		return string(field)
	}
	text := append(make([]byte, 0, len(field)), field[:first]...)
	for i := first; i < len(field); i++ {
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

// abridged limits the length of untrusted text in errors.
func abridged(text []byte) string {
	if len(text) > 120 {
		return string(text[:120]) + "…"
	}
	return string(text)
}
