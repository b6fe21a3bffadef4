package provider

import (
	"fmt"
	"maps"
	"slices"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
)

// plannedObjects are what the resources of one run have planned so far, so that two of them that want the same are found
// before anything changes. Terraform configures the provider anew for each run. Use it with connection.mu held.
type plannedObjects struct {
	// state are the UUIDs of VMs in state, as far as they were read or planned.
	state map[string]bool
	// vms are the planned VMs by name.
	vms map[string]plannedVM
}

// plannedVM is a VM that is planned.
type plannedVM struct {
	// uuid of a VM that exists; empty for a new one.
	uuid string
	spec vm.Spec
}

// noteState records that a VM is in state.
func (c *connection) noteState(uuid string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.plans.state == nil {
		c.plans.state = map[string]bool{}
	}
	c.plans.state[uuid] = true
}

// inState reports whether a VM of this UUID is in state.
func (c *connection) inState(uuid string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return uuid != "" && c.plans.state[uuid]
}

// planVM records a VM that is planned, and returns what other VMs of the run want, too.
//
// A replacement is planned twice: as a change of the VM in state, and as a new one. Two resources of one name, of which
// one has a VM in state, cannot be told from that; the apply refuses the second.
func (c *connection) planVM(spec vm.Spec, uuid string) []vm.Problem {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.plans.vms == nil {
		c.plans.vms = map[string]plannedVM{}
	}
	if spec.Name == "" {
		return nil // it is not known yet
	}
	var problems []vm.Problem
	if other, ok := c.plans.vms[spec.Name]; ok && other.uuid == "" && uuid == "" {
		problems = append(problems, vm.Problem{
			Attribute: []string{"name"}, Err: fmt.Errorf("another resource of this configuration has a VM of the name %q, too", spec.Name),
			Next: "Give each VM a name of its own.",
		})
	}
	c.plans.vms[spec.Name] = plannedVM{uuid, spec}
	for _, name := range slices.Sorted(maps.Keys(c.plans.vms)) {
		if name == spec.Name {
			continue
		}
		other := c.plans.vms[name].spec
		for _, at := range slices.Sorted(maps.Keys(spec.Interfaces)) {
			for _, port := range forwardedPorts(spec.Interfaces[at]) {
				if slices.ContainsFunc(slices.Collect(maps.Values(other.Interfaces)), func(i hypervisor.Interface) bool {
					return slices.Contains(forwardedPorts(i), port)
				}) {
					problems = append(problems, vm.Problem{
						Attribute: []string{"interfaces", at, "user", "forwards"},
						Err:       fmt.Errorf("port %d of the host's 127.0.0.1 is forwarded to VM %q, too", port, name),
						Next:      "Choose another port for one of them.",
					})
				}
			}
		}
	}
	return problems
}

// forwardedPorts are the ports of the host that an interface forwards, sorted.
func forwardedPorts(one hypervisor.Interface) []uint16 {
	if one.User == nil {
		return nil
	}
	return slices.Sorted(maps.Keys(one.User.Forwards))
}
