package vm

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
)

// ErrProtected means that a VM is protected from being deleted.
var ErrProtected = errors.New("the VM is protected from being deleted")

// LifeCycle is what libvirt knows of a VM in addition to its stack and its hardware. A change of it
// touches neither the guest nor the hardware.
type LifeCycle struct {
	// Autostart: the VM comes up with its host.
	Autostart bool
	// Protected: the VM and its private disk are not deleted.
	Protected bool
	// Title and Description are for people who look with virsh; "" is none. If they are nil, the VM keeps what it has.
	Title, Description *string
}

// SetLifeCycle implements Interface.
func (f *Fleet) SetLifeCycle(ctx context.Context, name, uuid string, want LifeCycle) error {
	domain, _, err := f.find(ctx, name, uuid)
	switch {
	case err == nil:
		_, err = f.setLifeCycle(ctx, domain, want)
	case !want.Protected && (errors.Is(err, hypervisor.ErrDamaged) || errors.Is(err, hypervisor.ErrForeign)):
		return nil // no record is left that protects it, and state must not go on to say so
	}
	if err != nil {
		return fmt.Errorf("update VM %q: %w", name, err)
	}
	return nil
}

// setLifeCycle changes what differs from want. It returns the domain as it is after that.
func (f *Fleet) setLifeCycle(ctx context.Context, domain hypervisor.Domain, want LifeCycle) (hypervisor.Domain, error) {
	if domain.Metadata.Protected != want.Protected {
		domain.Metadata.Protected = want.Protected
		if err := f.Hypervisor.SetMetadata(ctx, domain.Name, domain.Metadata); err != nil {
			return domain, fmt.Errorf("record whether it is protected: %w", err)
		}
	}
	autostarted, err := f.Hypervisor.Autostarted(ctx) // and not what a plan has listed a while ago
	if err != nil {
		return domain, err
	}
	if autostarted[domain.UUID] != want.Autostart {
		if err := f.Hypervisor.SetAutostart(ctx, domain.Name, want.Autostart); err != nil {
			return domain, err
		}
	}
	f.autostarted.set(domain.UUID, want.Autostart)
	if title := want.Title; title != nil && *title != domain.Title {
		if err := f.Hypervisor.SetTitle(ctx, domain.Name, *title); err != nil {
			return domain, err
		}
		domain.Title = *title
	}
	if description := want.Description; description != nil && *description != domain.Description {
		if err := f.Hypervisor.SetDescription(ctx, domain.Name, *description); err != nil {
			return domain, err
		}
		domain.Description = *description
	}
	return domain, nil
}

// lifeCycle reads the life cycle of a VM.
func (f *Fleet) lifeCycle(ctx context.Context, domain hypervisor.Domain) (LifeCycle, error) {
	list := func() (map[string]bool, error) { return f.Hypervisor.Autostarted(ctx) }
	autostarted, err := f.autostarted.get(f.ListedFor, list)
	return LifeCycle{
		Autostart: autostarted[domain.UUID], Protected: domain.Metadata.Protected,
		Title: &domain.Title, Description: &domain.Description,
	}, err
}

// kept gives a new definition of a VM what the one before it has and a Spec does not say.
func kept(domain, before hypervisor.Domain) (hypervisor.Domain, error) {
	domain.Metadata.AgentKey, domain.Metadata.Protected = before.Metadata.AgentKey, before.Metadata.Protected
	domain.Metadata.Configuration = before.Metadata.Configuration
	domain.Metadata.Detaches = before.Metadata.Detaches
	domain.Title, domain.Description, domain.Foreign = before.Title, before.Description, before.Foreign
	domain.ForeignDisks, domain.ForeignInterfaces = before.ForeignDisks, before.ForeignInterfaces
	domain.ForeignDevices = before.ForeignDevices
	return countChanges(domain, before)
}

// countChanges counts a definition with another host name, other keys or other disks than the one before it.
func countChanges(domain, before hypervisor.Domain) (hypervisor.Domain, error) {
	now, err := bootConfig(domain)
	if err != nil {
		return domain, err
	}
	had, err := bootConfig(before)
	if err != nil {
		return domain, nil //nolint:nilerr // its guest cannot boot with that, and so was given nothing
	}
	now.Changes = had.Changes
	if now.Hostname != had.Hostname || !slices.Equal(now.AuthorizedKeys, had.AuthorizedKeys) ||
		!slices.Equal(now.Disks, had.Disks) {
		now.Changes++
	}
	domain.BootConfig, err = json.Marshal(now)
	return domain, err
}

// listed is a list of the host that is kept for a moment, because a plan reads many VMs.
type listed[V any] struct {
	mu      sync.Mutex
	at      time.Time
	entries map[string]V
}

// listedFor is the default of Fleet.ListedFor.
const listedFor = 5 * time.Second

// get returns the list, which nobody may change. It is made anew if it is older than keep.
func (l *listed[V]) get(keep time.Duration, list func() (map[string]V, error)) (map[string]V, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.entries != nil && time.Since(l.at) < cmp.Or(keep, listedFor) {
		return l.entries, nil
	}
	entries, err := list()
	if err != nil {
		return nil, err
	}
	l.entries, l.at = entries, time.Now()
	return entries, nil
}

// set changes an entry of the list, if there is a list.
func (l *listed[V]) set(name string, value V) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.entries != nil {
		l.entries = maps.Clone(l.entries)
		l.entries[name] = value
	}
}
