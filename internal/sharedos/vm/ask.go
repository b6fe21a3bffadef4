package vm

import (
	"context"
	"fmt"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/transport"
)

// Agent connects to the agent of a running VM, for a caller that needs more than Read returns. The caller closes the
// connection. ErrNotFound if there is no such VM, ErrNoAnswer if it is off or its agent cannot be reached.
func (f *Fleet) Agent(ctx context.Context, name string) (*transport.Agent, error) {
	domain, state, err := f.Hypervisor.Lookup(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("reach the agent of VM %q: %w", name, err)
	}
	if state != hypervisor.Running {
		return nil, fmt.Errorf("reach the agent of VM %q: %w: the VM does not run", name, ErrNoAnswer)
	}
	agent, err := f.connect(ctx, domain)
	if err != nil {
		return nil, fmt.Errorf("reach the agent of VM %q: %w", name, err)
	}
	return agent, nil
}
