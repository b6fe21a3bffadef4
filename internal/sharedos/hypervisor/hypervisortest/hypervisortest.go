// Package hypervisortest has a fake Hypervisor for tests of packages that use one, and the contract of every Hypervisor.
//
// The fake keeps domains in memory. It is as strict as libvirt about names, UUIDs, states, files and ports: the same Contract runs
// against both.
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
	// Fail is called before every call with the names of the method and of the domain ("" for List and BootFiles). An error that it
	// returns is returned by the call. Like the other functions here, it may be nil.
	Fail func(method, domain string) error
	// OnStart is called when a domain boots, before Start returns. An error makes Start fail.
	OnStart func(d hypervisor.Domain) error
	// OnOff is called when a domain stops.
	OnOff func(name string)
	// OnAttach and OnDetach are called when a layer is attached to a running domain or detached from it. An error makes the call
	// fail.
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
	// Host is what domains can have at most, if it is not zero. Networks are libvirt's networks, and whether they are active.
	// Bridges are the host's bridges.
	Host     hypervisor.Limits
	Networks map[string]bool
	Bridges  []string
	// VLANs are the bridges that filter VLANs.
	VLANs []string
	// Models are the models of processors; if nil, there is Nehalem beside those that every host has. Pages are the free memory pages
	// by their size in bytes. Devices are those of the host. Refuse says what libvirt does not accept.
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
	// attached are the layers that it runs with, disks its further disks, and room is how many ports it has for them and for cards. booted are the kernel and the initramfs
	// that it was started with. Redefining it changes none of these.
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

// AddForeign adds a domain that this project did not create.
func (h *Hypervisor) AddForeign(name, uuid string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.domains[name] = &domain{Domain: hypervisor.Domain{Name: name, UUID: uuid}, state: hypervisor.Off, foreign: true}
}

// SetState changes the state of a domain, as a guest or a person would.
func (h *Hypervisor) SetState(name string, state hypervisor.State) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if d, ok := h.domains[name]; ok {
		d.state, d.broke = state, false
	}
}

// Break ends a domain as a crash of QEMU does.
func (h *Hypervisor) Break(name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if d, ok := h.domains[name]; ok {
		d.state, d.broke = hypervisor.Off, true
	}
}

// Vanish removes a domain, as a person would.
func (h *Hypervisor) Vanish(name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.domains, name)
}

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
	next.ports = len(wanted.Layers) + len(wanted.Disks) + len(known(wanted)) + hypervisor.SpareLayers + hypervisor.SpareDisks
	next.LostPatches = nil
	if d, err := h.find(wanted.Name); err == nil {
		if d.UUID != wanted.UUID {
			return fmt.Errorf("define domain %q with UUID %s: it has %s: %w", wanted.Name, wanted.UUID, d.UUID, hypervisor.ErrForeign)
		}
		next.state, next.attached, next.disks, next.room, next.booted, next.autostart, next.cards = d.state, d.attached, d.disks, d.room, d.booted, d.autostart, d.cards
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
	d.Foreign, d.ForeignDisks, d.ForeignInterfaces = slices.Clone(d.Foreign), slices.Clone(d.ForeignDisks), slices.Clone(d.ForeignInterfaces)
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

// Lookup implements hypervisor.Hypervisor.
func (h *Hypervisor) Lookup(ctx context.Context, name string) (hypervisor.Domain, hypervisor.State, error) {
	if err := h.enter(ctx, "Lookup", name, false); err != nil {
		return hypervisor.Domain{}, 0, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.lookup(name)
}

func (h *Hypervisor) lookup(name string) (hypervisor.Domain, hypervisor.State, error) {
	d, err := h.find(name)
	switch {
	case errors.Is(err, hypervisor.ErrForeign):
		return hypervisor.Domain{Name: d.Name, UUID: d.UUID}, d.state, err
	case err != nil:
		return hypervisor.Domain{}, 0, err
	case d.damaged:
		return hypervisor.Domain{Name: d.Name, UUID: d.UUID}, d.state, fmt.Errorf("domain %q: %w", name, hypervisor.ErrDamaged)
	}
	return clone(d.Domain), d.state, nil
}

// LookupUUID implements hypervisor.Hypervisor.
func (h *Hypervisor) LookupUUID(ctx context.Context, uuid string) (hypervisor.Domain, hypervisor.State, error) {
	if err := h.enter(ctx, "LookupUUID", uuid, false); err != nil {
		return hypervisor.Domain{}, 0, err
	}
	if len(uuid) != len("00000000-0000-0000-0000-000000000000") {
		return hypervisor.Domain{}, 0, fmt.Errorf("look up a domain by its UUID: %q is none", uuid)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	for name, d := range h.domains {
		if d.UUID == uuid {
			return h.lookup(name)
		}
	}
	return hypervisor.Domain{}, 0, fmt.Errorf("domain with UUID %s: %w", uuid, hypervisor.ErrNotFound)
}

// Rename gives a domain another name, as virsh domrename does.
func (h *Hypervisor) Rename(from, to string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.domains[to] = h.domains[from]
	h.domains[to].Name = to
	delete(h.domains, from)
}

// Strip removes this project's metadata from a domain, and Damage makes it unreadable, as a person could.
func (h *Hypervisor) Strip(name string)  { h.change(name, func(d *domain) { d.foreign = true }) }
func (h *Hypervisor) Damage(name string) { h.change(name, func(d *domain) { d.damaged = true }) }

// Alter changes the definition of a domain, as a person could (virsh edit).
func (h *Hypervisor) Alter(name string, change func(*hypervisor.Domain)) {
	h.change(name, func(d *domain) { change(&d.Domain) })
}

// Unplug takes a layer from a running domain and leaves its definition, as a person could (virsh detach-disk --live).
func (h *Hypervisor) Unplug(name string, id tree.Digest) {
	h.change(name, func(d *domain) {
		d.attached = slices.DeleteFunc(slices.Clone(d.attached), func(p tree.Digest) bool { return p == id })
	})
}

func (h *Hypervisor) change(name string, change func(*domain)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if d := h.domains[name]; d != nil {
		change(d)
	}
}

// List implements hypervisor.Hypervisor.
func (h *Hypervisor) List(ctx context.Context) ([]hypervisor.Domain, error) {
	listed, err := h.list(ctx, "List")
	if err != nil {
		return nil, err
	}
	var all []hypervisor.Domain
	for _, one := range listed {
		if one.Damaged != nil {
			return nil, one.Damaged
		}
		all = append(all, one.Domain)
	}
	return all, nil
}

// Inventory implements hypervisor.Hypervisor.
func (h *Hypervisor) Inventory(ctx context.Context) ([]hypervisor.Listed, error) {
	return h.list(ctx, "Inventory")
}

func (h *Hypervisor) list(ctx context.Context, method string) ([]hypervisor.Listed, error) {
	if err := h.enter(ctx, method, "", false); err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	var all []hypervisor.Listed
	for _, name := range slices.Sorted(maps.Keys(h.domains)) {
		d := h.domains[name]
		switch {
		case d.foreign:
		case d.damaged:
			all = append(all, hypervisor.Listed{
				Domain: hypervisor.Domain{Name: name, UUID: d.UUID}, State: d.state,
				Damaged: fmt.Errorf("domain %q: %w", name, hypervisor.ErrDamaged),
			})
		default:
			all = append(all, hypervisor.Listed{Domain: clone(d.Domain), State: d.state})
		}
	}
	return all, nil
}

// Facts implements hypervisor.Hypervisor. The host emulates its guests, and has a kernel with vhost-vsock.
func (h *Hypervisor) Facts(ctx context.Context) (hypervisor.Facts, error) {
	if err := h.enter(ctx, "Facts", "", false); err != nil {
		return hypervisor.Facts{}, err
	}
	limits, err := h.Limits(ctx)
	return hypervisor.Facts{
		Libvirt: "11.3.0", QEMU: "10.0.2", VSock: hypervisor.VSockVhost, Limits: limits, StartsAlone: !h.NotAlone,
	}, err
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
	d.room, d.disks = max(d.ports, len(started.Layers)+len(started.Disks)+len(known(started))), slices.Sorted(maps.Keys(started.Disks))
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
	if err := h.enter(ctx, "Broke", name, false); err != nil {
		return false, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	d, err := h.find(name)
	if err != nil {
		return false, err
	}
	return d.state == hypervisor.Off && d.broke, nil
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
	if err := h.enter(ctx, "Undefine", name, true); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	d, err := h.find(name)
	if err != nil {
		return err
	}
	if d.state == hypervisor.Running || d.state == hypervisor.Paused {
		return fmt.Errorf("undefine domain %q: it is running; power it off first", name)
	}
	delete(h.domains, name)
	return nil
}

// AttachLayer implements hypervisor.Hypervisor.
func (h *Hypervisor) AttachLayer(ctx context.Context, name string, layer hypervisor.LayerDevice) error {
	if err := h.enter(ctx, "AttachLayer", name, true); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	d, err := h.find(name)
	if err != nil {
		return err
	}
	changed := clone(d.Domain)
	if !slices.ContainsFunc(d.Layers, func(l hypervisor.LayerDevice) bool { return l.ID == layer.ID }) {
		changed.Layers = append(changed.Layers, layer)
	}
	if err := changed.Check(); err != nil {
		return err
	}
	if d.state == hypervisor.Running && !slices.Contains(d.attached, layer.ID) {
		if d.free() <= 0 {
			return fmt.Errorf("attach layer %s to domain %q: %w", layer.ID, name, hypervisor.ErrNoPort)
		}
		if _, err := os.Stat(layer.Path); err != nil && !h.NoFiles {
			return fmt.Errorf("attach layer %s to domain %q: %w", layer.ID, name, err)
		}
		if h.OnAttach != nil {
			if err := h.OnAttach(name, layer); err != nil {
				return fmt.Errorf("attach layer %s to domain %q: %w", layer.ID, name, err)
			}
		}
		d.attached = append(d.attached, layer.ID)
	}
	d.Domain = changed
	return nil
}

// AttachedLayers implements hypervisor.Hypervisor.
func (h *Hypervisor) AttachedLayers(ctx context.Context, name string) ([]tree.Digest, error) {
	if err := h.enter(ctx, "AttachedLayers", name, false); err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	d, err := h.find(name)
	if err != nil || d.state != hypervisor.Running {
		return nil, err
	}
	return slices.Clone(d.attached), nil
}

// BootFiles implements hypervisor.Hypervisor.
func (h *Hypervisor) BootFiles(ctx context.Context) ([]string, error) {
	if err := h.enter(ctx, "BootFiles", "", false); err != nil {
		return nil, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	var files []string
	for _, d := range h.domains {
		files = append(files, d.Kernel, d.Initramfs)
		if d.state == hypervisor.Running {
			files = append(files, d.booted...)
		}
	}
	files = slices.DeleteFunc(files, func(file string) bool { return file == "" })
	slices.Sort(files)
	return slices.Compact(files), nil
}

// DetachLayer implements hypervisor.Hypervisor.
func (h *Hypervisor) DetachLayer(ctx context.Context, name string, id tree.Digest) error {
	if err := h.enter(ctx, "DetachLayer", name, true); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	d, err := h.find(name)
	if err != nil {
		return err
	}
	if d.state == hypervisor.Running && slices.Contains(d.attached, id) {
		if h.Deaf {
			h.mu.Unlock()
			<-ctx.Done()
			h.mu.Lock()
			return fmt.Errorf("detach layer %s from domain %q: the guest has not released it: %w", id, name, ctx.Err())
		}
		if h.OnDetach != nil {
			if err := h.OnDetach(name, id); err != nil {
				return fmt.Errorf("detach layer %s from domain %q: %w", id, name, err)
			}
		}
		d.attached = slices.DeleteFunc(slices.Clone(d.attached), func(p tree.Digest) bool { return p == id })
	}
	d.Layers = slices.DeleteFunc(slices.Clone(d.Layers), func(l hypervisor.LayerDevice) bool { return l.ID == id })
	return nil
}

// ResizeDisk implements hypervisor.Hypervisor.
func (h *Hypervisor) ResizeDisk(ctx context.Context, name, disk string, size int64) error {
	if err := h.enter(ctx, "ResizeDisk", name, true); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	what := fmt.Sprintf("resize disk %q of domain %q", disk, name)
	if size <= 0 {
		return fmt.Errorf("%s: a size of %d bytes is not possible", what, size)
	}
	d, err := h.running("resize a disk of", name)
	if err != nil {
		return err
	}
	if h.OnResize != nil {
		h.OnResize(name, disk, size)
	}
	return h.resize(d, what, disk, size)
}

// SetMetadata implements hypervisor.Hypervisor.
func (h *Hypervisor) SetMetadata(ctx context.Context, name string, metadata hypervisor.Metadata) error {
	if err := h.enter(ctx, "SetMetadata", name, true); err != nil {
		return err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	d, err := h.find(name)
	if err != nil {
		return err
	}
	d.Metadata = cloneMetadata(metadata)
	return nil
}

// VSock implements hypervisor.Hypervisor.
func (h *Hypervisor) VSock(ctx context.Context, name string) (hypervisor.VSockState, error) {
	if err := h.enter(ctx, "VSock", name, false); err != nil {
		return 0, err
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	d, err := h.find(name)
	switch {
	case err != nil:
		return 0, err
	case d.state != hypervisor.Running:
		return 0, fmt.Errorf("reach domain %q: %w", name, hypervisor.ErrNotRunning)
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

// Limits implements hypervisor.Hypervisor. Without Host, a host has four processors and 64 GiB of memory.
func (h *Hypervisor) Limits(ctx context.Context) (hypervisor.Limits, error) {
	if err := h.enter(ctx, "Limits", "", false); err != nil {
		return hypervisor.Limits{}, err
	}
	if h.Host != (hypervisor.Limits{}) {
		return h.Host, nil
	}
	return hypervisor.Limits{VCPUs: hypervisor.MaxVCPUs, Processors: 4, Memory: 64 << 30}, nil
}

// NetworkActive implements hypervisor.Hypervisor.
func (h *Hypervisor) NetworkActive(ctx context.Context, name string) (bool, error) {
	if err := h.enter(ctx, "NetworkActive", name, false); err != nil {
		return false, err
	}
	active, ok := h.Networks[name]
	if !ok {
		return false, fmt.Errorf("network %q: %w", name, hypervisor.ErrNoNetwork)
	}
	return active, nil
}

// IsBridge implements hypervisor.Hypervisor.
func (h *Hypervisor) IsBridge(ctx context.Context, name string) (bool, error) {
	if err := h.enter(ctx, "IsBridge", name, false); err != nil {
		return false, err
	}
	return slices.Contains(h.Bridges, name), hypervisor.CheckBridgeName(name)
}

// Close implements hypervisor.Hypervisor.
func (h *Hypervisor) Close() error { return nil }
