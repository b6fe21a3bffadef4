package tarstream

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"runtime"
	"slices"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// Read reads an uncompressed tar stream to its end and returns its tree. The contents of files are stored in one
// unnamed file in spoolDir, each distinct content once, until the closer is closed. Memory grows with the number of
// entries, not with their contents.
//
// The stream is not trusted:
//   - "/x" and "./x" mean x. A name with "..", "//" or "/./", or one that is longer than Linux allows, is refused.
//   - An entry below a symbolic link, or below anything else that is not a directory, is refused.
//   - If a path occurs twice, the later entry counts. Both must have the same type.
//   - A hard link becomes a copy of an earlier file of the stream, which must not be a directory.
//   - Parent directories that the stream lacks are added, as root:root with mode 0755.
//   - Device nodes are kept, except for the character device 0:0: overlayfs takes it for a whiteout. For the same reason
//     the attributes trusted.overlay.* and user.overlay.* are refused.
//   - POSIX ACLs as text (SCHILY.acl.*) are refused, since they would get lost. As system.posix_acl_* attributes they
//     are kept.
//   - A stream without an end-of-archive marker is truncated. One with anything but zeros after the marker is damaged.
//
// Names need not be UTF-8. Extended attributes (SCHILY.xattr.*, among them security.capability) are kept. SELinux
// labels in RHT.security.selinux records and fractions of seconds are dropped. Errors wrap source.ErrCorrupt,
// source.ErrRefused or source.ErrLimit and name the entry.
func Read(ctx context.Context, r io.Reader, spoolDir string, limits source.Limits) (_ *tree.Tree, _ io.Closer, err error) {
	s, err := newSpool(spoolDir)
	if err != nil {
		return nil, nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	reader := &reader{Scanner: NewScanner(ctx, r, limits, Usage{}), spool: s, index: make(map[string]int)}
	if err := reader.readAll(); err != nil {
		return nil, nil, fmt.Errorf("read tar stream: %w", err)
	}
	if reader.entries.length == 0 {
		return nil, nil, fmt.Errorf("read tar stream: it has no entries: %w", source.ErrCorrupt)
	}
	t, err := tree.New(reader.takeEntries(), s)
	if err != nil {
		return nil, nil, fmt.Errorf("read tar stream: %w", err)
	}
	return t, s, nil
}

// reader turns a stream into entries.
type reader struct {
	*Scanner
	spool   *spool
	entries entryList
	// index maps paths to positions in entries.
	index map[string]int
}

// largeTree is the number of entries from which on a garbage collection, which takes a tenth of a second, is worth it.
const largeTree = 100_000

// takeEntries returns the entries as one slice. The reader cannot be used afterwards.
func (t *reader) takeEntries() []tree.Entry {
	t.index = nil
	if t.entries.length >= largeTree {
		// Otherwise the slice would be allocated on top of the index and of what the producer of the stream used.
		runtime.GC()
	}
	return t.entries.join()
}

func (t *reader) readAll() error {
	for {
		header, err := t.Next()
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

func (t *reader) readEntry(header *tar.Header) error {
	e, err := Entry(header)
	if err != nil {
		return err
	}
	if err := t.addParents(e.Path); err != nil {
		return err
	}
	switch {
	case header.Typeflag == tar.TypeLink:
		if e, err = t.linked(e.Path, header.Linkname); err != nil {
			return err
		}
	case e.Type == tree.Regular:
		if err := t.AddContent(e.Size); err != nil {
			return err
		}
		if e.Digest, err = t.spool.add(t.tar, e.Size); err != nil {
			return t.explain(err)
		}
	}
	return t.put(e)
}

// linked returns the entry of a hard link: a copy of its target under another path.
func (t *reader) linked(p, name string) (tree.Entry, error) {
	target, err := LinkTarget(name)
	if err != nil {
		return tree.Entry{}, err
	}
	i, ok := t.index[target]
	if !ok {
		return tree.Entry{}, fmt.Errorf("hard link to %q, which is not in the stream before it: %w", name, source.ErrRefused)
	}
	e := *t.entries.at(i)
	if e.Type == tree.Directory {
		return tree.Entry{}, fmt.Errorf("hard link to the directory %q: %w", name, source.ErrRefused)
	}
	e.Path, e.Xattrs = p, maps.Clone(e.Xattrs)
	return e, nil
}

// put adds an entry, or replaces the earlier entry of the same path.
func (t *reader) put(e tree.Entry) error {
	if err := t.AddMetadata(e); err != nil {
		return err
	}
	if i, ok := t.index[e.Path]; ok {
		if earlier := t.entries.at(i).Type; earlier != e.Type {
			return fmt.Errorf("is a %s, and was a %s earlier in the stream: %w", e.Type, earlier, source.ErrRefused)
		}
		*t.entries.at(i) = e
		return nil
	}
	if t.entries.length >= t.limits.Entries {
		return fmt.Errorf("more than %d entries: %w", t.limits.Entries, source.ErrLimit)
	}
	t.index[e.Path] = t.entries.length
	t.entries.add(e)
	return nil
}

// addParents adds the directories above p that the stream lacks.
func (t *reader) addParents(p string) error {
	var missing []string
	for dir := p; dir != tree.Root; {
		dir = tree.Parent(dir)
		if i, ok := t.index[dir]; ok {
			if kind := t.entries.at(i).Type; kind != tree.Directory {
				return fmt.Errorf("is below %q, which is a %s: %w", dir, kind, source.ErrRefused)
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
