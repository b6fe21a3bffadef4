package mounts

import (
	"context"
	"fmt"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// deviceWait bounds how long OpenLayer waits for a layer's device: hot-plug takes a quarter of a second.
const deviceWait = 15 * time.Second

// serialDigits is how many digits of a layer's id its serial has: virtio-blk has room for 20 bytes.
const serialDigits = 20

// LayerDevice is the block device on which the host presents a layer to this VM, not verified yet.
type LayerDevice struct {
	// Node is the device node, "/dev/vdb".
	Node string
	// Number is "major:minor".
	Number string
	// Size in bytes.
	Size int64
}

// LayerSerial is the serial of a layer's device: the first 20 hexadecimal digits of the layer's id.
func LayerSerial(id tree.Digest) string { return id.Hex()[:serialDigits] }

// findLayerDevice waits, at most 15 seconds, until the device with the layer's serial is attached (ErrNoDisk).
//
// The serial holds only the beginning of the id, and the host could lie: what the device contains is known once it is
// verified.
func findLayerDevice(ctx context.Context, layer release.Layer) (LayerDevice, error) {
	ctx, cancel := context.WithTimeout(ctx, deviceWait)
	defer cancel()
	disk, err := WaitForDisk(ctx, LayerSerial(layer.ID))
	if err != nil {
		return LayerDevice{}, err
	}
	// A stack from the wire has no Size. The superblock of the hash tree, at least, follows the data.
	if least := max(layer.Size, layer.DataSize+verityBlock); disk.Size < least {
		return LayerDevice{}, fmt.Errorf("%s has %d bytes, the layer at least %d", disk.Node, disk.Size, least)
	}
	return LayerDevice{Node: disk.Node, Number: disk.Number, Size: disk.Size}, nil
}
