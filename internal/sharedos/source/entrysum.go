package source

import (
	"encoding/binary"
	"hash"
	"maps"
	"slices"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// entrySum is a digest of entries in the order in which they are added, with all that they have.
type entrySum struct {
	hash hash.Hash
	buf  []byte
}

func newEntrySum() *entrySum { return &entrySum{hash: newHash()} }

func (s *entrySum) add(e tree.Entry) {
	s.buf = appendEntry(s.buf[:0], e)
	s.hash.Write(s.buf)
}

func (s *entrySum) digest() tree.Digest { return sumOf(s.hash) }

// appendEntry writes an entry so that no two entries are written the same.
func appendEntry(buf []byte, e tree.Entry) []byte {
	buf = appendText(buf, e.Path)
	buf = append(buf, byte(e.Type))
	for _, n := range []uint64{
		uint64(e.Mode), uint64(e.UID), uint64(e.GID), uint64(e.ModTime.Unix()), uint64(e.Major), uint64(e.Minor), uint64(e.Size),
	} {
		buf = binary.AppendUvarint(buf, n)
	}
	buf = append(buf, e.Digest[:]...)
	buf = appendText(buf, e.Link)
	return appendXattrs(buf, e.Xattrs)
}

func appendText(buf []byte, text string) []byte {
	return append(binary.AppendUvarint(buf, uint64(len(text))), text...)
}

func appendXattrs(buf []byte, xattrs map[string]string) []byte {
	buf = binary.AppendUvarint(buf, uint64(len(xattrs)))
	if len(xattrs) == 0 {
		return buf
	}
	for _, name := range slices.Sorted(maps.Keys(xattrs)) {
		buf = appendText(appendText(buf, name), xattrs[name])
	}
	return buf
}
