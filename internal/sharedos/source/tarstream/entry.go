package tarstream

import (
	"archive/tar"
	"encoding/base64"
	"fmt"
	"math"
	"net/url"
	"slices"
	"strings"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// Records of PAX headers that carry what a plain header cannot (pax(5) of libarchive, GNU tar's --xattrs).
const (
	paxXattr      = "SCHILY.xattr."
	paxACL        = "SCHILY.acl."
	paxLibarchive = "LIBARCHIVE.xattr."
)

// paxForeign are records of what a tree cannot have: flags such as "immutable", ACLs of NFS 4 and
// macOS, and the SELinux labels of GNU tar.
var paxForeign = []string{"SCHILY.fflags", "SCHILY.acl.ace", "RHT.security.selinux"}

// Entry returns the entry that a header describes, without the digest of its content. A hard link is a regular file of
// size 0; see LinkTarget. The error wraps source.ErrRefused or source.ErrLimit.
func Entry(header *tar.Header) (tree.Entry, error) {
	e := tree.Entry{Mode: uint32(header.Mode & 0o7777), ModTime: ModTime(header.ModTime)}
	var err error
	if e.Path, err = Path(header); err != nil {
		return e, err
	}
	switch header.Typeflag {
	case tar.TypeReg, tar.TypeCont, tar.TypeGNUSparse:
		e.Type, e.Size = tree.Regular, header.Size
	case tar.TypeLink:
		e.Type = tree.Regular
	case tar.TypeDir:
		e.Type = tree.Directory
	case tar.TypeSymlink:
		e.Type = tree.Symlink
		e.Link = header.Linkname
		// Linux has no modes of symbolic links: all are 0777.
		e.Mode = 0o777
		if e.Link == "" || len(e.Link) > tree.MaxPath || strings.IndexByte(e.Link, 0) >= 0 {
			return e, fmt.Errorf("symbolic link without a valid target: %w", source.ErrRefused)
		}
	case tar.TypeChar:
		e.Type = tree.CharDevice
	case tar.TypeBlock:
		e.Type = tree.BlockDevice
	case tar.TypeFifo:
		e.Type = tree.FIFO
	default:
		return e, fmt.Errorf("is of the unknown type %q: %w", header.Typeflag, source.ErrRefused)
	}
	if e.Path == tree.Root && e.Type != tree.Directory {
		return e, fmt.Errorf("the root is a %s: %w", e.Type, source.ErrRefused)
	}
	if e.UID, err = accountNumber("uid", header.Uid); err != nil {
		return e, err
	}
	if e.GID, err = accountNumber("gid", header.Gid); err != nil {
		return e, err
	}
	if e.Type == tree.CharDevice || e.Type == tree.BlockDevice {
		if err := setDevice(&e, header); err != nil {
			return e, err
		}
	}
	e.Xattrs, err = xattrs(header)
	return e, err
}

// Path returns the path of the entry that a header describes. The error wraps source.ErrRefused.
func Path(header *tar.Header) (string, error) {
	return entryPath(header.Name)
}

// LinkTarget returns the path of the file that a hard link refers to. The error wraps source.ErrRefused.
func LinkTarget(name string) (string, error) {
	p, err := entryPath(name)
	if err != nil {
		return "", fmt.Errorf("hard link to %q: %w", name, err)
	}
	return p, nil
}

// entryPath turns a name in a stream into a path of a tree. Programs write names with "./", "//" and "/./" in them.
func entryPath(name string) (string, error) {
	p := name
	if tree.CheckPath(p) != nil && p != "" {
		p = cleanPath(p)
	}
	if err := tree.CheckPath(p); err != nil {
		return "", fmt.Errorf("%w: %w", err, source.ErrRefused)
	}
	return p, nil
}

// cleanPath removes empty steps and "." from a path. Unlike path.Clean, it keeps "..", which is refused:
// it may lead out of the tree, and through a symbolic link it leads elsewhere than it seems to.
func cleanPath(p string) string {
	steps := slices.DeleteFunc(strings.Split(p, "/"), func(step string) bool { return step == "" || step == "." })
	if len(steps) == 0 {
		return tree.Root
	}
	return strings.Join(steps, "/")
}

// accountNumber checks a uid or gid. The largest number means "none" to the kernel.
func accountNumber(what string, n int) (uint32, error) {
	if n < 0 || int64(n) >= math.MaxUint32 {
		return 0, fmt.Errorf("%s %d is impossible: %w", what, n, source.ErrRefused)
	}
	return uint32(n), nil
}

// setDevice copies a device number. Linux has 12 bits for the major and 20 bits for the minor number.
func setDevice(e *tree.Entry, header *tar.Header) error {
	if header.Devmajor < 0 || header.Devmajor >= 1<<12 || header.Devminor < 0 || header.Devminor >= 1<<20 {
		return fmt.Errorf("device %d:%d is impossible: %w", header.Devmajor, header.Devminor, source.ErrRefused)
	}
	if e.Type == tree.CharDevice && header.Devmajor == 0 && header.Devminor == 0 {
		return fmt.Errorf("character device 0:0, which overlayfs takes for a removed file: %w", source.ErrRefused)
	}
	e.Major, e.Minor = uint32(header.Devmajor), uint32(header.Devminor)
	return nil
}

// ModTime truncates a time to seconds, and moves times before 1970 to 1970.
func ModTime(t time.Time) time.Time { return time.Unix(max(t.Unix(), 0), 0) }

// xattrs returns the extended attributes of a header; nil if it has none. They include what Linux does not have as an
// attribute, under the name of its record: it is reported and removed later (package rootfs), and not lost in silence.
func xattrs(header *tar.Header) (map[string]string, error) {
	var all map[string]string
	size := 0
	for key, value := range header.PAXRecords {
		name, ok := strings.CutPrefix(key, paxXattr)
		switch {
		case ok:
		case slices.Contains(paxForeign, key):
			name = key
		case strings.HasPrefix(key, paxACL):
			return nil, fmt.Errorf("has an ACL as text (%s), which would be lost: %w; make the archive with "+
				"extended attributes instead (tar --xattrs --xattrs-include='*')", key, source.ErrRefused)
		case strings.HasPrefix(key, paxLibarchive):
			var err error
			if name, value, err = libarchiveXattr(key, value); err != nil {
				return nil, err
			}
			if _, twice := header.PAXRecords[paxXattr+name]; twice {
				continue
			}
		default:
			continue
		}
		if strings.HasPrefix(name, "trusted.overlay.") || strings.HasPrefix(name, "user.overlay.") {
			return nil, fmt.Errorf("has the attribute %s, which controls overlayfs: %w", name, source.ErrRefused)
		}
		if name == "" || len(name) > tree.MaxName || strings.IndexByte(name, 0) >= 0 {
			return nil, fmt.Errorf("has an attribute with the invalid name %q: %w", name, source.ErrRefused)
		}
		if size += len(name) + len(value); size > MaxXattrs {
			return nil, fmt.Errorf("has more than %d bytes of attributes: %w", MaxXattrs, source.ErrLimit)
		}
		if all == nil {
			all = make(map[string]string)
		}
		all[name] = value
	}
	return all, nil
}

// libarchiveXattr decodes a record in which libarchive stores an attribute: a URL-encoded name and a value in base64
// (archive_write_set_format_pax.c, archive_write_pax_header_xattr).
func libarchiveXattr(key, value string) (name, decoded string, err error) {
	name, err = url.PathUnescape(strings.TrimPrefix(key, paxLibarchive))
	if err != nil {
		return "", "", fmt.Errorf("has the damaged attribute %q: %w", source.Shorten(key), source.ErrRefused)
	}
	data, err := base64.RawStdEncoding.DecodeString(strings.TrimRight(value, "="))
	if err != nil {
		return "", "", fmt.Errorf("has the damaged attribute %q: %w", source.Shorten(name), source.ErrRefused)
	}
	return name, string(data), nil
}
