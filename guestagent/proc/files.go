package proc

import (
	"errors"
	"io/fs"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// maxGaps is how many unused numbers are tried among the descriptors of a process before its descriptors are listed.
const maxGaps = 16

// OpenFile is a file that a process has open.
type OpenFile struct {
	// Link is the link to it in the directory of the process: "fd/3".
	Link string
	// Path as the kernel shows it, with " (deleted)" behind it if the file was unlinked.
	Path []byte
}

// Files calls visit for each open file that has a path, which sockets, pipes and the like have not, until it returns an
// error: fs.SkipAll ends the walk without one.
func (p *Process) Files(visit func(f OpenFile) error) error {
	if err := p.files(visit); !errors.Is(err, fs.SkipAll) {
		return err
	}
	return nil
}

func (p *Process) files(visit func(f OpenFile) error) error {
	stat, err := p.Stat("fd")
	if err != nil {
		return err
	}
	// Since Linux 6.2 the size of the directory is the number of open files. They mostly have the lowest numbers, and
	// to list them takes the kernel as long as to read all the links.
	left, tried := int(stat.Size), 0
	for ; left > 0 && tried < min(2*int(stat.Size)+maxGaps, maxFiles); tried++ {
		exists, err := p.file(p.scanner.descriptor(tried), visit)
		if err != nil {
			return err
		}
		if exists {
			left--
		}
	}
	if left == 0 && stat.Size > 0 {
		return nil
	}
	names, err := p.list("fd")
	if err != nil {
		return err
	}
	for _, name := range names {
		if number, err := strconv.Atoi(name); err != nil || number < tried {
			continue
		}
		if _, err := p.file("fd/"+name, visit); err != nil {
			return err
		}
	}
	return nil
}

// file visits one open file, and reports whether there is one.
func (p *Process) file(link string, visit func(f OpenFile) error) (exists bool, err error) {
	path, err := p.Link(link)
	if Ended(err) {
		return false, nil // closed meanwhile, or the number is unused
	}
	if err != nil {
		return false, err
	}
	if len(path) == 0 || path[0] != '/' {
		return true, nil
	}
	return true, visit(OpenFile{Link: link, Path: path})
}

// descriptor returns "fd/<number>".
func (s *Scanner) descriptor(number int) string {
	for len(s.descriptors) <= number {
		s.descriptors = append(s.descriptors, "fd/"+strconv.Itoa(len(s.descriptors)))
	}
	return s.descriptors[number]
}

// MountID returns the id of the mount on which a file was opened, as in the mount table; 0 if the kernel does not say.
func (p *Process) MountID(f OpenFile) (int, error) {
	data, err := p.readSmall("fdinfo" + strings.TrimPrefix(f.Link, "fd"))
	if err != nil {
		return 0, err
	}
	id, err := strconv.Atoi(fieldOf(data, "mnt_id"))
	if err != nil {
		return 0, nil //nolint:nilerr // the contract: a kernel that does not say so
	}
	return id, nil
}

// list returns the names in a directory of the process, of which it reads no more than maxFiles and some.
func (p *Process) list(name string) (names []string, err error) {
	directory, err := p.open()
	if err != nil {
		return nil, err
	}
	fd, err := unix.Openat(directory, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, p.failed("open", name, err)
	}
	defer func() { err = errors.Join(err, unix.Close(fd)) }()
	if p.scanner.entries == nil {
		p.scanner.entries = make([]byte, 8<<10)
	}
	for len(names) < maxFiles {
		n, err := unix.ReadDirent(fd, p.scanner.entries)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, &fs.PathError{Op: "readdir", Path: p.Path(name), Err: err}
		}
		if n <= 0 {
			break
		}
		_, _, names = unix.ParseDirent(p.scanner.entries[:n], -1, names)
	}
	return names, nil
}
