// Package store keeps layers, manifests and blobs as volumes of a libvirt storage pool, through the storage API
// only, so that any kind of pool will do.
//
// Volumes are named by what they hold: "layer-<64 hex>", "blob-<64 hex>", "release-<64 hex>" (a signed manifest),
// "head-<kind>-<name>" (the id of the newest release, then the ids before it), "vm-<name>" (a private disk), and for
// moments "lock-…" (who uses the pool, see Locker).
// A volume appears complete or not at all: its first 4 KiB are written last.
package store

import (
	"context"
	"errors"
	"io"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

var (
	// ErrNotFound means that libvirt itself said that no such volume exists, or that what is there is torn.
	ErrNotFound = errors.New("not in the store")
	// ErrUnreachable means that the pool could not be asked; nothing is known of the object.
	ErrUnreachable = errors.New("the storage pool is unreachable")
	// ErrInUse means that something still refers to the object.
	ErrInUse = errors.New("in use")
)

// Progress is told how many of total bytes are done. It may be called often and must return at once.
type Progress func(done, total int64)

// Store is the seam to libvirt's storage API. Every method is safe to repeat.
type Store interface {
	// Lock keeps others, in any process on any machine, from what the mode excludes, until unlock is called. It calls tell
	// if it has to wait. What is done under it is done with the returned context, which ends when the lock is lost.
	Lock(ctx context.Context, mode LockMode, tell func(step string)) (locked context.Context, unlock func() error, err error)
	// PutLayer uploads a layer if the pool does not hold it whole already, and reports whether it did.
	PutLayer(ctx context.Context, layer release.Layer, content io.ReaderAt, progress Progress) (uploaded bool, err error)
	// LayerPath returns where the host finds the layer; ErrNotFound if the pool does not hold it whole.
	LayerPath(ctx context.Context, id tree.Digest) (string, error)
	// PutBlob uploads bytes named by their digest (kernel, initramfs, contents list).
	PutBlob(ctx context.Context, blob release.Blob, content io.ReaderAt, progress Progress) error
	BlobPath(ctx context.Context, digest tree.Digest) (string, error)
	// GetBlob reads a blob and checks its digest.
	GetBlob(ctx context.Context, blob release.Blob) ([]byte, error)
	// PutManifest stores a signed manifest under its id; GetManifest reads it.
	PutManifest(ctx context.Context, id tree.Digest, signed []byte) error
	GetManifest(ctx context.Context, id tree.Digest) ([]byte, error)
	// SetHistory records the releases of a base or component; one without releases removes the record.
	SetHistory(ctx context.Context, kind release.Kind, name string, history History) error
	// History returns the releases of a base or component; ErrNotFound if there is no record.
	History(ctx context.Context, kind release.Kind, name string) (History, error)
	// Histories returns the history of every base and component in the pool.
	Histories(ctx context.Context) (map[Named]History, error)
	// CreatePrivateDisk makes a sparse raw volume of size bytes for a VM, or grows the one there is.
	CreatePrivateDisk(ctx context.Context, vm string, size int64) (volume, path string, err error)
	DeletePrivateDisk(ctx context.Context, vm string) error
	// PrivateDisk tells size and allocated bytes of a VM's private disk.
	PrivateDisk(ctx context.Context, vm string) (Volume, error)
	// Volumes lists all that this project keeps in the pool, but locks.
	Volumes(ctx context.Context) ([]Volume, error)
	// Sweep deletes every layer, blob and release that keep does not name. It returns what it deleted. A pool that
	// was made for this store goes with the last volume in it; the next thing stored makes it again.
	Sweep(ctx context.Context, keep map[tree.Digest]bool) ([]Volume, error)
	Close() error
}

// Named names a base or a component.
type Named struct {
	Kind release.Kind
	Name string
}

// Volume is one volume of the pool.
type Volume struct {
	Name, Path string
	// Capacity and Allocation in bytes.
	Capacity, Allocation int64
}
