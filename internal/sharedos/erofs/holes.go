package erofs

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

const (
	// minSparse is the size in bytes from which on a file is searched for holes, and minSaved is
	// what leaving them out has to save: a file in consecutive blocks is faster to read.
	minSparse, minSaved = 256 << 10, 64 << 10
	// maxChunks bounds the chunks of a file, and with them the memory for it.
	maxChunks = 1 << 22
	// chunkAddress is the size of the address of a chunk in bytes, and noBlock the address of a chunk of zeros.
	chunkAddress, noBlock = 4, 1<<32 - 1
)

// chunks is how a file with holes is stored: in chunks of one size, those that are zeros left out.
// Which bytes are a hole depends on the content alone, and not on how the source stores it.
type chunks struct {
	// bits is the power of two that is the size of a chunk in bytes.
	bits int
	// data says for each chunk whether it has bytes other than zeros.
	data []bool
	size int64
}

// length returns the length of a chunk in bytes: the last one may be shorter.
func (c *chunks) length(i int) int64 { return min(int64(1)<<c.bits, c.size-int64(i)<<c.bits) }

// blocks returns how many blocks the chunks with data take.
func (c *chunks) blocks() (sum int64) {
	for i, data := range c.data {
		if data {
			sum += blocksFor(c.length(i))
		}
	}
	return sum
}

// stored returns how many bytes the chunks and their addresses take.
func (c *chunks) stored() int64 { return c.blocks()*BlockSize + int64(len(c.data))*chunkAddress }

// doubled returns the same file in chunks of twice the size.
func (c *chunks) doubled() *chunks {
	double := &chunks{bits: c.bits + 1, data: make([]bool, (len(c.data)+1)/2), size: c.size}
	for i, data := range c.data {
		double.data[i/2] = double.data[i/2] || data
	}
	return double
}

// blocksFor returns how many blocks a number of bytes takes.
func blocksFor(size int64) int64 { return (size + BlockSize - 1) / BlockSize }

// findChunks returns in which chunks a file takes the least room; nil if it has no holes that are worth it.
func findChunks(ctx context.Context, content tree.Content, e *tree.Entry) (best *chunks, err error) {
	if e.Type != tree.Regular || e.Size < minSparse {
		return nil, nil //nolint:nilnil // the contract
	}
	from, err := content.Open(e.Digest)
	if err != nil {
		return nil, fmt.Errorf("open the content of %q: %w", e.Path, err)
	}
	defer func() { err = errors.Join(err, from.Close()) }()
	c := &chunks{bits: blockBits, size: e.Size}
	for e.Size>>c.bits >= maxChunks {
		c.bits++
	}
	buffer := make([]byte, max(int64(1)<<c.bits, 64*BlockSize)) // a multiple of a chunk
	for left := e.Size; left > 0; {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		part := buffer[:min(int64(len(buffer)), left)]
		if n, err := io.ReadFull(from, part); err != nil {
			return nil, fmt.Errorf("read the content of %q: %d bytes before its end: %w", e.Path, left-int64(n), err)
		}
		left -= int64(len(part))
		for len(part) > 0 {
			n := min(len(part), 1<<c.bits)
			c.data = append(c.data, !isZero(part[:n]))
			part = part[n:]
		}
	}
	for best = c; len(c.data) > 1; {
		if c = c.doubled(); c.stored() <= best.stored() {
			best = c
		}
	}
	if blocksFor(e.Size)*BlockSize-best.stored() < minSaved {
		return nil, nil //nolint:nilnil // the contract
	}
	return best, nil
}

// isZero reports whether all bytes are zeros.
func isZero(part []byte) bool {
	for len(part) > 0 {
		n := min(len(part), len(zeros))
		if !bytes.Equal(part[:n], zeros[:n]) {
			return false
		}
		part = part[n:]
	}
	return true
}

// StoredBytes returns how many bytes the contents of regular files take in an image: those that are
// equal once, and holes not at all.
func StoredBytes(ctx context.Context, t *tree.Tree) (sum int64, err error) {
	seen := map[tree.Digest]bool{}
	for i := range t.Entries {
		e := &t.Entries[i]
		if e.Type != tree.Regular || !fitsBeside(e) && seen[e.Digest] {
			continue
		}
		seen[e.Digest] = true
		c, err := findChunks(ctx, t.Content, e)
		if err != nil {
			return 0, err
		}
		if c != nil {
			sum += c.stored()
		} else {
			sum += e.Size
		}
	}
	return sum, nil
}

// BytesToRead returns how many bytes of contents Write reads.
func BytesToRead(entries []tree.Entry) (sum int64) {
	seen := map[tree.Digest]bool{}
	for i := range entries {
		e := &entries[i]
		switch {
		case e.Type != tree.Regular:
		case fitsBeside(e):
			sum += e.Size
		case !seen[e.Digest]:
			seen[e.Digest] = true
			if sum += e.Size; e.Size >= minSparse {
				sum += e.Size
			}
		}
	}
	return sum
}
