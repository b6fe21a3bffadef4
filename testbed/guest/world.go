package guest

import (
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"log/slog"
	"path/filepath"
	"testing"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/host"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/publish"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/debian"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
	"github.com/sharedos/terraform-provider-sharedos/testbed"
)

// publishLimit bounds the publishing of one release.
const publishLimit = 20 * time.Minute

// World is a libvirt of its own, with the parts that publish and run releases in it.
type World struct {
	Bed  *testbed.Testbed
	Host *host.Host
	// Operator signs releases, and agents accept connections with it.
	Operator ed25519.PrivateKey
	Key      *Key
	// Debian is the operating system of the releases; New and Open set it to Trixie.
	Debian Debian
	// Expected is how long a VM is expected to hold its guest slot. Of the tests that wait for a slot, the one that
	// expects to hold it longest gets it first.
	Expected time.Duration
	// KeepLogin has VM.Run keep its SSH connection, because each login costs an emulated guest a second of its
	// processor. sshd's process for the connection keeps the layers in use that it was started from. So a test that
	// detaches these, or looks for processes with old code, does without.
	KeepLogin bool
	// Tell is called with each step; it is not nil.
	Tell func(step string)
}

// Open makes a world in a testbed. Close it before the testbed.
func Open(ctx context.Context, bed *testbed.Testbed, tell func(step string)) (*World, error) {
	return open(ctx, bed, "", tell)
}

// open is Open with an existing storage pool; "" makes one.
func open(ctx context.Context, bed *testbed.Testbed, pool string, tell func(step string)) (*World, error) {
	cache, err := testbed.CacheDir()
	if err != nil {
		return nil, err
	}
	w := &World{Bed: bed, Debian: Trixie, Tell: tell}
	if w.Key, err = NewKey(); err != nil {
		return nil, err
	}
	key := filepath.Join(bed.Dir(), "operator.key")
	if w.Operator, err = release.LoadOrCreateKey(key); err != nil {
		return nil, err
	}
	w.Host, err = host.Open(ctx, host.Config{
		URI: bed.URI(), Pool: pool, PoolPath: filepath.Join(bed.Dir(), "pool"), OperatorKey: key, Cache: cache,
		StateDir: bed.StateDir(),
		Log:      slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return nil, fmt.Errorf("open a world in %s: %w", bed.Dir(), err)
	}
	return w, nil
}

// New makes a world for a test, which ends with it.
func New(t testing.TB) *World {
	t.Helper()
	return On(t, testbed.New(t), "")
}

// On is New with a testbed and a storage pool that exist already.
func On(t testing.TB, bed *testbed.Testbed, pool string) *World {
	t.Helper()
	w, err := open(t.Context(), bed, pool, func(step string) { t.Log(step) })
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := w.Close(); err != nil {
			t.Errorf("close the world: %v", err)
		}
	})
	return w
}

// Close ends the connections. VMs go on running until the testbed is closed.
func (w *World) Close() error { return w.Host.Close() }

// Publish publishes the next release of a base: w.Debian with the additional suites (Plain or Updated) and the
// edits.
func (w *World) Publish(ctx context.Context, base string, suites []string, edits ...Edit) (tree.Digest, error) {
	path, err := w.Debian.Tar(ctx, suites) // not bounded here: other tests may have it made first
	if err != nil {
		return tree.Digest{}, err
	}
	ctx, cancel := context.WithTimeout(ctx, publishLimit)
	defer cancel()
	last := ""
	progress := func(step string, _, _ int64) {
		if step != last {
			last = step
			w.Tell("release of " + base + ": " + step)
		}
	}
	spec := publish.Spec{Name: base, Source: &edited{path: path, edits: edits}}
	prepared, err := w.Host.Publisher.Prepare(ctx, spec, progress)
	if err == nil {
		err = w.Host.Publisher.Publish(ctx, prepared, progress)
	}
	if err != nil {
		return tree.Digest{}, fmt.Errorf("publish a release of %s: %w", base, err)
	}
	return prepared.ID, nil
}

// Component publishes the next release of a component on a release of a base.
func (w *World) Component(ctx context.Context, name string, on tree.Digest,
	addition source.Addition) (tree.Digest, error) {
	ctx, cancel := context.WithTimeout(ctx, publishLimit)
	defer cancel()
	last := ""
	progress := func(step string, _, _ int64) {
		if step != last {
			last = step
			w.Tell("release of component " + name + ": " + step)
		}
	}
	publisher := w.Host.Publisher.Components()
	prepared, err := publisher.Prepare(ctx, publish.Spec{Name: name, BuiltOn: on, Addition: addition}, progress)
	if err == nil {
		err = publisher.Publish(ctx, prepared, progress)
	}
	if err != nil {
		return tree.Digest{}, fmt.Errorf("publish a release of component %s: %w", name, err)
	}
	return prepared.ID, nil
}

// Packages are the packages of w.Debian that a component adds, with additional suites.
func (w *World) Packages(suites []string, names ...string) (source.Addition, error) {
	cache, err := testbed.CacheDir()
	if err != nil {
		return nil, err
	}
	return debian.Addition{Source: &debian.Source{
		Suite: w.Debian.Suite, AdditionalSuites: suites, Packages: names, CacheDir: filepath.Join(cache, "debian"),
	}}, nil
}

// Releases publishes one release of a base for each list of edits, all of the same suites, in order.
func (w *World) Releases(ctx context.Context, base string, suites []string, each ...[]Edit) ([]tree.Digest, error) {
	ids := make([]tree.Digest, 0, len(each))
	for _, edits := range each {
		id, err := w.Publish(ctx, base, suites, edits...)
		if err != nil {
			return nil, err
		}
		for _, before := range ids {
			if before == id {
				return nil, errors.New("two of the releases are the same one: their edits change nothing")
			}
		}
		ids = append(ids, id)
	}
	return ids, nil
}
