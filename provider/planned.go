package provider

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
)

// plannedObjects are what the resources of one run have planned so far, so that two of them that want the same are
// found before anything changes. Terraform configures the provider anew for each run. Use it with connection.mu held.
type plannedObjects struct {
	// state are the UUIDs of VMs, and the owners of bases, in state, as far as they were read or planned.
	state map[string]bool
	// vms are the planned VMs by name.
	vms map[string]plannedVM
	// names are the objects that are planned.
	names map[string]plannedName
	// found are the VMs that take part in rollouts, as they were read.
	found map[string]*vm.VM
	// rollouts are those that move each VM, by the names of the VMs.
	rollouts map[string]string
}

// plannedName is which resources plan an object of a name: one that has it in state, and one that creates it.
type plannedName struct{ exists, creates bool }

// privatePlanned is a key in planned private data. Its value is the object, a JSON string, which the resource has in
// state. Terraform plans a replacement twice: as a change of the object in state, and then as a new one, with the
// private data of the first plan.
const privatePlanned = "planned"

// planName records that a resource plans an object, such as a VM of some name, and fails if another resource does, too.
// It reports whether the object is a new one that replaces none of this resource.
func (c *connection) planName(
	ctx context.Context, object string, exists bool, private privateState, to privateWriter,
) (first bool, _ diag.Diagnostics) {
	mark, err := json.Marshal(object)
	if err != nil {
		return false, failed(failure{do: "plan", object: object, err: err})
	}
	before, diags := private.GetKey(ctx, privatePlanned)
	if exists {
		diags.Append(to.SetKey(ctx, privatePlanned, mark)...)
	}
	if diags.HasError() {
		return false, diags
	}
	replaces := !exists && bytes.Equal(before, mark)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.plans.names == nil {
		c.plans.names = map[string]plannedName{}
	}
	planned := c.plans.names[object]
	twice := !replaces && (planned.creates || !exists && planned.exists)
	planned.exists, planned.creates = planned.exists || exists, planned.creates || !exists && !replaces
	c.plans.names[object] = planned
	if twice {
		return false, failedAt(path.Root("name"), failure{do: "plan", object: object,
			err:  errors.New("another resource of this configuration has the same name"),
			next: "Give each of them a name of its own, or remove one of the resources.",
		})
	}
	return !exists && !replaces, diags
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
	if uuid == "" {
		return
	}
	if c.plans.state == nil {
		c.plans.state = map[string]bool{}
	}
	c.plans.state[uuid] = true
}

// inState reports whether a VM of this UUID, or a base of this owner, is in state. Of what Terraform did not read it is
// not known; then it may be.
func (c *connection) inState(uuid string) bool {
	unread := c.invocation().unread
	c.mu.Lock()
	defer c.mu.Unlock()
	return uuid != "" && unread || c.plans.state[uuid]
}

// planVM records a VM that is planned, and returns what other VMs of the run want, too.
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
	c.plans.vms[spec.Name] = plannedVM{uuid, spec}
	for _, name := range slices.Sorted(maps.Keys(c.plans.vms)) {
		if name == spec.Name {
			continue
		}
		other := c.plans.vms[name].spec
		for _, at := range slices.Sorted(maps.Keys(spec.Interfaces)) {
			problems = append(problems, sharedLink(at, spec.Interfaces[at], name, other.Interfaces)...)
		}
		problems = append(problems, sharedHardware(spec.Hardware, name, other.Hardware)...)
		for _, at := range slices.Sorted(maps.Keys(spec.Disks)) {
			one := spec.Disks[at]
			if one.Volume != "" &&
				slices.ContainsFunc(slices.Collect(maps.Values(other.Disks)), func(disk vm.Disk) bool {
					return disk.Volume == one.Volume && disk.Pool == one.Pool && !(disk.ReadOnly && one.ReadOnly)
				}) {
				problems = append(problems, vm.Problem{
					Attribute: []string{"disks", at, "volume"},
					Err:       fmt.Errorf("volume %q is a disk of VM %q, too", one.Volume, name),
					Next:      "Give each VM a volume of its own, or set read_only for both.",
				})
			}
		}
	}
	return problems
}

// sharedHardware returns what of the host only one VM can have, and another VM has, too.
func sharedHardware(one hypervisor.Hardware, other string, two hypervisor.Hardware) (problems []vm.Problem) {
	if a, b := one.Graphics,
		two.Graphics; a != nil && b != nil && a.Port != 0 && a.Port == b.Port && a.Listen == b.Listen {
		problems = append(problems, vm.Problem{
			Attribute: []string{vm.AttributeGraphics, "port"},
			Err:       fmt.Errorf("port %d of the host is that of the graphics of VM %q, too", a.Port, other),
			Next:      "Choose another port for one of them, or leave port out: libvirt then chooses one.",
		})
	}
	for _, at := range slices.Sorted(maps.Keys(one.Devices)) {
		if slices.Contains(slices.Collect(maps.Values(two.Devices)), one.Devices[at]) {
			problems = append(problems, vm.Problem{
				Attribute: []string{vm.AttributeDevices, at},
				Err: fmt.Errorf("device %s of the host is passed through to VM %q, too",
					one.Devices[at].PCI+one.Devices[at].USB, other),
				Next: "Pass it through to one of them only.",
			})
		}
	}
	return problems
}

// sharedLink returns what an interface has that only one interface can have, and that one of another VM has, too.
func sharedLink(at string, one hypervisor.Interface, other string,
	links map[string]hypervisor.Interface) (problems []vm.Problem) {
	for _, link := range slices.Sorted(maps.Keys(links)) {
		two := links[link]
		for _, port := range forwardedPorts(one) {
			if slices.Contains(forwardedPorts(two), port) {
				problems = append(problems, vm.Problem{
					Attribute: []string{"interfaces", at, "user", "forwards"},
					Err:       fmt.Errorf("port %d of the host's 127.0.0.1 is forwarded to VM %q, too", port, other),
					Next:      "Choose another port for one of them.",
				})
			}
		}
		if one.MAC != "" && one.MAC == two.MAC && one.User == nil && one.Bridge == two.Bridge &&
			one.Network == two.Network {
			problems = append(problems, vm.Problem{
				Attribute: []string{"interfaces", at, "mac"},
				Err:       fmt.Errorf("MAC address %s is that of VM %q on the same network, too", one.MAC, other),
				Next:      "Choose another address for one of them, or leave mac out: it then follows from the VM.",
			})
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
