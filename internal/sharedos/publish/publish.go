// Package publish makes a release from a source and stores it: it reads and normalises the source, compares it with the
// previous release, writes a layer, signs a manifest and uploads them.
//
// Prepare does everything that does not change the store, and keeps the result in a cache on this machine. So a plan
// knows the id of the release, and the apply after it only uploads.
package publish

import (
	"context"
	"crypto/ed25519"
	"errors"
	"log/slog"
	"sync"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/compose"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/rootfs"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

var (
	// ErrNotCached means that the release has to be built first, which PrepareCached does not do.
	ErrNotCached = errors.New("not built yet")
	// ErrAccounts means that an account has another number than in the previous release. Files of VMs in /var and /home
	// would change their owner.
	ErrAccounts = errors.New("accounts changed their numbers")
	// ErrMoved means that another release of the base was published after this one was prepared.
	ErrMoved = errors.New("another release was published meanwhile")
	// ErrSourceChanged means that a source changed while it was read.
	ErrSourceChanged = errors.New("the source changed while it was read")
	// ErrUnknownVM means that nothing can be deleted, because the store has private disks of VMs that this host does
	// not know. These VMs may use any release.
	ErrUnknownVM = errors.New(
		"nothing is deleted, because the storage pool has private disks of VMs that this host does not know")
	// ErrDamagedStore means that the store lacks something that a release in it refers to.
	ErrDamagedStore = errors.New("the store lacks a part of a release")
)

// Defaults and limits of a Publisher.
const (
	// DefaultMaxChain is the default of MaxChain.
	DefaultMaxChain = 8
	// MostChain is the largest MaxChain. A VM can have 24 layers attached (hypervisor.MaxLayers). During a refresh
	// these are the layers of two stacks.
	MostChain = 16
	// DefaultMaxDelta is the default of MaxDelta.
	DefaultMaxDelta = 50
)

// Spec is a base or a component as the user wants it.
type Spec struct {
	Name string
	// Source of a base; nil for a component.
	Source source.Source
	// BuiltOn is the base release that a component is built on, published or prepared by this process. Addition is what
	// the component adds to it.
	BuiltOn  tree.Digest
	Addition source.Addition
	// joined are the components that a joining layer joins.
	joined []tree.Digest
	// standsFor is the component of a stand-in layer, and stacks are those of an offer.
	standsFor tree.Digest
	stacks    []compose.OfferedStack
	// prefer are the preferences that settle something among them.
	prefer []release.Preference
	// PinAccounts gives accounts the numbers that they have in the previous release. Otherwise other numbers are
	// refused.
	PinAccounts bool
	// SharedSecrets are absolute paths of files that look like secrets that the build has made, and that the release is
	// to have nevertheless.
	SharedSecrets []string
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
	// Cache is a directory on this machine for builds.
	Cache string
	Key   ed25519.PrivateKey
	Log   *slog.Logger
	// Now is the clock; nil is the machine's.
	Now func() time.Time
	// MaxChain is how many layers a release may have. The next layer after that is a full one. 0 is DefaultMaxChain.
	MaxChain int
	// MaxDelta is how much of a release's content a delta may have, in percent. If it had more, a full layer is
	// written. 0 is DefaultMaxDelta.
	MaxDelta int
	// Trusted are the keys of other operators, whose releases are accepted, too.
	Trusted []ed25519.PublicKey
	// Modules packs the modules of a release's kernel, from the tree of the source, into an archive.
	Modules func(t *tree.Tree, kernelRelease string) ([]byte, error)

	// bases is the publisher of bases if this one publishes releases of another kind, which is publishes; nil if this
	// one publishes bases.
	bases     *Publisher
	publishes release.Kind
	// offers are the releases that this process prepared, as *Prepared by id. A publisher of components uses those of
	// bases.
	offers sync.Map
}

// Components returns the publisher of components into the same store. Its methods do for components what those of p do
// for bases. Both offer the releases of both.
func (p *Publisher) Components() *Publisher { return p.of(release.Component) }

// of returns the publisher of releases of another kind.
func (p *Publisher) of(kind release.Kind) *Publisher {
	return &Publisher{
		Store: p.Store, Cache: p.Cache, Key: p.Key, Log: p.Log, Now: p.Now, Trusted: p.Trusted,
		bases: p, publishes: kind,
	}
}

// kind is the kind of the releases that it publishes.
func (p *Publisher) kind() release.Kind {
	if p.bases != nil {
		return p.publishes
	}
	return release.Base
}

// offered are the releases that this process prepared.
func (p *Publisher) offered() *sync.Map {
	if p.bases != nil {
		return p.bases.offered()
	}
	return &p.offers
}

// Prepared is a release built in the cache and not yet in the store.
type Prepared struct {
	ID       tree.Digest
	Manifest *release.Manifest
	// Signed is the signed manifest.
	Signed []byte
	// Change is the difference from the previous release; nil for the first release. For a component, it is what the
	// component adds to its base.
	Change *Change
	// Secrets are files that the build has made and that the release does not have.
	Secrets []rootfs.Secret
	// Notes say what was corrected in what the source yields, one path and correction in each.
	Notes []string
	// Unchanged is true if the tree is that of the newest release, whose id is ID.
	Unchanged bool
	// Fingerprint is that of the source (source.Source).
	Fingerprint string
	// Owner is the Terraform state that publishes it (Interface.Owner), set by the caller; ""
	// leaves the owner as it is recorded.
	Owner string
	// entry is the release's directory in the cache, which Publish uploads; empty if Unchanged.
	entry string
	// layer is true if the release has a layer that the previous one does not have.
	layer bool
	// spec is what was prepared.
	spec Spec
}

// Change is the difference between two releases.
type Change struct {
	// Added, Changed and Removed count what reaches a VM that runs the old release.
	Added, Changed, Removed Count
	// VMOwned counts the paths that differ and are the VM's own (tree.OwnedByVM): an existing VM keeps its version of
	// them. VMOwnedPaths are the first of them, at most MaxVMOwnedPaths.
	VMOwned      int      `json:",omitempty"`
	VMOwnedPaths []string `json:",omitempty"`
	// LayerBytes is the size of the new layer with its hash tree, whether it is a delta or a full one; 0 if there is
	// none.
	LayerBytes int64
	// Rebase is why a full layer was written instead of a delta; empty if it was not.
	Rebase string `json:",omitempty"`
	// Packages that differ. From is empty if the package was added, and To if it was removed.
	Packages []PackageChange
	// KernelFrom and KernelTo are equal if the kernel did not change.
	KernelFrom, KernelTo string
	// Pinned are the accounts that have the numbers of the previous release instead of those of the source, in the form
	// "user www-data from 34 to 33".
	Pinned []string `json:",omitempty"`
}

// MaxVMOwnedPaths is how many paths a Change names that stay the VM's own. All are counted.
const MaxVMOwnedPaths = 20

// Count counts entries of a tree: files, directories and links. Bytes is the size of the files' content, for removed
// files before the change, and for others after it.
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
	// Fingerprint identifies the input of a release, as Prepared.Fingerprint does. It builds nothing.
	Fingerprint(ctx context.Context, spec Spec) (string, error)
	// Inputs describes the parts of the input that can change by themselves, by names for a user; nil if the source has
	// only one.
	Inputs(ctx context.Context, spec Spec) (map[string]string, error)
	// Prepare builds the release that follows the newest release of the base, or finds it in the cache. It changes
	// nothing in the store, so that a plan may call it.
	Prepare(ctx context.Context, spec Spec, progress source.Progress) (*Prepared, error)
	// PrepareCached is Prepare without building: ErrNotCached if the cache does not have the release.
	PrepareCached(ctx context.Context, spec Spec) (*Prepared, error)
	// Publish uploads what the store lacks, and makes the release the newest of its base. It is safe to repeat.
	Publish(ctx context.Context, prepared *Prepared, progress source.Progress) error
	// Names returns the names of all bases, sorted; store.ErrNotFound if there is no pool yet.
	Names(ctx context.Context) ([]string, error)
	// Newest returns the newest release of a base; store.ErrNotFound if there is none.
	Newest(ctx context.Context, name string) (tree.Digest, *release.Manifest, error)
	// Get returns a release by id; store.ErrNotFound if there is none.
	Get(ctx context.Context, id tree.Digest) (*release.Manifest, error)
	// Offered returns a release that this process prepared, whether it is published or not; nil if it is another one.
	Offered(id tree.Digest) *release.Manifest
	// History returns the releases of a base, newest first; store.ErrNotFound if there is no such base.
	History(ctx context.Context, name string) ([]Recorded, error)
	// Owner returns whom a base belongs to; store.ErrNotFound if there is no such base, ErrMaking
	// if another process of this operator makes it now.
	Owner(ctx context.Context, name string) (Ownership, error)
	// Made records that a base was made for an owner, which gets it into its state next. SetOwner
	// follows when that is certain.
	Made(ctx context.Context, name, owner string) error
	// SetOwner records that a base belongs to a Terraform state, which has it: it is handed over,
	// or its creation is complete.
	SetOwner(ctx context.Context, name, owner string) error
	// Abandon records that the process which made a base for an owner has given up, so that the
	// next creation continues it.
	Abandon(ctx context.Context, name, owner string) error
	// Verify reads all that the releases of a base refer to, or those of all bases if name is "",
	// and compares it with their ids. store.ErrNotFound if there is no such base.
	Verify(ctx context.Context, name string) (*Verified, error)
	// Usage measures what the store holds, and what it would hold if nothing were shared. inUse is as in Delete.
	Usage(ctx context.Context, inUse InUse) (*Usage, error)
	// Retain removes releases from the history of a base, except for the newest and those that VMs refer
	// to. Then it deletes all unreferenced objects in the store, of all operators. It records newest in
	// the store, for Collect, and returns the releases that it removed. inUse is as in Delete.
	Retain(ctx context.Context, name string, newest int, inUse InUse) (dropped []tree.Digest, err error)
	// Delete removes the history of a base and deletes all unreferenced objects. It calls inUse while nobody else can
	// change the store. store.ErrInUse if a VM refers to a release of the base.
	Delete(ctx context.Context, name string, inUse InUse) error
}
