package vm

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/transport"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

const (
	// settingBeside lists the releases of the stack that a domain falls back to, the base's first, separated by spaces.
	settingBeside = "beside"
	// settingStays is the key of the stack that a VM ran when its definition got another one without moving it; the last
	// version wrote the id of the base release.
	settingStays = "stays"
)

// errDeferred means that the strategy does not reach what a refresh needs.
var errDeferred = errors.New("it is left to the next start")

// mustStart means that the guest has done its part of a refresh, and waits to be powered off and started.
type mustStart struct{ from release.Stack }

func (m *mustStart) Error() string { return "the VM waits to be powered off and started" }

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

// startAnew has a guest that waits for it run the stack of spec, or again the one that it ran.
func (f *Fleet) startAnew(ctx context.Context, spec Spec, from release.Stack, progress Progress) (*agentapi.Report, float64, error) {
	if err := f.stop(ctx, spec.Name, progress); err != nil {
		return nil, 0, err
	}
	if err := f.define(ctx, spec, progress, from); err != nil {
		return nil, 0, errors.Join(err, f.startBack(ctx, spec, from, progress))
	}
	report, ready, err := f.startTrial(ctx, spec, progress)
	switch {
	case err == nil:
		return report, ready, nil
	case ctx.Err() != nil:
		return report, 0, fmt.Errorf("the refresh goes on in the VM by itself, apply again to see its end: %w", err)
	}
	return report, 0, errors.Join(err, f.startBack(ctx, spec, from, progress))
}

// startTrial starts the VM, waits for the end of the refresh that it comes up with, if it does with one, and then has
// what only a fallback needs unplugged.
func (f *Fleet) startTrial(ctx context.Context, spec Spec, progress Progress) (*agentapi.Report, float64, error) {
	ready, err := f.start(ctx, spec.Name, progress)
	if err != nil {
		return nil, 0, err
	}
	domain, _, err := f.Hypervisor.Lookup(ctx, spec.Name)
	if err != nil {
		return nil, ready, err
	}
	if domain.Metadata.Settings[settingBeside] == "" {
		return nil, ready, nil
	}
	status, err := f.settled(ctx, spec.Name, progress)
	if err != nil {
		return nil, ready, err
	}
	stack, err := f.stack(ctx, spec.Base, spec.Components)
	if err != nil {
		return nil, ready, err
	}
	report, err := outcome(status, stack.Stack, spec)
	if err != nil {
		return report, ready, err
	}
	return report, ready, f.dropBeside(ctx, spec.Name, progress)
}

// startBack defines the VM as it was and starts it with that: its own kernel, too.
func (f *Fleet) startBack(ctx context.Context, spec Spec, from release.Stack, progress Progress) error {
	progress("going back to what it ran")
	spec.Base, spec.Components = from.Base, from.Components
	if err := f.stop(ctx, spec.Name, progress); err != nil {
		return fmt.Errorf("go back to base %s: %w", from.Base, err)
	}
	err := f.define(ctx, spec, progress)
	if err == nil {
		_, err = f.start(ctx, spec.Name, progress)
	}
	if err != nil {
		return fmt.Errorf("go back to base %s: %w", from.Base, err)
	}
	return nil
}

// reset starts a machine again whose new kernel says nothing. Its definition still names the old one, and its guest
// boots what it committed.
func (f *Fleet) reset(ctx context.Context, name string, cause error, progress Progress) (*agentapi.StatusResponse, error) {
	f.Log.WarnContext(ctx, "the machine is reset", "vm", name, "error", cause)
	progress("powering off and starting: nothing was heard of what it was to start")
	if err := f.Hypervisor.PowerOff(ctx, name); err != nil {
		return nil, errors.Join(cause, err)
	}
	if _, err := f.start(ctx, name, progress); err != nil {
		return nil, errors.Join(cause, err)
	}
	return f.settled(ctx, name, progress)
}

// addBeside attaches the layers of other stacks to a domain that is to be defined.
func (f *Fleet) addBeside(ctx context.Context, domain *hypervisor.Domain, beside []release.Stack) error {
	for _, stack := range beside {
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
		var ids []string
		for _, id := range append([]tree.Digest{stack.Base}, stack.Components...) {
			ids = append(ids, id.String())
		}
		domain.Metadata.Settings[settingBeside] = strings.Join(ids, " ")
	}
	return nil
}

// beside is the stack that a domain was defined to fall back to; none if its releases are gone.
func (f *Fleet) beside(ctx context.Context, domain hypervisor.Domain) []release.Stack {
	var ids []tree.Digest
	for text := range strings.FieldsSeq(domain.Metadata.Settings[settingBeside]) {
		id, err := tree.ParseDigest(text)
		if err != nil {
			return nil
		}
		ids = append(ids, id)
	}
	if len(ids) == 0 {
		return nil
	}
	stack, err := f.stack(ctx, ids[0], ids[1:])
	if err != nil {
		f.Log.WarnContext(ctx, "there is nothing to fall back to", "vm", domain.Name, "error", err)
		return nil
	}
	return []release.Stack{stack.Stack}
}

// dropBeside gives up what a VM would have fallen back to.
func (f *Fleet) dropBeside(ctx context.Context, name string, progress Progress) error {
	if err := f.setting(ctx, name, settingBeside, ""); err != nil {
		return err
	}
	return f.unplug(ctx, name, progress)
}

// setting changes one setting of a domain's definition; "" removes it.
func (f *Fleet) setting(ctx context.Context, name, key, value string) error {
	domain, _, err := f.Hypervisor.Lookup(ctx, name)
	if err != nil {
		return err
	}
	metadata := domain.Metadata
	metadata.Settings = maps.Clone(metadata.Settings)
	if metadata.Settings == nil {
		metadata.Settings = map[string]string{}
	}
	metadata.Settings[key] = value
	if value == "" {
		delete(metadata.Settings, key)
	}
	return f.Hypervisor.SetMetadata(ctx, name, metadata)
}

// markStaying records that a VM is left with what it runs. Without the record a later update moves it.
func (f *Fleet) markStaying(ctx context.Context, name string) {
	now, err := f.Read(ctx, name)
	if err == nil && now.Answered && !now.Stack.Same(now.Configured) {
		err = f.setting(ctx, name, settingStays, now.Stack.Key())
	}
	if err != nil {
		f.Log.WarnContext(ctx, "what the VM is left with is not recorded", "vm", name, "error", err)
	}
}

// staying reports whether a VM is left with the stack that it runs.
func staying(domain hypervisor.Domain, running release.Stack) bool {
	left := domain.Metadata.Settings[settingStays]
	return left != "" && (running.HasKey(left) || left == running.Base.String()) && !running.Same(domain.Metadata.Stack)
}

// handKernel hands over what a kexec starts.
func (f *Fleet) handKernel(ctx context.Context, agent *transport.Agent, domain hypervisor.Domain, spec Spec, request *agentapi.RefreshRequest, progress Progress) error {
	progress("handing over the kernel")
	stack, err := f.stack(ctx, spec.Base, spec.Components)
	if err != nil {
		return err
	}
	wanted := stack.manifest.Kernel
	kernel, err := f.Store.GetBlob(ctx, wanted.Image)
	if err != nil {
		return fmt.Errorf("read kernel %s: %w", wanted.Release, err)
	}
	if err := put(ctx, agent, wanted.Image, kernel); err != nil {
		return fmt.Errorf("hand over kernel %s: %w", wanted.Release, err)
	}
	initramfs, err := f.initramfs(ctx, wanted, progress)
	if err != nil {
		return fmt.Errorf("make the initramfs for kernel %s: %w", wanted.Release, err)
	}
	blob := release.Blob{Digest: tree.Sum(initramfs), Size: int64(len(initramfs))}
	if err := put(ctx, agent, blob, initramfs); err != nil {
		return fmt.Errorf("hand over the initramfs for kernel %s: %w", wanted.Release, err)
	}
	request.Kernel, request.Initramfs = wanted.Image.Digest.String(), blob.Digest.String()
	request.CommandLine = hypervisor.CommandLine(domain)
	return nil
}
