package machine

import (
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/google/renameio/v2"
	"golang.org/x/sys/unix"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/daemon"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/transport"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// Local is the machine that this process runs on.
type Local struct{}

var _ Machine = Local{}

// Exists implements Files.
func (Local) Exists(ctx context.Context, path string) (bool, error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	_, err := os.Lstat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// Digest implements Files.
func (Local) Digest(ctx context.Context, path string) (_ tree.Digest, err error) {
	file, err := os.Open(path)
	if err != nil {
		return tree.Digest{}, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	sum := sha256.New()
	if _, err := io.Copy(sum, untilDone{ctx, file}); err != nil {
		return tree.Digest{}, fmt.Errorf("read %s: %w", path, err)
	}
	return tree.Digest(sum.Sum(nil)), nil
}

// untilDone reads until a context ends.
type untilDone struct {
	ctx context.Context
	io.Reader
}

// Read implements io.Reader.
func (u untilDone) Read(p []byte) (int, error) {
	if err := u.ctx.Err(); err != nil {
		return 0, err
	}
	return u.Reader.Read(p)
}

// ReadTail implements Files.
func (Local) ReadTail(ctx context.Context, path string, limit int64) (_ []byte, err error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	return io.ReadAll(io.NewSectionReader(file, max(0, info.Size()-limit), limit))
}

// WriteFile implements Files.
func (Local) WriteFile(ctx context.Context, path string, data []byte) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	directory := filepath.Dir(path)
	if err := os.MkdirAll(directory, 0o755); err != nil {
		return err
	}
	return renameio.WriteFile(path, data, 0, renameio.WithTempDir(directory), renameio.WithStaticPermissions(0o644))
}

// MakeDir implements Files.
func (Local) MakeDir(ctx context.Context, path string, mode fs.FileMode) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return os.MkdirAll(path, mode)
}

// MakePrivateDir implements Files.
func (Local) MakePrivateDir(ctx context.Context, path string, reaching int) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if err := os.Mkdir(path, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	directory, err := os.OpenFile(path, os.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	fail := func(err error) error {
		return errors.Join(fmt.Errorf("make %s private: %w", path, err), directory.Close())
	}
	var stat unix.Stat_t
	if err := unix.Fstat(int(directory.Fd()), &stat); err != nil {
		return fail(err)
	}
	if int(stat.Uid) != os.Geteuid() {
		return fail(fmt.Errorf("it belongs to user %d: remove it", stat.Uid))
	}
	// The access control list goes first: chmod would change the mask of one.
	if err := unix.Fremovexattr(int(directory.Fd()), aclAttribute); err != nil && !errors.Is(err, unix.ENODATA) &&
		!errors.Is(err, unix.ENOTSUP) {
		return fail(err)
	}
	if err := directory.Chmod(0o700); err != nil {
		return fail(err)
	}
	if reaching != 0 && reaching != os.Geteuid() {
		if err := unix.Fsetxattr(int(directory.Fd()), aclAttribute, reachableBy(reaching), 0); err != nil {
			return fail(fmt.Errorf("let user %d reach it (the file system needs access control lists): %w", reaching,
				err))
		}
	}
	return directory.Close()
}

// aclAttribute has the access control list of a file (acl(5)).
const aclAttribute = "system.posix_acl_access"

// reachableBy is the access control list of a directory that its owner can use, and that one other
// user can reach what is in it (linux/posix_acl_xattr.h).
func reachableBy(uid int) []byte {
	const all, reach, nobody = 7, 1, ^uint32(0)
	list := binary.LittleEndian.AppendUint32(nil, 2) // version
	for _, entry := range []struct {
		tag, permissions uint16
		id               uint32
	}{
		{0x01, all, nobody}, {0x02, reach, uint32(uid)}, {0x04, 0, nobody}, {0x10, reach, nobody}, {0x20, 0, nobody},
	} { // the owner, a user, the group, the mask, others
		list = binary.LittleEndian.AppendUint16(list, entry.tag)
		list = binary.LittleEndian.AppendUint16(list, entry.permissions)
		list = binary.LittleEndian.AppendUint32(list, entry.id)
	}
	return list
}

// Owner implements Files.
func (Local) Owner(ctx context.Context, path string) (int, fs.FileMode, error) {
	if err := ctx.Err(); err != nil {
		return 0, 0, err
	}
	info, err := os.Lstat(path)
	if err != nil {
		return 0, 0, err
	}
	status, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return 0, 0, fmt.Errorf("%s has no owner", path)
	}
	return int(status.Uid), info.Mode(), nil
}

// ListDir implements Files.
func (Local) ListDir(ctx context.Context, path string) ([]string, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(path)
	if err != nil {
		return nil, err
	}
	names := make([]string, len(entries))
	for i, entry := range entries {
		names[i] = entry.Name()
	}
	return names, nil
}

// Chmod implements Files.
func (Local) Chmod(ctx context.Context, path string, mode fs.FileMode) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return os.Chmod(path, mode)
}

// Remove implements Files.
func (Local) Remove(ctx context.Context, path string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	return os.Remove(path)
}

// User implements Processes.
func (Local) User(context.Context) (int, error) { return os.Geteuid(), nil }

// IsRoot implements Processes.
func (Local) IsRoot(context.Context) (bool, error) { return os.Geteuid() == 0, nil }

// Run implements Processes.
func (Local) Run(ctx context.Context, command ...string) error {
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Dir = "/"
	cmd.WaitDelay = time.Second // a daemon that the program starts may keep its stderr open
	stderr := &strings.Builder{}
	cmd.Stderr = stderr
	if err := cmd.Run(); err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		return fmt.Errorf("%s: %w: %s", strings.Join(command, " "), err, strings.TrimSpace(stderr.String()))
	}
	return nil
}

// Installed implements Processes.
func (Local) Installed(ctx context.Context, program string) (bool, error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	_, err := exec.LookPath(program)
	if errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// StartDaemon implements Processes.
func (Local) StartDaemon(ctx context.Context, record, log string, command ...string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	program, err := exec.LookPath(command[0])
	switch {
	case errors.Is(err, exec.ErrNotFound) || errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: %w", ErrNotInstalled, err)
	case err != nil:
		return err
	}
	_, err = daemon.Start(record, log, append([]string{program}, command[1:]...)...)
	return err
}

// DaemonRuns implements Processes.
func (Local) DaemonRuns(ctx context.Context, record string) (bool, error) {
	if err := ctx.Err(); err != nil {
		return false, err
	}
	return daemon.Alive(record)
}

// EndDaemon implements Processes.
func (Local) EndDaemon(ctx context.Context, record string) error { return daemon.End(ctx, record) }

// DialUnix implements Sockets.
func (Local) DialUnix(ctx context.Context, path string) (net.Conn, error) {
	var dialer net.Dialer
	return dialer.DialContext(ctx, "unix", path)
}

// DialVSock implements Sockets.
func (Local) DialVSock(ctx context.Context, cid, port uint32) (net.Conn, error) {
	return transport.VSock{CID: cid}.DialContext(ctx, port)
}

// PortFree implements Sockets. It listens there for a moment.
func (Local) PortFree(ctx context.Context, port uint16) (bool, error) {
	var config net.ListenConfig
	listener, err := config.Listen(ctx, "tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port))))
	if errors.Is(err, syscall.EADDRINUSE) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("listen on port %d of 127.0.0.1: %w", port, err)
	}
	return true, listener.Close()
}
