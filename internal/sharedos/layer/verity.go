package layer

import (
	"errors"
	"fmt"
	"os"

	"github.com/containerd/go-dmverity/pkg/verity"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// ErrDamaged means that the content of a file is not the layer that it should be.
var ErrDamaged = errors.New("not the layer that its id names")

// verityUUID is the UUID in the superblock of every hash tree, since the format requires one. The root digest, and not
// the UUID, identifies a layer.
var verityUUID = [16]byte{0x53, 0x68, 0x61, 0x72, 0x65, 0x64, 0x4f, 0x53, 0x80, 0, 0, 0, 0, 0, 0, 1}

// appendHashTree appends the dm-verity superblock and hash tree at the end of the image in file, and returns the
// root digest. SHA-256 in blocks of 4096 bytes, format 1, without a salt: the same tree must
// always yield the same bytes.
func appendHashTree(file *os.File, dataSize int64) (tree.Digest, error) {
	if dataSize <= 0 || dataSize%release.BlockSize != 0 {
		return tree.Digest{},
			fmt.Errorf("append hash tree to %s: the image has %d bytes, which is not a multiple of the block size",
				file.Name(), dataSize)
	}
	params := verity.DefaultParams()
	params.DataBlockSize = release.BlockSize
	params.HashBlockSize = release.BlockSize
	params.DataBlocks = uint64(dataSize / release.BlockSize)
	params.HashAreaOffset = uint64(dataSize)
	params.UUID = verityUUID
	// The file is named by its descriptor, since another file may have its name by now.
	path := fmt.Sprintf("/proc/self/fd/%d", file.Fd())
	root, err := verity.Create(&params, path, path)
	if err != nil {
		return tree.Digest{}, fmt.Errorf("append hash tree to %s: %w", file.Name(), err)
	}
	var id tree.Digest
	if len(root) != len(id) {
		return tree.Digest{}, errors.New("append hash tree: the root digest is not a SHA-256")
	}
	copy(id[:], root)
	return id, nil
}

// Verify reads a whole layer and checks that its id is the root digest of its hash tree, and that
// every block of its data matches the hash tree. The error matches ErrDamaged if not.
func Verify(file *os.File, layer release.Layer) error {
	info, err := file.Stat()
	if err != nil {
		return fmt.Errorf("verify layer %s: %w", layer.ID, err)
	}
	if info.Size() != layer.Size || layer.DataSize <= 0 || layer.DataSize >= layer.Size ||
		layer.DataSize%release.BlockSize != 0 {
		return fmt.Errorf("verify layer %s: %s has %d bytes instead of %d: %w", layer.ID, file.Name(),
			info.Size(), layer.Size, ErrDamaged)
	}
	params := verity.DefaultParams()
	params.DataBlockSize = release.BlockSize
	params.HashBlockSize = release.BlockSize
	params.DataBlocks = uint64(layer.DataSize / release.BlockSize)
	params.HashAreaOffset = uint64(layer.DataSize)
	params.UUID = verityUUID
	path := fmt.Sprintf("/proc/self/fd/%d", file.Fd())
	if err := verity.Verify(&params, path, path, layer.ID[:]); err != nil {
		return fmt.Errorf("verify layer %s: %s: %w: %w", layer.ID, file.Name(), ErrDamaged, err)
	}
	return nil
}

// padToBlock extends file to whole blocks, since the verity superblock alone is shorter, and returns its size in bytes.
func padToBlock(file *os.File) (int64, error) {
	info, err := file.Stat()
	if err != nil {
		return 0, err
	}
	size := (info.Size() + release.BlockSize - 1) / release.BlockSize * release.BlockSize
	if size == info.Size() {
		return size, nil
	}
	return size, file.Truncate(size)
}
