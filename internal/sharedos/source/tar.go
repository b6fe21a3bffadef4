package source

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

var (
	// ErrCorrupt means that a stream is damaged, cut off, or not what it should be.
	ErrCorrupt = errors.New("damaged or cut off")
	// ErrRefused means that a stream holds an entry that no tree may have, or asks for more memory to be unpacked than it gets.
	ErrRefused = errors.New("refused")
	// ErrLimit means that a stream holds more than the limits allow.
	ErrLimit = errors.New("over the limit")
)

// Limits bound what one tar stream may hold. Zero means the default.
type Limits struct {
	// Content bytes of all regular files together, doubles counted; default 16 GiB.
	Content int64
	// Entries, including directories that have to be made; default 1,000,000.
	Entries int
	// Metadata bytes of paths, link targets and extended attributes together; default 1 GiB.
	Metadata int64
}

// The default limits.
const (
	DefaultContentLimit  = 16 << 30
	DefaultEntriesLimit  = 1_000_000
	DefaultMetadataLimit = 1 << 30
)

// The largest sum of names and values of one file's extended attributes that every file system of ours holds, and
// the padding after the end of an archive that is read to find that nothing follows.
const (
	maxXattrs  = 64 << 10
	maxPadding = 64 << 20
)

func (l Limits) withDefaults() Limits {
	if l.Content == 0 {
		l.Content = DefaultContentLimit
	}
	if l.Entries == 0 {
		l.Entries = DefaultEntriesLimit
	}
	if l.Metadata == 0 {
		l.Metadata = DefaultMetadataLimit
	}
	return l
}

// ReadTar reads an uncompressed tar stream to its end and yields its tree. Contents lie in one file without a name
// in spoolDir, each distinct one once, until the closer is closed. Memory grows with the number of entries only.
//
// The stream is not trusted:
//   - "/x" and "./x" are x. A name with "..", "//" or "/./", or one that is longer than Linux allows, is refused.
//   - An entry below a symbolic link or anything else but a directory is refused.
//   - A path that comes twice is the later one if both are of one type; a change of type is refused.
//   - A hard link becomes a copy of an earlier file of the stream, which must not be a directory.
//   - Directories that the stream lacks are made: root:root 0755.
//   - Device nodes stay entries, but not a character device 0:0: it means "removed" to overlayfs. For the same
//     reason trusted.overlay.* and user.overlay.* attributes are refused.
//   - POSIX ACLs as text (SCHILY.acl.*) are refused rather than lost; as system.posix_acl_* attributes they stay.
//   - A stream without its end-of-archive marker is cut off; one with anything but zeros after it is damaged.
//
// Names need not be UTF-8. Extended attributes (SCHILY.xattr.*, among them security.capability) are kept. SELinux labels in
// RHT.security.selinux records and times below a second are not. Errors wrap ErrCorrupt, ErrRefused or ErrLimit
// and name the entry.
func ReadTar(ctx context.Context, r io.Reader, spoolDir string, limits Limits) (_ *tree.Tree, _ io.Closer, err error) {
	s, err := newSpool(spoolDir)
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	tr := &tarReader{tarScanner: newTarScanner(ctx, r, limits), spool: s, index: make(map[string]int)}
	if err := tr.readAll(); err != nil {
		return nil, nil, fmt.Errorf("read tar stream: %w", err)
	}
	if tr.entries.length == 0 {
		return nil, nil, fmt.Errorf("read tar stream: it has no entries: %w", ErrCorrupt)
	}
	t, err := tree.New(tr.collected(), s)
	if err != nil {
		return nil, nil, fmt.Errorf("read tar stream: %w", err)
	}
	return t, s, nil
}

// countingReader counts what is read and ends with its context.
type countingReader struct {
	ctx context.Context
	r   io.Reader
	n   int64
}

func (c *countingReader) Read(p []byte) (int, error) {
	if err := c.ctx.Err(); err != nil {
		return 0, context.Cause(c.ctx)
	}
	n, err := c.r.Read(p)
	c.n += int64(n)
	return n, err
}

// tarScanner passes over a stream, header by header, within limits.
type tarScanner struct {
	in                *countingReader
	tar               *tar.Reader
	limits            Limits
	content, metadata int64
}

func newTarScanner(ctx context.Context, r io.Reader, limits Limits) *tarScanner {
	in := &countingReader{ctx: ctx, r: r}
	return &tarScanner{in: in, tar: tar.NewReader(in), limits: limits.withDefaults()}
}

// next returns the next header that describes an entry; io.EOF after all of the stream was read, also what follows
// the archive.
func (t *tarScanner) next() (*tar.Header, error) {
	for {
		before := t.in.n
		header, err := t.tar.Next()
		switch {
		case errors.Is(err, io.EOF):
			// Without a marker archive/tar takes the end of input for the end of the archive. What it has
			// then read since the last entry is less than the block that the marker starts with.
			if t.in.n-before < 512 {
				return nil, fmt.Errorf("after %d bytes: no end-of-archive marker: %w", t.in.n, ErrCorrupt)
			}
			if err := t.readPadding(); err != nil {
				return nil, err
			}
			return nil, io.EOF
		case err != nil:
			return nil, t.broken(err)
		case header.Typeflag != tar.TypeXGlobalHeader:
			return header, nil
		}
	}
}

// addContent counts the content of a regular file.
func (t *tarScanner) addContent(size int64) error {
	if t.content += size; size > t.limits.Content || t.content > t.limits.Content {
		return fmt.Errorf("more than %d bytes of content: %w; raise the limit if this is meant to be one "+
			"operating system", t.limits.Content, ErrLimit)
	}
	return nil
}

// addMetadata counts what an entry takes beside its content.
func (t *tarScanner) addMetadata(e tree.Entry) error {
	t.metadata += int64(len(e.Path) + len(e.Link))
	for name, value := range e.Xattrs {
		t.metadata += int64(len(name) + len(value))
	}
	if t.metadata > t.limits.Metadata {
		return fmt.Errorf("more than %d bytes of names, links and attributes: %w", t.limits.Metadata, ErrLimit)
	}
	return nil
}

// tarReader turns a stream into entries.
type tarReader struct {
	*tarScanner
	spool   *spool
	entries entryList
	// index finds an entry by path.
	index map[string]int
}

// largeTree is how many entries make a tree for which it is worth a tenth of a second to free what was needed to read it.
const largeTree = 100_000

// collected takes the entries out of the reader, which is of no use afterwards.
func (t *tarReader) collected() []tree.Entry {
	t.index = nil
	if t.entries.length >= largeTree {
		runtime.GC() // or the entries in one piece come on top of the index and of what the stream was made from
	}
	return t.entries.join()
}

func (t *tarReader) readAll() error {
	for {
		header, err := t.next()
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := t.readEntry(header); err != nil {
			return fmt.Errorf("entry %q: %w", header.Name, err)
		}
	}
}

// broken explains a failure to read on. What the source itself reports is passed as it is.
func (t *tarScanner) broken(err error) error {
	if errors.Is(err, errSpool) || errors.Is(err, ErrCorrupt) || errors.Is(err, ErrRefused) || t.in.ctx.Err() != nil {
		return err
	}
	return fmt.Errorf("at byte %d of the stream: %w: %w", t.in.n, ErrCorrupt, err)
}

// readPadding reads what follows the end of the archive, so that the source comes to its own end, checksums
// included, and so that an archive glued to another is not lost in silence.
func (t *tarScanner) readPadding() error {
	buf := make([]byte, 64<<10)
	for read := int64(0); ; {
		n, err := t.in.Read(buf)
		for _, b := range buf[:n] {
			if b != 0 {
				return fmt.Errorf("data after the end of the archive, near byte %d: %w", t.in.n, ErrCorrupt)
			}
		}
		if read += int64(n); read > maxPadding {
			return fmt.Errorf("more than %d bytes after the end of the archive: %w", int64(maxPadding), ErrLimit)
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return t.broken(err)
		}
	}
}

// entryPath turns a name of the stream into a path of the tree.
func entryPath(name string, directory bool) (string, error) {
	p := name
	if rest, ok := strings.CutPrefix(p, "./"); ok {
		p = rest
	} else if rest, ok := strings.CutPrefix(p, "/"); ok {
		p = rest
	}
	if directory {
		p = strings.TrimSuffix(p, "/")
	}
	if p == "" && (name == "./" || name == "/") {
		p = tree.Root
	}
	if err := tree.CheckPath(p); err != nil {
		return "", fmt.Errorf("%w: %w", err, ErrRefused)
	}
	return p, nil
}

func (t *tarReader) readEntry(header *tar.Header) error {
	p, err := entryPath(header.Name, header.Typeflag == tar.TypeDir)
	if err != nil {
		return err
	}
	e, err := newEntry(p, header)
	if err != nil {
		return err
	}
	if err := t.makeParents(p); err != nil {
		return err
	}
	switch header.Typeflag {
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		if err := t.addContent(header.Size); err != nil {
			return err
		}
		e.Size = header.Size
		if e.Digest, err = t.spool.add(t.tar, header.Size); err != nil {
			return t.broken(err)
		}
	case tar.TypeLink:
		target, err := entryPath(header.Linkname, false)
		if err != nil {
			return fmt.Errorf("hard link to %q: %w", header.Linkname, err)
		}
		i, ok := t.index[target]
		if !ok {
			return fmt.Errorf("hard link to %q, which is not in the stream before it: %w", header.Linkname, ErrRefused)
		}
		if t.entries.at(i).Type == tree.Directory {
			return fmt.Errorf("hard link to the directory %q: %w", header.Linkname, ErrRefused)
		}
		e = *t.entries.at(i)
		e.Path, e.Xattrs = p, maps.Clone(e.Xattrs)
	}
	return t.put(e)
}

// put adds an entry or replaces the earlier one of its path.
func (t *tarReader) put(e tree.Entry) error {
	if err := t.addMetadata(e); err != nil {
		return err
	}
	if i, ok := t.index[e.Path]; ok {
		if earlier := t.entries.at(i).Type; earlier != e.Type {
			return fmt.Errorf("is a %s, and was a %s earlier in the stream: %w", e.Type, earlier, ErrRefused)
		}
		*t.entries.at(i) = e
		return nil
	}
	if t.entries.length >= t.limits.Entries {
		return fmt.Errorf("more than %d entries: %w", t.limits.Entries, ErrLimit)
	}
	t.index[e.Path] = t.entries.length
	t.entries.add(e)
	return nil
}

// makeParents makes the directories above p that the stream has not brought.
func (t *tarReader) makeParents(p string) error {
	var missing []string
	for dir := p; dir != tree.Root; {
		dir = tree.Parent(dir)
		if i, ok := t.index[dir]; ok {
			if kind := t.entries.at(i).Type; kind != tree.Directory {
				return fmt.Errorf("is below %q, which is a %s: %w", dir, kind, ErrRefused)
			}
			break
		}
		missing = append(missing, dir)
	}
	for _, dir := range slices.Backward(missing) {
		if err := t.put(tree.Entry{Path: dir, Type: tree.Directory, Mode: 0o755, ModTime: time.Unix(0, 0)}); err != nil {
			return err
		}
	}
	return nil
}
