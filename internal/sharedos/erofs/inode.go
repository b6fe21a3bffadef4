package erofs

import (
	"encoding/binary"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// Sizes and offsets in bytes.
const (
	// BlockSize is the size of an image's blocks.
	BlockSize = 4096

	superOffset = 1024
	superSize   = 128
	inodeSize   = 64 // of the extended form, which has a time of its own and 32 bits for owners
	slotSize    = 32
)

const (
	magic      = 0xE0F5E1E2
	blockBits  = 12
	extended   = 1         // bit 0 of an inode's format
	layoutBit  = 1         // from bit 1 on: how its data lies
	plain      = 0         // in consecutive blocks
	tailInline = 2         // the same, but what does not fill the last block lies behind the inode
	chunked    = 4         // in chunks, whose addresses are behind the inode
	hasChunks  = 4         // the feature that a reader has to know for it
	buildTime  = 946684800 // 2000-01-01, used instead of the time of writing
)

// appendSuperblock appends the superblock. It has no checksum, since dm-verity covers it like everything else.
func (p *plan) appendSuperblock(b []byte) []byte {
	super := make([]byte, superSize)
	binary.LittleEndian.PutUint32(super[0:], magic)
	super[12] = blockBits
	binary.LittleEndian.PutUint16(super[14:], uint16(p.inodes[0].slot)) // the first inode that was placed, so it fits
	binary.LittleEndian.PutUint64(super[16:], uint64(len(p.order)))
	binary.LittleEndian.PutUint64(super[24:], buildTime)
	binary.LittleEndian.PutUint32(super[36:], uint32(p.blocks))
	if len(p.chunks) > 0 {
		binary.LittleEndian.PutUint32(super[80:], hasChunks)
	}
	return append(b, super...)
}

// appendChunks appends the addresses of the chunks of a file, if it is stored in chunks.
func (p *plan) appendChunks(b []byte, i int32) []byte {
	n := p.inodes[i]
	c, block := p.chunks[n.content], n.block
	if c == nil {
		return b
	}
	for at, data := range c.data {
		if !data {
			b = binary.LittleEndian.AppendUint32(b, noBlock)
			continue
		}
		b = binary.LittleEndian.AppendUint32(b, block)
		block += uint32(blocksFor(c.length(at)))
	}
	return b
}

// appendInode appends an inode without its attributes.
func (p *plan) appendInode(b []byte, i int32) []byte {
	e, n := &p.entries[i], p.inodes[i]
	layout := plain
	if n.inline {
		layout = tailInline
	}
	data := n.block
	if c := p.chunks[n.content]; c != nil {
		layout, data = chunked, uint32(c.bits-blockBits)
	}
	if e.Type == tree.CharDevice || e.Type == tree.BlockDevice {
		data = uint32(unix.Mkdev(e.Major, e.Minor))
	}
	inode := make([]byte, inodeSize)
	binary.LittleEndian.PutUint16(inode[0:], uint16(extended|layout<<layoutBit))
	binary.LittleEndian.PutUint16(inode[2:], xattrUnits(e))
	binary.LittleEndian.PutUint16(inode[4:], uint16(typeBits[e.Type]|e.Mode))
	binary.LittleEndian.PutUint64(inode[8:], uint64(n.size))
	binary.LittleEndian.PutUint32(inode[16:], data)
	binary.LittleEndian.PutUint32(inode[20:], uint32(i)+1) // what 32-bit programs see as its number
	binary.LittleEndian.PutUint32(inode[24:], e.UID)
	binary.LittleEndian.PutUint32(inode[28:], e.GID)
	binary.LittleEndian.PutUint64(inode[32:], seconds(e.ModTime))
	binary.LittleEndian.PutUint32(inode[44:], p.linkCount(i))
	return append(b, inode...)
}

var typeBits = [...]uint32{
	tree.Directory: unix.S_IFDIR, tree.Regular: unix.S_IFREG, tree.Symlink: unix.S_IFLNK,
	tree.CharDevice: unix.S_IFCHR, tree.BlockDevice: unix.S_IFBLK, tree.FIFO: unix.S_IFIFO,
}

// linkCount returns the number of links of an inode. A directory has 2, plus one for each directory in it.
func (p *plan) linkCount(i int32) uint32 {
	if p.entries[i].Type != tree.Directory {
		return max(1, p.links[i])
	}
	links := uint32(2)
	for _, child := range p.children[p.first[i]:p.first[i+1]] {
		if p.entries[child].Type == tree.Directory {
			links++
		}
	}
	return links
}

// seconds returns a time in seconds since 1970; an unset time and one before 1970 are 0.
func seconds(t time.Time) uint64 { return uint64(max(0, t.Unix())) }
