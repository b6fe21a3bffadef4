package vm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// collectLimit is the default of Fleet.CollectLimit. It is longer than the lease of a lock (store.Locker): a shorter
// wait could never take over the lock that a process left when it died on another host.
const collectLimit = 45 * time.Second

// refersTo lists what a VM refers to in the store: by its definition, and by the layers that it has attached.
func (f *Fleet) refersTo(ctx context.Context, domain hypervisor.Domain) ([]tree.Digest, error) {
	plugged, err := f.Hypervisor.AttachedLayers(ctx, domain.Name)
	if err != nil && !errors.Is(err, hypervisor.ErrNotFound) {
		return nil, fmt.Errorf("list the layers of VM %q: %w", domain.Name, err)
	}
	return append(uses(domain), plugged...), nil
}

// refers is refersTo for a VM's name.
func (f *Fleet) refers(ctx context.Context, name string) ([]tree.Digest, error) {
	domain, _, err := f.Hypervisor.Lookup(ctx, name)
	if err != nil {
		return nil, err
	}
	return f.refersTo(ctx, domain)
}

// garbage gathers what the VMs that this process updates or deletes no longer refer to. The last of the operations that
// run at the same time collects it: an apply may change a thousand VMs, and to list what all other VMs refer to takes
// as long as there are VMs.
type garbage struct {
	mu       sync.Mutex
	running  int
	released map[tree.Digest]bool
	// everything is true if a VM was gone already, so that nobody knows what it referred to.
	everything bool
	// users are the VMs that were last found to refer to something. One of them is asked before all are.
	users map[tree.Digest]map[string]bool
}

// begin counts an operation that starts.
func (g *garbage) begin() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.running++
}

// end counts an operation that ends, and adds what it released. For the last operation it returns what all have
// released.
func (g *garbage) end(released []tree.Digest, everything bool) (_ []tree.Digest, all bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.running--
	g.everything = g.everything || everything
	if g.released == nil {
		g.released = map[tree.Digest]bool{}
	}
	for _, id := range released {
		g.released[id] = true
	}
	if g.running > 0 {
		return nil, false
	}
	ids, all := slices.Collect(maps.Keys(g.released)), g.everything
	g.released, g.everything = nil, false
	return ids, all
}

// user returns the name of a VM that may refer to something; "" if none is known.
func (g *garbage) user(id tree.Digest) string {
	g.mu.Lock()
	defer g.mu.Unlock()
	for name := range g.users[id] {
		return name
	}
	return ""
}

// forget removes a VM from the users of something.
func (g *garbage) forget(id tree.Digest, name string) {
	g.mu.Lock()
	defer g.mu.Unlock()
	delete(g.users[id], name)
}

// remember replaces the users of everything.
func (g *garbage) remember(inUse map[tree.Digest][]string) {
	users := make(map[tree.Digest]map[string]bool, len(inUse))
	for id, names := range inUse {
		users[id] = make(map[string]bool, len(names))
		for _, name := range names {
			users[id][name] = true
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	g.users = users
}

// released lists what a VM referred to before and does not refer to now.
func (f *Fleet) released(ctx context.Context, name string, before []tree.Digest) []tree.Digest {
	if len(before) == 0 {
		return nil
	}
	now, err := f.refers(ctx, name)
	if err != nil {
		f.Log.WarnContext(ctx, "unable to list what the VM no longer refers to", "vm", name, "error", err)
		return nil
	}
	return slices.DeleteFunc(before, func(id tree.Digest) bool { return slices.Contains(now, id) })
}

// collect ends an operation that released something. If it is the last one that runs, and no VM refers to some of what
// was released, collect deletes everything in the store that nothing refers to. An error matches ErrNotCollected: the
// operation itself has succeeded.
func (f *Fleet) collect(ctx context.Context, released []tree.Digest, everything bool, progress Progress) error {
	released, everything = f.garbage.end(released, everything)
	if f.Collect == nil || len(released) == 0 && !everything {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(f.CollectLimit, collectLimit))
	defer cancel()
	if released = f.withoutKnownUsers(ctx, released); len(released) == 0 && !everything {
		return nil
	}
	inUse, err := f.InUse(ctx)
	if err == nil {
		f.garbage.remember(inUse)
		released = slices.DeleteFunc(released, func(id tree.Digest) bool { return len(inUse[id]) > 0 })
		if len(released) == 0 && !everything {
			return nil
		}
		progress("deleting unreferenced volumes")
		err = f.Collect(ctx)
	}
	if err != nil {
		return fmt.Errorf("%w: %s: %w", ErrNotCollected, describeDigests(released), err)
	}
	return nil
}

// withoutKnownUsers leaves out what a VM still refers to that was found to refer to it earlier. When a thousand VMs are
// changed one after the other, each time only one of them is asked, until that one has changed, too.
func (f *Fleet) withoutKnownUsers(ctx context.Context, ids []tree.Digest) []tree.Digest {
	asked := map[string][]tree.Digest{}
	return slices.DeleteFunc(ids, func(id tree.Digest) bool {
		for {
			name := f.garbage.user(id)
			if name == "" {
				return false
			}
			has, known := asked[name]
			if !known {
				var err error
				if has, err = f.refers(ctx, name); err != nil {
					has = nil // the VM is gone, or InUse reports the error
				}
				asked[name] = has
			}
			if slices.Contains(has, id) {
				return true
			}
			f.garbage.forget(id, name)
		}
	})
}

// logNotCollected logs a failed collection when the operation itself returns another error.
func (f *Fleet) logNotCollected(ctx context.Context, err error) {
	if err != nil {
		f.Log.WarnContext(ctx, "unreferenced volumes were not deleted", "error", err)
	}
}

// describeDigests names volumes in the store.
func describeDigests(ids []tree.Digest) string {
	if len(ids) == 0 {
		return "what the VM ran"
	}
	texts := make([]string, len(ids))
	for i, id := range ids {
		texts[i] = id.String()
	}
	slices.Sort(texts)
	return strings.Join(slices.Compact(texts), ", ")
}
