package hypervisortest

import (
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// AddForeign adds a domain that this project did not create.
func (h *Hypervisor) AddForeign(name, uuid string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.domains[name] = &domain{Domain: hypervisor.Domain{Name: name, UUID: uuid}, state: hypervisor.Off, foreign: true}
}

// SetState changes the state of a domain, as a guest or a person would.
func (h *Hypervisor) SetState(name string, state hypervisor.State) {
	h.change(name, func(d *domain) { d.state, d.broke = state, false })
}

// Break ends a domain as a crash of QEMU does.
func (h *Hypervisor) Break(name string) {
	h.change(name, func(d *domain) { d.state, d.broke = hypervisor.Off, true })
}

// Vanish removes a domain, as a person would.
func (h *Hypervisor) Vanish(name string) {
	h.mu.Lock()
	defer h.mu.Unlock()
	delete(h.domains, name)
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
	h.change(name, func(d *domain) { d.unplugLayer(id) })
}

// Autostart sets whether a domain starts with the host, as a person could (virsh autostart).
func (h *Hypervisor) Autostart(name string, on bool) {
	h.change(name, func(d *domain) { d.autostart = on })
}

// UnplugDisk takes a further disk from a running domain and leaves its definition, as a person
// could (virsh detach-disk --live).
func (h *Hypervisor) UnplugDisk(name, disk string) {
	h.change(name, func(d *domain) { d.unplug(disk) })
}

// change changes a domain, if there is one of the name.
func (h *Hypervisor) change(name string, change func(*domain)) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if d := h.domains[name]; d != nil {
		change(d)
	}
}
