package vm

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
)

// Listed is one VM of List.
type Listed struct {
	Name, UUID string
	State      hypervisor.State
	// VM is nil if the VM could not be read. Err says why. It does not mean that the VM is gone.
	VM  *VM
	Err error
}

// readAtOnce is how many VMs List reads at the same time. One whose agent does not answer takes connectLimit.
const readAtOnce = 32

// List implements Interface.
func (f *Fleet) List(ctx context.Context) ([]Listed, error) {
	domains, err := f.Hypervisor.Inventory(ctx)
	if err != nil {
		return nil, fmt.Errorf("list the VMs: %w", err)
	}
	domains = slices.DeleteFunc(domains, func(one hypervisor.Listed) bool {
		return one.Damaged == nil && one.Metadata.Pool != f.Pool
	})
	all := make([]Listed, len(domains))
	turns := make(chan struct{}, readAtOnce)
	var wait sync.WaitGroup
	for i, one := range domains {
		all[i] = Listed{Name: one.Name, UUID: one.UUID, State: one.State, Err: one.Damaged}
		if one.Damaged != nil {
			continue
		}
		wait.Go(func() {
			turns <- struct{}{}
			defer func() { <-turns }()
			all[i].VM, all[i].Err = f.observe(ctx, one.Domain, one.State)
		})
	}
	wait.Wait()
	if err := ctx.Err(); err != nil {
		return nil, fmt.Errorf("list the VMs: %w", err)
	}
	slices.SortFunc(all, func(a, b Listed) int { return cmp.Compare(a.Name, b.Name) })
	return all, nil
}
