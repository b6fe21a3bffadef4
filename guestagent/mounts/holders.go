package mounts

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Bounds of what is read of one process.
const (
	maxHolderMaps  = 32 << 20
	maxHolderFiles = 65_536
	// maxLooked is at how many entries of a layer is looked for one that shows.
	maxLooked = 1000
)

// Devices tells by which device numbers files show that are used through a mount of layers' directories: stat(2) shows
// directories of an overlay, and maps and mountinfo all that is on it, with the overlay's own number, but its regular
// files with one for each layer. layers are the paths of mounted layers. The mount may be attached nowhere.
func (d *Detached) Devices(layers []string, directory string) ([]uint64, error) {
	var root unix.Stat_t
	if err := unix.Fstat(d.fd, &root); err != nil {
		return nil, fmt.Errorf("devices of %s: %w", directory, err)
	}
	devices := []uint64{root.Dev}
	for _, layer := range layers {
		device, err := d.deviceOf(filepath.Join(layer, directory))
		if err != nil {
			return nil, fmt.Errorf("devices of %s: %w", directory, err)
		}
		if device != 0 && !slices.Contains(devices, device) {
			devices = append(devices, device)
		}
	}
	return devices, nil
}

// deviceOf finds by which device number the regular files of one layer show; 0 if none of the first thousand does.
func (d *Detached) deviceOf(lower string) (device uint64, err error) {
	looked := 0
	err = filepath.WalkDir(lower, func(name string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) && name == lower {
			return fs.SkipAll // the layer has no such directory
		}
		if err != nil {
			return err
		}
		if looked++; looked > maxLooked {
			return fs.SkipAll
		}
		if !entry.Type().IsRegular() {
			return nil
		}
		var below, shown unix.Stat_t
		if err := unix.Lstat(name, &below); err != nil {
			return err
		}
		relative, err := filepath.Rel(lower, name)
		if err != nil {
			return err
		}
		err = unix.Fstatat(d.fd, relative, &shown, unix.AT_SYMLINK_NOFOLLOW)
		if err == nil && shown.Mode&unix.S_IFMT == unix.S_IFREG && shown.Ino == below.Ino {
			device = shown.Dev
			return fs.SkipAll
		}
		return nil // another layer covers it
	})
	return device, err
}

// Holder is a process that uses a file system.
type Holder struct {
	PID int
	// How it does: "maps", "runs", "has open", "works in", "has its root in", "sees mounted".
	How string
	// Path as the kernel shows it: that of a file on a mount that is attached nowhere begins at the mount.
	Path string
}

// Holders finds the processes that use files which show one of the device numbers, at most limit of them and one use of
// each, in the proc file system at proc ("/proc"). A process that ends meanwhile is left out.
func Holders(ctx context.Context, proc string, held []uint64, limit int) ([]Holder, error) {
	entries, err := os.ReadDir(proc)
	if err != nil {
		return nil, err
	}
	s := &holderScan{proc: proc, held: held, namespaces: map[uint64]bool{}}
	var holders []Holder
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		found, err := s.process(pid)
		if err != nil && !gone(err) {
			return nil, fmt.Errorf("what process %d uses: %w", pid, err)
		}
		if found != nil {
			holders = append(holders, *found)
		}
		if len(holders) >= limit {
			break
		}
	}
	return holders, nil
}

type holderScan struct {
	proc string
	held []uint64
	// namespaces are the mount namespaces that were looked at.
	namespaces map[uint64]bool
}

// on reports whether a path, links of proc followed, leads to what is held.
func (s *holderScan) on(name string) bool {
	var stat unix.Stat_t
	if err := unix.Stat(name, &stat); err != nil {
		return false // closed meanwhile, or nothing that has a device
	}
	return slices.Contains(s.held, stat.Dev)
}

func (s *holderScan) process(pid int) (*Holder, error) {
	directory := path.Join(s.proc, strconv.Itoa(pid))
	for _, link := range []struct{ name, how string }{{"exe", "runs"}, {"cwd", "works in"}, {"root", "has its root in"}} {
		if s.on(path.Join(directory, link.name)) {
			return s.holder(pid, link.how, path.Join(directory, link.name))
		}
	}
	if found, err := s.mapped(pid, directory); found != nil || err != nil {
		return found, err
	}
	names, err := descriptors(path.Join(directory, "fd"))
	if err != nil {
		return nil, err
	}
	for _, name := range names {
		if file := path.Join(directory, "fd", name); s.on(file) {
			return s.holder(pid, "has open", file)
		}
	}
	return s.seen(pid, directory)
}

func (s *holderScan) holder(pid int, how, link string) (*Holder, error) {
	shown, err := os.Readlink(link)
	if err != nil {
		return nil, err
	}
	return &Holder{PID: pid, How: how, Path: shown}, nil
}

// mapped looks for a mapped file (proc_pid_maps(5)).
func (s *holderScan) mapped(pid int, directory string) (*Holder, error) {
	file, err := os.Open(path.Join(directory, "maps"))
	if err != nil {
		return nil, err
	}
	data, err := io.ReadAll(io.LimitReader(file, maxHolderMaps))
	if err = errors.Join(err, file.Close()); err != nil {
		return nil, err
	}
	for line := range bytes.Lines(data) {
		fields := strings.Fields(string(line))
		if len(fields) < 6 || !strings.HasPrefix(fields[5], "/") {
			continue
		}
		high, low, _ := strings.Cut(fields[3], ":")
		major, errMajor := strconv.ParseUint(high, 16, 32)
		minor, errMinor := strconv.ParseUint(low, 16, 32)
		if err := errors.Join(errMajor, errMinor); err != nil {
			return nil, fmt.Errorf("device %q in maps: %w", fields[3], err)
		}
		if slices.Contains(s.held, unix.Mkdev(uint32(major), uint32(minor))) {
			return &Holder{PID: pid, How: "maps", Path: strings.Join(fields[5:], " ")}, nil
		}
	}
	return nil, nil //nolint:nilnil // it maps nothing of it
}

// seen looks for a mount in the process's own namespace. Every namespace is told once, by the first process in it.
func (s *holderScan) seen(pid int, directory string) (*Holder, error) {
	var namespace unix.Stat_t
	if err := unix.Stat(path.Join(directory, "ns/mnt"), &namespace); err != nil {
		return nil, err
	}
	place := ""
	if !s.namespaces[namespace.Ino] {
		s.namespaces[namespace.Ino] = true
		table, err := readMountTable(path.Join(directory, "mountinfo"))
		if err != nil {
			return nil, err
		}
		for i := range table {
			m := &table[i]
			if slices.Contains(s.held, unix.Mkdev(uint32(m.Major), uint32(m.Minor))) && !strings.HasPrefix(m.Mountpoint, LayersDir+"/") {
				place = m.Mountpoint
				break
			}
		}
	}
	if place == "" {
		return nil, nil //nolint:nilnil // it sees nothing of it
	}
	return &Holder{PID: pid, How: "sees mounted", Path: place}, nil
}

func descriptors(directory string) (names []string, err error) {
	file, err := os.Open(directory)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	names, err = file.Readdirnames(maxHolderFiles)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return names, err
}
