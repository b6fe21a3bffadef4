package vm

import (
	"context"
	"encoding/json"
	"fmt"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
)

// identify has a running guest take on the host name and root's keys of spec. The definition, from which each boot takes them, is
// changed after that, so that an update which was cut off in between does it again. ErrNoAnswer if the agent does not answer, and
// ErrOldAgent if it cannot do that: then both take effect at the next power-off and start.
func (f *Fleet) identify(ctx context.Context, domain hypervisor.Domain, spec Spec, progress Progress) error {
	progress("changing the host name and root's keys in the guest")
	const do, atStart = "change the host name and root's keys in the running guest", "to have them changed at its next start instead, " +
		"apply with running = false first, and with running = true then"
	// The agent's key may have been pinned in the definition since this update began.
	domain, _, err := f.Hypervisor.LookupUUID(ctx, domain.UUID)
	if err != nil {
		return fmt.Errorf("%s: %w", do, err)
	}
	agent, err := f.connectAndPin(ctx, domain)
	if err != nil {
		return fmt.Errorf("%s: %w; %s", do, err, atStart)
	}
	defer func() { _ = agent.Close() }() // its answer is read by then
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	_, err = agent.Identify(ctx, &agentapi.IdentifyRequest{Hostname: spec.Hostname, AuthorizedKeys: spec.AuthorizedKeys})
	switch {
	case status.Code(err) == codes.Unimplemented:
		return fmt.Errorf("%s: %w; %s", do, ErrOldAgent, atStart)
	case err != nil:
		return fmt.Errorf("%s: %w", do, err)
	}
	return nil
}

// identifyAsBefore gives a running guest back the host name and root's keys of its definition, which could not be changed. Without that, it
// would keep others until its next power-off, which no plan shows.
func (f *Fleet) identifyAsBefore(ctx context.Context, domain hypervisor.Domain, progress Progress) error {
	var had agentapi.BootConfig
	if err := json.Unmarshal(domain.BootConfig, &had); err != nil {
		return fmt.Errorf("give the guest its host name and root's keys back: read its boot configuration: %w", err)
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*callLimit)
	defer cancel()
	if err := f.identify(ctx, domain, Spec{Hostname: had.Hostname, AuthorizedKeys: had.AuthorizedKeys}, progress); err != nil {
		return fmt.Errorf("give the guest its host name and root's keys back: %w", err)
	}
	return nil
}
