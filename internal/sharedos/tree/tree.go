// Package tree describes a root file system as a value: a sorted list of entries and a way to read the
// contents of its regular files.
//
// It does not depend on where the tree comes from (package source) or how it is stored (package layer).
package tree

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"
)

// Type is the kind of file that an entry is.
type Type uint8

// The types of files in a tree. Sockets are not among them: they belong to a running system.
const (
	Directory Type = iota + 1
	Regular
	Symlink
	CharDevice
	BlockDevice
	FIFO
)

// String names the type as stat(1) does.
func (t Type) String() string {
	switch t {
	case Directory:
		return "directory"
	case Regular:
		return "regular file"
	case Symlink:
		return "symbolic link"
	case CharDevice:
		return "character device"
	case BlockDevice:
		return "block device"
	case FIFO:
		return "fifo"
	default:
		return fmt.Sprintf("type %d", uint8(t))
	}
}

// Digest is a SHA-256 of bytes. Its text form is "sha256:<64 hex>".
type Digest [sha256.Size]byte

// ErrDigest means that a text does not have the form "sha256:<64 hex>".
var ErrDigest = errors.New(`not a digest of the form "sha256:<64 hex>"`)

// String returns the form "sha256:<64 hex>".
func (d Digest) String() string { return "sha256:" + d.Hex() }

// Hex returns the 64 hexadecimal digits without the prefix.
func (d Digest) Hex() string { return hex.EncodeToString(d[:]) }

// IsZero reports whether no digest is set.
func (d Digest) IsZero() bool { return d == Digest{} }

// MarshalText implements encoding.TextMarshaler.
func (d Digest) MarshalText() ([]byte, error) { return []byte(d.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler.
func (d *Digest) UnmarshalText(text []byte) error {
	parsed, err := ParseDigest(string(text))
	if err != nil {
		return err
	}
	*d = parsed
	return nil
}

// ParseDigest reads the form "sha256:<64 hex>", lower case. It returns ErrDigest for anything else.
func ParseDigest(text string) (Digest, error) {
	var d Digest
	digits, ok := strings.CutPrefix(text, "sha256:")
	if !ok || len(digits) != 2*len(d) || strings.ToLower(digits) != digits {
		return Digest{}, fmt.Errorf("%q: %w", text, ErrDigest)
	}
	if _, err := hex.Decode(d[:], []byte(digits)); err != nil {
		return Digest{}, fmt.Errorf("%q: %w", text, ErrDigest)
	}
	return d, nil
}

// Sum returns the digest of data.
func Sum(data []byte) Digest { return sha256.Sum256(data) }

// Entry is one name of a file in a tree.
type Entry struct {
	// Path is relative to the root, slash separated, clean, without a leading slash; "." is the root.
	// It is a byte string: names need not be UTF-8.
	Path string
	Type Type
	// Mode holds permission, setuid, setgid and sticky bits only: 07777.
	Mode     uint32
	UID, GID uint32
	// Inode is the same number, other than 0, for all names of one file (hard links). What is changed in
	// one of the entries makes it a file of its own. Equal ignores it, and contents lists do not have it.
	Inode uint32
	// ModTime has a resolution of seconds. Equal ignores it.
	ModTime time.Time
	// Xattrs holds extended attributes by full name ("security.capability"). Nil and empty are the same.
	Xattrs map[string]string
	// Link is the target of a symbolic link.
	Link string
	// Major and Minor number a device.
	Major, Minor uint32
	// Size in bytes and Digest of a regular file's content.
	Size   int64
	Digest Digest
}

// Content opens the bytes of regular files by digest.
type Content interface {
	// Open returns a reader of exactly the bytes whose SHA-256 is digest.
	Open(digest Digest) (io.ReadCloser, error)
}

// Tree is a root file system. Entries are in the order of Compare. Every entry except the root comes after its parent
// directory, no path occurs twice, and every parent is a directory. New verifies that.
type Tree struct {
	Entries []Entry
	Content Content
}
