// Package publish turns a source into a release in the store: read, normalise, compare with the previous
// release, write a layer, sign a manifest, upload.
//
// Prepare does all that can be done without the store's contents changing and keeps the result in a cache on
// this machine, so that a plan can tell the release id and the apply after it only uploads.
package publish

import (
	"context"
	"crypto/ed25519"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

var (
	// ErrNotCached is returned by PrepareCached when the release would have to be built first.
	ErrNotCached = errors.New("not built yet")
	// ErrAccounts means that an account has another number than in the release before, so that files which VMs
	// keep in /var and /home would change owner.
	ErrAccounts = errors.New("accounts changed their numbers")
	// ErrMoved means that another release of the name was published since this one was prepared.
	ErrMoved = errors.New("another release was published meanwhile")
	// ErrSourceChanged means that a source was another one after it was read than before.
	ErrSourceChanged = errors.New("the source changed while it was read")
	// ErrUnknownVM means that nothing can be deleted, because the pool has private disks of VMs that this host does not know.
	ErrUnknownVM = errors.New("nothing is deleted, since VMs that this host does not know have private disks in the storage pool")
	// ErrDamagedStore means that the store lacks something that a release in it refers to.
	ErrDamagedStore = errors.New("the store lacks a part of a release")
)

// What a Publisher's zero values mean, and what it accepts.
const (
	// DefaultMaxChain is how many layers a release may have.
	DefaultMaxChain = 8
	// MostChain is the largest MaxChain. A VM can have 24 layers attached (hypervisor.MaxLayers), which has to do for the
	// stack that it runs and for what it is refreshed to.
	MostChain = 16
	// DefaultMaxDelta is how large a delta may be, in percent of the release's content.
	DefaultMaxDelta = 50
)

// Spec is a base as the user wants it.
type Spec struct {
	Name   string
	Source source.Source
	// PinAccounts gives accounts the numbers that they had in the release before, instead of refusing others.
	PinAccounts bool
}

// Store is what a Publisher uses of a store.
type Store interface {
	store.Objects
	store.Heads
	store.Locks
	// ListDisks lists the private disks, whose VMs may run releases (store.Disks).
	ListDisks(ctx context.Context) ([]store.Volume, error)
}

// Publisher publishes releases into one store, signed with one operator key.
type Publisher struct {
	Store Store
	// Cache is a directory on this machine for what was read and built.
	Cache string
	Key   ed25519.PrivateKey
	Log   *slog.Logger
	// Now is the clock; nil is the machine's.
	Now func() time.Time
	// MaxChain is how many layers a release may have before a full one is written again; 0 means DefaultMaxChain.
	MaxChain int
	// MaxDelta is how much of a release's content a delta may hold, in percent, before a full layer is written instead;
	// 0 means DefaultMaxDelta.
	MaxDelta int
	// Trusted are the keys of other operators whose releases are accepted and continued.
	Trusted []ed25519.PublicKey
	// Modules makes the modules archive of a release's kernel from the tree that the source yielded.
	Modules func(t *tree.Tree, kernelRelease string) ([]byte, error)

	// offers are the releases that this process prepared, as *Prepared by id.
	offers sync.Map
}

// Prepared is a release built in the cache and not yet in the store.
type Prepared struct {
	ID       tree.Digest
	Manifest *release.Manifest
	// Signed is the manifest as it goes into the store.
	Signed []byte
	// Change tells what differs from the previous release; nil for the first release.
	Change *Change
	// Unchanged is true when the tree equals the newest release's: ID is that release's.
	Unchanged bool
	// entry is where in the cache the release lies, for Publish to upload; empty when Unchanged.
	entry string
	// layer is false if the release needs no layer that the one before it did not have.
	layer bool
	// spec is what was asked for, and fingerprint its source's.
	spec        Spec
	fingerprint string
}

// Change tells what differs between two releases.
type Change struct {
	Added, Changed, Removed Count
	// LayerBytes counts the layer that was written, with its hash tree, be it a delta or a full one; 0 if none was
	// needed.
	LayerBytes int64
	// Rebase tells why a full layer was written instead of a delta; empty if it was not.
	Rebase string `json:",omitempty"`
	// Packages that differ; From or To is empty when the package was added or removed.
	Packages []PackageChange
	// KernelFrom and KernelTo are equal when the kernel stayed.
	KernelFrom, KernelTo string
	// Pinned accounts have their numbers of the release before and not those of the source, as texts of the form
	// "user www-data from 34 to 33".
	Pinned []string `json:",omitempty"`
}

// Count counts entries of a tree: files, directories and links. Bytes are those of the files' content: of removed ones
// as it was, of others as it is now.
type Count struct {
	Entries int
	Bytes   int64
}

func (c *Count) add(bytes int64) { c.Entries, c.Bytes = c.Entries+1, c.Bytes+bytes }

// PackageChange is one package that differs between two releases.
type PackageChange struct {
	Name, From, To string
}

// Interface is what the provider uses of a Publisher.
type Interface interface {
	// Prepare builds the release that follows the newest one of the name, or finds it in the cache.
	Prepare(ctx context.Context, spec Spec, progress source.Progress) (*Prepared, error)
	// PrepareCached is Prepare if nothing long has to be done for it, else ErrNotCached.
	PrepareCached(ctx context.Context, spec Spec) (*Prepared, error)
	// Publish uploads what the store lacks and makes the release the newest of its name. Safe to repeat.
	Publish(ctx context.Context, prepared *Prepared, progress source.Progress) error
	// Newest returns the newest release of a base; store.ErrNotFound if there is none.
	Newest(ctx context.Context, name string) (tree.Digest, *release.Manifest, error)
	// Get returns a release by id; store.ErrNotFound if there is none.
	Get(ctx context.Context, id tree.Digest) (*release.Manifest, error)
	// History returns the releases of a base, newest first; store.ErrNotFound if there is no such base.
	History(ctx context.Context, name string) ([]Recorded, error)
	// Usage tells what the pool holds, and what it would hold if nothing were shared. inUse is as in Delete.
	Usage(ctx context.Context, inUse InUse) (*Usage, error)
	// Retain drops all but the newest releases of a base and those that VMs refer to from its history, and deletes what
	// nothing refers to any more, whoever put it there. How many it is to keep is recorded in the pool, for Collect. It
	// returns what it dropped. inUse is as in Delete.
	Retain(ctx context.Context, name string, newest int, inUse InUse) (dropped []tree.Digest, err error)
	// Delete removes the base and its history and what nothing refers to any more. inUse names the VMs by the
	// releases that they run, and is asked while nobody else can change the store; a base that is in use is
	// store.ErrInUse.
	Delete(ctx context.Context, name string, inUse InUse) error
}
