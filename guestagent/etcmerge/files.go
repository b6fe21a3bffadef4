package etcmerge

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"math"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/failpoint"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/fileio"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// maxFile bounds a file that is read, in bytes. Configuration files are far smaller.
const maxFile = 64 << 20

// errTooLarge means that a file is larger than maxFile.
var errTooLarge = errors.New("too large for a configuration file")

// temporarySuffix marks a file that is being written. A later carry or Undo overwrites or removes one that a power cut
// left.
const temporarySuffix = ".sharedos-new"

// longestName is NAME_MAX of the file systems that Linux has.
const longestName = 255

// temporaryName returns the name under which a file is written before it is renamed to its path.
func temporaryName(name string) string {
	base := "." + path.Base(name) + temporarySuffix
	if len(base) > longestName {
		base = "." + tree.Sum([]byte(path.Base(name))).Hex() + temporarySuffix
	}
	return path.Join(path.Dir(name), base)
}

// entryAt returns the entry at a path, nil if there is none or if a parent is not a directory.
func entryAt(root *os.Root, name string) (*tree.Entry, error) {
	if plain, err := plainParents(root, name); err != nil || !plain {
		return nil, err
	}
	info, err := root.Lstat(name)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
		return nil, nil //nolint:nilnil // the contract: there is none
	}
	if err != nil {
		return nil, err
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return nil, fmt.Errorf("stat %s: no owner", name)
	}
	e := &tree.Entry{Path: name, Mode: stat.Mode & 0o7777, UID: stat.Uid, GID: stat.Gid, ModTime: info.ModTime()}
	switch stat.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		e.Type = tree.Directory
	case unix.S_IFLNK:
		e.Type = tree.Symlink
		e.Link, err = root.Readlink(name)
	case unix.S_IFREG:
		e.Type, e.Size = tree.Regular, info.Size()
		e.Digest, err = digestAt(root, name)
	case unix.S_IFCHR:
		e.Type, e.Major, e.Minor = tree.CharDevice, unix.Major(stat.Rdev), unix.Minor(stat.Rdev)
	case unix.S_IFBLK:
		e.Type, e.Major, e.Minor = tree.BlockDevice, unix.Major(stat.Rdev), unix.Minor(stat.Rdev)
	default:
		e.Type = tree.FIFO // or a socket: neither is configuration nor equals an entry of a release
	}
	if err != nil {
		return nil, err
	}
	if e.Xattrs, err = attributesAt(root, name); err != nil {
		return nil, err
	}
	return e, nil
}

// attributesAt reads the extended attributes that a carry keeps. The parents of the path are no symbolic links, and it
// is not followed if it is one.
func attributesAt(root *os.Root, name string) (map[string]string, error) {
	const most = 64 << 10 // XATTR_LIST_MAX and XATTR_SIZE_MAX, xattr(7)
	full := filepath.Join(root.Name(), name)
	n, err := unix.Llistxattr(full, nil) // most files have none
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, fs.ErrNotExist) || err == nil && n == 0 {
		return map[string]string{}, nil
	}
	list := make([]byte, most)
	if err == nil {
		n, err = unix.Llistxattr(full, list)
	}
	if err != nil {
		return nil, fmt.Errorf("list the attributes of %s: %w", name, err)
	}
	attributes := map[string]string{}
	value := make([]byte, most)
	for attribute := range strings.SplitSeq(string(list[:n]), "\x00") {
		if !carriedAttribute(attribute) {
			continue
		}
		n, err := unix.Lgetxattr(full, attribute, value)
		if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.EOPNOTSUPP) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read attribute %s of %s: %w", attribute, name, err)
		}
		attributes[attribute] = string(value[:n])
	}
	return attributes, nil
}

// setAttributes makes the extended attributes of a path those of an entry. Attributes of the kernel stay.
func setAttributes(root *os.Root, name string, entry *tree.Entry) error {
	now, err := attributesAt(root, name)
	if err != nil {
		return err
	}
	full := filepath.Join(root.Name(), name)
	for attribute := range now {
		if _, wanted := entry.Xattrs[attribute]; wanted || slices.Contains(kernelLabels, attribute) {
			continue
		}
		if err := unix.Lremovexattr(full, attribute); err != nil && !errors.Is(err, unix.ENODATA) {
			return fmt.Errorf("remove attribute %s: %w", attribute, err)
		}
	}
	for attribute, value := range carriedOnly(entry.Xattrs) {
		if had, is := now[attribute]; is && had == value {
			continue
		}
		if err := unix.Lsetxattr(full, attribute, []byte(value), 0); err != nil {
			return fmt.Errorf("set attribute %s: %w", attribute, err)
		}
	}
	return nil
}

// plainParents reports whether all parents of a path are directories and none is a symbolic link. A release has no
// paths behind a symbolic link, so what is there belongs to this VM.
func plainParents(root *os.Root, name string) (bool, error) {
	var trouble error
	for parent := path.Dir(name); parent != "."; parent = path.Dir(parent) {
		info, err := root.Lstat(parent)
		switch {
		case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR):
			return false, nil
		case err != nil:
			trouble = err // perhaps a parent further up is a link that leads out of the root, which is found next
		case !info.IsDir():
			return false, nil
		}
	}
	return trouble == nil, trouble
}

func digestAt(root *os.Root, name string) (digest tree.Digest, err error) {
	file, err := root.Open(name)
	if err != nil {
		return digest, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	limit := int64(maxFile)
	if tree.OwnerOf(name) != tree.Merged {
		limit = math.MaxInt64 - 1 // it may be a program or data, and nothing reads it into memory
	}
	sum := sha256.New()
	n, err := io.Copy(sum, io.LimitReader(file, limit+1))
	if err != nil {
		return digest, err
	}
	if n > limit {
		return digest, fmt.Errorf("read %s: %w", name, errTooLarge)
	}
	return tree.Digest(sum.Sum(nil)), nil
}

func readAt(root *os.Root, name string) (data []byte, err error) {
	file, err := root.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	data, err = io.ReadAll(io.LimitReader(file, maxFile+1))
	if err == nil && len(data) > maxFile {
		err = fmt.Errorf("read %s: %w", name, errTooLarge)
	}
	return data, err
}

// placing creates and replaces paths for a carry or for Undo. At any moment, and after a power cut, a path has the old
// file or the new one: a file is renamed to its path once its content is on the disk.
type placing struct {
	root *os.Root
	sync syncer
	// ready are the files and links that exist under their temporary names.
	ready []*tree.Entry
	// done are all paths that were created.
	done []string
	// skip is called for a path that cannot be placed while others can.
	skip func(name string, o *obstacle)
	// names has the first placed name of each file of the release that has several.
	names map[inode]*tree.Entry
}

// inode identifies a file of a release.
type inode struct{ device, number uint64 }

// several returns the identity of a file that has several names; zero if it has one.
func several(root *os.Root, name string) (inode, error) {
	info, err := root.Lstat(name)
	if err != nil {
		return inode{}, err
	}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok && info.Mode().IsRegular() && stat.Nlink > 1 {
		return inode{stat.Dev, stat.Ino}, nil
	}
	return inode{}, nil
}

// prepareName is prepare for a name of a file that may have several: a further one becomes a hard link, unless it is on
// another mount.
func (p *placing) prepareName(entry *tree.Entry, file inode, content content) error {
	if file == (inode{}) {
		return p.prepare(entry, content)
	}
	if first := p.names[file]; first != nil {
		temporary := temporaryName(entry.Path)
		if err := p.root.Remove(temporary); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("write /%s: %w", entry.Path, err)
		}
		if err := p.root.Link(temporaryName(first.Path), temporary); err == nil {
			p.ready = append(p.ready, entry)
			return nil
		} // otherwise it is written as a file of its own, which says what is wrong, if anything is
	}
	if err := p.prepare(entry, content); err != nil {
		return err
	}
	if p.names == nil {
		p.names = map[inode]*tree.Entry{}
	}
	if p.names[file] == nil {
		p.names[file] = entry
	}
	return nil
}

// prepare creates a directory, or a file or link under a temporary name. content returns the content of a regular file.
// The path must not be a directory, which a rename cannot replace, unless entry is one.
func (p *placing) prepare(entry *tree.Entry, content content) error {
	if err := p.put(entry, content); err != nil {
		if o := asObstacle(err); o != nil {
			p.skip(entry.Path, o)
			return nil
		}
		return fmt.Errorf("write /%s: %w", entry.Path, err)
	}
	return nil
}

func (p *placing) put(entry *tree.Entry, content content) error {
	if entry.Type == tree.Directory {
		if err := putDirectory(p.root, entry); err != nil {
			return err
		}
		p.done = append(p.done, entry.Path)
		return nil
	}
	temporary := temporaryName(entry.Path)
	if err := p.root.Remove(temporary); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := makeTemporary(p.root, temporary, entry, content); err != nil {
		if removeErr := p.root.Remove(temporary); !errors.Is(removeErr, fs.ErrNotExist) {
			err = errors.Join(err, removeErr)
		}
		return err
	}
	p.ready = append(p.ready, entry)
	return nil
}

// finish renames all ready files and links to their paths. After a failure, Undo removes those that remain.
func (p *placing) finish(ctx context.Context) error {
	var files []string
	for _, entry := range p.ready {
		if entry.Type == tree.Regular {
			files = append(files, temporaryName(entry.Path))
		}
	}
	if err := p.sync.files(ctx, p.root, files); err != nil {
		return err
	}
	for _, entry := range p.ready {
		if failpoint.Built {
			if err := failpoint.Hit("before a file below /etc"); err != nil {
				return err
			}
		}
		temporary := temporaryName(entry.Path)
		if err := p.root.Rename(temporary, entry.Path); err != nil {
			removeErr := p.root.Remove(temporary)
			if o := asObstacle(err); o != nil && removeErr == nil {
				p.skip(entry.Path, o)
				continue
			}
			return fmt.Errorf("write /%s: %w", entry.Path, errors.Join(err, removeErr))
		}
		p.done = append(p.done, entry.Path)
	}
	p.ready = nil
	return nil
}

// syncDirectories syncs the directories of all paths that were created or removed.
func (p *placing) syncDirectories(ctx context.Context, removed []string) error {
	return p.sync.directories(ctx, p.root, append(removed, p.done...))
}

func putDirectory(root *os.Root, entry *tree.Entry) error {
	if err := root.Mkdir(entry.Path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	if err := root.Lchown(entry.Path, int(entry.UID), int(entry.GID)); err != nil {
		return err
	}
	if err := setAttributes(root, entry.Path, entry); err != nil {
		return err
	}
	return chmodAt(root, entry.Path, entry.Mode) // after the access control list, whose mask it also sets
}

// chmodAt sets all bits of 07777. root.Chmod represents the upper three differently.
func chmodAt(root *os.Root, name string, mode uint32) error {
	bits := fs.FileMode(mode & 0o777)
	for bit, value := range map[uint32]fs.FileMode{unix.S_ISUID: fs.ModeSetuid, unix.S_ISGID: fs.ModeSetgid,
		unix.S_ISVTX: fs.ModeSticky} {
		if mode&bit != 0 {
			bits |= value
		}
	}
	return root.Chmod(name, bits)
}

func makeTemporary(root *os.Root, temporary string, entry *tree.Entry, content content) error {
	switch entry.Type {
	case tree.Symlink:
		if err := root.Symlink(entry.Link, temporary); err != nil {
			return err
		}
		return root.Lchown(temporary, int(entry.UID), int(entry.GID))
	case tree.Regular:
		return writeFile(root, temporary, entry, content)
	default:
		return fmt.Errorf("a %s is not configuration", entry.Type)
	}
}

func writeFile(root *os.Root, name string, entry *tree.Entry, content content) (err error) {
	file, err := root.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	sparse := fileio.NewSparse(file)
	if err := errors.Join(content(sparse), sparse.End()); err != nil {
		return err
	}
	if err := file.Chown(int(entry.UID), int(entry.GID)); err != nil {
		return err
	}
	if err := setAttributes(root, name, entry); err != nil { // after the change of owner, which removes capabilities
		return err
	}
	if err := unix.Fchmod(int(file.Fd()), entry.Mode); err != nil { // after the access control list, whose mask it sets
		return fmt.Errorf("chmod: %w", err)
	}
	return nil
}
