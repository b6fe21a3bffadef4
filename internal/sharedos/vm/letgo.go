package vm

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// collectLimit is what Fleet.CollectLimit is if it is not set.
const collectLimit = 30 * time.Second

// refersTo lists what a VM refers to in the store: in its definition, and as it runs.
func (f *Fleet) refersTo(ctx context.Context, domain hypervisor.Domain) ([]tree.Digest, error) {
	plugged, err := f.Hypervisor.Plugged(ctx, domain.Name)
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

// letGo has what a VM referred to, and refers to no more, deleted if nothing else refers to it. What keeps it from that is for
// the user to know, and no failure of what was done to the VM.
func (f *Fleet) letGo(ctx context.Context, name string, had []tree.Digest, progress Progress) error {
	has, err := f.refers(ctx, name)
	if err != nil {
		return fmt.Errorf("%w: %w", ErrRemains, err)
	}
	gone := slices.DeleteFunc(had, func(id tree.Digest) bool { return slices.Contains(has, id) })
	if len(gone) == 0 {
		return nil
	}
	return f.collect(ctx, gone, progress)
}

// collect deletes what nothing refers to, if that can be any of what a VM let go: of a hundred VMs that are moved, the last
// one has the pool to itself for it. Of a VM that was gone already nothing is known, and all is looked at.
func (f *Fleet) collect(ctx context.Context, gone []tree.Digest, progress Progress) error {
	if f.Collect == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, cmp.Or(f.CollectLimit, collectLimit))
	defer cancel()
	inUse, err := f.InUse(ctx)
	if err == nil {
		known := len(gone) > 0
		gone = slices.DeleteFunc(gone, func(id tree.Digest) bool { return len(inUse[id]) > 0 })
		if known && len(gone) == 0 {
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
