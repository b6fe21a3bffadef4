package tarstream

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"path"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// Read reads an uncompressed tar stream to its end and returns its tree. The contents of files are stored in one
// unnamed file in spoolDir, each distinct content once, until the closer is closed. Memory grows with the number of
// entries, not with their contents.
//
// The stream is not trusted:
//   - "/x", "./x", ".//x" and "./././x" mean x. A name with "..", or one that is longer than Linux allows, is refused.
//   - A symbolic link in the path of an entry, or of the target of a hard link, is followed inside
//     the tree. An entry below anything else that is not a directory is refused.
//   - If a path occurs twice, the later entry counts, whatever their types are. With a directory
//     that is no more, all below it disappears.
//   - A hard link is another name of an earlier file of the stream, which must not be a directory.
//   - Parent directories that the stream lacks are added, as root:root with mode 0755.
//   - Device nodes are kept, except for the character device 0:0: overlayfs takes it for a whiteout.
//     For the same reason the attributes trusted.overlay.* and user.overlay.* are refused.
//   - POSIX ACLs as text (SCHILY.acl.*) are refused, since they would get lost. As system.posix_acl_* attributes they
//     are kept.
//   - A stream without an end-of-archive marker is truncated. One with anything but zeros after the marker is damaged.
//
// Names need not be UTF-8. Extended attributes (SCHILY.xattr.* and LIBARCHIVE.xattr.*, among them
// security.capability) are kept, and so are records of what is no attribute on Linux (paxForeign). Fractions of
// seconds are dropped. Errors wrap source.ErrCorrupt, source.ErrRefused or source.ErrLimit and name the entry.
func Read(ctx context.Context, r io.Reader, spoolDir string,
	limits source.Limits) (_ *tree.Tree, _ io.Closer, err error) {
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
	// index maps paths to positions in entries. Some may be below directories that are no more; see live.
	index map[string]int
	// ended counts, by path, how often a directory was replaced by something else. For entries below a path at which a
	// directory ended, born has the count at their time.
	ended, born map[string]int
	// linkedFiles counts the files with several names.
	linkedFiles uint32
}

// largeTree is the number of entries from which on a garbage collection, which takes a tenth of a second, is worth it.
const largeTree = 100_000

// takeEntries returns the entries as one slice. The reader cannot be used afterwards.
func (t *reader) takeEntries() []tree.Entry {
	if len(t.ended) == 0 {
		t.index = nil
	}
	if t.entries.length >= largeTree {
		// Otherwise the slice would be allocated on top of the index and of what the producer of the stream used.
		runtime.GC()
	}
	all := t.entries.join()
	if len(t.ended) == 0 {
		return all
	}
	return slices.DeleteFunc(all, func(e tree.Entry) bool { return !t.live(e.Path) })
}

// entry returns the entry of a path, without following a symbolic link; nil if there is none.
func (t *reader) entry(p string) *tree.Entry {
	i, ok := t.index[p]
	if !ok || !t.live(p) {
		return nil
	}
	return t.entries.at(i)
}

// live reports whether a path that was put is not in a directory that is no more.
func (t *reader) live(p string) bool {
	for len(t.ended) > 0 && p != tree.Root {
		dir := tree.Parent(p)
		if t.born[p] != t.ended[dir] {
			return false
		}
		p = dir
	}
	return true
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
	if e.Path, err = t.place(e.Path); err != nil {
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

// linked returns the entry of a hard link: its target under another path.
func (t *reader) linked(p, name string) (tree.Entry, error) {
	target, err := LinkTarget(name)
	if err != nil {
		return tree.Entry{}, err
	}
	dir, err := t.follow(tree.Parent(target), nil)
	if err != nil {
		return tree.Entry{}, fmt.Errorf("hard link to %q: %w", name, err)
	}
	earlier := t.entry(path.Join(dir, path.Base(target)))
	if earlier == nil {
		return tree.Entry{},
			fmt.Errorf("hard link to %q, which is not in the stream before it: %w", name, source.ErrRefused)
	}
	if earlier.Type == tree.Directory {
		return tree.Entry{}, fmt.Errorf("hard link to the directory %q: %w", name, source.ErrRefused)
	}
	if earlier.Inode == 0 {
		t.linkedFiles++
		earlier.Inode = t.linkedFiles
	}
	e := *earlier
	e.Path, e.Xattrs = p, maps.Clone(e.Xattrs)
	return e, nil
}

// put adds an entry, or replaces the earlier entry of the same path.
func (t *reader) put(e tree.Entry) error {
	if err := t.AddMetadata(e); err != nil {
		return err
	}
	again := t.live(e.Path)
	if len(t.ended) > 0 && e.Path != tree.Root {
		t.born[e.Path] = t.ended[tree.Parent(e.Path)]
	}
	if i, ok := t.index[e.Path]; ok {
		if t.entries.at(i).Type == tree.Directory && (e.Type != tree.Directory || !again) {
			if t.ended == nil {
				t.ended, t.born = map[string]int{}, map[string]int{}
			}
			t.ended[e.Path]++
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

// place returns the path at which an entry is, after the symbolic links above it, and adds the directories that the
// stream lacks.
func (t *reader) place(p string) (string, error) {
	if p == tree.Root {
		return p, nil
	}
	dir, err := t.follow(tree.Parent(p), func(missing string) error {
		return t.put(tree.Entry{Path: missing, Type: tree.Directory, Mode: 0o755, ModTime: time.Unix(0, 0)})
	})
	return path.Join(dir, path.Base(p)), err
}

// follow returns the path of a directory, as a process would find it whose root is the tree. It calls add for a
// directory that is missing; if that is nil, the path of a directory that is missing is of no entry.
func (t *reader) follow(p string, add func(missing string) error) (string, error) {
	if e := t.entry(p); e != nil && e.Type == tree.Directory {
		return p, nil // no step of an entry's own path is a link
	}
	at := tree.Root
	if t.entry(at) == nil && add != nil {
		if err := add(at); err != nil {
			return "", err
		}
	}
	rest := p
	for links := 0; rest != ""; {
		var step string
		step, rest, _ = strings.Cut(rest, "/")
		switch step {
		case "", ".":
			continue
		case "..":
			at = tree.Parent(at)
			continue
		}
		next := path.Join(at, step)
		e := t.entry(next)
		switch {
		case e == nil && add == nil:
			at = next
		case e == nil:
			if err := tree.CheckPath(next); err != nil {
				return "", fmt.Errorf("%w: %w", err, source.ErrRefused)
			}
			if err := add(next); err != nil {
				return "", err
			}
			at = next
		case e.Type == tree.Directory:
			at = next
		case e.Type == tree.Symlink:
			if links++; links > tree.MaxLinks || len(e.Link)+len(rest) > 2*tree.MaxPath {
				return "", fmt.Errorf("%q goes through too many symbolic links: %w", p, source.ErrRefused)
			}
			if strings.HasPrefix(e.Link, "/") {
				at = tree.Root
			}
			rest = e.Link + "/" + rest
		default:
			return "", fmt.Errorf("is below %q, which is a %s: %w", next, e.Type, source.ErrRefused)
		}
	}
	return at, nil
}
