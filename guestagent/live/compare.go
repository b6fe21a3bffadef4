package live

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/impact"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/mounts"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/proc"
)

const (
	// maxAlike bounds how many compared pairs are remembered, maxCompared how many bytes of one file are read.
	maxAlike     = 16_384
	maxCompared  = 512 << 20
	compareChunk = 64 << 10
)

// file identifies a file of a read-only file system.
type file struct{ device, inode uint64 }

// filePair is a file that is used and the one that is mounted at its path.
type filePair struct{ used, mounted file }

// comparer compares files that processes use from a swapped-out /usr with those that are mounted.
//
// Two stacks mostly have layers in common. A file of the same layer is the same file if it has the same inode number,
// which an overlay passes on. Files of different layers are compared by content: after a full layer most of them are
// alike. Layers never change, so each pair is read once in a boot.
type comparer struct {
	usr *Usr
	// root is where the mounted files are: "/".
	root string
	// layers are the layers of the device numbers that files show, on each /usr of this boot.
	layers map[uint64]string
	// present are the device numbers that files of the mounted /usr show.
	present map[uint64]bool
}

func (l *Usr) comparer(record usrRecord, present proc.Device) *comparer {
	c := &comparer{usr: l, root: "/", layers: map[uint64]string{}, present: map[uint64]bool{}}
	for _, stack := range record.Stacks {
		for i, device := range stack.Files {
			if device != 0 && device != mounts.NoFiles && i < len(stack.Layers) {
				c.layers[device] = stack.Layers[i]
			}
		}
	}
	if now := record.stackOn(present.Number()); now != nil {
		for _, device := range now.Devices {
			c.present[device] = true
		}
	}
	return c
}

// compare implements impact.Reader.Compare. A mapped file is from a swapped-out /usr (impact.Reader.Swapped).
// An open one is not compared unless its device number says that it is from a /usr of this boot.
func (c *comparer) compare(p *proc.Process, link, name string) (impact.Version, error) {
	used, err := p.Stat(link)
	if err != nil {
		return impact.NotCompared, err
	}
	layer, known := c.layers[used.Dev]
	switch {
	case c.present[used.Dev]:
		return impact.Mounted, nil
	case !known && !strings.HasPrefix(link, "map_files/") || used.Mode&unix.S_IFMT != unix.S_IFREG:
		return impact.NotCompared, nil
	}
	path := c.root + name
	var mounted unix.Stat_t
	err = unix.Lstat(path, &mounted)
	switch {
	case errors.Is(err, unix.ENOENT), errors.Is(err, unix.ENOTDIR):
		return impact.Earlier, nil
	case err != nil:
		return impact.NotCompared, fmt.Errorf("compare %s: %w", path, err)
	case mounted.Mode&unix.S_IFMT != unix.S_IFREG, mounted.Size != used.Size:
		return impact.Earlier, nil
	case known && layer == c.layers[mounted.Dev]:
		return version(used.Ino == mounted.Ino), nil
	}
	pair := filePair{file{used.Dev, used.Ino}, file{mounted.Dev, mounted.Ino}}
	c.usr.mutex.Lock()
	same, compared := c.usr.alike[pair]
	c.usr.mutex.Unlock()
	if compared {
		return version(same), nil
	}
	if same, err = sameContent(p.Path(link), path); err != nil {
		return impact.NotCompared, fmt.Errorf("compare %s: %w", path, err)
	}
	c.usr.mutex.Lock()
	defer c.usr.mutex.Unlock()
	if c.usr.alike == nil {
		c.usr.alike = map[filePair]bool{}
	}
	if len(c.usr.alike) < maxAlike {
		c.usr.alike[pair] = same
	}
	return version(same), nil
}

func version(same bool) impact.Version {
	if same {
		return impact.Mounted
	}
	return impact.Earlier
}

// sameContent compares two files of the same size.
func sameContent(a, b string) (same bool, err error) {
	first, err := os.Open(a)
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, first.Close()) }()
	second, err := os.Open(b)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, second.Close()) }()
	var chunks [2][]byte
	for i := range chunks {
		chunks[i] = make([]byte, compareChunk)
	}
	for range maxCompared / compareChunk {
		n, err := io.ReadFull(first, chunks[0])
		m, otherErr := io.ReadFull(second, chunks[1])
		if !bytes.Equal(chunks[0][:n], chunks[1][:m]) {
			return false, nil
		}
		for _, err := range []error{err, otherErr} {
			if err != nil && !errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
				return false, err
			}
		}
		if err != nil || otherErr != nil {
			return true, nil
		}
	}
	return false, nil // too large to be compared: it may be an earlier version
}
