package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/boot"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/bootimage"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
)

const mebibyte = 1 << 20

// agentSize measures the agent as it is embedded.
func (b *bench) agentSize(context.Context) error {
	binary, err := bootimage.Agent()
	if err != nil {
		return err
	}
	b.results.add("agent binary, stripped", float64(len(binary)), "bytes", 0, 12*mebibyte)
	return nil
}

// firstBoot makes the base and two VMs on it, and measures their disk space once they have started.
func (f *fleet) firstBoot(ctx context.Context) error {
	if _, err := f.apply(ctx); err != nil {
		return err
	}
	var largest int64
	for name, at := range f.vms {
		// Data in the guest's page cache counts, too.
		if _, err := f.key.Run(ctx, at.ssh(), "sync", nil); err != nil {
			return err
		}
		domain, _, err := f.host.Fleet.Hypervisor.Lookup(ctx, name)
		if err != nil {
			return err
		}
		disk, err := f.host.Store.PrivateDisk(ctx, domain.Metadata.PrivateVolume)
		if err != nil {
			return err
		}
		largest = max(largest, disk.Allocation)
	}
	// The yardstick is the space of a linked clone after its first boot.
	f.results.add("private disk after first boot, larger of two", float64(largest), "bytes", 9.3e6, 24*mebibyte)
	volumes, err := f.host.Store.Volumes(ctx)
	if err != nil {
		return err
	}
	layers := 0
	for _, volume := range volumes {
		if name, ok := store.ParseVolumeName(volume.Name); ok && name.Kind == store.LayerVolume {
			layers++
		}
	}
	f.results.add("copies of the OS on disk for two VMs", float64(layers), "layers", float64(len(f.vms)), 1)
	return nil
}

// initramfsSize measures the initramfs of a VM of the base.
func (f *fleet) initramfsSize(ctx context.Context) error {
	id, err := f.release(ctx)
	if err != nil {
		return err
	}
	manifest, err := f.host.Publisher.Get(ctx, id)
	if err != nil {
		return err
	}
	if manifest.Kernel == nil {
		return fmt.Errorf("release %s has no kernel", id)
	}
	modules, err := f.host.Store.GetBlob(ctx, manifest.Kernel.Modules)
	if err != nil {
		return err
	}
	agent, err := bootimage.Agent()
	if err != nil {
		return err
	}
	image, err := bootimage.Initramfs(agent, modules)
	if err != nil {
		return err
	}
	f.results.add("initramfs", float64(len(image)), "bytes", 0, 6*mebibyte)
	return nil
}

// furtherVM measures an apply that adds one VM, without starting it, on a base that is stored already.
func (f *fleet) furtherVM(ctx context.Context) error {
	f.work.Variables["spares"] = []string{"bench-spare"}
	took, err := f.apply(ctx)
	if err != nil {
		return err
	}
	// The yardstick is the time of the leading libvirt provider for a linked clone.
	f.results.add("apply of one more VM, not started", took.Seconds(), "seconds", 1.76, 0.4)
	return nil
}

// residentAgent measures the agent's memory after a thousand calls. The yardstick is its memory during the last
// call.
func (f *fleet) residentAgent(ctx context.Context) error {
	const calls, name = 1000, "bench-a"
	f.tell("calling an agent a thousand times")
	during, err := f.callStatus(ctx, name, calls)
	if err != nil {
		return err
	}
	// The agent returns memory when its callers have disconnected. A call to the agent would need some again, so
	// the guest is asked over SSH.
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(5 * time.Second):
	}
	text, err := f.key.Run(ctx, f.vms[name].ssh(),
		"awk '/^VmRSS:/ { print $2 }' /proc/$(systemctl show -P MainPID "+boot.AgentUnit+")/status", nil)
	if err != nil {
		return err
	}
	kibibytes, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
	if err != nil {
		return fmt.Errorf("the resident size of the agent in %s: %w", name, err)
	}
	f.results.add("agent resident after 1,000 calls", float64(kibibytes<<10), "bytes", float64(during), 10*mebibyte)
	return nil
}

// callStatus calls an agent many times over one connection, and returns the resident bytes that the last answer
// reports.
func (f *fleet) callStatus(ctx context.Context, name string, calls int) (_ int64, err error) {
	agent, err := f.host.Fleet.Agent(ctx, name)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, agent.Close()) }()
	var last *agentapi.StatusResponse
	for range calls {
		if last, err = agent.Status(ctx, &agentapi.StatusRequest{}); err != nil {
			return 0, fmt.Errorf("ask the agent of %s for its status: %w", name, err)
		}
	}
	return last.GetResidentBytes(), nil
}
