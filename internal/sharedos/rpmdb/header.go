package rpmdb

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
)

// Tags and types of a header (rpm, include/rpm/rpmtag.h).
const (
	tagName, tagVersion, tagRelease, tagEpoch, tagArch = 1000, 1001, 1002, 1003, 1022

	typeInt32, typeString = 4, 6
)

// readHeader reads a package header in the format of the database: the number of index entries, the number of bytes of
// data, the index (tag, type, offset and count, of 32 bits each) and the data. All numbers are big-endian.
func readHeader(blob []byte) (Package, error) {
	const start, entry = 8, 16
	if len(blob) < start {
		return Package{}, errors.New("a header of less than 8 bytes")
	}
	entries, size := int64(binary.BigEndian.Uint32(blob)), int64(binary.BigEndian.Uint32(blob[4:]))
	if start+entries*entry+size != int64(len(blob)) {
		return Package{}, fmt.Errorf("a header of %d bytes with %d entries and %d bytes of data",
			len(blob), entries, size)
	}
	index, data := blob[start:start+entries*entry], blob[start+entries*entry:]
	var p Package
	var version, release, epoch string
	for ; len(index) > 0; index = index[entry:] {
		tag, kind, offset := binary.BigEndian.Uint32(index), binary.BigEndian.Uint32(index[4:]),
			int64(binary.BigEndian.Uint32(index[8:]))
		var to *string
		switch tag {
		case tagName:
			to = &p.Name
		case tagArch:
			to = &p.Arch
		case tagVersion:
			to = &version
		case tagRelease:
			to = &release
		case tagEpoch:
			if kind != typeInt32 || offset+4 > int64(len(data)) {
				return Package{}, errors.New("a header whose epoch is not a number")
			}
			epoch = fmt.Sprintf("%d:", binary.BigEndian.Uint32(data[offset:]))
			continue
		default:
			continue
		}
		if kind != typeString || offset >= int64(len(data)) {
			return Package{}, fmt.Errorf("a header whose tag %d is not a string", tag)
		}
		text, _, ended := bytes.Cut(data[offset:], []byte{0})
		if !ended {
			return Package{}, fmt.Errorf("a header whose tag %d has no end", tag)
		}
		*to = string(text)
	}
	if p.Name == "" || version == "" || release == "" {
		return Package{}, fmt.Errorf("a header of %q without name, version or release", p.Name)
	}
	p.Version = epoch + version + "-" + release
	return p, nil
}
