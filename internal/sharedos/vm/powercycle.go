package vm

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/transport"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// errDeferred means that the strategy does not allow what a refresh needs.
var errDeferred = errors.New("the new stack takes effect at the next power-off and start")

// needsPowerCycle means that the guest has done its part of a refresh, and that the host has to power the VM off and
// start it now. from is the stack that the guest runs.
type needsPowerCycle struct{ from release.Stack }

func (n *needsPowerCycle) Error() string { return "the VM waits until it is powered off and started" }

// waitsForHost reports whether a guest waits to be powered off and started with the target of its refresh.
func waitsForHost(status *agentapi.StatusResponse) bool {
	last := status.GetLast()
	return status.GetState() == agentapi.State_STARTING && !last.GetDone() && last.GetStrategy() == Reboot &&
		!sameStack(last.GetTo(), status.GetStack())
}

// sameStack reports whether two stacks that an agent names are one; it is false if either is none.
func sameStack(a, b *agentapi.Stack) bool {
	first, errFirst := agentapi.ParseStack(a)
	second, errSecond := agentapi.ParseStack(b)
	return errFirst == nil && errSecond == nil && first.Same(second)
}

// powerCycle powers the VM off and starts it with the stack of spec. If that fails, it starts the VM with the stack
// from before.
func (f *Fleet) powerCycle(ctx context.Context, spec Spec, from release.Stack,
	progress Progress) (*agentapi.Report, float64, error) {
	if err := f.stop(ctx, spec.Name, progress); err != nil {
		return nil, 0, err
	}
	err := f.detachAtStart(ctx, spec)
	if err == nil {
		err = f.define(ctx, spec, progress, from)
	}
	if err != nil {
		return nil, 0, errors.Join(err, f.rollBack(ctx, spec, from, progress))
	}
	report, ready, err := f.startTrial(ctx, spec, progress)
	switch {
	case err == nil:
		return report, ready, nil
	case ctx.Err() != nil:
		return report, 0, fmt.Errorf("the VM continues the refresh by itself; apply again to see the result: %w", err)
	}
	return report, 0, errors.Join(err, f.rollBack(ctx, spec, from, progress))
}

// startTrial starts the VM. If the definition has a fallback, the guest goes on with a refresh: startTrial waits until
// that has ended, and then detaches the layers of the fallback.
func (f *Fleet) startTrial(ctx context.Context, spec Spec, progress Progress) (*agentapi.Report, float64, error) {
	ready, err := f.start(ctx, spec.Name, progress)
	if err != nil {
		return nil, 0, err
	}
	domain, _, err := f.Hypervisor.Lookup(ctx, spec.Name)
	if err != nil {
		return nil, ready, err
	}
	if domain.Metadata.Fallback == nil {
		return nil, ready, nil
	}
	status, err := f.settled(ctx, spec.Name, progress)
	if err != nil {
		return nil, ready, err
	}
	stack, err := f.wanted(ctx, spec)
	if err != nil {
		return nil, ready, err
	}
	report, err := outcome(status, stack.Stack, spec)
	if err != nil {
		return report, ready, err
	}
	if err := f.dropFallback(ctx, spec.Name, progress); err != nil {
		return report, ready, err
	}
	return report, ready, nil
}

// rollBack defines the VM with the stack from before, its kernel included, and starts it.
func (f *Fleet) rollBack(ctx context.Context, spec Spec, from release.Stack, progress Progress) error {
	progress("rolling back to the stack from before")
	spec.setStack(from)
	if err := f.stop(ctx, spec.Name, progress); err != nil {
		return fmt.Errorf("roll back to base %s: %w", from.Base, err)
	}
	err := f.define(ctx, spec, progress)
	if err == nil {
		_, err = f.start(ctx, spec.Name, progress)
	}
	if err != nil {
		return fmt.Errorf("roll back to base %s: %w", from.Base, err)
	}
	return nil
}

// reset powers a machine off and starts it when its new kernel does not answer. The definition still names the old
// kernel, and the guest boots the stack that it has committed.
func (f *Fleet) reset(ctx context.Context, name string, cause error,
	progress Progress) (*agentapi.StatusResponse, error) {
	f.Log.WarnContext(ctx, "the machine is reset", "vm", name, "error", cause)
	progress("powering off and starting: the new kernel does not answer")
	if err := f.Hypervisor.PowerOff(ctx, name); err != nil {
		return nil, errors.Join(cause, err)
	}
	if _, err := f.start(ctx, name, progress); err != nil {
		return nil, errors.Join(cause, err)
	}
	return f.settled(ctx, name, progress)
}

// attachFallback adds the layers of other stacks to a domain that is to be defined, and records the last of these
// stacks as its fallback.
func (f *Fleet) attachFallback(ctx context.Context, domain *hypervisor.Domain, fallbacks []release.Stack) error {
	for _, stack := range fallbacks {
		var missing []release.Layer
		for _, layer := range stack.Layers {
			if !slices.ContainsFunc(domain.Layers, func(l hypervisor.LayerDevice) bool { return l.ID == layer.ID }) {
				missing = append(missing, layer)
			}
		}
		disks, err := f.layerDevices(ctx, missing)
		if err != nil {
			return err
		}
		domain.Layers = append(domain.Layers, disks...)
		record := stack.WithoutLayers()
		domain.Metadata.Fallback = &record
	}
	if len(domain.Layers) > hypervisor.MaxLayers { // what is offered can be attached later, by the next update
		own := domain.Metadata.Stack.Layers
		offered := domain.Metadata.Offer.LayerIDs()
		domain.Layers = slices.DeleteFunc(domain.Layers, func(l hypervisor.LayerDevice) bool {
			needed := slices.ContainsFunc(slices.Concat(own, fallbackLayers(fallbacks)),
				func(s release.Layer) bool { return s.ID == l.ID })
			return !needed && slices.Contains(offered, l.ID)
		})
	}
	return nil
}

func fallbackLayers(stacks []release.Stack) (all []release.Layer) {
	for _, stack := range stacks {
		all = append(all, stack.Layers...)
	}
	return all
}

// fallback is the stack that a domain was defined to fall back to; none if its releases are gone.
func (f *Fleet) fallback(ctx context.Context, domain hypervisor.Domain) []release.Stack {
	recorded := domain.Metadata.Fallback
	if recorded == nil {
		return nil
	}
	stack, err := f.stack(ctx, recipeOf(*recorded))
	if err != nil {
		f.Log.WarnContext(ctx, "there is no stack to fall back to", "vm", domain.Name, "error", err)
		return nil
	}
	return []release.Stack{stack.Stack}
}

// dropFallback removes the stack that a VM would have fallen back to from its definition, and detaches its layers.
func (f *Fleet) dropFallback(ctx context.Context, name string, progress Progress) error {
	if err := f.setMetadata(ctx, name, func(m *hypervisor.Metadata) { m.Fallback = nil }); err != nil {
		return err
	}
	return f.unplug(ctx, name, progress)
}

// setMetadata changes what a domain's definition records.
func (f *Fleet) setMetadata(ctx context.Context, name string, change func(*hypervisor.Metadata)) error {
	domain, _, err := f.Hypervisor.Lookup(ctx, name)
	if err != nil {
		return err
	}
	change(&domain.Metadata)
	return f.Hypervisor.SetMetadata(ctx, name, domain.Metadata)
}

// recordDeferred records that a VM keeps what it runs until its next power-off and start. Without the record a later
// update refreshes it.
func (f *Fleet) recordDeferred(ctx context.Context, name string) {
	now, err := f.Read(ctx, name)
	if err == nil && now.Answered {
		left := now.Stack.WithoutLayers()
		err = f.setMetadata(ctx, name, func(m *hypervisor.Metadata) {
			if !now.Stack.Same(m.Stack) { // also if all that differs is what the VM has attached by itself
				m.LeftWith = &left
			}
		})
	}
	if err != nil {
		f.Log.WarnContext(ctx, "it is not recorded that the VM awaits a power cycle", "vm", name, "error", err)
	}
}

// awaitsPowerCycle reports whether an update has left a VM with the stack that it runs.
func awaitsPowerCycle(domain hypervisor.Domain, running release.Stack) bool {
	left := domain.Metadata.LeftWith
	return left != nil && left.Same(running) && !running.Same(domain.Metadata.Stack)
}

// uploadKernel uploads the kernel and the initramfs that a kexec starts.
func (f *Fleet) uploadKernel(ctx context.Context, agent *transport.Agent, domain hypervisor.Domain, spec Spec,
	request *agentapi.RefreshRequest, progress Progress) error {
	progress("uploading the kernel")
	stack, err := f.wanted(ctx, spec)
	if err != nil {
		return err
	}
	wanted := stack.manifest.Kernel
	kernel, err := f.Store.GetBlob(ctx, wanted.Image)
	if err != nil {
		return fmt.Errorf("read kernel %s: %w", wanted.Release, err)
	}
	if err := put(ctx, agent, wanted.Image, kernel); err != nil {
		return fmt.Errorf("upload kernel %s: %w", wanted.Release, err)
	}
	initramfs, err := f.initramfs(ctx, wanted, progress)
	if err != nil {
		return fmt.Errorf("make the initramfs for kernel %s: %w", wanted.Release, err)
	}
	blob := release.Blob{Digest: tree.Sum(initramfs), Size: int64(len(initramfs))}
	if err := put(ctx, agent, blob, initramfs); err != nil {
		return fmt.Errorf("upload the initramfs for kernel %s: %w", wanted.Release, err)
	}
	request.Kernel, request.Initramfs = wanted.Image.Digest.String(), blob.Digest.String()
	domain.KernelArgs = spec.KernelArgs
	request.CommandLine = hypervisor.CommandLine(domain)
	return nil
}
