// Package machine reaches the machine that runs the VMs where libvirt does not: its files, processes and sockets.
//
// Packages store, hypervisor, vm and host use the machine of the VMs only through these interfaces, so that
// it need not be the machine that this process runs on. [Local] is the machine that this process runs on.
//
// What belongs to the user of this process is not meant: the operator's key, and the cache of
// builds, are ordinary files.
package machine

import (
	"context"
	"errors"
	"io/fs"
	"net"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// ErrNotInstalled means that the machine has no such program in its search path.
var ErrNotInstalled = errors.New("the program is not installed")

// Machine is the machine that runs the VMs.
type Machine interface {
	Files
	Processes
	Sockets
}

// Files reaches files of the machine by absolute paths. A path that does not exist is
// fs.ErrNotExist. Any other error leaves open whether it exists.
type Files interface {
	// Exists reports whether a path exists, whatever it is.
	Exists(ctx context.Context, path string) (bool, error)
	// Digest returns the SHA-256 of a file's content.
	Digest(ctx context.Context, path string) (tree.Digest, error)
	// ReadTail returns the last bytes of a file, at most limit.
	ReadTail(ctx context.Context, path string, limit int64) ([]byte, error)
	// WriteFile replaces the content of a file atomically and durably: after a crash the file has either
	// its old content or all of the new one. Every user may read it. Missing directories are created.
	WriteFile(ctx context.Context, path string, data []byte) error
	// MakeDir creates a directory and its parents. Directories that exist keep their mode.
	MakeDir(ctx context.Context, path string, mode fs.FileMode) error
	// MakePrivateDir creates a directory that nobody can reach but this user, root, and the user with a number. That
	// user can reach what is in it by its name, and can neither list nor change the directory. A directory that
	// exists gets these permissions, too. It is an error if the path is anything else than a directory of this user.
	MakePrivateDir(ctx context.Context, path string, reaching int) error
	// CheckMakeDir returns why a directory cannot be created at a path, and nil for a directory that exists.
	// fs.ErrPermission is about the user of this process: another one may be able to. Nothing is changed.
	CheckMakeDir(ctx context.Context, path string) error
	// Owner returns the number of the user that a file belongs to, and its permissions.
	Owner(ctx context.Context, path string) (uid int, mode fs.FileMode, err error)
	// ListDir returns the names in a directory, sorted.
	ListDir(ctx context.Context, path string) ([]string, error)
	// Chmod changes the mode of a file or socket.
	Chmod(ctx context.Context, path string, mode fs.FileMode) error
	// Remove removes a file, a socket or an empty directory.
	Remove(ctx context.Context, path string) error
}

// Processes runs programs on the machine. A daemon outlives this process. It is found again by its
// record, a file that names the process (package daemon).
type Processes interface {
	// User returns the number of the user that programs run as.
	User(ctx context.Context) (int, error)
	// IsRoot reports whether programs run as root.
	IsRoot(ctx context.Context) (bool, error)
	// Run runs a program to its end. The error of one that fails includes what it wrote to stderr.
	Run(ctx context.Context, command ...string) error
	// Installed reports whether the machine has a program in its search path.
	Installed(ctx context.Context, program string) (bool, error)
	// StartDaemon starts a program detached from this process, with its output in the file log, and records it.
	// ErrNotInstalled if the machine does not have it.
	StartDaemon(ctx context.Context, record, log string, command ...string) error
	// DaemonRuns reports whether the recorded process runs. It does not run if there is no record.
	DaemonRuns(ctx context.Context, record string) (bool, error)
	// EndDaemon ends the recorded process, waits until it is gone, and removes the record. It is no
	// error if there is none.
	EndDaemon(ctx context.Context, record string) error
}

// Sockets connects to sockets of the machine.
type Sockets interface {
	// DialUnix connects to a unix stream socket.
	DialUnix(ctx context.Context, path string) (net.Conn, error)
	// DialVSock connects to a port of the guest with a context id (CID), through the machine's kernel: vsock(7).
	DialVSock(ctx context.Context, cid, port uint32) (net.Conn, error)
	// PortFree reports whether nothing listens on a TCP port of the machine's 127.0.0.1.
	PortFree(ctx context.Context, port uint16) (bool, error)
}
