package boot

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/mounts"
)

// toolTimeout bounds mkfs and fsck. A check of a large disk takes minutes.
const toolTimeout = 15 * time.Minute

// lowerTree is the path at which the layers of a stack are mounted, merged and read-only, before the private disk is.
// The stack's tools run in it, the private trees are seeded from it, and init is read from it as a first check.
type lowerTree string

// lowerBinds are the directories of the initramfs that the tools need in the tree.
var lowerBinds = []string{"dev", "proc", "run"}

// mountLower merges the layers, bottom to top, at path.
func mountLower(layers []string, path string) (lowerTree, error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return "", fmt.Errorf("mount layers: %w", err)
	}
	merged, err := mounts.BuildTree(layers, ".")
	if err != nil {
		return "", fmt.Errorf("mount layers: %w", err)
	}
	if err := merged.Attach(path); err != nil {
		return "", fmt.Errorf("mount layers: %w", err)
	}
	return lowerTree(path), nil
}

// unmount unmounts the tree with everything that was bind-mounted into it.
func (l lowerTree) unmount() error {
	if err := unix.Unmount(string(l), unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
		return fmt.Errorf("unmount %s: %w", string(l), err)
	}
	return nil
}

// initPath is the system's own init.
const initPath = "/sbin/init"

// probe reads the whole init, without which the system cannot boot. If its layer does not match its id, that is found
// here, when another stack can still be booted.
func (l lowerTree) probe() (err error) {
	root, err := unix.Open(string(l), unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open tree: %w", err)
	}
	defer func() { err = errors.Join(err, unix.Close(root)) }()
	fd, err := unix.Openat2(root, initPath,
		&unix.OpenHow{Flags: unix.O_RDONLY | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT})
	if err != nil {
		return fmt.Errorf("open %s: %w", initPath, err)
	}
	file := os.NewFile(uintptr(fd), initPath)
	defer func() { err = errors.Join(err, file.Close()) }()
	if _, err := io.Copy(io.Discard, file); err != nil {
		return fmt.Errorf("read %s: %w", initPath, err)
	}
	return nil
}

// has reports whether the tree has a file at a path without a leading slash, following no symbolic link at its end.
func (l lowerTree) has(path string) bool {
	_, err := os.Lstat(filepath.Join(string(l), path))
	return err == nil
}

// run runs a tool of the tree in the tree. An error includes its output.
func (l lowerTree) run(ctx context.Context, tool string, arguments ...string) error {
	path := ""
	for _, directory := range []string{"/usr/sbin", "/usr/bin"} {
		if l.has(filepath.Join(directory, tool)) {
			path = filepath.Join(directory, tool)
			break
		}
	}
	if path == "" {
		return fmt.Errorf("run %s: the stack has none: add its package to the base (Debian: e2fsprogs): %w", tool,
			fs.ErrNotExist)
	}
	for _, name := range lowerBinds {
		if err := bindOnce("/"+name, filepath.Join(string(l), name)); err != nil {
			return fmt.Errorf("run %s: %w", tool, err)
		}
	}
	return runIn(ctx, string(l), path, arguments...)
}

// runIn runs a program with root as its root directory. An error includes its output.
func runIn(ctx context.Context, root, path string, arguments ...string) error {
	ctx, cancel := context.WithTimeout(ctx, toolTimeout)
	defer cancel()
	var output tail
	command := exec.CommandContext(ctx, path, arguments...)
	command.SysProcAttr = &syscall.SysProcAttr{Chroot: root}
	command.Dir = "/"
	command.Env = []string{"PATH=/usr/sbin:/usr/bin", "LC_ALL=C"}
	command.Stdout, command.Stderr = &output, &output
	command.WaitDelay = time.Second
	if err := command.Run(); err != nil {
		return fmt.Errorf("run %s: %w: %s", filepath.Base(path), err, output.line())
	}
	return nil
}

// bindOnce bind-mounts a directory of the initramfs into the tree, if nothing is mounted there yet.
func bindOnce(source, target string) error {
	var stat unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, target, unix.AT_SYMLINK_NOFOLLOW, 0, &stat); err != nil {
		return fmt.Errorf("bind %s: stat %s: %w", source, target, err)
	}
	if stat.Attributes&unix.STATX_ATTR_MOUNT_ROOT != 0 {
		return nil
	}
	if err := unix.Mount(source, target, "", unix.MS_BIND|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("bind %s at %s: %w", source, target, err)
	}
	return nil
}

// tail keeps the last bytes of what a tool prints.
type tail struct{ bytes.Buffer }

const maxTail = 2048

func (t *tail) Write(data []byte) (int, error) {
	n, err := t.Buffer.Write(data)
	if over := t.Len() - maxTail; over > 0 {
		t.Next(over)
	}
	return n, err
}

// line is the output on one line.
func (t *tail) line() string {
	return strings.Join(strings.FieldsFunc(t.String(), func(r rune) bool { return r == '\n' || r == '\r' }), "; ")
}
