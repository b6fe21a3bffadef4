package erofs

import (
	"encoding/binary"
	"slices"
	"strings"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// direntSize is the size of an entry of a directory without its name, in bytes.
const direntSize = 12

// The numbers of file types in directories, by tree.Type.
var fileTypes = [...]byte{tree.Directory: 2, tree.Regular: 1, tree.Symlink: 7, tree.CharDevice: 3,
	tree.BlockDevice: 4, tree.FIFO: 5}

// dirent is a name in a directory and the entry that it names.
type dirent struct {
	name  string
	entry int32
}

// listing returns the names in a directory, sorted by their bytes, since the kernel searches them
// in this order. "." and ".." are included, and are not always first.
func (p *plan) listing(directory int32) []dirent {
	children := p.children[p.first[directory]:p.first[directory+1]]
	list := make([]dirent, 0, len(children)+2)
	for _, child := range children {
		list = append(list, dirent{p.name(child), child})
	}
	for _, dots := range []dirent{{".", directory}, {"..", p.parents[directory]}} {
		at, _ := slices.BinarySearchFunc(list, dots.name,
			func(d dirent, name string) int { return strings.Compare(d.name, name) })
		list = slices.Insert(list, at, dots)
	}
	return list
}

// fill returns how many names of a list fit in one block, and the bytes that they take.
func fill(list []dirent) (names, size int) {
	for names < len(list) && size+direntSize+len(list[names].name) <= BlockSize {
		size += direntSize + len(list[names].name)
		names++
	}
	return names, size
}

// directorySize returns the size of a directory in bytes. Every block except the last counts as full.
func (p *plan) directorySize(directory int32) int64 {
	var size int64
	for list := p.listing(directory); len(list) > 0; {
		names, used := fill(list)
		list = list[names:]
		if size += int64(used); len(list) > 0 {
			size += int64(BlockSize - used)
		}
	}
	return size
}

// directory returns the bytes of a directory.
func (p *plan) directory(directory int32) []byte {
	var data []byte
	for list := p.listing(directory); len(list) > 0; {
		names, used := fill(list)
		at := names * direntSize
		for _, d := range list[:names] {
			data = binary.LittleEndian.AppendUint64(data, uint64(p.inodes[d.entry].slot))
			data = binary.LittleEndian.AppendUint16(data, uint16(at))
			data = append(data, fileTypes[p.entries[d.entry].Type], 0)
			at += len(d.name)
		}
		for _, d := range list[:names] {
			data = append(data, d.name...)
		}
		if list = list[names:]; len(list) > 0 {
			data = append(data, make([]byte, BlockSize-used)...)
		}
	}
	return data
}
