package proc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	// maxSmallFile bounds a file like comm, cmdline or cgroup, in bytes.
	maxSmallFile = 64 << 10
	// maxFiles bounds how many open files of one process are visited.
	maxFiles = 65_536
	// maxUnits bounds how many control groups a Scanner remembers.
	maxUnits = 16_384
)

// Scanner walks the processes of a proc file system. It reuses its buffers, so it is for one goroutine.
type Scanner struct {
	// root is where the proc file system is mounted.
	root string
	// buffer holds the file that was read last, entries what was read of a directory.
	buffer, entries []byte
	// units are the units of the control groups that were seen, by the text of the cgroup file.
	units map[string]unit
	// descriptors are "fd/0", "fd/1" and so on.
	descriptors []string
}

// NewScanner returns a scanner for the proc file system that is mounted at root ("/proc").
func NewScanner(root string) *Scanner {
	return &Scanner{root: root, buffer: make([]byte, maxSmallFile), units: map[string]unit{}}
}

// Each calls visit for each process, kernel threads and this process among them. visit can return the errors of
// Process as they are: a process that has ended is skipped, and so is a zombie. When visit returns fs.SkipAll, Each
// returns nil.
func (s *Scanner) Each(ctx context.Context, visit func(p *Process) error) error {
	directory, err := os.Open(s.root)
	if err != nil {
		return err
	}
	names, err := directory.Readdirnames(-1)
	if err = errors.Join(err, directory.Close()); err != nil {
		return err
	}
	for _, name := range names {
		pid, err := strconv.Atoi(name)
		if err != nil {
			continue
		}
		if err := ctx.Err(); err != nil {
			return fmt.Errorf("read processes: %w", err)
		}
		err = s.Process(pid, visit)
		switch {
		case errors.Is(err, fs.SkipAll):
			return nil
		case err != nil && !Ended(err):
			return fmt.Errorf("read process %d: %w", pid, err)
		}
	}
	return nil
}

// Process calls visit for one process. An error for which Ended is true means that there is no such process.
func (s *Scanner) Process(pid int, visit func(p *Process) error) (err error) {
	p := &Process{PID: pid, scanner: s, path: s.root + "/" + strconv.Itoa(pid), directory: -1}
	defer func() { err = errors.Join(err, p.close()) }()
	return visit(p)
}

// Ended reports whether an error means that the process has ended, or is a zombie, which has neither memory nor mounts.
func Ended(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL)
}

// Process is one process during a visit. Byte slices that its methods return or pass on are overwritten by the next
// method call.
type Process struct {
	PID int

	scanner *Scanner
	path    string
	// directory is open on path from the first read on: a look-up of a process costs the kernel more than most reads.
	directory int
}

// Path returns the path of a file of the process: "/proc/17/root".
func (p *Process) Path(name string) string { return p.path + "/" + name }

// Program returns the path of the executable as the kernel shows it, nil for a kernel thread or a zombie.
func (p *Process) Program() ([]byte, error) {
	// Most processes of a small VM are kernel threads, whose directory is not worth opening.
	buffer := p.scanner.buffer[:unix.PathMax]
	length, err := unix.Readlink(p.Path("exe"), buffer)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, p.failed("readlink", "exe", err)
	}
	return buffer[:length], nil
}

// Command returns the name of the process, which its program or itself has set (proc_pid_comm(5)).
func (p *Process) Command() (string, error) {
	data, err := p.readSmall("comm")
	return strings.TrimSpace(string(data)), err
}

// CommandLine returns the program's arguments, each ended by a NUL (proc_pid_cmdline(5)).
func (p *Process) CommandLine() (string, error) {
	data, err := p.readSmall("cmdline")
	return string(data), err
}

// Started returns when the process was started, in clock ticks since boot.
func (p *Process) Started() (uint64, error) {
	data, err := p.readSmall("stat")
	if err != nil {
		return 0, err
	}
	return startTicks(string(data))
}

// startTicks reads the 22nd field of stat (proc_pid_stat(5)). The second is a name in parentheses, which may contain
// any character.
func startTicks(stat string) (uint64, error) {
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(fields) < 20 {
		return 0, fmt.Errorf("stat: %d fields after the name", len(fields))
	}
	ticks, err := strconv.ParseUint(fields[19], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("stat: start time: %w", err)
	}
	return ticks, nil
}

// Profile returns the AppArmor profile of the process, and whether it is enforced (aa-status(8)); "" if it has none.
func (p *Process) Profile() (name string, enforced bool, err error) {
	data, err := p.readSmall("attr/apparmor/current") // "name (enforce)"
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.EINVAL) {
		return "", false, nil
	}
	if err != nil {
		return "", false, err
	}
	name, enforced = strings.CutSuffix(strings.TrimSpace(string(data)), " (enforce)")
	return name, enforced, nil
}

// Stat returns the state of the file that a link of the process leads to: "exe", "cwd", "root", "fd/3".
func (p *Process) Stat(name string) (stat unix.Stat_t, err error) {
	directory, err := p.open()
	if err != nil {
		return stat, err
	}
	if err := unix.Fstatat(directory, name, &stat, 0); err != nil {
		return stat, p.failed("stat", name, err)
	}
	return stat, nil
}

// Link reads a symbolic link of the process.
func (p *Process) Link(name string) ([]byte, error) {
	directory, err := p.open()
	if err != nil {
		return nil, err
	}
	length, err := unix.Readlinkat(directory, name, p.scanner.buffer[:unix.PathMax])
	if err != nil {
		return nil, p.failed("readlink", name, err)
	}
	return p.scanner.buffer[:length], nil
}

func (p *Process) open() (int, error) {
	if p.directory >= 0 {
		return p.directory, nil
	}
	directory, err := unix.Open(p.path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, p.failed("open", ".", err)
	}
	p.directory = directory
	return directory, nil
}

func (p *Process) close() error {
	if p.directory < 0 {
		return nil
	}
	if err := unix.Close(p.directory); err != nil {
		return p.failed("close", ".", err)
	}
	return nil
}

func (p *Process) failed(op, name string, err error) error {
	return &fs.PathError{Op: op, Path: p.Path(name), Err: err}
}

// readSmall reads a file that the kernel writes whole for one read(2). A second read, to hear that there is no more,
// would take as long as the first (seq_file).
func (p *Process) readSmall(name string) ([]byte, error) {
	return p.read(name, maxSmallFile, func(data []byte) bool { return len(data) < len(p.scanner.buffer) })
}

// read reads a file of the process into the scanner's buffer, until it ends or ends reports that it does. A file of
// more than limit bytes is an error.
func (p *Process) read(name string, limit int, ends func(data []byte) bool) (data []byte, err error) {
	directory, err := p.open()
	if err != nil {
		return nil, err
	}
	fd, err := unix.Openat(directory, name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, p.failed("open", name, err)
	}
	defer func() { err = errors.Join(err, unix.Close(fd)) }()
	s, length := p.scanner, 0
	for {
		if length == len(s.buffer) {
			if length >= limit {
				return nil, fmt.Errorf("read %s: more than %d bytes", p.Path(name), limit)
			}
			s.buffer = append(s.buffer, make([]byte, len(s.buffer))...)
		}
		n, err := unix.Read(fd, s.buffer[length:])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, p.failed("read", name, err)
		}
		length += n
		if n == 0 || ends(s.buffer[:length]) {
			return s.buffer[:length], nil
		}
	}
}

// fieldOf returns the value of a line "name:	value" of a file like fdinfo; "" if there is no such line.
func fieldOf(data []byte, name string) string {
	for line := range bytes.Lines(data) {
		if value, found := bytes.CutPrefix(line, []byte(name)); found && len(value) > 0 && value[0] == ':' {
			return string(bytes.TrimSpace(value[1:]))
		}
	}
	return ""
}
