// Package store keeps what VMs are made of: layers, blobs and manifests, the histories of bases and components, private
// disks, and the locks that keep processes from changing them at the same time.
//
// Each of these has an interface of its own: [Objects], [Heads], [Disks] and [Locks]. A caller asks
// for those that it uses. [Libvirt] implements all four on a libvirt storage pool, through the
// storage API only, so that most types of pools can be used (design/0019).
//
// In a pool, everything is a volume that is named after its content: "layer-<64 hex>", "blob-<64 hex>",
// "release-<64 hex>" (a signed manifest), "head-<kind>-<name>" (a history), "vm-<name>.<mark>" (a private
// disk), "disk-<name>.<mark>.<disk>" (a further disk of a VM) and "lock-…" (see [Locker]). A layer, blob
// or manifest is either complete or absent for every reader: its first 4 KiB are written last.
package store

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

var (
	// ErrNotFound means that the store answered and has no such object, or only a torn one.
	ErrNotFound = errors.New("not in the store")
	// ErrUnreachable means that the store did not answer. Whether the object exists is unknown.
	ErrUnreachable = errors.New("the storage pool is unreachable")
	// ErrNoPool means that libvirt has no such storage pool, so that nothing is in it. It matches ErrNotFound.
	ErrNoPool = fmt.Errorf("there is no such storage pool: %w", ErrNotFound)
	// ErrConfig means that a Config cannot be used, whatever libvirt has.
	ErrConfig = errors.New("the settings of the storage pool cannot be used")
	// ErrInUse means that something still refers to the object.
	ErrInUse = errors.New("in use")
	// ErrCorrupt means that a volume is complete, but its content does not match its name.
	ErrCorrupt = errors.New("the volume's content is not what its name says")
	// ErrShrink means that a private disk was to become smaller, which would cut off data.
	ErrShrink = errors.New("a disk cannot shrink")
	// ErrAbsentPool means that libvirt has no storage pool of a name that this store does not make.
	// It matches ErrUnreachable: what is in the pool is unknown.
	ErrAbsentPool = fmt.Errorf("libvirt has no such storage pool: %w", ErrUnreachable)
	// ErrFormat means that a volume has another format than the one that it should have.
	ErrFormat = errors.New("the volume has another format")
)

// Progress is called with the number of bytes done and the total. It may be called often and must return at once.
type Progress func(done, total int64)

// Objects keeps layers, blobs and signed manifests. They never change and are named by their
// digests. Every method is safe to repeat.
type Objects interface {
	// PutLayer uploads a layer unless the store holds all of it already, and reports whether it uploaded anything.
	PutLayer(ctx context.Context, layer release.Layer, content io.ReaderAt,
		progress Progress) (uploaded bool, err error)
	// LayerPath returns the layer's path on the host; ErrNotFound if the store does not hold all of it.
	LayerPath(ctx context.Context, id tree.Digest) (string, error)
	// PutBlob uploads a kernel, an initramfs or a contents list unless the store holds all of it already.
	PutBlob(ctx context.Context, blob release.Blob, content io.ReaderAt, progress Progress) error
	// BlobPath returns the blob's path on the host; ErrNotFound if the store does not hold all of it.
	BlobPath(ctx context.Context, digest tree.Digest) (string, error)
	// GetBlob reads a blob and checks its digest; ErrCorrupt if it differs.
	GetBlob(ctx context.Context, blob release.Blob) ([]byte, error)
	// ReadLayer calls use with a reader of the layer, which is valid until use returns; ErrNotFound if the store does
	// not hold it. It does not verify what is read.
	ReadLayer(ctx context.Context, layer release.Layer, use func(io.ReaderAt) error) error
	// VerifyLayer reads a whole layer; ErrCorrupt if its content is not the layer's, ErrNotFound if the
	// store does not hold all of it. What this process has uploaded or verified before is not read again.
	VerifyLayer(ctx context.Context, layer release.Layer) error
	// VerifyBlob does the same for a blob.
	VerifyBlob(ctx context.Context, blob release.Blob) error
	// PutManifest stores a signed manifest under its id. One that another operator signed is replaced.
	PutManifest(ctx context.Context, id tree.Digest, signed []byte) error
	// GetManifest returns the signed manifest of an id. It checks neither signature nor id.
	GetManifest(ctx context.Context, id tree.Digest) ([]byte, error)
	// ListObjects lists the volumes of layers, blobs and manifests, torn ones included.
	ListObjects(ctx context.Context) ([]Volume, error)
	// Unfinished reports whether a process that was killed has left something of the last deletion: objects or locks
	// in a store without any history or private disk, or an empty pool that Libvirt has created. A Sweep removes it.
	Unfinished(ctx context.Context) (bool, error)
	// Sweep deletes every layer, blob and manifest whose digest is not in keep, and returns what it deleted. The caller
	// holds an Exclusive lock. If nothing is left, Libvirt also removes a pool that it created; the next object or disk
	// creates it again.
	Sweep(ctx context.Context, keep map[tree.Digest]bool) ([]Volume, error)
}

// Heads keeps the history of every base and component. Every method is safe to repeat.
type Heads interface {
	// SetHistory replaces the history of a base or component. A history without releases removes the record.
	SetHistory(ctx context.Context, kind release.Kind, name string, history History) error
	// History returns the history of a base or component; ErrNotFound if it has none.
	History(ctx context.Context, kind release.Kind, name string) (History, error)
	// Histories returns the history of every base and component.
	Histories(ctx context.Context) (map[Named]History, error)
	// ListHeads lists the volumes of histories.
	ListHeads(ctx context.Context) ([]Volume, error)
}

// Disks keeps the private disks of VMs. Every method is safe to repeat.
type Disks interface {
	// CreatePrivateDisk creates a sparse raw volume of size bytes under a name that DiskName has
	// given, and returns its path on the host. An existing one is grown; ErrShrink if it is larger.
	// Whether an existing one is the VM's is for the caller to know (DiskIsOf).
	CreatePrivateDisk(ctx context.Context, volume string, size int64) (path string, err error)
	// DeletePrivateDisk deletes a private disk by the name of its volume. It is no error if there is none.
	DeletePrivateDisk(ctx context.Context, volume string) error
	// PrivateDisk returns the volume of a private disk; ErrNotFound if there is none.
	PrivateDisk(ctx context.Context, volume string) (Volume, error)
	// Room returns the room for private disks; ErrNotFound if the pool does not exist yet.
	Room(ctx context.Context) (Room, error)
	// CreateDisk creates a sparse volume of size bytes for a further disk, under a name that
	// FurtherDiskName has given, and returns its path on the host. An existing one is grown, but for a
	// file that QEMU has open (inUse), which QEMU grows itself. ErrShrink if it is larger, ErrFormat if
	// it has another format. The pool "" is the store's own; another one has to exist (ErrAbsentPool).
	CreateDisk(ctx context.Context, pool, volume string, size int64, format string, inUse bool) (path string, err error)
	// DeleteDisk deletes the volume of a further disk. It is no error if there is none.
	DeleteDisk(ctx context.Context, pool, volume string) error
	// FindVolume returns any volume of a pool, and its format as libvirt finds it; ErrNotFound if there is none.
	FindVolume(ctx context.Context, pool, volume string) (found Volume, format string, err error)
	// RoomIn is Room for another pool.
	RoomIn(ctx context.Context, pool string) (Room, error)
	// ListDisks lists the private disks of all VMs.
	ListDisks(ctx context.Context) ([]Volume, error)
}

// Locks keeps processes, on any machine that uses the store, from changing it at the same time.
type Locks interface {
	// Lock waits until nobody holds a lock that excludes one of this mode, and calls report once if it has to wait.
	// Work under the lock uses the returned context, which ends when the lock is lost. unlock must be called.
	Lock(ctx context.Context, mode LockMode, report func(step string)) (locked context.Context,
		unlock func() error, err error)
}

// Store keeps everything in one place.
type Store interface {
	Objects
	Heads
	Disks
	Locks
	// Volumes lists objects, heads and disks, but no locks.
	Volumes(ctx context.Context) ([]Volume, error)
	Close() error
}

// Named names a base or a component.
type Named struct {
	Kind release.Kind
	Name string
}

// Room is the room for private disks, in bytes.
type Room struct {
	// Capacity is that of the whole pool, and Available what is free.
	Capacity, Available int64
	// Thin is true if a disk takes space only as it fills. If it is false, a new disk takes all of its size.
	Thin bool
	// Directory is the path of the directory with the volumes; "" for a pool that is none.
	Directory string
}

// Volume is one volume of the store.
type Volume struct {
	Name, Path string
	// Capacity and Allocation in bytes.
	Capacity, Allocation int64
}
