// Package hypervisortest has a fake Hypervisor for tests of packages that use one, and the contract
// of every Hypervisor.
//
// The fake keeps domains in memory. It is as strict as libvirt about names, UUIDs, states, files
// and ports: the same Contract runs against both.
package hypervisortest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"net"
	"os"
	"slices"
	"sync"
	"syscall"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/transport"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// Hypervisor keeps domains in memory. Set its fields before the first call.
type Hypervisor struct {
	// Fail is called before every call with the names of the method and of the domain ("" for List and
	// BootFiles). An error that it returns is returned by the call. Like the other functions here, it may be nil.
	Fail func(method, domain string) error
	// OnStart is called when a domain boots, before Start returns. An error makes Start fail.
	OnStart func(d hypervisor.Domain) error
	// OnOff is called when a domain stops.
	OnOff func(name string)
	// OnAttach and OnDetach are called when a layer is attached to a running domain or detached
	// from it. An error makes the call fail.
	OnAttach func(name string, layer hypervisor.LayerDevice) error
	OnDetach func(name string, id tree.Digest) error
	// OnResize is called when a disk of a running domain is resized, the private disk for "".
	OnResize func(name, disk string, size int64)
	// Dial returns the dialer of a running domain. If it is nil, nothing listens in the guest.
	Dial func(name string) (transport.Dialer, error)
	// Deaf guests ignore requests to power off and to release layers.
	Deaf bool
	// NoFiles makes domains start although their files do not exist.
	NoFiles bool
	// Host is what domains can have at most, if it is not zero. Networks are libvirt's networks,
	// and whether they are active. Bridges are the host's bridges.
	Host     hypervisor.Limits
	Networks map[string]bool
	Bridges  []string
	// VLANs are the bridges that filter VLANs.
	VLANs []string
	// Models are the models of processors; if nil, there is Nehalem beside those that every host
	// has. Pages are the free memory pages by their size in bytes. Devices are those of the host.
	// Refuse says what libvirt does not accept.
	Models  []string
	Pages   map[int64]int64
	Devices []hypervisor.HostDevice
	Refuse  func(d hypervisor.Domain) error
	// NotAlone makes domains come up only if the provider starts them.
	NotAlone bool

	mu      sync.Mutex
	domains map[string]*domain
	calls   []string
}

type domain struct {
	hypervisor.Domain
	state   hypervisor.State
	foreign bool
	damaged bool
	// autostart outlasts definitions.
	autostart bool
	// ports is for how many layers, further disks and interfaces it was defined.
	ports int
	// attached are the layers that it runs with, disks its further disks, and room is how many
	// ports it has for them and for cards. booted are the kernel and the initramfs that it was
	// started with. Redefining it changes none of these.
	attached []tree.Digest
	disks    []string
	room     int
	booted   []string
	// cards are the interfaces of the running domain that libvirt knows.
	cards map[string]hypervisor.Interface
	// vcpus, memory and shares are what it runs with.
	vcpus  int
	memory int64
	shares int
	// broke is whether QEMU ended by itself when the domain ran last.
	broke bool
}

var _ hypervisor.Hypervisor = (*Hypervisor)(nil)

// New returns a Hypervisor without domains.
func New() *Hypervisor { return &Hypervisor{domains: map[string]*domain{}} }

// Calls returns "Method domain" for each call so far that may have changed a domain.
func (h *Hypervisor) Calls() []string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return slices.Clone(h.calls)
}

func (h *Hypervisor) enter(ctx context.Context, method, name string, changes bool) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%s %s: %w", method, name, err)
	}
	if h.Fail != nil {
		if err := h.Fail(method, name); err != nil {
			return err
		}
	}
	if changes {
		h.mu.Lock()
		h.calls = append(h.calls, method+" "+name)
		h.mu.Unlock()
	}
	return nil
}

// find must be called with h.mu held.
func (h *Hypervisor) find(name string) (*domain, error) {
	d, ok := h.domains[name]
	switch {
	case !ok:
		return nil, fmt.Errorf("domain %q: %w", name, hypervisor.ErrNotFound)
	case d.foreign:
		return d, fmt.Errorf("domain %q: %w", name, hypervisor.ErrForeign)
	}
	return d, nil
}

// on calls do with a domain that this project created. h.mu is held meanwhile.
func (h *Hypervisor) on(ctx context.Context, method, name string, changes bool, do func(*domain) error) error {
	if err := h.enter(ctx, method, name, changes); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	d, err := h.find(name)
	if err != nil {
		return err
	}
	return do(d)
}

// Define implements hypervisor.Hypervisor.
func (h *Hypervisor) Define(ctx context.Context, wanted hypervisor.Domain) error {
	if err := h.enter(ctx, "Define", wanted.Name, true); err != nil {
		return err
	}
	if err := wanted.Check(); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for name, d := range h.domains {
		if name != wanted.Name && d.UUID == wanted.UUID {
			return fmt.Errorf("define domain %q: its UUID %s is that of domain %q", wanted.Name, wanted.UUID, name)
		}
	}
	next := &domain{Domain: clone(wanted), state: hypervisor.Off}
	next.ports = len(wanted.Layers) + len(wanted.Disks) + len(known(wanted)) +
		hypervisor.SpareLayers + hypervisor.SpareDisks
	next.LostPatches = nil
	if d, err := h.find(wanted.Name); err == nil {
		if d.UUID != wanted.UUID {
			return fmt.Errorf("define domain %q with UUID %s: it has %s: %w", wanted.Name, wanted.UUID,
				d.UUID, hypervisor.ErrForeign)
		}
		next.state, next.attached, next.disks, next.room, next.booted, next.autostart, next.cards = d.state, d.attached,
			d.disks, d.room, d.booted, d.autostart, d.cards
		next.vcpus, next.memory, next.shares = d.vcpus, d.memory, d.shares
	} else if !errors.Is(err, hypervisor.ErrNotFound) {
		return err
	}
	h.domains[wanted.Name] = next
	return nil
}

// clone copies slices and maps, so that the caller and the fake share none.
func clone(d hypervisor.Domain) hypervisor.Domain {
	d.KernelArgs = slices.Clone(d.KernelArgs)
	d.Layers = slices.Clone(d.Layers)
	d.BootConfig = slices.Clone(d.BootConfig)
	d.Interfaces = maps.Clone(d.Interfaces)
	for name, i := range d.Interfaces {
		if i.User != nil {
			i.User = &hypervisor.UserNetwork{Forwards: maps.Clone(i.User.Forwards)}
		}
		d.Interfaces[name] = i.Defined(d.UUID, name)
	}
	if d.MaxMemory == d.Memory {
		d.MaxMemory = 0
	}
	d.Disks = maps.Clone(d.Disks)
	var copied hypervisor.Domain
	copied.Give(d.Hardware)
	d.Hardware, d.LostPatches = copied.Hardware, slices.Clone(d.LostPatches)
	d.Foreign, d.ForeignDisks, d.ForeignInterfaces = slices.Clone(d.Foreign), slices.Clone(d.ForeignDisks),
		slices.Clone(d.ForeignInterfaces)
	d.Metadata = cloneMetadata(d.Metadata)
	return d
}

func cloneMetadata(m hypervisor.Metadata) hypervisor.Metadata {
	if m.Hardware != nil {
		var copied hypervisor.Domain
		copied.Give(*m.Hardware)
		m.Hardware = copied.Metadata.Hardware
	}
	m.Pinned, m.Disks = slices.Clone(m.Pinned), maps.Clone(m.Disks)
	m.Stack = cloneStack(m.Stack)
	if m.Creating != nil {
		creating := *m.Creating
		m.Creating = &creating
	}
	for _, stack := range []**release.Stack{&m.Fallback, &m.LeftWith} {
		if *stack != nil {
			clone := cloneStack(**stack)
			*stack = &clone
		}
	}
	return m
}

func cloneStack(stack release.Stack) release.Stack {
	stack.Components, stack.Layers = slices.Clone(stack.Components), slices.Clone(stack.Layers)
	return stack
}

// Start implements hypervisor.Hypervisor.
func (h *Hypervisor) Start(ctx context.Context, name string) error {
	if err := h.enter(ctx, "Start", name, true); err != nil {
		return err
	}
	h.mu.Lock()
	d, err := h.find(name)
	if err != nil {
		h.mu.Unlock()
		return err
	}
	started, state := clone(d.Domain), d.state
	h.mu.Unlock()

	switch state {
	case hypervisor.Running:
		return nil
	case hypervisor.Paused:
		return fmt.Errorf("start domain %q: it is paused; resume it (virsh resume) or power it off", name)
	}
	if err := errors.Join(h.files(started), h.vlans(started.Interfaces)); err != nil {
		return fmt.Errorf("start domain %q: %w", name, err)
	}
	if h.OnStart != nil {
		if err := h.OnStart(started); err != nil {
			return fmt.Errorf("start domain %q: %w", name, err)
		}
	}
	h.SetState(name, hypervisor.Running)
	h.mu.Lock()
	defer h.mu.Unlock()
	if d, err = h.find(name); err != nil {
		return err
	}
	d.attached, d.booted = nil, []string{started.Kernel, started.Initramfs}
	d.room, d.disks = max(d.ports, len(started.Layers)+len(started.Disks)+len(known(started))),
		slices.Sorted(maps.Keys(started.Disks))
	d.vcpus, d.memory = started.VCPUs, started.Memory
	d.cards = known(started)
	for _, layer := range started.Layers {
		d.attached = append(d.attached, layer.ID)
	}
	return nil
}

func (h *Hypervisor) files(d hypervisor.Domain) error {
	if h.NoFiles {
		return nil
	}
	paths := []string{d.Kernel, d.Initramfs}
	if d.PrivateDisk != "" {
		paths = append(paths, d.PrivateDisk)
	}
	for _, layer := range d.Layers {
		paths = append(paths, layer.Path)
	}
	for _, disk := range d.Disks {
		paths = append(paths, disk.Path)
	}
	for _, path := range paths {
		if _, err := os.Stat(path); err != nil {
			return err
		}
	}
	return nil
}

// Closing implements hypervisor.Hypervisor.
func (h *Hypervisor) Closing() bool { return false }

// Broke implements hypervisor.Hypervisor.
func (h *Hypervisor) Broke(ctx context.Context, name string) (bool, error) {
	broke := false
	err := h.on(ctx, "Broke", name, false, func(d *domain) error {
		broke = d.state == hypervisor.Off && d.broke
		return nil
	})
	return broke, err
}

// Shutdown implements hypervisor.Hypervisor.
func (h *Hypervisor) Shutdown(ctx context.Context, name string) error {
	return h.end(ctx, "Shutdown", name, h.Deaf)
}

// PowerOff implements hypervisor.Hypervisor.
func (h *Hypervisor) PowerOff(ctx context.Context, name string) error {
	return h.end(ctx, "PowerOff", name, false)
}

func (h *Hypervisor) end(ctx context.Context, method, name string, deaf bool) error {
	if err := h.enter(ctx, method, name, true); err != nil {
		return err
	}
	h.mu.Lock()
	d, err := h.find(name)
	if err != nil {
		h.mu.Unlock()
		return err
	}
	ran := d.state != hypervisor.Off
	if ran && !deaf {
		d.state = hypervisor.Off
	}
	h.mu.Unlock()
	if ran && deaf {
		<-ctx.Done()
		return fmt.Errorf("%s domain %q: %w", method, name, ctx.Err())
	}
	if ran && h.OnOff != nil {
		h.OnOff(name)
	}
	return nil
}

// Undefine implements hypervisor.Hypervisor.
func (h *Hypervisor) Undefine(ctx context.Context, name string) error {
	return h.on(ctx, "Undefine", name, true, func(d *domain) error {
		if d.state == hypervisor.Running || d.state == hypervisor.Paused {
			return fmt.Errorf("undefine domain %q: it is running; power it off first", name)
		}
		delete(h.domains, name)
		return nil
	})
}

// SetMetadata implements hypervisor.Hypervisor.
func (h *Hypervisor) SetMetadata(ctx context.Context, name string, metadata hypervisor.Metadata) error {
	return h.on(ctx, "SetMetadata", name, true, func(d *domain) error {
		d.Metadata = cloneMetadata(metadata)
		return nil
	})
}

// VSock implements hypervisor.Hypervisor.
func (h *Hypervisor) VSock(ctx context.Context, name string) (hypervisor.VSockState, error) {
	if err := h.on(ctx, "VSock", name, false, func(*domain) error {
		_, err := h.running("reach", name)
		return err
	}); err != nil {
		return 0, err
	}
	return hypervisor.VSockKernel, nil
}

// Dialer implements hypervisor.Hypervisor.
func (h *Hypervisor) Dialer(ctx context.Context, name string) (transport.Dialer, error) {
	if err := h.enter(ctx, "Dialer", name, false); err != nil {
		return nil, err
	}
	h.mu.Lock()
	d, err := h.find(name)
	running := err == nil && d.state == hypervisor.Running
	h.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if !running {
		return nil, fmt.Errorf("reach domain %q: %w", name, hypervisor.ErrNotRunning)
	}
	if h.Dial != nil {
		return h.Dial(name)
	}
	return silent{}, nil
}

// silent dials a guest in which nothing listens.
type silent struct{}

func (silent) DialContext(_ context.Context, port uint32) (net.Conn, error) {
	return nil, &net.OpError{Op: "dial", Net: "vsock", Err: fmt.Errorf("port %d: %w", port, syscall.ECONNREFUSED)}
}

// Close implements hypervisor.Hypervisor.
func (h *Hypervisor) Close() error { return nil }
