package boot

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/etcmerge"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/fileio"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/mounts"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

const (
	// seededName is the file on the private disk that lists what was offered to it: the key of the last stack, and then
	// every path, separated by NUL.
	seededName = "sharedos/seeded"
	maxSeeded  = 64 << 20
	// seedTemporary is the name of a path until it is complete.
	seedTemporary = ".sharedos-seed"
	maxSeedDepth  = 256
	maxXattr      = 64 << 10
)

// Seed copies what the merged tree at lower has under /var, /home, /root and /srv to the private disk mounted at
// private, and returns how many paths it added. Owner, mode, times, extended attributes, links and devices are
// kept. A path that exists is never touched. A path that an earlier stack brought and that is gone was deleted
// here, and does not come back. lower is the tree of the stack: the same stack twice is no work.
//
// It is for a new disk. Later a carry brings what a stack adds, if there is a baseline to compare
// the stack with. If there is none, Seed adds new paths where the VM uses nothing
// (etcmerge.Seeding); files of CarriedByOS are not its then.
//
// Cut off anywhere, it can be called again: a path appears whole or not at all.
func Seed(lower, private string, stack release.Stack) (added int, err error) {
	seeded, err := readSeeded(filepath.Join(private, seededName))
	if err != nil {
		return 0, fmt.Errorf("seed private disk: %w", err)
	}
	if stack.HasKey(seeded.stackKey) {
		return 0, nil
	}
	s := seeder{offered: seeded.paths, before: maps.Clone(seeded.paths), durable: seeded.stackKey != "",
		later: seeded.stackKey != ""}
	s.rule.Delivered = func(directory string) (bool, error) { return s.delivered(private, directory) }
	for _, tree := range mounts.PrivateTrees {
		s.links = map[inode]string{}
		if err := s.tree(filepath.Join(lower, tree.Path), filepath.Join(private, tree.Name), tree.Name); err != nil {
			return s.added, fmt.Errorf("seed private disk: %w", err)
		}
	}
	if err := syncFileSystem(private); err != nil {
		return s.added, fmt.Errorf("seed private disk: %w", err)
	}
	seeded.stackKey = stack.Key()
	if err := fileio.Replace(filepath.Join(private, seededName), seeded.encode(), 0o600); err != nil {
		return s.added, fmt.Errorf("seed private disk: %w", err)
	}
	return s.added, nil
}

// seededList is the content of the file seededName.
type seededList struct {
	stackKey string
	paths    map[string]bool
}

func readSeeded(name string) (seededList, error) {
	list := seededList{paths: map[string]bool{}}
	data, err := fileio.Read(name, maxSeeded)
	if errors.Is(err, fs.ErrNotExist) {
		return list, nil
	}
	if err != nil {
		return list, err
	}
	key, paths, _ := bytes.Cut(data, []byte{0})
	list.stackKey = string(key)
	for name := range bytes.SplitSeq(paths, []byte{0}) {
		if len(name) > 0 {
			list.paths[string(name)] = true
		}
	}
	return list, nil
}

func (l seededList) encode() []byte {
	names := make([]string, 0, len(l.paths)+1)
	for name := range l.paths {
		names = append(names, name)
	}
	slices.Sort(names)
	return []byte(strings.Join(append([]string{l.stackKey}, names...), "\x00"))
}

// inode identifies a file of one tree.
type inode struct{ device, number uint64 }

// seeder copies from one tree to another.
type seeder struct {
	// offered are the paths of earlier stacks, and of this one as far as it was seeded.
	offered map[string]bool
	// durable is true if each file has to be synced before it gets its name.
	durable bool
	// later is true if the disk was seeded before: a carry brings the files of CarriedByOS then.
	later bool
	// before are the paths that were offered before, and that this run has created. rule decides by them.
	before map[string]bool
	rule   etcmerge.Seeding
	// links maps a file with several names to the first copied one, relative to the top of the tree.
	links map[inode]string
	top   int
	added int
}

// tree seeds one private tree. A missing source is treated as empty.
func (s *seeder) tree(source, target, name string) (err error) {
	from, err := openDirectory(unix.AT_FDCWD, source)
	if errors.Is(err, fs.ErrNotExist) {
		if err := os.Mkdir(target, 0o755); err != nil && !errors.Is(err, fs.ErrExist) {
			return err
		}
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unix.Close(from)) }()

	above, err := openDirectory(unix.AT_FDCWD, filepath.Dir(target))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unix.Close(above)) }()
	s.top = above
	parent, err := openDirectory(unix.AT_FDCWD, filepath.Dir(source))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unix.Close(parent)) }()
	base := filepath.Base(target)
	if _, err := exists(above, base); err != nil {
		if !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		if err := removeLeftover(above); err != nil {
			return err
		}
		if err := s.create(parent, filepath.Base(source), above, base, name); err != nil {
			return fmt.Errorf("%s: %w", name, err)
		}
	}
	to, err := openDirectory(above, base)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unix.Close(to)) }()
	return s.directory(from, to, name, 0)
}

// directory seeds all entries of one directory.
func (s *seeder) directory(from, to int, relative string, depth int) error {
	if depth > maxSeedDepth {
		return fmt.Errorf("%s: deeper than %d directories", relative, maxSeedDepth)
	}
	if err := removeLeftover(to); err != nil {
		return fmt.Errorf("clean %s: %w", relative, err)
	}
	names, err := readNames(from)
	if err != nil {
		return fmt.Errorf("read %s: %w", relative, err)
	}
	for _, name := range names {
		if err := s.entry(from, to, name, path.Join(relative, name), depth); err != nil {
			return err
		}
	}
	return nil
}

// entry seeds one path.
func (s *seeder) entry(from, to int, name, relative string, depth int) error {
	if s.later && tree.OwnerOf(relative) == tree.CarriedByOS {
		return nil
	}
	source, err := exists(from, name)
	if err != nil {
		return fmt.Errorf("read %s: %w", relative, err)
	}
	offered := s.offered[relative]
	s.offered[relative] = true
	target, err := exists(to, name)
	switch {
	case errors.Is(err, fs.ErrNotExist) && offered:
		return nil
	case errors.Is(err, fs.ErrNotExist):
		if directory, err := s.inUse(relative); err != nil || directory != "" {
			return err
		}
		if err := s.create(from, name, to, name, relative); err != nil {
			return fmt.Errorf("copy %s: %w", relative, err)
		}
		s.before[relative] = true
		target = source
	case err != nil:
		return fmt.Errorf("look for %s: %w", relative, err)
	}
	if !isDirectory(source) || !isDirectory(target) {
		return nil
	}
	return s.descend(from, to, name, relative, depth)
}

// inUse returns the directory that the VM uses and below which a new path would be, "" if there is none.
func (s *seeder) inUse(relative string) (string, error) {
	if !s.later {
		return "", nil
	}
	return s.rule.InUse(relative)
}

// delivered implements etcmerge.Seeding.Delivered by names: what the files had when they were delivered is not known.
func (s *seeder) delivered(private, directory string) (bool, error) {
	names, err := os.ReadDir(filepath.Join(private, directory))
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	if errors.Is(err, unix.ENOTDIR) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	for _, name := range names {
		if !s.before[path.Join(directory, name.Name())] {
			return false, nil
		}
	}
	return s.before[directory] || path.Dir(directory) == ".", nil // the top is not offered
}

func (s *seeder) descend(from, to int, name, relative string, depth int) (err error) {
	source, err := openDirectory(from, name)
	if err != nil {
		return fmt.Errorf("open %s: %w", relative, err)
	}
	defer func() { err = errors.Join(err, unix.Close(source)) }()
	target, err := openDirectory(to, name)
	if err != nil {
		return fmt.Errorf("open %s on the private disk: %w", relative, err)
	}
	defer func() { err = errors.Join(err, unix.Close(target)) }()
	return s.directory(source, target, relative, depth+1)
}

// create copies one file or an empty directory under a temporary name, and renames it when it is complete.
func (s *seeder) create(from int, name string, to int, targetName, relative string) error {
	if err := s.createTemporary(from, name, to, relative); err != nil {
		return err
	}
	if err := unix.Renameat2(to, seedTemporary, to, targetName, unix.RENAME_NOREPLACE); err != nil {
		return err
	}
	s.added++
	return nil
}

func (s *seeder) createTemporary(from int, name string, to int, relative string) (err error) {
	source, err := unix.Openat(from, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unix.Close(source)) }()
	var stat unix.Stat_t
	if err := unix.Fstat(source, &stat); err != nil {
		return err
	}
	key := inode{stat.Dev, stat.Ino}
	if first, known := s.links[key]; known && stat.Nlink > 1 && !isDirectory(stat) {
		return unix.Linkat(s.top, first, to, seedTemporary, 0)
	}
	switch stat.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		err = unix.Mkdirat(to, seedTemporary, 0o700)
	case unix.S_IFREG:
		err = s.copyContent(from, name, to, stat.Size)
	case unix.S_IFLNK:
		var target string
		if target, err = readLink(source); err == nil {
			err = unix.Symlinkat(target, to, seedTemporary)
		}
	case unix.S_IFCHR, unix.S_IFBLK, unix.S_IFIFO:
		err = unix.Mknodat(to, seedTemporary, stat.Mode&unix.S_IFMT|0o600, int(stat.Rdev))
	default:
		return fmt.Errorf("file type %#o cannot be seeded", stat.Mode&unix.S_IFMT)
	}
	if err != nil {
		return err
	}
	if err := copyMetadata(source, to, seedTemporary, stat); err != nil {
		return err
	}
	if stat.Nlink > 1 && !isDirectory(stat) {
		s.links[key] = relative
	}
	return nil
}

// copyContent copies a regular file's bytes.
func (s *seeder) copyContent(from int, name string, to int, size int64) (err error) {
	in, err := unix.Openat(from, name, unix.O_RDONLY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	source := os.NewFile(uintptr(in), name)
	defer func() { err = errors.Join(err, source.Close()) }()
	out, err := unix.Openat(to, seedTemporary,
		unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	target := os.NewFile(uintptr(out), seedTemporary)
	defer func() { err = errors.Join(err, target.Close()) }()
	sparse := fileio.NewSparse(target)
	n, err := io.Copy(sparse, source)
	if err = errors.Join(err, sparse.End()); err != nil {
		return err
	}
	if n != size {
		return fmt.Errorf("copied %d of %d bytes", n, size)
	}
	if s.durable {
		return target.Sync()
	}
	return nil
}

// copyMetadata copies owner, mode, extended attributes and times from the file that source is open on. The order
// matters: a change of the owner clears set-user-ID bits and capabilities.
func copyMetadata(source, directory int, name string, stat unix.Stat_t) (err error) {
	target, err := unix.Openat(directory, name, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unix.Close(target)) }()
	if err := unix.Fchownat(target, "", int(stat.Uid), int(stat.Gid),
		unix.AT_EMPTY_PATH|unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("owner: %w", err)
	}
	link := stat.Mode&unix.S_IFMT == unix.S_IFLNK
	if !link {
		if err := unix.Chmod(descriptorPath(target), stat.Mode&0o7777); err != nil {
			return fmt.Errorf("mode: %w", err)
		}
		if err := copyXattrs(descriptorPath(source), descriptorPath(target)); err != nil {
			return err
		}
	}
	times := []unix.Timespec{stat.Atim, stat.Mtim}
	if err := unix.UtimesNanoAt(directory, name, times, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return fmt.Errorf("times: %w", err)
	}
	return nil
}

// copyXattrs copies every extended attribute but overlayfs's own.
func copyXattrs(source, target string) error {
	list := make([]byte, maxXattr)
	n, err := unix.Listxattr(source, list)
	if errors.Is(err, unix.ENOTSUP) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("list extended attributes: %w", err)
	}
	value := make([]byte, maxXattr)
	for name := range strings.SplitSeq(string(list[:n]), "\x00") {
		if name == "" || strings.HasPrefix(name, "trusted.overlay.") {
			continue
		}
		size, err := unix.Getxattr(source, name, value)
		if err != nil {
			return fmt.Errorf("read extended attribute %s: %w", name, err)
		}
		if err := unix.Setxattr(target, name, value[:size], 0); err != nil {
			return fmt.Errorf("set extended attribute %s: %w", name, err)
		}
	}
	return nil
}

// readLink returns the target of the symbolic link that fd is open on.
func readLink(fd int) (string, error) {
	target := make([]byte, unix.PathMax)
	n, err := unix.Readlinkat(fd, "", target)
	if err != nil {
		return "", err
	}
	return string(target[:n]), nil
}

// removeLeftover removes what an interrupted seeding left in a directory.
func removeLeftover(directory int) error {
	err := unix.Unlinkat(directory, seedTemporary, 0)
	if errors.Is(err, unix.EISDIR) {
		err = unix.Unlinkat(directory, seedTemporary, unix.AT_REMOVEDIR)
	}
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// descriptorPath is a path of an open file of any type. It does not follow a symbolic link.
func descriptorPath(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

func openDirectory(at int, name string) (int, error) {
	return unix.Openat(at, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
}

// exists returns the state of a file, without following a symbolic link.
func exists(directory int, name string) (unix.Stat_t, error) {
	var stat unix.Stat_t
	err := unix.Fstatat(directory, name, &stat, unix.AT_SYMLINK_NOFOLLOW)
	return stat, err
}

func isDirectory(stat unix.Stat_t) bool { return stat.Mode&unix.S_IFMT == unix.S_IFDIR }

// readNames returns the names in a directory, sorted.
func readNames(directory int) (names []string, err error) {
	again, err := openDirectory(directory, ".")
	if err != nil {
		return nil, err
	}
	file := os.NewFile(uintptr(again), "directory")
	defer func() { err = errors.Join(err, file.Close()) }()
	names, err = file.Readdirnames(-1)
	slices.Sort(names)
	return names, err
}

// syncFileSystem waits until all that was written to the file system of path is on its disk.
func syncFileSystem(path string) (err error) {
	fd, err := openDirectory(unix.AT_FDCWD, path)
	if err != nil {
		return fmt.Errorf("sync %s: %w", path, err)
	}
	defer func() { err = errors.Join(err, unix.Close(fd)) }()
	if err := unix.Syncfs(fd); err != nil {
		return fmt.Errorf("sync %s: %w", path, err)
	}
	return nil
}
