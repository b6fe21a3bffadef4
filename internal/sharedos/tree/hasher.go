package tree

import (
	"crypto/sha256"
	"encoding/binary"
	"hash"
	"maps"
	"slices"
)

// Hasher computes a digest of entries in the order in which they are added, with all their fields.
type Hasher struct {
	hash hash.Hash
	buf  []byte
}

// NewHasher returns a Hasher of no entries.
func NewHasher() *Hasher { return &Hasher{hash: sha256.New()} }

// Add adds an entry.
func (h *Hasher) Add(e Entry) {
	h.buf = appendEntry(h.buf[:0], e)
	h.hash.Write(h.buf)
}

// Write adds bytes that are not part of an entry. It never fails.
func (h *Hasher) Write(p []byte) (int, error) { return h.hash.Write(p) }

// Digest returns the digest of what was added so far.
func (h *Hasher) Digest() Digest { return Digest(h.hash.Sum(nil)) }

// appendEntry appends an encoding of an entry. Different entries have different encodings.
func appendEntry(buf []byte, e Entry) []byte {
	text := func(text string) { buf = append(binary.AppendUvarint(buf, uint64(len(text))), text...) }
	text(e.Path)
	buf = append(buf, byte(e.Type))
	for _, n := range []uint64{
		uint64(e.Mode), uint64(e.UID), uint64(e.GID), uint64(e.ModTime.Unix()), uint64(e.Major),
		uint64(e.Minor), uint64(e.Size),
	} {
		buf = binary.AppendUvarint(buf, n)
	}
	buf = append(buf, e.Digest[:]...)
	text(e.Link)
	buf = binary.AppendUvarint(buf, uint64(len(e.Xattrs)))
	if len(e.Xattrs) == 0 {
		return buf // most entries have none, and sorting allocates
	}
	for _, name := range slices.Sorted(maps.Keys(e.Xattrs)) {
		text(name)
		text(e.Xattrs[name])
	}
	return buf
}
