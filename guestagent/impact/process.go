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

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/scan"
)

// Limits of what is read of one process. They are far above what a service has, and bound what a hostile one costs.
const (
	maxMaps      = 32 << 20
	maxSmallFile = 64 << 10
	maxFiles     = 65_536
	maxNames     = 16_384
	// maxGaps is how many numbers of files may be free among those that are looked for by their number.
	maxGaps = 16
)

// Reader reads processes from a proc file system.
type Reader struct {
	// Proc is where it is mounted: "/proc".
	Proc string
	// Devices tells, for a process, the devices of its mounts by mount id. It is asked only for processes that
	// hold a differing file open. Nil: devices of open files stay unknown.
	Devices func(pid int) (map[int]Device, error)
	// Confines tells whether an AppArmor profile refuses files of a mount that was detached. Nil: no process is confined.
	Confines func(profile string) bool

	buffer, entries []byte
	// files are those that were seen: the same few hundred are mapped by every process. groups are the units of cgroups.
	files  map[string]*seenFile
	groups map[string]*seenGroup
	// descriptors are "fd/0", "fd/1" and so on.
	descriptors []string
}

// seenFile is what there is to know of a path as /proc shows it.
type seenFile struct {
	name             string
	deleted, differs bool
}

// seenGroup is what there is to know of a cgroup.
type seenGroup struct {
	unit    string
	session bool
}

// Processes reads all processes but kernel threads and this one, and of the files that they use those that differ.
// A process that ends meanwhile is left out; one that cannot be read is an error.
func (r *Reader) Processes(ctx context.Context, changes *Changes) ([]Process, error) {
	entries, err := fileNames(r.Proc, -1)
	if err != nil {
		return nil, err
	}
	var root unix.Stat_t
	if err := unix.Stat("/", &root); err != nil {
		return nil, fmt.Errorf("stat /: %w", err)
	}
	r.files, r.groups = map[string]*seenFile{}, map[string]*seenGroup{}
	defer func() { r.files, r.groups, r.buffer, r.entries, r.descriptors = nil, nil, nil, nil, nil }()
	r.buffer = make([]byte, 64<<10)
	var processes []Process
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry)
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

// place is the directory of a process. It is opened once: to look a process up takes the kernel longer than to tell of it.
type place struct {
	fd   int
	path string
}

func (d place) failed(op, name string, err error) error {
	return &fs.PathError{Op: op, Path: d.path + "/" + name, Err: err}
}

// link reads a symbolic link of a process, into the buffer that the next read takes again.
func (r *Reader) link(directory place, name string) ([]byte, error) {
	length, err := unix.Readlinkat(directory.fd, name, r.buffer[:unix.PathMax])
	if err != nil {
		return nil, directory.failed("readlink", name, err)
	}
	return r.buffer[:length], nil
}

// process reads one process; nil for a kernel thread.
func (r *Reader) process(pid int, changes *Changes, root *unix.Stat_t) (p *Process, err error) {
	directory := place{path: r.Proc + "/" + strconv.Itoa(pid)}
	length, err := unix.Readlink(directory.path+"/exe", r.buffer[:unix.PathMax])
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil //nolint:nilnil // a kernel thread or a zombie: neither uses a file
	}
	if err != nil {
		return nil, directory.failed("readlink", "exe", err)
	}
	p = &Process{PID: pid, Program: r.file(r.buffer[:length], changes).name}
	directory.fd, err = unix.Open(directory.path, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, directory.failed("open", ".", err)
	}
	defer func() { err = errors.Join(err, unix.Close(directory.fd)) }()
	data, err := r.read(directory, "cgroup", maxSmallFile)
	if err != nil {
		return nil, err
	}
	p.Unit, p.Session = r.unitOf(data)
	if err := r.maps(directory, changes, p); err != nil {
		return nil, err
	}
	if err := r.open(directory, changes, p); err != nil {
		return nil, err
	}
	if err := r.confined(directory, p); err != nil {
		return nil, err
	}
	interprets := false
	if l := interpreterOf(p.Program); l != "" {
		if interprets, err = r.script(directory, changes, p, l); err != nil {
			return nil, err
		}
	}
	if !interprets && len(p.Uses) == 0 && p.Confined == "" {
		return p, nil // nothing more of it is asked for
	}
	if data, err = r.read(directory, "comm", maxSmallFile); err != nil {
		return nil, err
	}
	p.Command = strings.TrimSpace(string(data))
	var stat unix.Stat_t
	if err := unix.Fstatat(directory.fd, "root", &stat, 0); err != nil {
		return nil, directory.failed("stat", "root", err)
	}
	p.SystemRoot = stat.Dev == root.Dev && stat.Ino == root.Ino
	return p, nil
}

// confined reads the AppArmor profile of a process (aa-status(8)): "name (enforce)".
func (r *Reader) confined(directory place, p *Process) error {
	if r.Confines == nil {
		return nil
	}
	data, err := r.read(directory, "attr/apparmor/current", maxSmallFile)
	if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.EINVAL) {
		return nil
	}
	if err != nil {
		return err
	}
	profile, enforced := strings.CutSuffix(strings.TrimSpace(string(data)), " (enforce)")
	if enforced && r.Confines(profile) {
		p.Confined = profile
	}
	return nil
}

// script reads of an interpreter which scripts it may run that differ, and if it may run one, when it began.
func (r *Reader) script(directory place, changes *Changes, p *Process, l language) (runs bool, err error) {
	data, err := r.read(directory, "cmdline", maxSmallFile)
	if err != nil {
		return false, err
	}
	working := ""
	for i, word := range words(string(data)) {
		if i == maxPaths {
			break
		}
		if working == "" && !strings.HasPrefix(word, "/") {
			link, err := r.link(directory, "cwd")
			if err != nil {
				return false, err
			}
			working = string(link)
		}
		named := argument(word, working)
		// What is run by its link is named by what the link leads to as well.
		for _, name := range []string{named, behindLink(directory.path, named)} {
			if changes.Differs(name) {
				p.Arguments = append(p.Arguments, name)
			}
		}
	}
	if len(p.Arguments) == 0 && changes.scripts[l] == nil {
		return false, nil
	}
	if data, err = r.read(directory, "stat", maxSmallFile); err != nil {
		return false, err
	}
	p.Started, err = startTicks(string(data))
	return true, err
}

// behindLink is the file that a path in the root of a process leads to; "" if it is no link, or leads nowhere.
func behindLink(directory, name string) string {
	target, err := os.Readlink(directory + "/root/" + name)
	if err != nil {
		return ""
	}
	if !path.IsAbs(target) {
		target = path.Join("/", path.Dir(name), target)
	}
	resolved, _ := Resolve(target)
	return resolved
}

// startTicks reads the twenty-second field of stat (proc_pid_stat(5)). The second is a name in parentheses, which may
// hold anything.
func startTicks(stat string) (uint64, error) {
	fields := strings.Fields(stat[strings.LastIndexByte(stat, ')')+1:])
	if len(fields) < 20 {
		return 0, fmt.Errorf("stat: %d fields behind the name", len(fields))
	}
	ticks, err := strconv.ParseUint(fields[19], 10, 64)
	if err != nil {
		return 0, fmt.Errorf("stat: start time: %w", err)
	}
	return ticks, nil
}

// maps adds the mapped files that differ (proc_pid_maps(5)).
func (r *Reader) maps(directory place, changes *Changes, p *Process) error {
	data, err := r.read(directory, "maps", maxMaps)
	if err != nil {
		return err
	}
	var last []byte
	for len(data) > 0 {
		line := data
		if end := scan.IndexByte(line, '\n'); end >= 0 {
			line, data = data[:end], data[end+1:]
		} else {
			data = nil
		}
		slash := scan.IndexByte(line, '/')
		if slash < 0 || bytes.Equal(line[slash:], last) {
			continue // anonymous, or the next segment of the same file
		}
		last = line[slash:]
		file := r.file(last, changes)
		program := file.name == p.Program
		if file.name == "" || !file.differs && !program {
			continue
		}
		device, err := mapsDevice(line)
		if err != nil {
			return err
		}
		if program {
			p.ProgramDevice = device
		}
		if file.differs {
			p.Uses = append(p.Uses, Use{Path: file.name, Device: device, Mapped: true, Deleted: file.deleted})
		}
	}
	return nil
}

// file tells what there is to know of a path as /proc shows it.
func (r *Reader) file(shown []byte, changes *Changes) *seenFile {
	if seen := r.files[string(shown)]; seen != nil {
		return seen
	}
	seen := &seenFile{}
	seen.name, seen.deleted = Resolve(strings.ReplaceAll(string(shown), `\012`, "\n"))
	seen.differs = changes.Differs(seen.name)
	if len(r.files) < maxNames {
		r.files[string(shown)] = seen
	}
	return seen
}

// unitOf is UnitOf of what was read.
func (r *Reader) unitOf(cgroup []byte) (unit string, session bool) {
	seen := r.groups[string(cgroup)]
	if seen == nil {
		seen = &seenGroup{}
		seen.unit, seen.session = UnitOf(string(cgroup))
		if len(r.groups) < maxNames {
			r.groups[string(cgroup)] = seen
		}
	}
	return seen.unit, seen.session
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
func (r *Reader) open(directory place, changes *Changes, p *Process) error {
	var stat unix.Stat_t
	if err := unix.Fstatat(directory.fd, "fd", &stat, 0); err != nil {
		return directory.failed("stat", "fd", err)
	}
	// Since Linux 6.2 its size is how many files are open. They mostly have the first numbers that there are, and to list
	// them takes the kernel as long as to read them.
	left, mapped := int(stat.Size), len(p.Uses)
	var devices map[int]Device
	for number := 0; left > 0 && number < 2*int(stat.Size)+maxGaps; number++ {
		for len(r.descriptors) <= number {
			r.descriptors = append(r.descriptors, "fd/"+strconv.Itoa(len(r.descriptors)))
		}
		there, err := r.descriptor(directory, r.descriptors[number], changes, p, &devices)
		if err != nil {
			return err
		}
		if there {
			left--
		}
	}
	if left == 0 && stat.Size > 0 {
		return nil
	}
	p.Uses = p.Uses[:mapped]
	return r.listed(directory, changes, p, &devices)
}

// listed adds the open files that differ of a process of which it is not known which ones it has open.
func (r *Reader) listed(directory place, changes *Changes, p *Process, devices *map[int]Device) (err error) {
	fd, err := unix.Openat(directory.fd, "fd", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return directory.failed("open", "fd", err)
	}
	defer func() { err = errors.Join(err, unix.Close(fd)) }()
	names, err := r.list(fd)
	if err != nil {
		return directory.failed("readdir", "fd", err)
	}
	for _, name := range names {
		if _, err := r.descriptor(directory, "fd/"+name, changes, p, devices); err != nil {
			return err
		}
	}
	return nil
}

// descriptor adds an open file if it differs, and tells whether there is one.
func (r *Reader) descriptor(directory place, name string, changes *Changes, p *Process, devices *map[int]Device) (there bool, err error) {
	shown, err := r.link(directory, name)
	if ended(err) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if len(shown) == 0 || shown[0] != '/' {
		return true, nil
	}
	file := r.file(shown, changes)
	if !file.differs {
		return true, nil
	}
	use := Use{Path: file.name, Deleted: file.deleted}
	if r.Devices != nil {
		if *devices == nil {
			if *devices, err = r.Devices(p.PID); err != nil {
				return true, err
			}
		}
		data, err := r.read(directory, "fdinfo"+strings.TrimPrefix(name, "fd"), maxSmallFile)
		if ended(err) {
			return false, nil
		}
		if err != nil {
			return true, err
		}
		// A mount that is attached nowhere any more is in no table: its device stays unknown, and is not new.
		use.Device = (*devices)[mountID(string(data))]
	}
	p.Uses = append(p.Uses, use)
	return true, nil
}

// list names what is in an open directory, maxFiles at most or some more.
func (r *Reader) list(fd int) (names []string, err error) {
	if r.entries == nil {
		r.entries = make([]byte, 8<<10)
	}
	for len(names) < maxFiles {
		n, err := unix.ReadDirent(fd, r.entries)
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if n <= 0 || err != nil {
			return names, err
		}
		_, _, names = unix.ParseDirent(r.entries[:n], -1, names)
	}
	return names, nil
}

// fileNames lists a directory, at most so many names; all if most is negative.
func fileNames(directory string, most int) (names []string, err error) {
	file, err := os.Open(directory)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	names, err = file.Readdirnames(most)
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
func (r *Reader) read(directory place, name string, limit int) (data []byte, err error) {
	fd, err := unix.Openat(directory.fd, name, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, directory.failed("open", name, err)
	}
	defer func() { err = errors.Join(err, unix.Close(fd)) }()
	length := 0
	for {
		if length == len(r.buffer) {
			if length >= limit {
				return nil, fmt.Errorf("read %s/%s: more than %d bytes", directory.path, name, limit)
			}
			r.buffer = append(r.buffer, make([]byte, len(r.buffer))...)
		}
		n, err := unix.Read(fd, r.buffer[length:])
		if errors.Is(err, unix.EINTR) {
			continue
		}
		if err != nil {
			return nil, directory.failed("read", name, err)
		}
		length += n
		// The small ones are made whole for one read: to hear that there is no more takes as long as to read (seq_file).
		if n == 0 || limit == maxSmallFile && length < len(r.buffer) || limit == maxMaps && lastMapping(r.buffer[:length]) {
			return r.buffer[:length], nil
		}
	}
}

// lastMapping reports whether maps ends here: nothing is mapped behind the page for vsyscall, which the kernel of x86 adds.
func lastMapping(maps []byte) bool {
	const page, least = "\nffffffffff600000-", 80
	if len(maps) < least || maps[len(maps)-1] != '\n' {
		return false
	}
	line := bytes.LastIndexByte(maps[:len(maps)-1], '\n')
	return line >= 0 && bytes.HasPrefix(maps[line:], []byte(page))
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
