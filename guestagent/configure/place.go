package configure

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"
)

// maxFile bounds a file that is read or saved, in bytes. A longer one is none that this package wrote.
const maxFile = 16 << 20

// temporaryPrefix begins the name of a file that is being written.
const temporaryPrefix = ".sharedos-configure-"

// errOdd means that there is something at a path that is neither a regular file nor a symbolic link.
var errOdd = errors.New("it is neither a regular file nor a symbolic link")

// State is a file or a symbolic link as it is, without its content.
type State struct {
	// Link is the target of a symbolic link; "" for a regular file.
	Link string `json:"link,omitempty"`
	Mode uint32 `json:"mode,omitempty"`
	UID  uint32 `json:"uid,omitempty"`
	GID  uint32 `json:"gid,omitempty"`
	// Digest is the SHA-256 of the content in hexadecimal digits, or its HMAC with Salt as the key if it is a secret.
	Digest string `json:"digest,omitempty"`
	Salt   []byte `json:"salt,omitempty"`
}

// differs says what differs between two states of a path; "" if nothing. Both have the same salt, or none.
func (s *State) differs(other *State) string {
	switch {
	case s == nil && other == nil:
		return ""
	case other == nil:
		return "it is gone"
	case s == nil:
		return "it was created"
	case s.Link != other.Link && (s.Link == "" || other.Link == ""):
		return "it is a file of another type"
	case s.Link != other.Link:
		return "it leads elsewhere"
	case s.Link != "":
		return ""
	case s.Digest != other.Digest:
		return "its content was changed"
	case s.Mode != other.Mode:
		return fmt.Sprintf("its mode is %04o instead of %04o", other.Mode, s.Mode)
	case s.UID != other.UID || s.GID != other.GID:
		return fmt.Sprintf("it belongs to %d:%d instead of %d:%d", other.UID, other.GID, s.UID, s.GID)
	}
	return ""
}

// digester returns the hash of a content: keyed by salt, if there is one.
func digester(salt []byte) hash.Hash {
	if len(salt) > 0 {
		return hmac.New(sha256.New, salt)
	}
	return sha256.New()
}

func digestOf(content, salt []byte) string {
	h := digester(salt)
	h.Write(content) // never returns an error (hash.Hash)
	return hex.EncodeToString(h.Sum(nil))
}

// newSalt returns a key that nobody can guess.
func newSalt() []byte {
	salt := make([]byte, 32)
	rand.Read(salt) // never returns an error (crypto/rand)
	return salt
}

// place is a root directory. Paths below it are opened without following symbolic links (openat2(2)).
type place struct{ root *os.File }

func openPlace(directory string) (*place, error) {
	root, err := os.OpenFile(directory, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	return &place{root}, nil
}

func (p *place) Close() error { return p.root.Close() }

// actual is where a path is: /opt and /usr/local are links of every release to the VM's own disk (tree.CarriedTrees).
func actual(name string) string {
	for from, to := range map[string]string{"/opt/": "var/opt/", "/usr/local/": "var/usrlocal/"} {
		if rest, ok := strings.CutPrefix(name, from); ok {
			return to + rest
		}
	}
	return strings.TrimPrefix(name, "/")
}

// open opens a path relative to a directory.
func openBelow(directory *os.File, name string, flags int) (*os.File, error) {
	fd, err := unix.Openat2(int(directory.Fd()), name, &unix.OpenHow{
		Flags:   uint64(flags) | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}

// parent opens the directory of a path, and makes the directories that do not exist if make is
// true. made are those, from the top.
func (p *place) parent(name string, make bool) (directory *os.File, base string, made []string, err error) {
	where := actual(name)
	directory, err = openBelow(p.root, ".", unix.O_PATH|unix.O_DIRECTORY)
	if err != nil {
		return nil, "", nil, fmt.Errorf("open the root directory: %w", err)
	}
	parts := strings.Split(path.Dir(where), "/")
	for i, part := range parts {
		next, err := openBelow(directory, part, unix.O_PATH|unix.O_DIRECTORY)
		if errors.Is(err, fs.ErrNotExist) && make {
			if err = unix.Mkdirat(int(directory.Fd()), part, 0o755); err == nil {
				made = append(made, strings.Join(parts[:i+1], "/"))
				next, err = openBelow(directory, part, unix.O_PATH|unix.O_DIRECTORY)
			}
		}
		if closing := directory.Close(); err == nil {
			err = closing
		}
		if errors.Is(err, unix.ELOOP) {
			err = fmt.Errorf("%w: /%s is a symbolic link", err, strings.Join(parts[:i+1], "/"))
		}
		if err != nil {
			return nil, "", made, fmt.Errorf("open the directory of %s: %w", name, err)
		}
		directory = next
	}
	return directory, path.Base(where), made, nil
}

// look returns the state of a path; nil if nothing is there. The digest of the content is made with salt.
func (p *place) look(name string, salt []byte) (state *State, err error) {
	directory, base, _, err := p.parent(name, false)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil //nolint:nilnil // nothing is there
	}
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, directory.Close()) }()
	var stat unix.Stat_t
	err = unix.Fstatat(int(directory.Fd()), base, &stat, unix.AT_SYMLINK_NOFOLLOW)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil //nolint:nilnil // nothing is there
	}
	if err != nil {
		return nil, fmt.Errorf("look at %s: %w", name, err)
	}
	state = &State{Mode: stat.Mode & 0o7777, UID: stat.Uid, GID: stat.Gid}
	switch stat.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		target := make([]byte, 4096)
		n, err := unix.Readlinkat(int(directory.Fd()), base, target)
		if err != nil {
			return nil, fmt.Errorf("look at %s: %w", name, err)
		}
		return &State{Link: string(target[:n])}, nil
	case unix.S_IFREG:
		h := digester(salt)
		if err := copyFile(directory, base, h); err != nil {
			return nil, fmt.Errorf("read %s: %w", name, err)
		}
		state.Digest = hex.EncodeToString(h.Sum(nil))
		return state, nil
	default:
		return nil, fmt.Errorf("%s: %w", name, errOdd)
	}
}

// home looks at a directory. used is true if it has more than a new file system, or the home of an
// account that was never used.
func (p *place) home(name string) (owner uint32, used bool, err error) {
	directory, _, _, err := p.parent(path.Join(name, "."+temporaryPrefix), false)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, err
	}
	defer func() { err = errors.Join(err, directory.Close()) }()
	var stat unix.Stat_t
	if err := unix.Fstat(int(directory.Fd()), &stat); err != nil {
		return 0, false, fmt.Errorf("look at %s: %w", name, err)
	}
	names, err := namesIn(directory, ".")
	if err != nil {
		return 0, false, fmt.Errorf("look at %s: %w", name, err)
	}
	for _, one := range names {
		switch one {
		case "lost+found":
		case ".ssh":
			below, err := namesIn(directory, one)
			used = used || err != nil || len(below) > 0
		default:
			used = true
		}
	}
	return stat.Uid, used, nil
}

// namesIn are names in a directory below another one, a few of them.
func namesIn(directory *os.File, name string) (_ []string, err error) {
	file, err := openBelow(directory, name, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	names, err := file.Readdirnames(8)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return names, err
}

// copyFile writes the beginning of a regular file, at most one byte more than maxFile.
func copyFile(directory *os.File, base string, to io.Writer) (err error) {
	file, err := openBelow(directory, base, unix.O_RDONLY|unix.O_NONBLOCK)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	_, err = io.Copy(to, io.LimitReader(file, maxFile+1))
	return err
}

// read returns the content of a regular file of at most maxFile bytes.
func (p *place) read(name string) (_ []byte, err error) {
	directory, base, _, err := p.parent(name, false)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, directory.Close()) }()
	var content strings.Builder
	if err := copyFile(directory, base, &content); err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	if content.Len() > maxFile {
		return nil, fmt.Errorf("read %s: it is longer than %d bytes", name, maxFile)
	}
	return []byte(content.String()), nil
}

// put makes a path what state says, with this content if it is a regular file, by a rename. It returns the directories
// that it made.
func (p *place) put(name string, state State, content []byte) (made []string, err error) {
	directory, base, made, err := p.parent(name, true)
	if err != nil {
		return made, err
	}
	defer func() { err = errors.Join(err, directory.Close()) }()
	temporary := temporaryPrefix + rand.Text()
	defer func() {
		if err != nil {
			err = fmt.Errorf("write %s: %w", name, err)
			if removing := unix.Unlinkat(int(directory.Fd()), temporary, 0); removing != nil &&
				!errors.Is(removing, fs.ErrNotExist) {
				err = errors.Join(err, removing)
			}
		}
	}()
	if state.Link != "" {
		err = unix.Symlinkat(state.Link, int(directory.Fd()), temporary)
	} else {
		err = fill(directory, temporary, state, content)
	}
	if err != nil {
		return made, err
	}
	if err := unix.Renameat(int(directory.Fd()), temporary, int(directory.Fd()), base); err != nil {
		return made, err
	}
	return made, syncDirectory(directory)
}

func fill(directory *os.File, name string, state State, content []byte) (err error) {
	fd, err := unix.Openat(int(directory.Fd()), name,
		unix.O_WRONLY|unix.O_CREAT|unix.O_EXCL|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0o600)
	if err != nil {
		return err
	}
	file := os.NewFile(uintptr(fd), name)
	defer func() { err = errors.Join(err, file.Close()) }()
	if _, err := file.Write(content); err != nil {
		return err
	}
	if err := unix.Fchown(fd, int(state.UID), int(state.GID)); err != nil {
		return err
	}
	if err := unix.Fchmod(fd, state.Mode); err != nil { // after the owner, whose change clears bits
		return err
	}
	return file.Sync()
}

// syncDirectory syncs the names in a directory that was opened as a path alone.
func syncDirectory(directory *os.File) (err error) {
	file, err := openBelow(directory, ".", unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	return file.Sync()
}

// remove removes a file or link. One that is gone is no error.
func (p *place) remove(name string) (err error) {
	directory, base, _, err := p.parent(name, false)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, directory.Close()) }()
	if err := unix.Unlinkat(int(directory.Fd()), base, 0); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove %s: %w", name, err)
	}
	return syncDirectory(directory)
}

// removeDirectory removes a directory that this package made, unless something is in it. It reports whether it is gone.
func (p *place) removeDirectory(name string) (gone bool, err error) {
	directory, base, _, err := p.parent("/"+name, false)
	if errors.Is(err, fs.ErrNotExist) {
		return true, nil
	}
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, directory.Close()) }()
	err = unix.Unlinkat(int(directory.Fd()), base, unix.AT_REMOVEDIR)
	switch {
	case err == nil, errors.Is(err, fs.ErrNotExist):
		return true, nil
	case errors.Is(err, unix.ENOTEMPTY), errors.Is(err, unix.EEXIST), errors.Is(err, unix.EBUSY),
		errors.Is(err, unix.ENOTDIR):
		return false, nil
	}
	return false, fmt.Errorf("remove /%s: %w", name, err)
}
