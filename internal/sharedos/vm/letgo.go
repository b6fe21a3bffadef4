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

// collectLimit is what Fleet.CollectLimit is if it is not set. It is longer than the lease of a lock (store.Locker): what a
// process left that died on another host would never be taken over by those who wait for less.
const collectLimit = 45 * time.Second

// refersTo lists what a VM refers to in the store: in its definition, and as it runs.
func (f *Fleet) refersTo(ctx context.Context, domain hypervisor.Domain) ([]tree.Digest, error) {
	plugged, err := f.Hypervisor.AttachedLayers(ctx, domain.Name)
	if err != nil && !errors.Is(err, hypervisor.ErrNotFound) {
		return nil, fmt.Errorf("list the layers of VM %q: %w", domain.Name, err)
	}
	return append(uses(domain), plugged...), nil
}

// refers is refersTo of a VM's name.
func (f *Fleet) refers(ctx context.Context, name string) ([]tree.Digest, error) {
	domain, _, err := f.Hypervisor.Lookup(ctx, name)
	if err != nil {
		return nil, err
	}
	return f.refersTo(ctx, domain)
}

// leaving is what VMs let go that this process updates or deletes. The last one of those under way at once has it deleted: an
// apply may move a thousand VMs, and to find out what all others refer to takes as long as there are VMs.
type leaving struct {
	mu       sync.Mutex
	underWay int
	gone     map[tree.Digest]bool
	// all is true if one of them was gone already, so that it is not known what it had.
	all bool
	// users are the VMs that were once found to refer to something: one of them is asked before all are.
	users map[tree.Digest]map[string]bool
}

// begin tells that a VM is updated or deleted.
func (l *leaving) begin() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.underWay++
}

// end tells what a VM let go. It returns what all let go whose last one this is, and whether all is to be looked at.
func (l *leaving) end(gone []tree.Digest, all bool) (_ []tree.Digest, everything bool) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.underWay--
	l.all = l.all || all
	if l.gone == nil {
		l.gone = map[tree.Digest]bool{}
	}
	for _, id := range gone {
		l.gone[id] = true
	}
	if l.underWay > 0 {
		return nil, false
	}
	ids, everything := slices.Collect(maps.Keys(l.gone)), l.all
	l.gone, l.all = nil, false
	return ids, everything
}

// user names a VM that may refer to something; "" if none is known.
func (l *leaving) user(id tree.Digest) string {
	l.mu.Lock()
	defer l.mu.Unlock()
	for name := range l.users[id] {
		return name
	}
	return ""
}

// noUser notes that a VM does not refer to something.
func (l *leaving) noUser(id tree.Digest, name string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	delete(l.users[id], name)
}

// found notes what VMs were found to refer to.
func (l *leaving) found(inUse map[tree.Digest][]string) {
	users := make(map[tree.Digest]map[string]bool, len(inUse))
	for id, names := range inUse {
		users[id] = make(map[string]bool, len(names))
		for _, name := range names {
			users[id][name] = true
		}
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.users = users
}

// letGo lists what a VM referred to and refers to no more.
func (f *Fleet) letGo(ctx context.Context, name string, had []tree.Digest) []tree.Digest {
	if len(had) == 0 {
		return nil
	}
	has, err := f.refers(ctx, name)
	if err != nil {
		f.Log.WarnContext(ctx, "it is not known what the VM let go", "vm", name, "error", err)
		return nil
	}
	return slices.DeleteFunc(had, func(id tree.Digest) bool { return slices.Contains(has, id) })
}

// collect has deleted what nothing refers to, if no other VM is under way and that can be any of what was let go. What keeps it
// from that is for the user to know, and no failure of what was done to the VM.
func (f *Fleet) collect(ctx context.Context, gone []tree.Digest, all bool, progress Progress) error {
	gone, all = f.leaving.end(gone, all)
	if f.Collect == nil || len(gone) == 0 && !all {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(f.CollectLimit, collectLimit))
	defer cancel()
	if gone = f.unused(ctx, gone); len(gone) == 0 && !all {
		return nil
	}
	inUse, err := f.InUse(ctx)
	if err == nil {
		f.leaving.found(inUse)
		gone = slices.DeleteFunc(gone, func(id tree.Digest) bool { return len(inUse[id]) > 0 })
		if len(gone) == 0 && !all {
			return nil
		}
		progress("deleting what nothing needs any more")
		err = f.Collect(ctx)
	}
	if err != nil {
		return fmt.Errorf("%w: %s: %w", ErrRemains, digests(gone), err)
	}
	return nil
}

// unused leaves out what a VM refers to that was once found to: of a thousand VMs that are moved one by one, one is asked each
// time, and all only when it has moved, too.
func (f *Fleet) unused(ctx context.Context, ids []tree.Digest) []tree.Digest {
	asked := map[string][]tree.Digest{}
	return slices.DeleteFunc(ids, func(id tree.Digest) bool {
		for {
			name := f.leaving.user(id)
			if name == "" {
				return false
			}
			has, known := asked[name]
			if !known {
				var err error
				if has, err = f.refers(ctx, name); err != nil {
					has = nil // it is gone, or it is found out with all others
				}
				asked[name] = has
			}
			if slices.Contains(has, id) {
				return true
			}
			f.leaving.noUser(id, name)
		}
	})
}

// tellRemains tells what other VMs let go where something worse is to be returned.
func (f *Fleet) tellRemains(ctx context.Context, remains error) {
	if remains != nil {
		f.Log.WarnContext(ctx, "what VMs let go is not deleted", "error", remains)
	}
}

// digests names what is in the store.
func digests(ids []tree.Digest) string {
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
