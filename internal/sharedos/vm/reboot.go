package vm

import (
	"context"
	"errors"
	"fmt"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
)

// Reboot implements Interface.
func (f *Fleet) Reboot(ctx context.Context, uuid string, ready Readiness, progress Progress) (*VM, error) {
	domain, state, err := f.Hypervisor.LookupUUID(ctx, uuid)
	if err != nil {
		return nil, fmt.Errorf("reboot VM %s: %w", uuid, err)
	}
	fail := func(err error) (*VM, error) { return nil, fmt.Errorf("reboot VM %q: %w", domain.Name, err) }
	if state != hypervisor.Running {
		return fail(hypervisor.ErrNotRunning)
	}
	known, err := f.observe(ctx, domain, state)
	if err != nil {
		return fail(err)
	}
	if known.diskGone {
		volume, err := f.diskOf(ctx, domain)
		return fail(errors.Join(err, diskGone(volume, f.Pool)))
	}
	if known.Answered && !known.Stack.Same(known.Configured) {
		// The guest boots what it runs now if the stack in its definition does not come up.
		running := known.Stack.WithoutLayers()
		domain.Metadata.Fallback = &running
	}
	known.Spec.Ready, known.Spec.leaveDisks, known.Spec.Interfaces = ready, true, domain.Interfaces
	// The guest keeps its configuration, also what of it no longer fits the definition.
	kept := known.Spec
	kept.Configuration = nil
	updated, _, err := f.change(ctx, kept, progress, func() (*agentapi.Report, float64, error) {
		spec := f.withAttached(ctx, domain, known.Spec, progress)
		return f.updateDefinition(ctx, domain, spec, Move{PowerOff: true, Start: true}, progress)
	}, func() error { return nil })
	if err != nil {
		return fail(err)
	}
	return updated, nil
}
