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

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// ErrNotCached is returned by PrepareCached when the release would have to be built first.
var ErrNotCached = errors.New("not built yet")

// Spec is a base as the user wants it.
type Spec struct {
	Name   string
	Source source.Source
}

// Publisher publishes releases into one store, signed with one operator key.
type Publisher struct {
	Store store.Store
	// Cache is a directory on this machine for what was read and built.
	Cache string
	Key   ed25519.PrivateKey
	Log   *slog.Logger
	// MaxChain is how many layers a release may have before a full one is written again; 0 means 8.
	MaxChain int
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
	// files in the cache, by digest, that Publish uploads
	files map[tree.Digest]string
}

// Change tells what differs between two releases.
type Change struct {
	Added, Changed, Removed int
	// ChangedBytes counts the content of added and changed files; DeltaBytes the layer written for them.
	ChangedBytes, DeltaBytes int64
	// Packages that differ; From or To is empty when the package was added or removed.
	Packages []PackageChange
	// KernelFrom and KernelTo are equal when the kernel stayed.
	KernelFrom, KernelTo string
}

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
	// Delete removes the base and its history and what nothing refers to any more. inUse names the VMs by the
	// releases that they run; a base that is in use is store.ErrInUse.
	Delete(ctx context.Context, name string, inUse map[tree.Digest][]string) error
}
