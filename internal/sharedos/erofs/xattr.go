package erofs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// ErrXattr means that EROFS cannot hold an extended attribute.
var ErrXattr = errors.New("EROFS cannot hold this extended attribute")

const (
	xattrHeader = 12
	xattrEntry  = 4

	maxXattrName  = 255       // a byte holds the length of the name without its prefix
	maxXattrValue = 1<<16 - 1 // 16 bits hold the length of the value
	maxXattrArea  = 1 << 17   // well within the 16 bits that count it in units of four bytes
)

// splitXattr returns the number that is stored instead of the name's prefix, and the rest of the name.
func splitXattr(name string) (prefix byte, suffix string, ok bool) {
	switch name {
	case "system.posix_acl_access":
		return 2, "", true
	case "system.posix_acl_default":
		return 3, "", true
	}
	for _, p := range []struct {
		prefix string
		number byte
	}{{"user.", 1}, {"trusted.", 4}, {"security.", 6}} {
		if suffix, ok := strings.CutPrefix(name, p.prefix); ok && suffix != "" {
			return p.number, suffix, true
		}
	}
	return 0, "", false
}

// checkXattrs returns an error that matches ErrXattr if an attribute of an entry would be lost.
func checkXattrs(e *tree.Entry) error {
	for name, value := range e.Xattrs {
		_, suffix, ok := splitXattr(name)
		if !ok {
			return fmt.Errorf("%q: %w", name, ErrXattr)
		}
		if len(suffix) > maxXattrName || len(value) > maxXattrValue {
			return fmt.Errorf("%q of %d bytes: %w", name, len(value), ErrXattr)
		}
	}
	if size := xattrSize(e); size > maxXattrArea {
		return fmt.Errorf("%d extended attributes of %d bytes together: %w", len(e.Xattrs), size, ErrXattr)
	}
	return nil
}

// xattrSize returns how many bytes an entry's attributes take after its inode.
func xattrSize(e *tree.Entry) int {
	if len(e.Xattrs) == 0 {
		return 0
	}
	size := xattrHeader
	for name, value := range e.Xattrs {
		_, suffix, _ := splitXattr(name)
		size += (xattrEntry + len(suffix) + len(value) + 3) &^ 3
	}
	return size
}

// xattrUnits returns the size of an entry's attributes as an inode stores it: units of four bytes
// after the header, and one for the header.
func xattrUnits(e *tree.Entry) uint16 {
	if size := xattrSize(e); size > 0 {
		return uint16((size-xattrHeader)/4 + 1)
	}
	return 0
}

// appendXattrs appends an entry's attributes, in the order of their names.
func appendXattrs(b []byte, e *tree.Entry) []byte {
	if len(e.Xattrs) == 0 {
		return b
	}
	// The name filter is not used without a flag in the superblock. All ones would mean that no name is absent.
	b = append(b, 0xff, 0xff, 0xff, 0xff)
	b = append(b, make([]byte, xattrHeader-4)...)
	for _, name := range slices.Sorted(maps.Keys(e.Xattrs)) {
		prefix, suffix, _ := splitXattr(name)
		value := e.Xattrs[name]
		b = append(b, byte(len(suffix)), prefix)
		b = binary.LittleEndian.AppendUint16(b, uint16(len(value)))
		b = append(append(b, suffix...), value...)
		for n := xattrEntry + len(suffix) + len(value); n%4 != 0; n++ {
			b = append(b, 0)
		}
	}
	return b
}
