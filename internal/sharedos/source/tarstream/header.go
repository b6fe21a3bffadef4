package tarstream

import (
	"archive/tar"
	"slices"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// Header returns the header that describes an entry. Entry of it returns the entry again, except for the digest.
func Header(e tree.Entry) *tar.Header {
	header := &tar.Header{
		Format: tar.FormatPAX, Name: e.Path, Mode: int64(e.Mode), Uid: int(e.UID), Gid: int(e.GID),
		ModTime: e.ModTime, Linkname: e.Link, Devmajor: int64(e.Major), Devminor: int64(e.Minor), Size: e.Size,
	}
	switch e.Type {
	case tree.Directory:
		header.Typeflag = tar.TypeDir
		header.Name = e.Path + "/" // "./" for the root
	case tree.Symlink:
		header.Typeflag = tar.TypeSymlink
	case tree.CharDevice:
		header.Typeflag = tar.TypeChar
	case tree.BlockDevice:
		header.Typeflag = tar.TypeBlock
	case tree.FIFO:
		header.Typeflag = tar.TypeFifo
	default:
		header.Typeflag = tar.TypeReg
	}
	if len(e.Xattrs) > 0 {
		header.PAXRecords = make(map[string]string, len(e.Xattrs))
		for name, value := range e.Xattrs {
			if !slices.Contains(paxForeign, name) {
				name = paxXattr + name
			}
			header.PAXRecords[name] = value
		}
	}
	return header
}

// HardLink returns the header of a further name of a file that comes earlier in the stream, under the path target.
func HardLink(p, target string) *tar.Header {
	return &tar.Header{Format: tar.FormatPAX, Name: p, Typeflag: tar.TypeLink, Linkname: target}
}
