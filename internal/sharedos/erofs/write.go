package erofs

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"hash"
	"io"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// ErrTooLarge means that a tree is larger than an image can be: 16 TiB, 2^31 entries.
var ErrTooLarge = errors.New("too large for an EROFS image")

// Write writes a tree as an image and returns the size of the image in bytes, a multiple of the block
// size. It writes sequentially, in parts of about 1 MiB, in a goroutine that has ended when Write returns.
// It reads each content once, and those of 256 KiB and more twice: first it looks for holes. Errors match
// ErrXattr for attributes that would be lost, ErrTooLarge, or tree.ErrInvalid if the tree is not valid.
func Write(ctx context.Context, t *tree.Tree, w io.Writer) (int64, error) {
	p, err := newPlan(ctx, t)
	if err != nil {
		return 0, err
	}
	to := writeBehind(w)
	image := &image{plan: p, ctx: ctx, content: t.Content, to: to, buffer: <-to.free, sum: sha256.New()}
	err = image.write()
	if failed := to.close(); failed != nil {
		err = failed // the cause of errStopped
	}
	if err != nil {
		return 0, err
	}
	if want := p.blocks * BlockSize; image.written != want {
		return 0, fmt.Errorf("the image has %d bytes instead of %d", image.written, want)
	}
	return image.written, nil
}

const bufferSize = 1 << 20

// image is an image while it is written.
type image struct {
	*plan
	ctx     context.Context
	content tree.Content
	to      *behind
	// buffer collects the bytes that are written next; written counts the bytes that were passed on.
	buffer  []byte
	written int64
	sum     hash.Hash
	// hole is for bytes that are read and left out.
	hole [64 << 10]byte
}

func (m *image) write() error {
	if err := m.padTo(superOffset); err != nil {
		return err
	}
	m.buffer = m.appendSuperblock(m.buffer)
	for _, i := range m.order {
		if err := m.writeInode(i); err != nil {
			return err
		}
	}
	if err := m.padTo(m.metaBlocks * BlockSize); err != nil {
		return err
	}
	for _, directories := range []bool{true, false} {
		for i := range m.entries {
			if !m.hasBlocks(int32(i)) || (m.entries[i].Type == tree.Directory) != directories {
				continue
			}
			if err := m.writeBlocks(int32(i)); err != nil {
				return err
			}
		}
	}
	return m.flush()
}

// writeInode writes an inode, its attributes, and its inline content.
func (m *image) writeInode(i int32) error {
	e := &m.entries[i]
	if err := m.padTo(int64(m.inodes[i].slot) * slotSize); err != nil {
		return err
	}
	m.buffer = m.appendChunks(appendXattrs(m.appendInode(m.buffer, i), e), i)
	if !m.inodes[i].inline {
		return nil
	}
	switch e.Type {
	case tree.Regular:
		return m.copyContent(e, nil)
	case tree.Directory:
		data := m.directory(i)
		m.buffer = append(m.buffer, data[len(data)/BlockSize*BlockSize:]...)
	case tree.Symlink:
		m.buffer = append(m.buffer, e.Link...)
	}
	return nil
}

// writeBlocks writes the blocks of an entry, if it has any.
func (m *image) writeBlocks(i int32) error {
	blocks := m.blocksOf(i)
	if blocks == 0 {
		if c := m.chunks[i]; c != nil {
			return m.copyContent(&m.entries[i], c) // which verifies that it is one hole
		}
		return nil
	}
	end := (int64(m.inodes[i].block) + blocks) * BlockSize
	switch e := &m.entries[i]; e.Type {
	case tree.Regular:
		if err := m.copyContent(e, m.chunks[i]); err != nil {
			return err
		}
	case tree.Directory:
		data := m.directory(i)
		m.buffer = append(m.buffer, data[:min(int64(len(data)), blocks*BlockSize)]...)
	case tree.Symlink:
		m.buffer = append(m.buffer, e.Link...)
	}
	return m.padTo(end)
}

// copyContent copies the content of a file, without the chunks that are holes. It fails if length
// or digest differ from the entry's, since another length would shift everything that follows.
func (m *image) copyContent(e *tree.Entry, c *chunks) (err error) {
	from, err := m.content.Open(e.Digest)
	if err != nil {
		return fmt.Errorf("open the content of %q: %w", e.Path, err)
	}
	defer func() { err = errors.Join(err, from.Close()) }()
	m.sum.Reset()
	if c == nil {
		err = m.copyBytes(e, from, e.Size)
	} else {
		err = m.copyChunks(e, from, c)
	}
	if err != nil {
		return err
	}
	var got tree.Digest
	if m.sum.Sum(got[:0]); got != e.Digest {
		return fmt.Errorf("the content of %q is not %s", e.Path, e.Digest)
	}
	return nil
}

// copyChunks copies the chunks of a file that have data.
func (m *image) copyChunks(e *tree.Entry, from io.Reader, c *chunks) error {
	for i, data := range c.data {
		if data {
			if err := m.copyBytes(e, from, c.length(i)); err != nil {
				return err
			}
			continue
		}
		// What is left out has to be zeros still: the digest does not show which bytes are stored.
		for left := c.length(i); left > 0; {
			n, err := io.ReadFull(from, m.hole[:min(left, int64(len(m.hole)))])
			if err != nil {
				return fmt.Errorf("read the content of %q: %w", e.Path, err)
			}
			if !isZero(m.hole[:n]) {
				return fmt.Errorf("the content of %q is not %s: it has changed while it was read", e.Path, e.Digest)
			}
			m.sum.Write(m.hole[:n])
			left -= int64(n)
		}
		if err := m.ctx.Err(); err != nil {
			return context.Cause(m.ctx)
		}
	}
	return nil
}

// copyBytes copies a number of bytes of the content of a file.
func (m *image) copyBytes(e *tree.Entry, from io.Reader, left int64) error {
	for left > 0 {
		if len(m.buffer) == cap(m.buffer) {
			if err := m.flush(); err != nil {
				return err
			}
		}
		part := m.buffer[len(m.buffer):min(int64(cap(m.buffer)), int64(len(m.buffer))+left)]
		n, err := io.ReadFull(from, part)
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
			return fmt.Errorf("the content of %q ends %d bytes early: %w", e.Path, left-int64(n), io.ErrUnexpectedEOF)
		}
		if err != nil {
			return fmt.Errorf("read the content of %q: %w", e.Path, err)
		}
		m.sum.Write(part)
		m.buffer = m.buffer[:len(m.buffer)+n]
		left -= int64(n)
	}
	return nil
}

// padTo writes zeros up to an offset in the image.
func (m *image) padTo(offset int64) error {
	if len(m.buffer) >= bufferSize-2*BlockSize {
		if err := m.flush(); err != nil {
			return err
		}
	}
	n := offset - m.written - int64(len(m.buffer))
	if n < 0 || n > BlockSize {
		return fmt.Errorf("write at byte %d of the image: %d bytes are already written", offset,
			m.written+int64(len(m.buffer)))
	}
	m.buffer = append(m.buffer, zeros[:n]...)
	return nil
}

var zeros [BlockSize]byte

// flush passes the buffer on to be written.
func (m *image) flush() error {
	if err := m.ctx.Err(); err != nil {
		return context.Cause(m.ctx)
	}
	m.written += int64(len(m.buffer))
	var ok bool
	if m.buffer, ok = m.to.swap(m.buffer); !ok {
		return errStopped
	}
	return nil
}

// errStopped ends the writing of an image after a write has failed. Write returns the error of that write.
var errStopped = errors.New("stopped")
