package cache

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"time"

	"github.com/google/renameio/v2"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// Identity distinguishes the states of a file without reading it. Times are in nanoseconds since 1970.
type Identity struct {
	Device, Inode uint64
	// Size in bytes.
	Size int64
	// Modified is the time of the last change of the content, Changed that of the last change of the inode.
	Modified, Changed int64
}

// Digests are the digests of files as they were in earlier runs, by identity. One file stores the
// digests for one source path: the digest of an archive, or the digests of all files in a directory.
//
// The file consists of a magic, one record of fixed length for each identity, and the CRC-32C of all that.
type Digests struct {
	// path is empty if nothing is stored.
	path     string
	old, new map[Identity]tree.Digest
	now      time.Time
}

const (
	digestsMagic = "sharedos digests 1\n"
	digestsDir   = "digests"
	recordLength = 5*8 + len(tree.Digest{})
	// keepDigests is how many files of digests are kept.
	keepDigests = 64
	// maxDigests bounds such a file in bytes: ten times the default limit of entries.
	maxDigests = 10_000_000 * recordLength
	// settled is how long ago a file must have changed for its times to distinguish a later change from this one.
	settled = 2 * time.Second
)

var castagnoli = crc32.MakeTable(crc32.Castagnoli)

// OpenDigests reads the digests stored in cacheDir for a path; now is the time before the first of its files was looked
// at. With an empty cacheDir there are none, and none are stored.
func OpenDigests(cacheDir, path string, now time.Time) (*Digests, error) {
	d := &Digests{new: map[Identity]tree.Digest{}, now: now}
	if cacheDir == "" {
		return d, nil
	}
	d.path = filepath.Join(cacheDir, digestsDir, tree.Sum([]byte(path)).Hex())
	if err := d.load(); err != nil {
		return nil, fmt.Errorf("read remembered digests: %w", err)
	}
	return d, nil
}

// load reads the stored digests. A damaged file counts as none.
func (d *Digests) load() error {
	info, err := os.Stat(d.path)
	if errors.Is(err, fs.ErrNotExist) || err == nil && info.Size() > int64(maxDigests) {
		return nil
	}
	if err != nil {
		return err
	}
	data, err := os.ReadFile(d.path)
	if err != nil {
		return err
	}
	if len(data) < len(digestsMagic)+crc32.Size || !bytes.HasPrefix(data, []byte(digestsMagic)) {
		return nil
	}
	data, sum := data[:len(data)-crc32.Size], data[len(data)-crc32.Size:]
	if crc32.Checksum(data, castagnoli) != binary.LittleEndian.Uint32(sum) {
		return nil
	}
	records := data[len(digestsMagic):]
	d.old = make(map[Identity]tree.Digest, len(records)/recordLength)
	d.new = make(map[Identity]tree.Digest, len(records)/recordLength)
	for r := records; len(r) >= recordLength; r = r[recordLength:] {
		number := func(i int) uint64 { return binary.LittleEndian.Uint64(r[8*i:]) }
		id := Identity{Device: number(0), Inode: number(1), Size: int64(number(2)), Modified: int64(number(3)),
			Changed: int64(number(4))}
		d.old[id] = tree.Digest(r[5*8 : recordLength])
	}
	return nil
}

// Lookup returns the digest of a file and keeps it for the next run.
func (d *Digests) Lookup(id Identity) (tree.Digest, bool) {
	digest, ok := d.old[id]
	if ok {
		d.new[id] = digest
	}
	return digest, ok
}

// Add stores the digest of a file, unless the file changed so recently that another change could have the same time.
func (d *Digests) Add(id Identity, digest tree.Digest) {
	if d.path != "" && d.now.UnixNano()-max(id.Modified, id.Changed) >= settled.Nanoseconds() {
		d.new[id] = digest
	}
}

// Save stores what was looked up and added, and forgets the rest.
func (d *Digests) Save() error {
	if d.path == "" || maps.Equal(d.old, d.new) {
		return nil
	}
	data := make([]byte, 0, len(digestsMagic)+len(d.new)*recordLength+crc32.Size)
	data = append(data, digestsMagic...)
	for id, digest := range d.new {
		for _, n := range []uint64{id.Device, id.Inode, uint64(id.Size), uint64(id.Modified), uint64(id.Changed)} {
			data = binary.LittleEndian.AppendUint64(data, n)
		}
		data = append(data, digest[:]...)
	}
	data = binary.LittleEndian.AppendUint32(data, crc32.Checksum(data, castagnoli))
	dir := filepath.Dir(d.path)
	err := os.MkdirAll(dir, 0o700)
	if err == nil {
		err = renameio.WriteFile(d.path, data, 0o600, renameio.WithTempDir(dir))
	}
	if err == nil {
		err = Sweep(dir, keepDigests, Abandoned, func(string) bool { return true })
	}
	if err != nil {
		return fmt.Errorf("remember digests: %w", err)
	}
	return nil
}
