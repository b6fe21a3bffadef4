package hypervisor

import (
	"context"
	"fmt"
	"time"

	"github.com/digitalocean/go-libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/libvirtconn"
)

// encodeCompute writes processors and memory. Memory above that with which the domain starts is in its balloon.
func encodeCompute(domain *libvirtxml.Domain, d Domain) {
	memory, vcpus := max(d.Memory, d.MaxMemory), max(d.VCPUs, d.MaxVCPUs)
	domain.Memory = &libvirtxml.DomainMemory{Value: uint(memory >> 10), Unit: "KiB"}
	domain.CurrentMemory = &libvirtxml.DomainCurrentMemory{Value: uint(d.Memory >> 10), Unit: "KiB"}
	domain.VCPU = &libvirtxml.DomainVCPU{Placement: "static", Value: uint(vcpus)}
	if d.MaxVCPUs == 0 {
		return
	}
	domain.VCPU.Current = uint(d.VCPUs)
	// The first one cannot be unplugged. All others are listed, so that those with which the domain starts can be.
	domain.VCPUs = &libvirtxml.DomainVCPUs{}
	for id := range uint(vcpus) {
		one := libvirtxml.DomainVCPUsVCPU{Id: &id, Enabled: "no", Hotpluggable: "yes"}
		if id < uint(d.VCPUs) {
			order := id + 1
			one.Enabled, one.Order = "yes", &order
		}
		if id == 0 {
			one.Hotpluggable = "no"
		}
		domain.VCPUs.VCPU = append(domain.VCPUs.VCPU, one)
	}
}

func (d *Domain) decodeCompute(domain *libvirtxml.Domain) (err error) {
	if domain.VCPU != nil {
		d.VCPUs = int(domain.VCPU.Value)
		if domain.VCPUs != nil || domain.VCPU.Current != 0 {
			d.MaxVCPUs = d.VCPUs
		}
		if domain.VCPU.Current != 0 {
			d.VCPUs = int(domain.VCPU.Current)
		}
	}
	if domain.Memory == nil {
		return nil
	}
	if d.Memory, err = bytesOf(domain.Memory.Value, domain.Memory.Unit); err != nil || domain.CurrentMemory == nil {
		return err
	}
	most := d.Memory
	if d.Memory, err = bytesOf(domain.CurrentMemory.Value, domain.CurrentMemory.Unit); err == nil && d.Memory < most {
		d.MaxMemory = most
	}
	return err
}

// SetVCPUs implements Hypervisor.
func (h *Libvirt) SetVCPUs(ctx context.Context, name string, count int) error {
	change := compute{what: fmt.Sprintf("give domain %q %d processors", name, count)}
	return h.untilDone(ctx, name, &change, func(l *libvirt.Libvirt, found ours) (done bool, err error) {
		now, err := l.DomainGetVcpusFlags(found.Domain, uint32(libvirt.DomainVCPULive))
		if err != nil || int(now) == count {
			return err == nil, err
		}
		if found.defined.Type == emulated && count > int(now) {
			return false, fmt.Errorf("%w: it has %d, and gets %d when it is powered off and started", ErrEmulated, now,
				count)
		}
		change.has = fmt.Sprintf("it has %d", now)
		err = l.DomainSetVcpusFlags(found.Domain, uint32(count), uint32(libvirt.DomainVCPULive)) //nolint:gosec // it is 1 to MaxVCPUs
		// The guest has not released a processor yet, or QEMU refuses to ask it, because the guest
		// has not set up ACPI yet.
		if err != nil && int(now) > count &&
			(libvirtconn.Is(err, libvirt.ErrOperationTimeout) || libvirtconn.Is(err, libvirt.ErrInternalError)) {
			change.has = fmt.Sprintf("it has %d (%v)", now, err)
			err = nil
		}
		return false, err
	})
}

// SetMemory implements Hypervisor.
func (h *Libvirt) SetMemory(ctx context.Context, name string, bytes int64) error {
	kib := uint64(bytes >> 10) //nolint:gosec // it is 1 MiB or more
	change := compute{what: fmt.Sprintf("give domain %q %d MiB of memory", name, bytes>>20)}
	set := false
	return h.untilDone(ctx, name, &change, func(l *libvirt.Libvirt, found ours) (done bool, err error) {
		if !set {
			if err := l.DomainSetMemoryFlags(found.Domain, kib, uint32(libvirt.DomainMemLive)); err != nil {
				return false, err
			}
			set = true
		}
		stats, err := l.DomainMemoryStats(found.Domain, uint32(libvirt.DomainMemoryStatNr), 0)
		if err != nil {
			return false, err
		}
		for _, one := range stats {
			if libvirt.DomainMemoryStatTags(one.Tag) == libvirt.DomainMemoryStatActualBalloon {
				change.has = fmt.Sprintf("it has %d MiB", one.Val>>10)
				return one.Val == kib, nil
			}
		}
		change.has = "QEMU does not say how much it has"
		return false, nil
	})
}

// compute is a change of the processors or the memory of a running domain.
type compute struct {
	// what it does, for errors.
	what string
	// has is what the domain had when it was looked at last; empty if it was not yet.
	has string
}

// untilDone repeats a step of a change until the change is done. The guest may take its time, and may refuse.
func (h *Libvirt) untilDone(ctx context.Context, name string, change *compute,
	step func(*libvirt.Libvirt, ours) (done bool, err error)) error {
	for {
		var done bool
		err := h.call(ctx, change.what, func(l *libvirt.Libvirt) error {
			found, err := find(l, name)
			switch {
			case err != nil:
				return err
			case found.state != Running:
				return ErrNotRunning
			}
			done, err = step(l, found)
			return err
		})
		if err == nil && !done {
			select {
			case <-ctx.Done():
				err = ctx.Err()
			case <-time.After(pollEvery):
				continue
			}
		}
		if err != nil && ctx.Err() != nil && change.has != "" {
			return fmt.Errorf("%s: %w, %s: %w", change.what, ErrGuestKeeps, change.has, err)
		}
		return err
	}
}

// VCPUsNow implements Hypervisor.
func (h *Libvirt) VCPUsNow(ctx context.Context, name string) (count int, err error) {
	err = h.call(ctx, fmt.Sprintf("count the processors of domain %q", name), func(l *libvirt.Libvirt) error {
		found, err := find(l, name)
		switch {
		case err != nil:
			return err
		case !found.state.alive():
			return ErrNotRunning
		}
		now, err := l.DomainGetVcpusFlags(found.Domain, uint32(libvirt.DomainVCPULive))
		count = int(now)
		return err
	})
	return count, err
}

// bytesOf reads an amount of memory with a unit of libvirt's (formatdomain, "Memory Allocation").
func bytesOf(value uint, unit string) (int64, error) {
	shift, ok := map[string]uint{"b": 0, "bytes": 0, "": 10, "KiB": 10, "k": 10, "MiB": 20, "M": 20,
		"GiB": 30, "G": 30}[unit]
	if !ok || uint64(value) > 1<<62>>shift {
		return 0, fmt.Errorf("%d %s cannot be read", value, unit)
	}
	return int64(value) << shift, nil
}
