package mounts

import (
	"errors"
	"fmt"
	"runtime"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// maxOption is the maximum length of an option's value in bytes (fsconfig(2), SET_STRING).
const maxOption = 255

// overlay describes an overlay file system.
type overlay struct {
	// options are names and values.
	options [][2]string
	// lowers are directories, bottom to top.
	lowers []string
	// upper and work are directories of one file system; both are "" for a read-only overlay.
	upper, work string
	// attributes of the mount: unix.MOUNT_ATTR_*.
	attributes int
}

// mount creates a detached mount of o. run runs a function on a thread of its own in the caller's mount namespace:
// onThrowawayThread, or onThisThread if the caller's thread ends anyway.
//
// Since Linux 6.7 each lower directory has an option of its own ("lowerdir+"). Before, there is one option for all of
// them, whose 255 bytes have no room for the paths of three layers.
func (o overlay) mount(run func(f func())) (*Detached, error) {
	release, err := KernelRelease()
	if err != nil {
		return nil, err
	}
	old, err := kernelOlder(release, 6, 7)
	switch {
	case err != nil:
		return nil, err
	case old:
		return o.mountByNumber(run)
	default:
		return o.mountByPath()
	}
}

// mountByPath passes each lower directory by its path, in an option of its own.
func (o overlay) mountByPath() (*Detached, error) {
	var lowers [][2]string
	for _, lower := range slices.Backward(o.lowers) {
		lowers = append(lowers, [2]string{"lowerdir+", lower})
	}
	return o.create(lowers)
}

// mountByNumber passes all lower directories in one option, each by the number of a file descriptor. Linux resolves
// them relative to the working directory of the calling thread, when it creates the file system (ovl_get_lowerstack in
// fs/overlayfs/super.c, 6.1) or sets the option (fs/overlayfs/params.c, 6.5). /proc/mounts shows the numbers, which
// mean nothing any more then.
func (o overlay) mountByNumber(run func(f func())) (mounted *Detached, err error) {
	list := ""
	for _, lower := range o.lowers {
		fd, err := unix.Open(lower, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, fmt.Errorf("overlay: open %s: %w", lower, err)
		}
		defer func() { err = errors.Join(err, unix.Close(fd)) }()
		list = ":" + strconv.Itoa(fd) + list // the uppermost comes first
	}
	list = strings.TrimPrefix(list, ":")
	if len(list) > maxOption {
		return nil, fmt.Errorf("overlay of %d directories: more than Linux before 6.7 takes", len(o.lowers))
	}
	run(func() {
		if err = enterDescriptors(); err == nil {
			mounted, err = o.create([][2]string{{"lowerdir", list}})
		}
	})
	return mounted, err
}

// enterDescriptors makes the directory of its file descriptors the working directory of the calling thread alone. This
// cannot be undone: the thread has to end.
func enterDescriptors() error {
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("overlay: unshare the working directory: %w", err)
	}
	const descriptors = "/proc/thread-self/fd"
	if err := unix.Chdir(descriptors); err != nil {
		return fmt.Errorf("overlay: enter %s: %w", descriptors, err)
	}
	return nil
}

// create creates the file system, with these options for its lower directories, and a mount of it.
func (o overlay) create(lowers [][2]string) (*Detached, error) {
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("fsopen overlay (is the module loaded?): %w", err)
	}
	fd, err := o.configure(fs, lowers)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("overlay of %s: %w", strings.Join(o.lowers, ", "), err),
			kernelMessages(fs), unix.Close(fs))
	}
	if err := unix.Close(fs); err != nil {
		return nil, errors.Join(fmt.Errorf("close overlay context: %w", err), unix.Close(fd))
	}
	return &Detached{fd: fd}, nil
}

func (o overlay) configure(fs int, lowers [][2]string) (int, error) {
	options := slices.Concat([][2]string{{"source", "sharedos"}}, o.options, lowers)
	if o.upper != "" {
		options = append(options, [2]string{"upperdir", o.upper}, [2]string{"workdir", o.work})
	}
	for _, option := range options {
		if err := unix.FsconfigSetString(fs, option[0], option[1]); err != nil {
			return -1, fmt.Errorf("option %s=%s: %w", option[0], option[1], err)
		}
	}
	if err := unix.FsconfigCreate(fs); err != nil {
		return -1, fmt.Errorf("create: %w", err)
	}
	fd, err := unix.Fsmount(fs, unix.FSMOUNT_CLOEXEC, o.attributes)
	if err != nil {
		return -1, fmt.Errorf("fsmount: %w", err)
	}
	return fd, nil
}

// kernelMessages returns what the kernel logged to a file system context; nil if it logged nothing.
func kernelMessages(fs int) error {
	buffer := make([]byte, 4096)
	var messages []error
	for range 8 {
		n, err := unix.Read(fs, buffer)
		if err != nil || n <= 0 { // ENODATA: no more messages
			break
		}
		messages = append(messages, fmt.Errorf("kernel: %s", strings.TrimSpace(string(buffer[:n]))))
	}
	return errors.Join(messages...)
}

// onThisThread runs f on the calling thread.
func onThisThread(f func()) { f() }

// onThrowawayThread runs f on an operating system thread that ends with it, and waits for f: it makes a bounded number
// of system calls, none of which blocks.
func onThrowawayThread(f func()) {
	done := make(chan struct{})
	go func() {
		runtime.LockOSThread() // never unlocked, so the thread ends with the goroutine
		if unix.Gettid() == unix.Getpid() {
			onThrowawayThread(f) // the main thread never ends, so another one is needed
			runtime.UnlockOSThread()
		} else {
			f()
		}
		close(done)
	}()
	<-done
}
