package vm

import (
	"context"
	"errors"
	"fmt"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
)

// unfilled is how much smaller in bytes than its disk a file system may be.
const unfilled = 1 << 20

// diskSize is the size of a VM's private disk as its definition records it, also if the volume is
// gone. The volume can be larger: the storage pool rounds, and a growth that was cut off is
// finished by the next update, which the definition asks for.
func diskSize(domain hypervisor.Domain, volume store.Volume) int64 {
	if recorded := domain.Metadata.DiskSize; recorded > 0 && (recorded <= volume.Capacity || volume.Name == "") {
		return recorded
	}
	return volume.Capacity
}

// grow makes the private disk of a running VM as large as spec says: its volume, the domain's disk, the file system in
// the guest. Nothing is interrupted. Each step can be done again.
func (f *Fleet) grow(ctx context.Context, domain hypervisor.Domain, spec Spec, progress Progress) error {
	progress("growing the private disk")
	volume, err := f.diskOf(ctx, domain)
	if err != nil {
		return fmt.Errorf("grow its private disk: %w", err)
	}
	if _, err := f.Store.PrivateDisk(ctx, volume); errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("grow its private disk: %w", diskGone(volume, f.Pool))
	} else if err != nil {
		return fmt.Errorf("grow its private disk: %w", err)
	}
	if _, err := f.Store.CreatePrivateDisk(ctx, volume, spec.DiskSize); err != nil {
		return fmt.Errorf("grow its private disk: %w", err)
	}
	if err := f.Hypervisor.ResizeDisk(ctx, spec.Name, "", spec.DiskSize); err != nil {
		return fmt.Errorf("grow its private disk: %w", err)
	}
	agent, err := f.connectAndPin(ctx, domain)
	if err != nil {
		return fmt.Errorf("grow its private disk: %w", err)
	}
	defer func() { _ = agent.Close() }() // its answer is read by then
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	answer, err := agent.GrowDisk(ctx, &agentapi.GrowDiskRequest{Size: spec.DiskSize})
	if err != nil {
		return fmt.Errorf("grow the file system of its private disk: %w", err)
	}
	if answer.GetAfterBytes() < spec.DiskSize-unfilled {
		return fmt.Errorf("grow the file system of its private disk: it has %d bytes afterwards, not %d",
			answer.GetAfterBytes(), spec.DiskSize)
	}
	return nil
}
