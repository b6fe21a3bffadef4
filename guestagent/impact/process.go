package impact

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Limits of what is read of one process. They are far above what a service has, and bound what a hostile one costs.
const (
	maxMaps      = 32 << 20
	maxSmallFile = 64 << 10
	maxFiles     = 65_536
)

// Reader reads processes from a proc file system.
type Reader struct {
	// Proc is where it is mounted: "/proc".
	Proc string
	// Devices tells, for a process, the devices of its mounts by mount id. It is asked only for processes that
	// hold a differing file open. Nil: devices of open files stay unknown.
	Devices func(pid int) (map[int]Device, error)

	buffer []byte
	// names interns strings: the same few hundred files are mapped by every process.
	names map[string]string
}

// Processes reads all processes but kernel threads and this one, and of the files that they use those that differ.
// A process that ends meanwhile is left out; one that cannot be read is an error.
func (r *Reader) Processes(ctx context.Context, changes *Changes) ([]Process, error) {
	entries, err := os.ReadDir(r.Proc)
	if err != nil {
		return nil, err
	}
	var root unix.Stat_t
	if err := unix.Stat("/", &root); err != nil {
		return nil, fmt.Errorf("stat /: %w", err)
	}
	r.names = map[string]string{}
	defer func() { r.names, r.buffer = nil, nil }()
	var processes []Process
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil || pid == os.Getpid() {
			continue
		}
		if err := ctx.Err(); err != nil {
			return nil, fmt.Errorf("read processes: %w", err)
		}
		p, err := r.process(pid, changes, &root)
		if ended(err) {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read process %d: %w", pid, err)
		}
		if p != nil {
			processes = append(processes, *p)
		}
	}
	return processes, nil
}

// ended reports whether an error means that the process ended, or is a zombie.
func ended(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) || errors.Is(err, unix.EINVAL)
}

// process reads one process; nil for a kernel thread.
func (r *Reader) process(pid int, changes *Changes, root *unix.Stat_t) (*Process, error) {
	directory := path.Join(r.Proc, strconv.Itoa(pid))
	program, err := os.Readlink(directory + "/exe")
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil //nolint:nilnil // a kernel thread or a zombie: neither uses a file
	}
	if err != nil {
		return nil, err
	}
	p := &Process{PID: pid}
	p.Program, _ = Resolve(program)
	data, err := r.read(directory+"/cgroup", maxSmallFile)
	if err != nil {
		return nil, err
	}
	p.Unit, p.Session = UnitOf(string(data))
	if data, err = r.read(directory+"/comm", maxSmallFile); err != nil {
		return nil, err
	}
	p.Command = strings.TrimSpace(string(data))
	var stat unix.Stat_t
	if err := unix.Stat(directory+"/root", &stat); err != nil {
		return nil, fmt.Errorf("root: %w", err)
	}
	p.SystemRoot = stat.Dev == root.Dev && stat.Ino == root.Ino
	if err := unix.Stat(directory+"/ns/mnt", &stat); err != nil {
		return nil, fmt.Errorf("mount namespace: %w", err)
	}
	p.Namespace = stat.Ino
	if interpreterOf(p.Program) != "" {
		if data, err = r.read(directory+"/cmdline", maxSmallFile); err != nil {
			return nil, err
		}
		p.Arguments = arguments(string(data))
	}
	if err := r.maps(directory, changes, p); err != nil {
		return nil, err
	}
	return p, r.open(directory, changes, p)
}

// arguments lists what follows the program's name and is an absolute path.
func arguments(cmdline string) []string {
	var paths []string
	for i, argument := range strings.Split(strings.TrimSuffix(cmdline, "\x00"), "\x00") {
		if i > 0 && strings.HasPrefix(argument, "/") && len(paths) < maxPaths {
			if name, _ := Resolve(argument); name != "" {
				paths = append(paths, name)
			}
		}
	}
	return paths
}

// maps adds the mapped files that differ (proc_pid_maps(5)).
func (r *Reader) maps(directory string, changes *Changes, p *Process) error {
	data, err := r.read(directory+"/maps", maxMaps)
	if err != nil {
		return err
	}
	var last []byte
	for len(data) > 0 {
		line := data
		if end := bytes.IndexByte(data, '\n'); end >= 0 {
			line, data = data[:end], data[end+1:]
		} else {
			data = nil
		}
		slash := bytes.IndexByte(line, '/')
		if slash < 0 || bytes.Equal(line[slash:], last) {
			continue // anonymous, or the next segment of the same file
		}
		last = line[slash:]
		name, deleted := r.resolve(last)
		if name == "" || !changes.Differs(name) {
			continue
		}
		device, err := mapsDevice(line)
		if err != nil {
			return err
		}
		p.Uses = append(p.Uses, Use{Path: name, Device: device, Mapped: true, Deleted: deleted})
	}
	return nil
}

// resolve is Resolve, and keeps one copy of each name.
func (r *Reader) resolve(shown []byte) (string, bool) {
	if name, known := r.names[string(shown)]; known {
		return name, bytes.HasSuffix(shown, []byte(deletedSuffix))
	}
	name, deleted := Resolve(strings.ReplaceAll(string(shown), `\012`, "\n"))
	r.names[string(shown)] = name
	return name, deleted
}

// mapsDevice reads the fourth field of a line of maps: "fd:01" in hexadecimal.
func mapsDevice(line []byte) (Device, error) {
	fields := strings.Fields(string(line))
	if len(fields) < 5 {
		return Device{}, fmt.Errorf("maps: line of %d fields", len(fields))
	}
	major, minor, ok := strings.Cut(fields[3], ":")
	high, errHigh := strconv.ParseUint(major, 16, 32)
	low, errLow := strconv.ParseUint(minor, 16, 32)
	if !ok || errHigh != nil || errLow != nil {
		return Device{}, fmt.Errorf("maps: device %q", fields[3])
	}
	return Device{uint32(high), uint32(low)}, nil
}

// open adds the open files that differ.
func (r *Reader) open(directory string, changes *Changes, p *Process) error {
	names, err := fileDescriptors(directory + "/fd")
	if err != nil {
		return err
	}
	var devices map[int]Device
	for _, fd := range names {
		shown, err := os.Readlink(path.Join(directory, "fd", fd))
		if ended(err) {
			continue // closed meanwhile
		}
		if err != nil {
			return err
		}
		name, deleted := Resolve(shown)
		if name == "" || !changes.Differs(name) {
			continue
		}
		use := Use{Path: name, Deleted: deleted}
		if r.Devices != nil {
			if devices == nil {
				if devices, err = r.Devices(p.PID); err != nil {
					return err
				}
			}
			data, err := r.read(path.Join(directory, "fdinfo", fd), maxSmallFile)
			if ended(err) {
				continue
			}
			if err != nil {
				return err
			}
			// A mount that is attached nowhere any more is in no table: its device stays unknown, and is not new.
			use.Device = devices[mountID(string(data))]
		}
		p.Uses = append(p.Uses, use)
	}
	return nil
}

func fileDescriptors(directory string) (names []string, err error) {
	file, err := os.Open(directory)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	names, err = file.Readdirnames(maxFiles)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return names, err
}

// mountID reads the mnt_id line of fdinfo; 0 if there is none.
func mountID(info string) int {
	for line := range strings.Lines(info) {
		if value, found := strings.CutPrefix(line, "mnt_id:"); found {
			id, err := strconv.Atoi(strings.TrimSpace(value))
			if err != nil {
				return 0
			}
			return id
		}
	}
	return 0
}

// read reads a file of proc into the buffer that the next read takes again.
func (r *Reader) read(name string, limit int) (data []byte, err error) {
	fd, err := unix.Open(name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &fs.PathError{Op: "open", Path: name, Err: err}
	}
	defer func() { err = errors.Join(err, unix.Close(fd)) }()
	if r.buffer == nil {
		r.buffer = make([]byte, 64<<10)
	}
	length := 0
	for {
		if length == len(r.buffer) {
			if length >= limit {
				return nil, fmt.Errorf("read %s: more than %d bytes", name, limit)
			}
			r.buffer = append(r.buffer, make([]byte, len(r.buffer))...)
		}
		n, err := unix.Read(fd, r.buffer[length:])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, &fs.PathError{Op: "read", Path: name, Err: err}
		}
		if n == 0 {
			return r.buffer[:length], nil
		}
		length += n
	}
}

// UnitOf names the unit that a process belongs to, from its /proc/<pid>/cgroup, and whether it belongs to a user's
// session. A process of a container or of a user's own manager belongs to the unit of the system manager that
// holds them all.
func UnitOf(cgroup string) (unit string, session bool) {
	for line := range strings.Lines(cgroup) {
		controllers, rest, _ := strings.Cut(strings.TrimSpace(line), ":")
		names, group, _ := strings.Cut(rest, ":")
		if (controllers != "0" || names != "") && names != "name=systemd" {
			continue // a version 1 hierarchy of a controller
		}
		for part := range strings.SplitSeq(group, "/") {
			// systemd puts "_" before names that the kernel could take for its own.
			part = strings.TrimPrefix(part, "_")
			if part == "user.slice" {
				session = true
			}
			if hasUnitType(part) {
				return part, session
			}
		}
	}
	return "", session
}

func hasUnitType(name string) bool {
	for _, suffix := range []string{".service", ".scope", ".socket", ".mount", ".swap"} {
		if strings.HasSuffix(name, suffix) {
			return true
		}
	}
	return false
}
