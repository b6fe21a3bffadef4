package diskimage

import (
	"errors"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
)

// Flags of linux/loop.h.
const (
	loReadOnly  = 1
	loAutoclear = 4
)

// maxLoopTries is how many free loop devices in a row another process may take first.
const maxLoopTries = 16

// mount mounts the file system at an offset in a file, read-only, and returns its root. The mount is detached, so it
// disappears with the returned file or with the process. The error wraps source.ErrRequirement if this machine cannot
// mount it, and source.ErrCorrupt if the file system is damaged.
func mount(file *os.File, offset, size int64, name string) (_ *os.File, err error) {
	loop, err := attachLoop(file, offset, size)
	if err != nil {
		return nil, fmt.Errorf("attach a loop device: %w", err)
	}
	// A mount keeps the loop device. Without one, the device disappears with this descriptor.
	defer func() { err = errors.Join(err, loop.Close()) }()
	fs, err := unix.Fsopen(name, unix.FSOPEN_CLOEXEC)
	switch {
	case errors.Is(err, unix.ENODEV):
		return nil, fmt.Errorf("%w: this machine's kernel has no %s; load it with: modprobe %s",
			source.ErrRequirement, name, name)
	case errors.Is(err, unix.EPERM):
		return nil, fmt.Errorf("%w: only root may mount; run as root, or make an archive of the image in a VM",
			source.ErrRequirement)
	case err != nil:
		return nil, os.NewSyscallError("fsopen", err)
	}
	defer func() { err = errors.Join(err, unix.Close(fs)) }()
	flags := []string{"ro"}
	if name == "xfs" {
		// This machine's own root may be a copy of the same image, with the same UUID.
		flags = append(flags, "nouuid")
	}
	err = unix.FsconfigSetString(fs, "source", loop.Name())
	for _, flag := range flags {
		if err == nil {
			err = unix.FsconfigSetFlag(fs, flag)
		}
	}
	if err == nil {
		err = unix.FsconfigCreate(fs)
	}
	if errors.Is(err, unix.EROFS) {
		return nil, fmt.Errorf("%w: it was not unmounted: start the image once and shut it down", source.ErrCorrupt)
	}
	if err != nil {
		return nil, fmt.Errorf("%w: %w: the kernel rejects it; dmesg shows why", source.ErrCorrupt,
			os.NewSyscallError("fsconfig", err))
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC,
		unix.MOUNT_ATTR_RDONLY|unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NODEV|unix.MOUNT_ATTR_NOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("fsmount", err)
	}
	defer func() { err = errors.Join(err, unix.Close(fd)) }()
	root, err := unix.Openat(fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("open", err)
	}
	return os.NewFile(uintptr(root), "root of "+name), nil
}

// attachLoop attaches a part of a file to a loop device, read-only. The kernel detaches it after its last use.
func attachLoop(file *os.File, offset, size int64) (_ *os.File, err error) {
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	switch {
	case errors.Is(err, os.ErrNotExist):
		return nil, fmt.Errorf("%w: there is no /dev/loop-control; load the module with: modprobe loop",
			source.ErrRequirement)
	case errors.Is(err, os.ErrPermission):
		return nil, fmt.Errorf(
			"%w: only root may use loop devices; run as root, or make an archive of the image in a VM",
			source.ErrRequirement)
	case err != nil:
		return nil, err
	}
	defer func() { err = errors.Join(err, control.Close()) }()
	for range maxLoopTries {
		number, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return nil, os.NewSyscallError("LOOP_CTL_GET_FREE", err)
		}
		path := "/dev/loop" + strconv.Itoa(number)
		loop, err := os.OpenFile(path, os.O_RDONLY, 0)
		if err != nil {
			return nil, fmt.Errorf("%w: %w", source.ErrRequirement, err)
		}
		config := unix.LoopConfig{Fd: uint32(file.Fd()), Info: unix.LoopInfo64{
			Offset: uint64(offset), Sizelimit: uint64(size), Flags: loReadOnly | loAutoclear,
		}}
		err = unix.IoctlLoopConfigure(int(loop.Fd()), &config)
		if err == nil {
			return loop, nil
		}
		if err = errors.Join(os.NewSyscallError("LOOP_CONFIGURE "+path, err),
			loop.Close()); !errors.Is(err, unix.EBUSY) {
			return nil, err
		}
	}
	return nil, errors.New("every free one was taken by another process")
}
