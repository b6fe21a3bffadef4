package vm

import (
	"context"
	"fmt"
	"net"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
)

// Dial implements Interface.
func (f *Fleet) Dial(ctx context.Context, uuid string, port uint32) (net.Conn, error) {
	domain, state, err := f.Hypervisor.LookupUUID(ctx, uuid)
	if err != nil {
		return nil, fmt.Errorf("reach VM %s: %w", uuid, err)
	}
	fail := func(err error) (net.Conn, error) {
		return nil, fmt.Errorf("reach port %d of the vsock of VM %q: %w", port, domain.Name, err)
	}
	if state != hypervisor.Running {
		return fail(hypervisor.ErrNotRunning)
	}
	ctx, cancel := context.WithTimeout(ctx, connectLimit)
	defer cancel()
	dialer, err := f.Hypervisor.Dialer(ctx, domain.Name)
	if err != nil {
		return fail(err)
	}
	conn, err := dialer.DialContext(ctx, port)
	if err != nil {
		return fail(err)
	}
	return conn, nil
}
