// Package slots keeps a record in a file that is written in place.
//
// Replacing a file by a rename that is synced costs some twenty blocks of the file system's own books each time. A
// refresh journals a dozen states, in every VM of a fleet at once. Here a file has two slots, both written when it is
// made; a record goes into the older one, in blocks that the file has already, so that a sync writes these blocks and
// nothing else. A slot that was torn by a power cut does not match its digest, and the other one counts.
package slots

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/fileio"
)

var (
	// ErrAbsent means that nothing was ever written.
	ErrAbsent = errors.New("no such record")
	// ErrDamaged means that neither slot holds what was written to it.
	ErrDamaged = errors.New("damaged record")
)

const (
	block = 4096
	// smallest is the size of a slot in a new file, in bytes; largest what a record may have.
	smallest = 32 << 10
	largest  = 16 << 20
	// headSize is the magic, a sequence number, the record's length, and the SHA-256 of these two and the record.
	headSize = 8 + 8 + 8 + sha256.Size
)

// magic begins each slot.
var magic = [8]byte{'s', 'h', 'a', 'r', 'e', 'd', 'o', '1'}

// slot is what one slot holds; a sequence of 0 is none.
type slot struct {
	sequence uint64
	record   []byte
}

// Read returns the record that was written last. It returns ErrAbsent if there is none, and ErrDamaged if there was
// one that cannot be told any more.
func Read(path string) (_ []byte, err error) {
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read %s: %w", path, ErrAbsent)
	}
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	both, _, err := load(file)
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	return both[newest(both)].record, nil
}

// Write replaces the record. When it returns nil the record is on the disk; whenever power is cut, Read returns this
// record or the one before.
func Write(path string, record []byte) error {
	if err := write(path, record); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

func write(path string, record []byte) (err error) {
	if len(record) > largest {
		return fmt.Errorf("%d bytes, and a record may have %d", len(record), largest)
	}
	file, err := os.OpenFile(path, os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return create(path, 1, record)
	}
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	both, size, err := load(file)
	if errors.Is(err, ErrDamaged) {
		return create(path, 1, record) // there is nothing in it to keep
	}
	if err != nil {
		return err
	}
	last := newest(both)
	if headSize+len(record) > size {
		return create(path, both[last].sequence+1, record)
	}
	other := int64(1 - last)
	if _, err := file.WriteAt(encode(both[last].sequence+1, record), other*int64(size)); err != nil {
		return err
	}
	return unix.Fdatasync(int(file.Fd()))
}

// create makes the file, whole or not at all, with slots that have room for the record twice.
func create(path string, sequence uint64, record []byte) error {
	size := smallest
	for size < 2*(headSize+len(record)) {
		size *= 2
	}
	// Written, not allocated alone: the first write to an allocated block changes the file system's books.
	whole := make([]byte, 2*size)
	copy(whole, encode(sequence, record))
	return fileio.Replace(path, whole, 0o600)
}

// encode makes whole blocks: a part of one would have to be read before it is written.
func encode(sequence uint64, record []byte) []byte {
	blocks := (headSize + len(record) + block - 1) / block
	text := make([]byte, headSize, blocks*block)
	copy(text, magic[:])
	binary.LittleEndian.PutUint64(text[8:], sequence)
	binary.LittleEndian.PutUint64(text[16:], uint64(len(record)))
	sum := digest(text[8:24], record)
	copy(text[24:], sum[:])
	return append(text, record...)[:blocks*block]
}

func digest(head, record []byte) [sha256.Size]byte {
	hash := sha256.New()
	hash.Write(head)
	hash.Write(record)
	return [sha256.Size]byte(hash.Sum(nil))
}

// load reads both slots and their size in bytes.
func load(file *os.File) (both [2]slot, size int, err error) {
	info, err := file.Stat()
	if err != nil {
		return both, 0, err
	}
	if length := info.Size(); !info.Mode().IsRegular() || length < 2*smallest || length > 4*largest || length%(2*block) != 0 {
		return both, 0, fmt.Errorf("%w: a file of %d bytes", ErrDamaged, length)
	}
	size = int(info.Size() / 2)
	for i := range both {
		if both[i], err = decode(io.NewSectionReader(file, int64(i*size), int64(size)), size); err != nil {
			return both, 0, err
		}
	}
	if both[newest(both)].sequence == 0 {
		return both, 0, fmt.Errorf("%w: neither slot matches its digest", ErrDamaged)
	}
	return both, size, nil
}

// decode reads one slot. One that holds no record, or a part of one, has the sequence 0.
func decode(from io.Reader, size int) (slot, error) {
	head := make([]byte, headSize)
	if _, err := io.ReadFull(from, head); err != nil {
		return slot{}, err
	}
	length := binary.LittleEndian.Uint64(head[16:])
	if !bytes.Equal(head[:8], magic[:]) || length > uint64(size-headSize) {
		return slot{}, nil
	}
	record := make([]byte, length)
	if _, err := io.ReadFull(from, record); err != nil {
		return slot{}, err
	}
	if sum := digest(head[8:24], record); !bytes.Equal(sum[:], head[24:]) {
		return slot{}, nil
	}
	return slot{sequence: binary.LittleEndian.Uint64(head[8:]), record: record}, nil
}

func newest(both [2]slot) int {
	if both[1].sequence > both[0].sequence {
		return 1
	}
	return 0
}
