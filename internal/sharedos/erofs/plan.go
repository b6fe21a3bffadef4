package erofs

import (
	"cmp"
	"context"
	"fmt"
	"math"
	"path"
	"slices"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// plan is the layout of an image. Of the content of files only holes count.
type plan struct {
	entries []tree.Entry
	// The entries that directory i holds are children[first[i]:first[i+1]], in the order of their names.
	first, children []int32
	// parents has the directory of each entry.
	parents []int32
	// inodes by entry. Names of one file have copies of its inode.
	inodes []inode
	// links counts the names of each inode that has several, by its owner.
	links map[int32]uint32
	// chunks are those of files with holes, by the entry that has the content.
	chunks map[int32]*chunks
	// order lists the entries that own an inode, in the order of the places of the inodes.
	order []int32
	// metaBlocks is where the blocks of directories and files begin; blocks is the size of the image.
	metaBlocks, blocks int64
}

// inode is the place of an inode and of its blocks.
type inode struct {
	// slot is the inode's number: its offset in the image in units of 32 bytes.
	slot uint32
	// block is the first of its blocks, if it has any.
	block uint32
	// owner is the entry for which the inode is written: the first of its names.
	owner int32
	// content is the entry whose blocks it has: its own, or those of an equal file.
	content int32
	// size of its content in bytes.
	size int64
	// inline is true if the content that does not fill a block is stored after the inode.
	inline bool
}

// maxBlocks is the number of blocks that 32 bits can count: 16 TiB.
const maxBlocks = math.MaxUint32

// newPlan lays out an image. Errors match tree.ErrInvalid, ErrXattr or ErrTooLarge.
func newPlan(ctx context.Context, t *tree.Tree) (*plan, error) {
	entries := t.Entries
	p := &plan{entries: entries, links: map[int32]uint32{}, chunks: map[int32]*chunks{}}
	if err := p.readHierarchy(); err != nil {
		return nil, err
	}
	p.inodes = make([]inode, len(entries))
	for i := range p.inodes {
		p.inodes[i] = inode{owner: int32(i), content: int32(i), size: p.size(int32(i))}
	}
	p.link()
	p.share()
	if err := p.findHoles(ctx, t.Content); err != nil {
		return nil, err
	}
	if err := p.placeInodes(); err != nil {
		return nil, err
	}
	if err := p.placeBlocks(); err != nil {
		return nil, err
	}
	for i := range p.inodes {
		n := &p.inodes[i]
		n.slot, n.block = p.inodes[n.owner].slot, p.inodes[n.content].block
	}
	return p, nil
}

// readHierarchy finds the entries of each directory. Within one directory, a tree's order is the order of names.
func (p *plan) readHierarchy() error {
	n := len(p.entries)
	if n == 0 || p.entries[0].Path != tree.Root || p.entries[0].Type != tree.Directory {
		return fmt.Errorf("the root directory is missing: %w", tree.ErrInvalid)
	}
	if n > math.MaxInt32-1 {
		return fmt.Errorf("%d entries: %w", n, ErrTooLarge)
	}
	whole := &tree.Tree{Entries: p.entries}
	p.parents = make([]int32, n)
	p.first = make([]int32, n+1)
	for i := 1; i < n; i++ {
		name := tree.Parent(p.entries[i].Path)
		parent := p.parents[i-1] // usually the parent is the same as before
		if p.entries[parent].Path != name {
			at, ok := whole.Index(name)
			if !ok || at >= i {
				return fmt.Errorf("%q has no parent directory: %w", p.entries[i].Path, tree.ErrInvalid)
			}
			parent = int32(at)
		}
		if p.entries[parent].Type != tree.Directory {
			return fmt.Errorf("%q is not in a directory: %w", p.entries[i].Path, tree.ErrInvalid)
		}
		p.parents[i] = parent
		p.first[parent+1]++
	}
	for i := range n {
		p.first[i+1] += p.first[i]
	}
	p.children = make([]int32, n-1)
	next := slices.Clone(p.first[:n])
	for i := 1; i < n; i++ {
		p.children[next[p.parents[i]]] = int32(i)
		next[p.parents[i]]++
	}
	return nil
}

// link finds the names of one file: hard links in the source that still agree in all but their paths.
func (p *plan) link() {
	owners := map[uint32][]int32{}
next:
	for i := range p.entries {
		e := &p.entries[i]
		if e.Inode == 0 || e.Type == tree.Directory {
			continue
		}
		for _, owner := range owners[e.Inode] {
			other := p.entries[owner]
			if other.Path = e.Path; tree.Equal(other, *e) && seconds(other.ModTime) == seconds(e.ModTime) {
				p.inodes[i].owner = owner
				p.links[owner] = max(p.links[owner], 1) + 1
				continue next
			}
		}
		owners[e.Inode] = append(owners[e.Inode], int32(i))
	}
}

// share finds files with the same content, which has blocks of its own: it is stored once. Files that
// merely are equal keep inodes of their own. They must not become hard links: a change of one of them
// in an overlay would otherwise be a change of all for programs that look at the numbers of inodes.
func (p *plan) share() {
	first := map[tree.Digest]int32{}
	for i := range p.entries {
		e := &p.entries[i]
		if e.Type != tree.Regular || fitsBeside(e) {
			continue
		}
		if same, ok := first[e.Digest]; ok && p.entries[same].Size == e.Size {
			p.inodes[i].content = same
		} else if !ok {
			first[e.Digest] = int32(i)
		}
	}
}

// findHoles finds the files with holes that are worth leaving out.
func (p *plan) findHoles(ctx context.Context, content tree.Content) error {
	var blocks int64
	for i := range p.entries { // first, since reading files that are too large would take hours
		if p.inodes[i].content == int32(i) {
			blocks += blocksFor(p.inodes[i].size)
		}
		if blocks > maxBlocks {
			return fmt.Errorf("%d blocks up to %q: %w", blocks, p.entries[i].Path, ErrTooLarge)
		}
	}
	for i := range p.entries {
		if p.inodes[i].content != int32(i) {
			continue
		}
		c, err := findChunks(ctx, content, &p.entries[i])
		if err != nil {
			return err
		}
		if c != nil {
			p.chunks[int32(i)] = c
		}
	}
	return nil
}

// fitsBeside reports whether the whole content of a regular file can be stored after its inode.
func fitsBeside(e *tree.Entry) bool {
	return int64(inodeSize+xattrSize(e))+e.Size <= BlockSize
}

// size returns the size of the content of an entry in bytes.
func (p *plan) size(i int32) int64 {
	switch e := &p.entries[i]; e.Type {
	case tree.Regular:
		return e.Size
	case tree.Symlink:
		return int64(len(e.Link))
	case tree.Directory:
		return p.directorySize(i)
	default:
		return 0
	}
}

// placeInodes assigns a place to each inode, and decides which content is stored after it.
func (p *plan) placeInodes() error {
	shelf := newShelf(superOffset + superSize)
	for i := range p.entries {
		e, n := &p.entries[i], &p.inodes[i]
		if n.owner != int32(i) {
			continue
		}
		if err := checkXattrs(e); err != nil {
			return fmt.Errorf("%q: %w", e.Path, err)
		}
		size, tail := inodeSize+xattrSize(e), int(n.size%BlockSize)
		if e.Type == tree.Regular {
			n.inline = e.Size > 0 && fitsBeside(e)
		} else {
			n.inline = tail > 0 && size+tail <= BlockSize
		}
		if n.inline {
			size += tail
		}
		if c := p.chunks[n.content]; c != nil {
			size += len(c.data) * chunkAddress
		}
		offset := shelf.put(size)
		if offset/slotSize > math.MaxUint32 {
			return fmt.Errorf("%d entries: %w", len(p.entries), ErrTooLarge)
		}
		n.slot = uint32(offset / slotSize)
		p.order = append(p.order, int32(i))
	}
	slices.SortFunc(p.order, func(a, b int32) int { return cmp.Compare(p.inodes[a].slot, p.inodes[b].slot) })
	p.metaBlocks = shelf.blocks
	return nil
}

// placeBlocks assigns blocks to directories and files in the order of the tree, so that a walk
// reads neighbouring blocks.
func (p *plan) placeBlocks() error {
	p.blocks = p.metaBlocks
	for _, directories := range []bool{true, false} {
		for i := range p.entries {
			n := &p.inodes[i]
			if !p.hasBlocks(int32(i)) || (p.entries[i].Type == tree.Directory) != directories {
				continue
			}
			if blocks := p.blocksOf(int32(i)); blocks > 0 {
				n.block = uint32(p.blocks)
				p.blocks += blocks
			}
			if p.blocks > maxBlocks {
				return fmt.Errorf("%d blocks up to %q: %w", p.blocks, p.entries[i].Path, ErrTooLarge)
			}
		}
	}
	return nil
}

// hasBlocks reports whether blocks are written for an entry, if it needs any.
func (p *plan) hasBlocks(i int32) bool { return p.inodes[i].content == i && p.inodes[i].owner == i }

// blocksOf returns how many blocks an entry has, without its inode.
func (p *plan) blocksOf(i int32) int64 {
	n := p.inodes[i]
	if n.inline {
		return n.size / BlockSize
	}
	if c := p.chunks[i]; c != nil {
		return c.blocks()
	}
	return blocksFor(n.size)
}

// name returns the last part of an entry's path.
func (p *plan) name(i int32) string { return path.Base(p.entries[i].Path) }

// shelf packs inodes into blocks. An inode lies in one block unless it is larger than one.
type shelf struct {
	blocks int64
	open   []gap
}

// gap is the free end of a block.
type gap struct {
	offset int64
	free   int
}

// openGaps is how many blocks are kept open. More would scatter the inodes of a directory and save little.
const openGaps = 32

// newShelf returns a shelf whose first bytes are in use.
func newShelf(taken int) *shelf {
	return &shelf{blocks: 1, open: []gap{{offset: int64(taken), free: BlockSize - taken}}}
}

// put returns the offset of the smallest gap that has room for size bytes, in units of a slot.
func (s *shelf) put(size int) int64 {
	size = (size + slotSize - 1) / slotSize * slotSize
	best := -1
	for i, g := range s.open {
		if g.free >= size && (best < 0 || g.free < s.open[best].free) {
			best = i
		}
	}
	if best < 0 {
		blocks := (size + BlockSize - 1) / BlockSize
		s.open = append(s.open, gap{offset: s.blocks * BlockSize, free: blocks * BlockSize})
		s.blocks += int64(blocks)
		best = len(s.open) - 1
	}
	g := &s.open[best]
	offset := g.offset
	g.offset, g.free = g.offset+int64(size), g.free-size
	if g.free < inodeSize {
		s.open = slices.Delete(s.open, best, best+1)
	} else if len(s.open) > openGaps {
		fullest := 0
		for i := range s.open {
			if s.open[i].free < s.open[fullest].free {
				fullest = i
			}
		}
		s.open = slices.Delete(s.open, fullest, fullest+1)
	}
	return offset
}
