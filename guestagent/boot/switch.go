package boot

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// kernelMounts are the file systems that init mounts and moves into the system. The mounts below /run move with it: the
// layers and the private disk.
var kernelMounts = []struct {
	path, kind string
	flags      uintptr
	options    string
}{
	{"/proc", "proc", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
	{"/sys", "sysfs", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC, ""},
	{"/dev", "devtmpfs", unix.MS_NOSUID, "mode=0755"},
	// As systemd would mount it, which leaves one alone that is there.
	{"/run", "tmpfs", unix.MS_NOSUID | unix.MS_NODEV | unix.MS_STRICTATIME, "mode=0755,size=20%,nr_inodes=800k"},
}

func mountKernelFileSystems() error {
	for _, m := range kernelMounts {
		if err := os.MkdirAll(m.path, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.kind, m.path, m.kind, m.flags, m.options); err != nil {
			return fmt.Errorf("mount %s: %w", m.path, err)
		}
	}
	return nil
}

// switchRoot makes target the root and executes its init. It returns only on failure.
func switchRoot(target string) error {
	for _, m := range kernelMounts {
		if err := unix.Mount(m.path, filepath.Join(target, m.path), "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("move %s into the system: %w", m.path, err)
		}
	}
	// The initramfs is in memory: what is not removed takes memory for as long as the VM runs.
	if err := emptyRoot(); err != nil {
		return fmt.Errorf("remove the initramfs: %w", err)
	}
	if err := unix.Chdir(target); err != nil {
		return fmt.Errorf("enter the system: %w", err)
	}
	if err := unix.Mount(".", "/", "", unix.MS_MOVE, ""); err != nil {
		return fmt.Errorf("move the system to /: %w", err)
	}
	if err := unix.Chroot("."); err != nil {
		return fmt.Errorf("enter the system: %w", err)
	}
	if err := unix.Chdir("/"); err != nil {
		return fmt.Errorf("enter the system: %w", err)
	}
	// The kernel passes unknown parts of its command line to init, as arguments and environment.
	if err := unix.Exec(initPath, append([]string{initPath}, os.Args[1:]...), os.Environ()); err != nil {
		return fmt.Errorf("start %s: %w", initPath, err)
	}
	return nil
}

// emptyRoot removes everything on the root file system itself, but nothing that is mounted on it.
func emptyRoot() (err error) {
	root, err := openDirectory(unix.AT_FDCWD, "/")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unix.Close(root)) }()
	var stat unix.Stat_t
	if err := unix.Fstat(root, &stat); err != nil {
		return err
	}
	var fileSystem unix.Statfs_t
	if err := unix.Fstatfs(root, &fileSystem); err != nil {
		return err
	}
	// rootfs is a ramfs or a tmpfs. On any other root this would destroy somebody's files.
	if fileSystem.Type != unix.RAMFS_MAGIC && fileSystem.Type != unix.TMPFS_MAGIC {
		return fmt.Errorf("/ is of file system type %#x, not an initramfs", fileSystem.Type)
	}
	return emptyDirectory(root, stat.Dev, 0)
}

func emptyDirectory(directory int, device uint64, depth int) error {
	if depth > maxSeedDepth {
		return fmt.Errorf("deeper than %d directories", maxSeedDepth)
	}
	names, err := readNames(directory)
	if err != nil {
		return err
	}
	for _, name := range names {
		stat, err := exists(directory, name)
		if err != nil {
			return err
		}
		if stat.Dev != device {
			continue
		}
		flags := 0
		if isDirectory(stat) {
			if err := emptySubdirectory(directory, name, device, depth); err != nil {
				return err
			}
			flags = unix.AT_REMOVEDIR
		}
		err = unix.Unlinkat(directory, name, flags)
		// A directory with a mount on it or below it stays.
		if err != nil && !errors.Is(err, unix.EBUSY) && !errors.Is(err, unix.ENOTEMPTY) {
			return fmt.Errorf("remove %s: %w", name, err)
		}
	}
	return nil
}

func emptySubdirectory(directory int, name string, device uint64, depth int) (err error) {
	child, err := openDirectory(directory, name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unix.Close(child)) }()
	return emptyDirectory(child, device, depth+1)
}
