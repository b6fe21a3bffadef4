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

// maxOption is how long an option's value may be in bytes (fsconfig(2), SET_STRING).
const maxOption = 255

// overlay is an overlay to be mounted.
type overlay struct {
	// options of it, by name.
	options [][2]string
	// lowers are directories, bottom to top.
	lowers []string
	// upper and work are directories of one file system; both "" for an overlay that nothing is written to.
	upper, work string
	// attributes of the mount: unix.MOUNT_ATTR_*.
	attributes int
}

// mount mounts o attached to nothing. run runs a function on a thread of its own in the caller's mount namespace:
// onThrowawayThread, or onThisThread for a caller whose thread ends.
//
// Since Linux 6.7 lower directories are told one at a time ("lowerdir+"). Before there is one option for them all, in
// which 255 bytes have no room for the paths of three layers.
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

// mountByPath names every lower directory in an option of its own.
func (o overlay) mountByPath() (*Detached, error) {
	var lowers [][2]string
	for _, lower := range slices.Backward(o.lowers) {
		lowers = append(lowers, [2]string{"lowerdir+", lower})
	}
	return o.create(lowers)
}

// mountByNumber names all lower directories in one option, each by the number of a file descriptor, relative to the
// directory of them. Linux resolves paths for a thread, when it creates the file system (ovl_get_lowerstack of
// fs/overlayfs/super.c, 6.1) or is told the option (fs/overlayfs/params.c, 6.5). /proc/mounts shows the numbers, and
// nobody can use them any more.
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

// enterDescriptors gives the calling thread a working directory of its own, which is that of its file descriptors. It
// cannot be taken back: the thread has to end.
func enterDescriptors() error {
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return fmt.Errorf("overlay: take a working directory of its own: %w", err)
	}
	const descriptors = "/proc/thread-self/fd"
	if err := unix.Chdir(descriptors); err != nil {
		return fmt.Errorf("overlay: enter %s: %w", descriptors, err)
	}
	return nil
}

// create makes the file system with the options that tell its lower directories, and a mount of it.
func (o overlay) create(lowers [][2]string) (*Detached, error) {
	fs, err := unix.Fsopen("overlay", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, fmt.Errorf("fsopen overlay (is the module loaded?): %w", err)
	}
	fd, err := o.configure(fs, lowers)
	if err != nil {
		return nil, errors.Join(fmt.Errorf("overlay of %s: %w", strings.Join(o.lowers, ", "), err), kernelMessages(fs), unix.Close(fs))
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

// kernelMessages reads what the kernel logged into a file system context; nil if it logged nothing.
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

// onThisThread runs f where the caller is.
func onThisThread(f func()) { f() }

// onThrowawayThread runs f on an operating system thread that ends with it, and waits: f makes a bounded number of
// system calls, none of which waits for anybody.
func onThrowawayThread(f func()) {
	done := make(chan struct{})
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		if unix.Gettid() == unix.Getpid() {
			onThrowawayThread(f) // the main thread never ends: it is held meanwhile
			runtime.UnlockOSThread()
		} else {
			f()
		}
		close(done)
	}()
	<-done
}
