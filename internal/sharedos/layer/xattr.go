package layer

import (
	"errors"
	"fmt"
	"strings"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// ErrXattr means that EROFS cannot hold an extended attribute.
var ErrXattr = errors.New("EROFS cannot hold this extended attribute")

const (
	maxXattrName  = 255       // a byte holds the length of the name without its prefix
	maxXattrValue = 1<<16 - 1 // 16 bits hold the length of the value
	maxXattrArea  = 1 << 17   // well within the 16 bits that count it in units of four bytes
)

// erofsXattrs returns an entry's extended attributes by the names that go-erofs expects, and an error that matches
// ErrXattr for one that would be lost.
func erofsXattrs(e *tree.Entry) (map[string]string, error) {
	area := 0
	named := make(map[string]string, len(e.Xattrs))
	for name, value := range e.Xattrs {
		erofsName, suffix, err := erofsXattrName(name)
		if err != nil {
			return nil, err
		}
		if len(suffix) > maxXattrName || len(value) > maxXattrValue {
			return nil, fmt.Errorf("%q of %d bytes: %w", name, len(value), ErrXattr)
		}
		area += 8 + len(suffix) + len(value)
		named[erofsName] = value
	}
	if area > maxXattrArea {
		return nil, fmt.Errorf("%d extended attributes of %d bytes together: %w", len(e.Xattrs), area, ErrXattr)
	}
	return named, nil
}

// erofsXattrName tells an attribute's name to go-erofs and what of it is stored beside the number of its prefix.
func erofsXattrName(name string) (erofsName, suffix string, err error) {
	switch name {
	case "system.posix_acl_access", "system.posix_acl_default":
		// The whole name is a prefix on disk. go-erofs 0.3.1 recognises it only with a dot behind it, and would
		// otherwise write the attribute where the kernel does not look for it.
		return name + ".", "", nil
	}
	for _, prefix := range []string{"user.", "trusted.", "security."} {
		if suffix, ok := strings.CutPrefix(name, prefix); ok && suffix != "" {
			return name, suffix, nil
		}
	}
	return "", "", fmt.Errorf("%q: %w", name, ErrXattr)
}
