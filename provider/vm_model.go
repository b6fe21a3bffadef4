package provider

import (
	"context"
	"maps"
	"sync"

	"github.com/hashicorp/terraform-plugin-framework-timeouts/resource/timeouts"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
)

// vmModel is sharedos_vm in config, plan and state. It consists of blocks, one for each group of attributes.
type vmModel struct {
	vmIdentity
	vmStack
	vmCompute
	vmDisk
	vmDisks
	vmInterfaces
	vmHardware
	vmPower
	vmLifeCycle
	vmReady
	vmRefresh
	vmGuest
	vmKernel
	vmAgent
	vmImpact
	vmLastRefresh

	Timeouts timeouts.Value `tfsdk:"timeouts"`
}

// vmBlock is a group of attributes of sharedos_vm. It is a struct whose fields hold their values, and everything that
// the resource needs to know about these attributes is in the methods of this struct: a new attribute of a VM is a
// field, an entry in attributes, and a line each in toSpec and fromVM.
type vmBlock interface {
	// attributes returns the block's part of the schema.
	attributes() map[string]schema.Attribute
	// toSpec writes the configured attributes into the specification of the VM. They must all be known.
	toSpec(ctx context.Context, spec *vm.Spec) diag.Diagnostics
	// fromVM reads the attributes back from the VM. A value that already means the same keeps its spelling: 1024MiB is
	// not replaced by 1GiB, and an absent list not by an empty one.
	fromVM(ctx context.Context, found *vm.VM) diag.Diagnostics
	// compare records in change how the planned block differs from the VM in state.
	compare(state *vmModel, change *vmChange)
}

// vmBlockWithPlan is a block with values that Terraform cannot plan from the schema alone.
type vmBlockWithPlan interface {
	// completePlan sets defaults that follow from other attributes, and keeps the spelling in state of a value that
	// means the same in the plan. The state of a new VM is nil.
	completePlan(config, state *vmModel)
}

// vmBlockWithValidation is a block with rules that concern several attributes together, or that an apply checks, too.
type vmBlockWithValidation interface {
	// validate checks the configuration. Values may be unknown.
	validate() diag.Diagnostics
}

// computedOnly is embedded by blocks without attributes that a user can configure.
type computedOnly struct{}

func (computedOnly) toSpec(context.Context, *vm.Spec) diag.Diagnostics { return nil }
func (computedOnly) compare(*vmModel, *vmChange)                       {}

func (m *vmModel) blocks() []vmBlock {
	return []vmBlock{
		&m.vmIdentity, &m.vmStack, &m.vmCompute, &m.vmDisk, &m.vmDisks, &m.vmInterfaces, &m.vmHardware, &m.vmPower,
		&m.vmLifeCycle, &m.vmReady, &m.vmRefresh,
		&m.vmGuest, &m.vmKernel, &m.vmAgent, &m.vmImpact, &m.vmLastRefresh,
	}
}

// vmAttributes returns the attributes of all blocks.
func vmAttributes() map[string]schema.Attribute {
	attributes := map[string]schema.Attribute{}
	for _, block := range new(vmModel).blocks() {
		maps.Copy(attributes, block.attributes())
	}
	return attributes
}

// vmNames are the names of the attributes of all blocks.
var vmNames = sync.OnceValue(func() attributeNames { return namesOf(vmAttributes()) })

// spec returns the specification of the VM. All configured attributes must be known.
func (m *vmModel) spec(ctx context.Context) (vm.Spec, diag.Diagnostics) {
	var spec vm.Spec
	var diags diag.Diagnostics
	for _, block := range m.blocks() {
		diags.Append(block.toSpec(ctx, &spec)...)
	}
	return spec, diags
}

// validate checks the rules of the blocks. An apply does it again, for values that were unknown
// when the configuration was validated.
func (m *vmModel) validate() diag.Diagnostics {
	var diags diag.Diagnostics
	for _, block := range m.blocks() {
		if block, ok := block.(vmBlockWithValidation); ok {
			diags.Append(block.validate()...)
		}
	}
	return append(diags, m.validateNetworks()...)
}

// known reports whether everything that spec needs is known.
func (m *vmModel) known(ctx context.Context) (bool, error) {
	return fullyKnown(ctx, m, vmNames().configurable)
}

// observe makes the model describe the VM as it is.
func (m *vmModel) observe(ctx context.Context, found *vm.VM) diag.Diagnostics {
	var diags diag.Diagnostics
	for _, block := range m.blocks() {
		diags.Append(block.fromVM(ctx, found)...)
	}
	return diags
}

// describedVM is a model of a VM as it is, of which there is no state.
func describedVM(ctx context.Context, found *vm.VM) (vmModel, diag.Diagnostics) {
	var model vmModel
	if err := clearValues(ctx, &model, vmAttributes()); err != nil {
		return model, failed(failure{do: "describe", object: vmName(found.Spec.Name), err: err})
	}
	return model, model.observe(ctx, found)
}

// carryComputed takes the computed attributes from an earlier state.
func (m *vmModel) carryComputed(from *vmModel) { copyValues(m, from, vmNames().computed) }

// complete takes the computed attributes that the plan left unknown from what was observed.
func (m *vmModel) complete(observed *vmModel) { completeValues(m, observed, vmNames().computed) }

// vmChange says what differs between the plan and the state of a VM, by how the difference reaches the VM.
type vmChange struct {
	// stack: base or components. A running VM is refreshed.
	stack bool
	// hardware: attributes that change only when the VM is powered off and started.
	hardware bool
	// power: whether the VM runs.
	power bool
	// links: interfaces on bridges and networks, which come, change and go while the VM runs.
	links bool
	// compute: processors and memory below their maxima, which change while the VM runs.
	compute bool
	// disk: the size of the private disk, which grows while the VM runs.
	disk bool
	// disks: further disks, which are attached, detached, grown and mounted while the VM runs.
	disks bool
	// configuration: the configuration of the guest, which it takes on while it runs.
	configuration bool
	// nextBoot: what takes effect when the VM is next started after a power-off.
	nextBoot bool
	// lifeCycle: what libvirt alone knows. Neither the guest nor the hardware is touched.
	lifeCycle bool
	// definition: attributes that change nothing in the running guest. They change the definition
	// or the provider's policy.
	definition bool
}

// changeFrom compares the plan with the VM in state. An unknown value counts as different.
func (m *vmModel) changeFrom(state *vmModel) vmChange {
	change := vmChange{definition: !m.Timeouts.Equal(state.Timeouts)}
	for _, block := range m.blocks() {
		block.compare(state, &change)
	}
	return change
}

// beyondLifeCycle reports whether something else differs than the life cycle.
func (c vmChange) beyondLifeCycle() bool {
	c.lifeCycle = false
	return c != (vmChange{})
}

// silent reports whether the VM runs but its agent does not answer, so that nothing is known about the guest.
func silent(found *vm.VM) bool { return found.State == hypervisor.Running && !found.Answered }
