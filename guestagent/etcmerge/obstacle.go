package etcmerge

import (
	"errors"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// obstacle is a path that cannot be carried, while all others can.
type obstacle struct {
	kind  Kind
	cause error
}

func (o *obstacle) Error() string { return o.cause.Error() }
func (o *obstacle) Unwrap() error { return o.cause }

// obstacleKinds are the errors that concern one path only. A full disk or a failing device is none of them: it
// concerns everything.
var obstacleKinds = map[unix.Errno]Kind{
	unix.EBUSY: Mounted, unix.EXDEV: Mounted,
	unix.EPERM: Protected, unix.EACCES: Protected, unix.EROFS: Protected, unix.ETXTBSY: Protected,
	unix.EOPNOTSUPP:   Protected,
	unix.ENAMETOOLONG: Unreadable, unix.ELOOP: Unreadable, unix.EILSEQ: Unreadable, unix.EINVAL: Unreadable,
	unix.ENOTCONN: Unreadable, unix.ESTALE: Unreadable,
	unix.ENOTDIR: OtherType, unix.EISDIR: OtherType, unix.ENOTEMPTY: OtherType, unix.EEXIST: OtherType,
}

// asObstacle returns the obstacle that an error is, nil if it concerns more than one path.
func asObstacle(err error) *obstacle {
	var known *obstacle
	if errors.As(err, &known) {
		return known
	}
	if errors.Is(err, errTooLarge) {
		return &obstacle{Unreadable, err}
	}
	var number unix.Errno
	if errors.As(err, &number) {
		if kind, ok := obstacleKinds[number]; ok {
			return &obstacle{kind, err}
		}
	}
	return nil
}

// obstacleConflict describes an obstacle.
func obstacleConflict(name string, o *obstacle) Conflict {
	reason := map[Kind]string{
		Mounted:    "something is mounted on it",
		Protected:  "it cannot be written",
		Unreadable: "it cannot be read or named",
		OtherType:  "it is of another type here than in the release",
	}[o.kind]
	return Conflict{Path: name, Kind: o.kind, Reason: reason + ": " + o.cause.Error()}
}

// errMounted means that a path is on a mount of its own.
var errMounted = errors.New("it, or its directory, is a mount of its own")

// checkMounts returns an obstacle if a path lies on a mount of others.
func (c Carrier) checkMounts(root *os.Root, name string) error {
	mounted, err := c.foreignMount(root, name)
	if err == nil && mounted != "" {
		return &obstacle{Mounted, errMounted}
	}
	return err
}

// foreignMount returns the topmost path, from the top of its tree (etc, var and so on) to the named one, that is not on
// the mount of that top, or, outside of /etc, not on the private disk; "" if there is none. What is on another mount
// may be shared with others, and after the next boot it may not be there.
func (c Carrier) foreignMount(root *os.Root, name string) (mounted string, err error) {
	type mount struct {
		id, device uint64
		known      bool
	}
	stat := func(full string) (m mount, err error) {
		var at unix.Statx_t
		const mask = unix.STATX_MNT_ID | unix.STATX_BASIC_STATS
		err = unix.Statx(unix.AT_FDCWD, full, unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT, mask, &at)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ENOSYS) {
			return m, nil
		}
		return mount{at.Mnt_id, unix.Mkdev(at.Dev_major, at.Dev_minor), err == nil && at.Mask&unix.STATX_MNT_ID != 0},
			err
	}
	first, _, _ := strings.Cut(name, "/")
	top, err := stat(filepath.Join(root.Name(), first))
	if err != nil || !top.known {
		return "", err
	}
	if c.Private != "" && first != "etc" {
		private, err := stat(c.Private)
		if err != nil {
			return "", err
		}
		if private.known && private.device != top.device {
			return first, nil
		}
	}
	for at := name; at != first && at != "."; at = path.Dir(at) {
		here, err := stat(filepath.Join(root.Name(), at))
		if err != nil {
			return "", err
		}
		if here.known && here.id != top.id {
			mounted = at
		}
	}
	return mounted, nil
}
