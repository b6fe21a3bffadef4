package source

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// directoryIndex remembers, in a cache directory, what was read of the files of one directory: digests, link targets
// and extended attributes by the state of the inode. Old and new index are in the order of walkDir, so that both pass
// by once, record by record, and take no memory; a new one is begun when the first file is not as the old one says. To
// lose an index costs reading the directory again and nothing else.
//
// The form is indexMagic, records, and the CRC-32C of all before. A record is text path; varints device, inode, size,
// mtime, ctime; the digest, or nothing for what is no regular file; text link; the extended attributes.
type directoryIndex struct {
	// path is empty when nothing is to be remembered.
	path string
	// old is nil when there is none. next is its first record that has not been passed, which begins at nextAt.
	old     *countedReader
	oldFile *os.File
	next    *indexRecord
	nextAt  int64
	// new is nil until something differs from the old index.
	new *os.File
	out *bufio.Writer
	sum hash.Hash32
	now time.Time
	buf []byte
}

// countedReader counts the bytes that are read.
type countedReader struct {
	*bufio.Reader
	n int64
}

func (r *countedReader) Read(p []byte) (int, error) {
	n, err := r.Reader.Read(p)
	r.n += int64(n)
	return n, err
}

func (r *countedReader) ReadByte() (byte, error) {
	b, err := r.Reader.ReadByte()
	if err == nil {
		r.n++
	}
	return b, err
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

// castagnoli is the polynomial of CRC-32C, which processors compute.
var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// openIndex opens the index of a directory, given by its absolute path. Without a cache directory it remembers nothing.
func openIndex(cacheDir, directory string) (*directoryIndex, error) {
	x := &directoryIndex{now: time.Now(), nextAt: int64(len(indexMagic))}
	if cacheDir == "" {
		return x, nil
	}
	x.path = filepath.Join(cacheDir, indexesDir, tree.Sum([]byte(directory)).Hex()+indexSuffix)
	if err := x.openOld(); err != nil {
		return nil, errors.Join(fmt.Errorf("read what was remembered: %w", err), x.Close())
	}
	return x, nil
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
	size := info.Size() - crc32.Size
	if size < int64(len(indexMagic)) {
		return nil
	}
	sum := crc32.New(castagnoli)
	if _, err := io.Copy(sum, io.NewSectionReader(file, 0, size)); err != nil {
		return err
	}
	var want [crc32.Size]byte
	if _, err := file.ReadAt(want[:], size); err != nil {
		return err
	}
	if sum.Sum32() != binary.BigEndian.Uint32(want[:]) {
		return nil
	}
	old := &countedReader{Reader: bufio.NewReaderSize(io.NewSectionReader(file, 0, size), 256<<10)}
	magic := make([]byte, len(indexMagic))
	if _, err := io.ReadFull(old, magic); err != nil {
		return err
	}
	if string(magic) == indexMagic {
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
	x.nextAt = x.old.n
	record, err := readRecord(x.old)
	if err != nil {
		// The end; or not what this code writes, and then nothing is known of the rest.
		x.old = nil
		return
	}
	x.next = record
}

// begin begins a new index with what was passed of the old one, unless that was done before.
func (x *directoryIndex) begin() (err error) {
	if x.path == "" || x.new != nil {
		return nil
	}
	defer func() {
		if err != nil {
			err = fmt.Errorf("remember what was read: %w", err)
		}
	}()
	if err := os.MkdirAll(filepath.Dir(x.path), 0o700); err != nil {
		return err
	}
	if x.new, err = os.CreateTemp(filepath.Dir(x.path), filepath.Base(x.path)+tempSuffix); err != nil {
		return err
	}
	x.sum = crc32.New(castagnoli)
	x.out = bufio.NewWriterSize(io.MultiWriter(x.new, x.sum), 256<<10)
	passed := x.nextAt
	if passed == int64(len(indexMagic)) {
		_, err = x.out.WriteString(indexMagic)
		return err
	}
	_, err = io.Copy(x.out, io.NewSectionReader(x.oldFile, 0, passed))
	return err
}

// complete fills in what the inode does not say of an entry, from the old index if the inode is as it was, else by
// reading the file, and remembers it.
func (x *directoryIndex) complete(ctx context.Context, f onDisk, e *tree.Entry) error {
	for x.next != nil && walkedBefore(x.next.path, f.path) {
		if err := x.begin(); err != nil {
			return err
		}
		x.advance()
	}
	id := f.identity()
	if x.next != nil && x.next.path == f.path && x.next.inode == id {
		e.Digest, e.Link, e.Xattrs = x.next.digest, x.next.link, x.next.xattrs
		x.advance()
		return x.write(f, id, *e)
	}
	if err := x.begin(); err != nil {
		return err
	}
	if x.next != nil && x.next.path == f.path {
		x.advance()
	}
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

// write writes a record, if there is a new index.
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
	if x.next != nil {
		// What comes last is gone.
		if err := x.begin(); err != nil {
			return err
		}
	}
	if x.new == nil {
		return nil
	}
	err := x.out.Flush()
	if err == nil {
		_, err = x.new.Write(binary.BigEndian.AppendUint32(nil, x.sum.Sum32()))
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

func readRecord(r *countedReader) (*indexRecord, error) {
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

func readText(r *countedReader) (string, error) {
	n, err := binary.ReadUvarint(r)
	if err != nil {
		return "", err
	}
	if n > maxIndexText {
		return "", errRecord
	}
	if n == 0 {
		return "", nil
	}
	text := make([]byte, n)
	_, err = io.ReadFull(r, text)
	return string(text), err
}
