package providertest

import (
	"fmt"
	"slices"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
)

// VMs names the VMs of the host.
func (w *World) VMs() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	var names []string
	for name := range w.vms {
		names = append(names, name)
	}
	slices.Sort(names)
	return names
}

// VM returns the definition of a VM, and the stack that its guest runs.
func (w *World) VM(name string) (vm.Spec, release.Stack, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	known, err := w.find(name)
	if err != nil {
		return vm.Spec{}, release.Stack{}, fmt.Errorf("VM %q: %w", name, err)
	}
	return known.spec, known.stack, nil
}

// change does something to a VM.
func (w *World) change(name string, do func(*machine)) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if known := w.vms[name]; known != nil {
		do(known)
	}
}

// AddForeign adds a domain that this project did not make.
func (w *World) AddForeign(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.vms[name] = &machine{foreign: true, state: hypervisor.Running}
}

// DropVM makes a VM vanish, as somebody does who undefines it by hand.
func (w *World) DropVM(name string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.vms, name)
}

// Reidentify gives a VM another UUID, as somebody does who makes another one under its name.
func (w *World) Reidentify(name, uuid string) {
	w.change(name, func(m *machine) { m.spec.UUID = uuid })
}

// SetState powers a VM on or off, pauses it or crashes it.
func (w *World) SetState(name string, state hypervisor.State) {
	w.change(name, func(m *machine) { m.state = state })
}

// SetSilent makes a VM's agent answer or not.
func (w *World) SetSilent(name string, silent bool) {
	w.change(name, func(m *machine) { m.silent = silent })
}

// SetImpact sets what every refresh of a VM interrupts; nil is a restart of nginx.
func (w *World) SetImpact(name string, impact *agentapi.Impact) {
	w.change(name, func(m *machine) { m.impact = impact })
}

// SetBroken makes a health check of a VM fail after every refresh; none if empty.
func (w *World) SetBroken(name, check string) {
	w.change(name, func(m *machine) { m.broken = check })
}

// SetStack makes a guest run another stack than its definition names.
func (w *World) SetStack(name string, stack release.Stack) {
	w.change(name, func(m *machine) { m.stack = stack })
}
