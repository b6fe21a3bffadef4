package source

import (
	"bufio"
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// directoryIndex remembers, in a cache directory, what was read of the files of one directory: digests, link targets
// and extended attributes by the state of the inode. Old and new index are in the order of walkDir, so that both pass
// by once, record by record, and take no memory. To lose an index costs reading the directory again and nothing else.
//
// The form is indexMagic, records, and the SHA-256 of all before. A record is text path; varints device, inode, size,
// mtime, ctime; the digest, or nothing for what is no regular file; text link; the extended attributes.
type directoryIndex struct {
	path string
	// old is nil when there is none. next is its first record that has not been passed.
	old     *bufio.Reader
	oldFile *os.File
	next    *indexRecord
	// new is nil when nothing is to be remembered.
	new *os.File
	out *bufio.Writer
	sum hash.Hash
	now time.Time
	// changed is true when the new index says something else than the old one.
	changed bool
	buf     []byte
}

const (
	indexMagic  = "sharedos directory index 1\n"
	indexesDir  = "directories"
	indexSuffix = ".index"
	// maxIndexText bounds one text of a record in bytes.
	maxIndexText = maxXattrs
	// keepIndexes is how many directories are remembered.
	keepIndexes = 32
)

// indexRecord is what is remembered of one file.
type indexRecord struct {
	path   string
	inode  inode
	digest tree.Digest
	link   string
	xattrs map[string]string
}

// openIndex opens the index of a directory, given by its absolute path. Without a cache directory it remembers nothing.
func openIndex(cacheDir, directory string) (_ *directoryIndex, err error) {
	x := &directoryIndex{now: time.Now()}
	if cacheDir == "" {
		return x, nil
	}
	dir := filepath.Join(cacheDir, indexesDir)
	x.path = filepath.Join(dir, tree.Sum([]byte(directory)).Hex()+indexSuffix)
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("remember what was read: %w", err)
	}
	if err := x.openOld(); err != nil {
		return nil, errors.Join(fmt.Errorf("read what was remembered: %w", err), x.Close())
	}
	if x.new, err = os.CreateTemp(dir, filepath.Base(x.path)+tempSuffix); err != nil {
		return nil, errors.Join(fmt.Errorf("remember what was read: %w", err), x.Close())
	}
	x.sum = newHash()
	x.out = bufio.NewWriterSize(io.MultiWriter(x.new, x.sum), 256<<10)
	_, err = x.out.WriteString(indexMagic)
	return x, err
}

// openOld opens the index that is there, if it is whole.
func (x *directoryIndex) openOld() error {
	file, err := os.Open(x.path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	x.oldFile = file
	info, err := file.Stat()
	if err != nil {
		return err
	}
	size := info.Size() - sha256.Size
	if size < int64(len(indexMagic)) {
		return nil
	}
	sum := newHash()
	if _, err := io.Copy(sum, io.NewSectionReader(file, 0, size)); err != nil {
		return err
	}
	var want [sha256.Size]byte
	if _, err := file.ReadAt(want[:], size); err != nil {
		return err
	}
	if sumOf(sum) != want {
		return nil
	}
	old := bufio.NewReaderSize(io.NewSectionReader(file, 0, size), 256<<10)
	magic := make([]byte, len(indexMagic))
	if _, err := io.ReadFull(old, magic); err != nil {
		return err
	}
	if bytes.Equal(magic, []byte(indexMagic)) {
		x.old = old
		x.advance()
	}
	return nil
}

// advance passes on to the next record of the old index.
func (x *directoryIndex) advance() {
	x.next = nil
	if x.old == nil {
		return
	}
	record, err := readRecord(x.old)
	if err != nil {
		// The end; or not what this code writes, and then nothing is known of the rest.
		x.old = nil
		return
	}
	x.next = record
}

// complete fills in what the inode does not say of an entry, from the old index if the inode is as it was, else by
// reading the file, and remembers it.
func (x *directoryIndex) complete(ctx context.Context, f onDisk, e *tree.Entry) error {
	for x.next != nil && walkedBefore(x.next.path, f.path) {
		x.changed = true
		x.advance()
	}
	id := f.identity()
	if x.next != nil && x.next.path == f.path {
		known := x.next
		x.advance()
		if known.inode == id {
			e.Digest, e.Link, e.Xattrs = known.digest, known.link, known.xattrs
			return x.write(f, id, *e)
		}
	}
	x.changed = true
	if err := f.attach(e); err != nil {
		return err
	}
	if e.Type == tree.Regular {
		if err := f.read(func(content io.Reader) (err error) {
			e.Digest, err = digestOf(ctx, content)
			return err
		}); err != nil {
			return err
		}
	}
	if !id.settled(x.now) {
		return nil
	}
	return x.write(f, id, *e)
}

func (x *directoryIndex) write(f onDisk, id inode, e tree.Entry) error {
	if x.new == nil {
		return nil
	}
	buf := appendText(x.buf[:0], f.path)
	for _, n := range []uint64{id.device, id.number, uint64(id.size), uint64(id.mtime), uint64(id.ctime)} {
		buf = binary.AppendUvarint(buf, n)
	}
	if e.Type == tree.Regular {
		buf = append(append(buf, 1), e.Digest[:]...)
	} else {
		buf = append(buf, 0)
	}
	x.buf = appendXattrs(appendText(buf, e.Link), e.Xattrs)
	if _, err := x.out.Write(x.buf); err != nil {
		return fmt.Errorf("remember what was read: %w", err)
	}
	return nil
}

// save puts the new index in the place of the old one, if they differ. The caller has passed by every file.
func (x *directoryIndex) save() error {
	if x.new == nil || !x.changed && x.next == nil {
		return nil
	}
	err := x.out.Flush()
	if err == nil {
		digest := sumOf(x.sum)
		_, err = x.new.Write(digest[:])
	}
	if err == nil {
		// Not synchronised: a torn index is not whole, and as good as none.
		err = os.Rename(x.new.Name(), x.path)
	}
	if err != nil {
		return fmt.Errorf("remember what was read: %w", err)
	}
	err = x.new.Close()
	x.new = nil
	return errors.Join(err, sweepOldest(filepath.Dir(x.path), indexSuffix, keepIndexes))
}

// Close drops what was not saved.
func (x *directoryIndex) Close() error {
	var err error
	if x.new != nil {
		err = errors.Join(x.new.Close(), os.Remove(x.new.Name()))
		x.new = nil
	}
	if x.oldFile != nil {
		err = errors.Join(err, x.oldFile.Close())
		x.oldFile = nil
	}
	return err
}

// walkedBefore reports whether walkDir visits a before b: by names from the root on, each directory before what it
// holds.
func walkedBefore(a, b string) bool {
	if a == tree.Root || b == tree.Root {
		return a == tree.Root && b != tree.Root
	}
	n := 0
	for n < len(a) && n < len(b) && a[n] == b[n] {
		n++
	}
	if n == len(a) || n == len(b) {
		return len(a) < len(b)
	}
	if a[n] == '/' || b[n] == '/' {
		return a[n] == '/'
	}
	return a[n] < b[n]
}

// errRecord means that a record is not of the form that is written.
var errRecord = errors.New("not a record of an index")

func readRecord(r *bufio.Reader) (*indexRecord, error) {
	var x indexRecord
	var err error
	if x.path, err = readText(r); err != nil {
		return nil, err
	}
	var size, mtime, ctime uint64
	for _, n := range []*uint64{&x.inode.device, &x.inode.number, &size, &mtime, &ctime} {
		if *n, err = binary.ReadUvarint(r); err != nil {
			return nil, err
		}
	}
	x.inode.size, x.inode.mtime, x.inode.ctime = int64(size), int64(mtime), int64(ctime)
	regular, err := r.ReadByte()
	if err != nil {
		return nil, err
	}
	if regular == 1 {
		if _, err := io.ReadFull(r, x.digest[:]); err != nil {
			return nil, err
		}
	}
	if x.link, err = readText(r); err != nil {
		return nil, err
	}
	count, err := binary.ReadUvarint(r)
	if err != nil {
		return nil, err
	}
	if count > math.MaxUint16 {
		return nil, errRecord
	}
	for range count {
		name, err := readText(r)
		if err != nil {
			return nil, err
		}
		value, err := readText(r)
		if err != nil {
			return nil, err
		}
		if x.xattrs == nil {
			x.xattrs = make(map[string]string)
		}
		x.xattrs[name] = value
	}
	return &x, nil
}

func readText(r *bufio.Reader) (string, error) {
	n, err := binary.ReadUvarint(r)
	if err != nil {
		return "", err
	}
	if n > maxIndexText {
		return "", errRecord
	}
	var b strings.Builder
	b.Grow(int(n))
	_, err = io.CopyN(&b, r, int64(n))
	return b.String(), err
}
