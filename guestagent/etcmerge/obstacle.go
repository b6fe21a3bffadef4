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
	unix.EPERM: Protected, unix.EACCES: Protected, unix.EROFS: Protected, unix.ETXTBSY: Protected, unix.EOPNOTSUPP: Protected,
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

// checkMounts returns an obstacle if a path below /etc is a mount point or lies on another mount than /etc: what is
// there may be shared with others, and after the next boot it may not be there.
func checkMounts(root *os.Root, name string) error {
	if !strings.HasPrefix(name, "etc/") {
		return nil
	}
	var at unix.Statx_t
	stat := func(p string) (bool, error) {
		err := unix.Statx(unix.AT_FDCWD, filepath.Join(root.Name(), p), unix.AT_SYMLINK_NOFOLLOW|unix.AT_NO_AUTOMOUNT, unix.STATX_MNT_ID, &at)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) || errors.Is(err, unix.ENOSYS) {
			return false, nil
		}
		return err == nil && at.Mask&unix.STATX_MNT_ID != 0, err
	}
	known, err := stat("etc")
	if err != nil || !known {
		return err
	}
	top := at.Mnt_id
	for p := name; p != "etc" && p != "."; p = path.Dir(p) {
		exists, err := stat(p)
		if err != nil {
			return err
		}
		if exists && at.Mnt_id != top {
			return &obstacle{Mounted, errMounted}
		}
	}
	return nil
}
