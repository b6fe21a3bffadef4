package mounts

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// Bounds of what is read of one process.
const (
	maxHolderMaps  = 32 << 20
	maxHolderFiles = 65_536
)

// FileSystem names a file system as statfs(2) does, for any path on it, attached somewhere or not: an EROFS by its
// device, an overlay by that of its uppermost layer.
type FileSystem struct {
	kind int64
	id   unix.Fsid
}

// LayerFileSystem is the file system of an open layer, and of every overlay in which it is the uppermost.
func LayerFileSystem(id tree.Digest) ([]FileSystem, error) {
	var stat unix.Statfs_t
	if err := unix.Statfs(LayerPath(id), &stat); err != nil {
		return nil, fmt.Errorf("file system of layer %s: %w", id, err)
	}
	return []FileSystem{{unix.EROFS_SUPER_MAGIC_V1, stat.Fsid}, {unix.OVERLAYFS_SUPER_MAGIC, stat.Fsid}}, nil
}

// Holder is a process that uses a file system.
type Holder struct {
	PID int
	// How it does: "maps", "runs", "has open", "works in", "has its root in", "sees mounted".
	How string
	// Path as the kernel shows it: that of a file on a mount that is attached nowhere begins at the mount.
	Path string
}

// Holders finds the processes that use one of the file systems, at most limit of them and one use of each, in the proc
// file system at proc ("/proc"). A process that ends meanwhile is left out.
func Holders(ctx context.Context, proc string, held []FileSystem, limit int) ([]Holder, error) {
	entries, err := os.ReadDir(proc)
	if err != nil {
		return nil, err
	}
	s := &holderScan{proc: proc, held: held, devices: map[string]bool{}, namespaces: map[uint64]string{}}
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
	held []FileSystem
	// devices tells of a device, as maps shows it, whether it is held.
	devices map[string]bool
	// namespaces tells the mount point in a mount namespace that shows what is held, "" for none.
	namespaces map[uint64]string
}

// on reports whether a path, links of proc followed, is on a file system that is held.
func (s *holderScan) on(name string) bool {
	var stat unix.Statfs_t
	if err := unix.Statfs(name, &stat); err != nil {
		return false // closed meanwhile, or nothing that is on a file system
	}
	return slices.Contains(s.held, FileSystem{stat.Type, stat.Fsid})
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

// mapped looks at one mapping of each device that a process maps files of.
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
		is, known := s.devices[fields[3]]
		if !known {
			is = s.on(path.Join(directory, "map_files", fields[0]))
			s.devices[fields[3]] = is
		}
		if is {
			return &Holder{PID: pid, How: "maps", Path: strings.Join(fields[5:], " ")}, nil
		}
	}
	return nil, nil //nolint:nilnil // it maps nothing of it
}

// seen looks for a mount in the process's own namespace. Every namespace is looked at once, and told for each process.
func (s *holderScan) seen(pid int, directory string) (*Holder, error) {
	var namespace unix.Stat_t
	if err := unix.Stat(path.Join(directory, "ns/mnt"), &namespace); err != nil {
		return nil, err
	}
	place, known := s.namespaces[namespace.Ino]
	if !known {
		table, err := readMountTable(path.Join(directory, "mountinfo"))
		if err != nil {
			return nil, err
		}
		for i := range table {
			if m := &table[i]; (m.FSType == "erofs" || m.FSType == "overlay") && !strings.HasPrefix(m.Mountpoint, LayersDir+"/") &&
				s.on(path.Join(directory, "root", m.Mountpoint)) {
				place = m.Mountpoint
				break
			}
		}
		s.namespaces[namespace.Ino] = place
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
