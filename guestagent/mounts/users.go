package mounts

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/proc"
)

// maxTried is how many entries of a layer are tried to find a file that is visible.
const maxTried = 1000

// NoFiles takes the place of a device number: no regular file of the layer is visible.
const NoFiles = math.MaxUint64

// Devices returns the device numbers that files show which are used through this mount of the layers' directories.
//
// stat(2) shows the directories of an overlay with the overlay's own number, and its regular files with one number for
// each layer. maps and mountinfo show the overlay's own number for all of them. layers are the paths of mounted layers.
// The mount may be detached.
func (d *Detached) Devices(layers []string, directory string) ([]uint64, error) {
	var root unix.Stat_t
	if err := unix.Fstat(d.fd, &root); err != nil {
		return nil, fmt.Errorf("devices of %s: %w", directory, err)
	}
	devices := []uint64{root.Dev}
	of, err := d.LayerDevices(layers, directory)
	if err != nil {
		return nil, err
	}
	for _, device := range of {
		if device != 0 && device != NoFiles && !slices.Contains(devices, device) {
			devices = append(devices, device)
		}
	}
	return devices, nil
}

// LayerDevices returns, for each layer, the device number that stat(2) shows of its regular files through this mount.
// It is NoFiles for a layer of which none is visible, and 0 if none of the first thousand is.
func (d *Detached) LayerDevices(layers []string, directory string) ([]uint64, error) {
	devices := make([]uint64, len(layers))
	for i, layer := range layers {
		var err error
		if devices[i], err = d.deviceOf(filepath.Join(layer, directory), layers[i+1:], directory); err != nil {
			return nil, fmt.Errorf("devices of %s: %w", directory, err)
		}
	}
	return devices, nil
}

// deviceOf finds the device number that the regular files of one layer show. A file at the same path of a layer above
// can have the same inode number.
func (d *Detached) deviceOf(lower string, above []string, directory string) (device uint64, err error) {
	tried := 0
	device = NoFiles
	err = filepath.WalkDir(lower, func(name string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) && name == lower {
			return fs.SkipAll // the layer has no such directory
		}
		if err != nil {
			return err
		}
		if tried++; tried > maxTried {
			device = 0
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
		if err != nil || shown.Mode&unix.S_IFMT != unix.S_IFREG || shown.Ino != below.Ino {
			return nil // a layer above hides it
		}
		for _, layer := range above {
			var hiding unix.Stat_t
			if err := unix.Lstat(filepath.Join(layer, directory, relative), &hiding); err == nil {
				return nil
			} else if !errors.Is(err, unix.ENOENT) && !errors.Is(err, unix.ENOTDIR) {
				return err
			}
		}
		device = shown.Dev
		return fs.SkipAll
	})
	return device, err
}

// Shown is how one layer shows through one of the file systems that were built with it.
type Shown struct {
	// System is the device number of that file system, which its directories, mapped files and mounts have.
	System uint64
	// Files are the device numbers of files that count as files of the layer.
	Files []uint64
}

// SeesMounted is how a process uses a file system that is mounted in its mount namespace.
const SeesMounted = "sees mounted"

// User is a process that uses a layer.
type User struct {
	PID int
	// Unit that the process belongs to, "" if none, and Command its name.
	Unit, Command string
	// How the process uses it: "maps", "runs", "has open", "works in", "has its root in", or SeesMounted.
	How string
	// Path as the kernel shows it. On a detached mount it starts at the mount's root.
	Path string
}

// UsersOf finds the processes that use files of a layer, or directories or mounts of a file system that was built with
// it, by the proc file system at procRoot ("/proc"). Those read from the layer, or can come to it. It returns at most
// limit processes, and one use of each. A process that ends meanwhile is left out.
func UsersOf(ctx context.Context, procRoot string, shown []Shown, limit int) ([]User, error) {
	s := &userScan{namespaces: map[uint64]bool{}}
	for _, one := range shown {
		s.systems = append(s.systems, one.System)
		s.files = append(s.files, one.Files...)
	}
	var users []User
	err := proc.NewScanner(procRoot).Each(ctx, func(p *proc.Process) error {
		user, err := s.use(p)
		if err != nil || user == nil {
			return err
		}
		user.PID = p.PID
		if user.Unit, _, err = p.Unit(); err != nil {
			return err
		}
		if user.Command, err = p.Command(); err != nil {
			return err
		}
		if users = append(users, *user); len(users) >= limit {
			return fs.SkipAll
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("find the users of a layer: %w", err)
	}
	return users, nil
}

type userScan struct {
	// systems and files are the device numbers of Shown.
	systems, files []uint64
	// namespaces are the mount namespaces that were read already.
	namespaces map[uint64]bool
}

// use returns one use of the layer by a process; nil if it does not use it.
func (s *userScan) use(p *proc.Process) (*User, error) {
	for _, link := range []struct{ name, how string }{{"exe", "runs"}, {"cwd", "works in"},
		{"root", "has its root in"}} {
		if s.leadsTo(p, link.name) {
			path, err := p.Link(link.name)
			return &User{How: link.how, Path: string(path)}, err
		}
	}
	if user, err := s.mapped(p); user != nil || err != nil {
		return user, err
	}
	if user, err := s.open(p); user != nil || err != nil {
		return user, err
	}
	return s.mounted(p)
}

// leadsTo reports whether a link of a process leads to a file of the layer, or to a directory that
// it may have a part in.
func (s *userScan) leadsTo(p *proc.Process, link string) bool {
	stat, err := p.Stat(link)
	// An error: it was closed meanwhile, or has no device.
	return err == nil && (slices.Contains(s.files, stat.Dev) || slices.Contains(s.systems, stat.Dev))
}

// mapped looks for a mapped file of the layer. maps shows a file of an overlay with the overlay's number, whatever its
// layer is, and stat(2) with that of the layer.
func (s *userScan) mapped(p *proc.Process) (user *User, err error) {
	err = p.Maps(func(m proc.Mapping) error {
		device, err := m.Device()
		if err != nil {
			return err
		}
		uses := slices.Contains(s.files, device.Number())
		if !uses && slices.Contains(s.systems, device.Number()) {
			stat, err := p.Stat(m.Link())
			if proc.Ended(err) {
				return nil // unmapped meanwhile
			}
			uses = err != nil || slices.Contains(s.files, stat.Dev)
		}
		if uses {
			user = &User{How: "maps", Path: string(m.Path)}
			return fs.SkipAll
		}
		return nil
	})
	return user, err
}

// open looks for an open file.
func (s *userScan) open(p *proc.Process) (user *User, err error) {
	err = p.Files(func(f proc.OpenFile) error {
		path := string(f.Path)
		if s.leadsTo(p, f.Link) {
			user = &User{How: "has open", Path: path}
			return fs.SkipAll
		}
		return nil
	})
	return user, err
}

// mounted looks for a mount in the process's mount namespace. Each namespace is reported once, for its first process.
func (s *userScan) mounted(p *proc.Process) (*User, error) {
	namespace, err := p.MountNamespace()
	if err != nil || s.namespaces[namespace] {
		return nil, err
	}
	s.namespaces[namespace] = true
	table, err := p.Mounts()
	if err != nil {
		return nil, err
	}
	for i := range table {
		m, device := &table[i], table[i].Device().Number()
		if (slices.Contains(s.systems, device) || slices.Contains(s.files, device)) &&
			!strings.HasPrefix(m.Mountpoint, LayersDir+"/") {
			return &User{How: SeesMounted, Path: m.Mountpoint}, nil
		}
	}
	return nil, nil //nolint:nilnil // the process uses none of the devices
}
