package provider

import (
	"context"

	"github.com/hashicorp/terraform-plugin-framework/attr"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
)

// addressesModel is one value of the attribute addresses.
type addressesModel struct {
	MAC  string   `tfsdk:"mac"`
	IPv4 []string `tfsdk:"ipv4"`
	IPv6 []string `tfsdk:"ipv6"`
}

func addressesAttribute() schema.MapNestedAttribute {
	return schema.MapNestedAttribute{
		Computed: true,
		MarkdownDescription: "Addresses of each of the `interfaces`, by its name. Those of IPv4 and IPv6 are as the agent in the guest says " +
			"when the VM is read; there are none while the VM is off, and those from before while the agent does not " +
			"answer. They change by themselves, as a DHCP server gives them: that is no change in a plan. An apply " +
			"that attaches an interface to a VM that runs, or moves one or sets its link up, waits up to 30 seconds " +
			"for an address of it; an interface without one is no error.",
		NestedObject: schema.NestedAttributeObject{Attributes: map[string]schema.Attribute{
			"mac": computedText("MAC address of the interface, given or not."),
			"ipv4": computedTexts(
				"IPv4 addresses, sorted, at most 16 of both kinds together. Link-local addresses (169.254.0.0/16) " +
					"are left out, unless the interface has no others. " +
					"`one(sharedos_vm.web.addresses[\"lan\"].ipv4)` is null as long as there is none."),
			"ipv6": computedTexts(
				"IPv6 addresses, sorted. Link-local addresses (fe80::/10) are left out, unless the interface has no others."),
		}},
	}
}

var addressesType = types.ObjectType{AttrTypes: typesOf(addressesAttribute().NestedObject.Attributes)}

// addressesFromVM reads the addresses. What an agent that does not answer has said before stays,
// for the interfaces that the VM still has.
func (b *vmInterfaces) addressesFromVM(ctx context.Context, found *vm.VM) diag.Diagnostics {
	var before map[string]addressesModel
	var diags diag.Diagnostics
	if found.Addresses == nil && !unset(b.Addresses) {
		diags = b.Addresses.ElementsAs(ctx, &before, false)
	}
	models := make(map[string]addressesModel, len(found.Spec.Interfaces))
	for name, one := range found.Spec.Interfaces {
		model := noAddresses(one, found.Spec.UUID, name)
		if was, ok := before[name]; ok {
			model.IPv4, model.IPv6 = was.IPv4, was.IPv6
		}
		for _, address := range found.Addresses[name] {
			if address.Is4() {
				model.IPv4 = append(model.IPv4, address.String())
			} else {
				model.IPv6 = append(model.IPv6, address.String())
			}
		}
		models[name] = model
	}
	value, d := types.MapValueFrom(ctx, addressesType, models)
	b.Addresses = value
	return append(diags, d...)
}

// noAddresses are the addresses of an interface of a VM that is off.
func noAddresses(one hypervisor.Interface, uuid, name string) addressesModel {
	return addressesModel{MAC: one.Address(uuid, name), IPv4: []string{}, IPv6: []string{}}
}

// planAddresses plans the attribute addresses of a VM that is started, or whose interfaces change.
func (m *vmModel) planAddresses(ctx context.Context) (diags diag.Diagnostics) {
	m.Addresses = types.MapUnknown(addressesType)
	if m.Interfaces.IsNull() {
		m.Addresses = types.MapValueMust(addressesType, map[string]attr.Value{})
		return nil
	}
	known, err := fullyKnown(ctx, m, map[string]bool{"interfaces": true, "uuid": true, "running": true})
	if err != nil {
		return failed(failure{do: "plan", object: vmName(m.Name.ValueString()), err: err})
	}
	if !known || m.Running.ValueBool() {
		return nil
	}
	var spec vm.Spec
	if diags = m.vmInterfaces.toSpec(ctx, &spec); diags.HasError() {
		return diags
	}
	values := map[string]attr.Value{}
	for name, one := range spec.Interfaces {
		values[name] = object(ctx, addressesType.AttrTypes, noAddresses(one, m.UUID.ValueString(), name), &diags)
	}
	var d diag.Diagnostics
	m.Addresses, d = types.MapValue(addressesType, values)
	return append(diags, d...)
}
