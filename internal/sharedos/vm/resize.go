package vm

import (
	"context"
	"errors"
	"fmt"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
)

const (
	// resizeLimit bounds how long a guest may take to release, or to take, processors or memory.
	resizeLimit = 2 * time.Minute
	// memoryReserve is how much memory in bytes a guest must have available after some was taken from it.
	memoryReserve = 64 << 20
)

// ErrMemoryInUse means that a guest needs memory that was to be taken from it.
var ErrMemoryInUse = errors.New("the guest has not enough memory available")

// resize gives a running VM the processors, the memory and the CPU shares of want. What the guest
// does not follow is taken back, so that the VM has what its definition says. The definition is
// changed afterwards; an update that is cut off in between does all of it again.
func (f *Fleet) resize(ctx context.Context, domain hypervisor.Domain, have, want Spec, move Move,
	progress Progress) error {
	if move.Memory {
		progress(fmt.Sprintf("changing the memory to %d MiB", want.Memory>>20))
		if err := f.resizeMemory(ctx, domain, have.Memory, want.Memory); err != nil {
			return fmt.Errorf("change the memory of the running VM: %w", err)
		}
	}
	if move.VCPUs {
		progress(fmt.Sprintf("changing the number of processors to %d", want.VCPUs))
		if err := f.resizeVCPUs(ctx, domain, have.VCPUs, want.VCPUs); err != nil {
			return fmt.Errorf("change the number of processors of the running VM: %w", err)
		}
	}
	if move.Shares {
		progress("changing the CPU shares")
		if err := f.Hypervisor.SetShares(ctx, domain.Name, want.Hardware.CPU.Shares); err != nil {
			return fmt.Errorf("change the CPU shares of the running VM: %w", err)
		}
	}
	return nil
}

// resizeMemory changes the memory. It takes none that the guest needs.
func (f *Fleet) resizeMemory(ctx context.Context, domain hypervisor.Domain, have, want int64) error {
	if want < have {
		answer, err := f.resources(ctx, domain, 0)
		if err != nil {
			return err
		}
		if left := answer.GetMemoryAvailable() - (have - want); left < memoryReserve {
			return fmt.Errorf(
				"%w: %d MiB are available, and it is to give up %d MiB and to keep %d MiB available; end something "+
					"in the guest, or set memory to more", ErrMemoryInUse, answer.GetMemoryAvailable()>>20,
				(have-want)>>20, memoryReserve>>20)
		}
	}
	limited, cancel := context.WithTimeout(ctx, resizeLimit)
	defer cancel()
	err := f.Hypervisor.SetMemory(limited, domain.Name, want)
	if errors.Is(err, hypervisor.ErrGuestKeeps) {
		back, cancel := context.WithTimeout(context.WithoutCancel(ctx), callLimit)
		defer cancel()
		return fmt.Errorf(
			"%w; it was given back what it had, as far as that was possible: %w; does the guest have the driver virtio_balloon?",
			err, orDone(f.Hypervisor.SetMemory(back, domain.Name, have)))
	}
	return err
}

// resizeVCPUs changes the number of processors, and checks that the guest's kernel has them.
func (f *Fleet) resizeVCPUs(ctx context.Context, domain hypervisor.Domain, have, want int) error {
	limited, cancel := context.WithTimeout(ctx, resizeLimit)
	defer cancel()
	err := f.Hypervisor.SetVCPUs(limited, domain.Name, want)
	if err == nil {
		var answer *agentapi.ResourcesResponse
		if answer, err = f.resources(ctx, domain, want); err == nil && int(answer.GetProcessors()) != want {
			err = fmt.Errorf("%w: its kernel has %d processors online, not %d", hypervisor.ErrGuestKeeps,
				answer.GetProcessors(), want)
		}
	}
	if err == nil {
		return nil
	}
	back, cancel := context.WithTimeout(context.WithoutCancel(ctx), callLimit)
	defer cancel()
	return fmt.Errorf("%w; setting it back to %d: %w", err, have,
		orDone(f.Hypervisor.SetVCPUs(back, domain.Name, have)))
}

// errDone stands for no error in a text that has a place for one.
var errDone = errors.New("done")

func orDone(err error) error {
	if err == nil {
		return errDone
	}
	return err
}

// resources asks the guest what its kernel has, after it has brought so many processors online, unless the number is 0.
func (f *Fleet) resources(ctx context.Context, domain hypervisor.Domain,
	processors int) (*agentapi.ResourcesResponse, error) {
	domain, _, err := f.Hypervisor.LookupUUID(ctx, domain.UUID) // the agent's key may have been pinned since
	if err != nil {
		return nil, err
	}
	agent, err := f.connectAndPin(ctx, domain)
	if err != nil {
		return nil, err
	}
	defer func() { _ = agent.Close() }() // its answer is read by then
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	answer, err := agent.Resources(ctx, &agentapi.ResourcesRequest{Processors: int32(processors)}) //nolint:gosec // at most 255
	if status.Code(err) == codes.Unimplemented {
		err = fmt.Errorf("%w: it cannot say what its kernel has", ErrOldAgent)
	}
	return answer, err
}

// readProcessors sets the processors in the specification of a VM that runs to those that it has.
// If its definition has another number, which only somebody else can have changed, that is a fault.
func (f *Fleet) readProcessors(ctx context.Context, found *VM) error {
	if found.Spec.MaxVCPUs == 0 {
		return nil
	}
	now, err := f.Hypervisor.VCPUsNow(ctx, found.Spec.Name)
	switch {
	case errors.Is(err, hypervisor.ErrNotRunning):
		return nil // it has ended meanwhile
	case err != nil:
		return fmt.Errorf("count its processors: %w", err)
	}
	if now != found.Spec.VCPUs {
		found.Faults = append(found.Faults,
			Fault{"vcpus", fmt.Sprintf("it runs with %d processors, and its definition has %d; the next apply "+
				"sets both", now, found.Spec.VCPUs), true})
		found.Spec.VCPUs = now
	}
	return nil
}
