// Package slots keeps a record in a file that is written in place.
//
// Replacing a file by a synced rename makes the file system write some twenty blocks of its own metadata. A refresh
// journals a dozen states, in every VM of a fleet at once. Here a file has two slots, which are both written when the
// file is created. A record goes into the older slot, into blocks that the file has already, so a sync writes only
// these blocks. A slot that was torn by a power cut does not match its digest, and the other slot counts.
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
	// ErrAbsent means that no record was ever written.
	ErrAbsent = errors.New("no such record")
	// ErrDamaged means that neither slot matches its digest.
	ErrDamaged = errors.New("damaged record")
)

const (
	block = 4096
	// smallest is the size of a slot in a new file, largest the maximum size of a record, both in bytes.
	smallest = 32 << 10
	largest  = 16 << 20
	// headSize is the size of the magic, a sequence number, the record's length, and the SHA-256 of these two and the
	// record.
	headSize = 8 + 8 + 8 + sha256.Size
)

// magic begins each slot.
var magic = [8]byte{'s', 'h', 'a', 'r', 'e', 'd', 'o', '1'}

// slot is the content of one slot. The sequence 0 means that it has no record.
type slot struct {
	sequence uint64
	record   []byte
}

// Read returns the record that was written last, ErrAbsent if there is none, and ErrDamaged if it was lost.
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

// Write replaces the record. Once it has returned nil the record is on the disk. Whenever power is cut, Read returns
// this record or the previous one.
func Write(path string, record []byte) error {
	if err := write(path, record); err != nil {
		return fmt.Errorf("write %s: %w", path, err)
	}
	return nil
}

func write(path string, record []byte) (err error) {
	if len(record) > largest {
		return fmt.Errorf("the record has %d bytes, more than %d", len(record), largest)
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
		return create(path, 1, record) // it contains no record to preserve
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

// create creates the file atomically, with slots that have room for twice the record.
func create(path string, sequence uint64, record []byte) error {
	size := smallest
	for size < 2*(headSize+len(record)) {
		size *= 2
	}
	// Written, not only allocated: the first write to an allocated block changes the file system's metadata.
	whole := make([]byte, 2*size)
	copy(whole, encode(sequence, record))
	return fileio.Replace(path, whole, 0o600)
}

// encode pads a record to whole blocks: the kernel would have to read a partial block before it writes it.
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
	if length := info.Size(); !info.Mode().IsRegular() || length < 2*smallest ||
		length > 4*largest || length%(2*block) != 0 {
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

// decode reads one slot. A slot without a record, or with a torn one, has the sequence 0.
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
