package layer

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
)

const (
	// streamPart is how many bytes VerifyStream reads at once.
	streamPart = 4 << 20
)

// VerifyStream is Verify for a layer that is not a file of this machine. read returns length bytes
// at an offset. All data and the whole hash tree are read once, in order, in parts of at most 4
// MiB. The error matches ErrDamaged if they are not those of the layer.
//
// The hash tree follows the superblock, which takes one block: the level with a single block first, and
// the level with the hashes of the data last (https://gitlab.com/cryptsetup/cryptsetup/-/wikis/DMVerity).
func VerifyStream(ctx context.Context, layer release.Layer, read func(offset, length int64) ([]byte, error)) error {
	damaged := func(format string, args ...any) error {
		return fmt.Errorf("verify layer %s: %w: %s", layer.ID, ErrDamaged, fmt.Sprintf(format, args...))
	}
	if layer.DataSize <= 0 || layer.DataSize >= layer.Size || layer.DataSize%release.BlockSize != 0 {
		return damaged("%d bytes of data in %d", layer.DataSize, layer.Size)
	}
	parts := func(offset, size int64, use func([]byte)) error {
		for size > 0 {
			if err := ctx.Err(); err != nil {
				return fmt.Errorf("verify layer %s: %w", layer.ID, err)
			}
			length := min(size, streamPart)
			data, err := read(offset, length)
			if err != nil {
				return fmt.Errorf("verify layer %s: read it at %d: %w", layer.ID, offset, err)
			}
			if int64(len(data)) != length {
				return damaged("it ends at %d", offset+int64(len(data)))
			}
			use(data)
			offset, size = offset+length, size-length
		}
		return nil
	}
	var hashes []byte
	hash := func(blocks []byte) {
		for ; len(blocks) > 0; blocks = blocks[release.BlockSize:] {
			sum := sha256.Sum256(blocks[:release.BlockSize])
			hashes = append(hashes, sum[:]...)
		}
	}
	if err := parts(0, layer.DataSize, hash); err != nil {
		return err
	}
	var wanted []byte
	for len(hashes) > sha256.Size {
		level := append(bytes.Clone(hashes),
			make([]byte, (release.BlockSize-len(hashes)%release.BlockSize)%release.BlockSize)...)
		wanted = append(level, wanted...)
		hashes = nil
		hash(level)
	}
	if !bytes.Equal(hashes, layer.ID[:]) {
		return damaged("its data is another layer's")
	}
	if layer.DataSize+release.BlockSize+int64(len(wanted)) > layer.Size {
		return damaged("there is no room for its hash tree")
	}
	same := true
	err := parts(layer.DataSize+release.BlockSize, int64(len(wanted)), func(data []byte) {
		same = same && bytes.Equal(data, wanted[:len(data)])
		wanted = wanted[len(data):]
	})
	if err == nil && !same {
		err = damaged("its hash tree is not that of its data")
	}
	return err
}
