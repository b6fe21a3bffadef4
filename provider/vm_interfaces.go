package provider

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/hashicorp/terraform-plugin-framework-validators/int64validator"
	"github.com/hashicorp/terraform-plugin-framework-validators/mapvalidator"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/int64default"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/stringdefault"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
)

// vmInterfaces are the network interfaces of a VM. vm_addresses.go has their addresses.
type vmInterfaces struct {
	Interfaces types.Map `tfsdk:"interfaces"`
	Addresses  types.Map `tfsdk:"addresses"`
}

var (
	_ vmBlock               = (*vmInterfaces)(nil)
	_ vmBlockWithValidation = (*vmInterfaces)(nil)
)

// The states of a link.
const (
	linkUp   = "up"
	linkDown = "down"
)

// interfaceModel is one value of the attribute interfaces.
type interfaceModel struct {
	User    *userNetworkModel `tfsdk:"user"`
	Bridge  *string           `tfsdk:"bridge"`
	Network *string           `tfsdk:"network"`
	MAC     *string           `tfsdk:"mac"`
	Model   *string           `tfsdk:"model"`
	MTU     *int64            `tfsdk:"mtu"`
	Link    *string           `tfsdk:"link"`
	Queues  *int64            `tfsdk:"queues"`
	VLAN    *int64            `tfsdk:"vlan"`
}

type userNetworkModel struct {
	Forwards types.Map `tfsdk:"forwards"`
}

func interfacesAttribute() schema.MapNestedAttribute {
	const (
		moves = "A change is live: the card stays, and its link is down for a moment, so that the guest asks for an address again. With `vlan`, " +
			"the card is detached and attached again."
		again = "A change is live: the card is detached and another one attached, and connections break. With `user`, it takes a power-off."
	)
	return schema.MapNestedAttribute{
		Optional: true,
		MarkdownDescription: "Network interfaces, by names of your choice. Each has exactly one of `user`, `bridge` and " +
			"`network`. Those on a `bridge` or `network` are attached, changed and detached live, which the guest has to take part in. " +
			"Those with `user` are arguments of QEMU, which libvirt does not know, since its own port forwarding needs passt: they come, change and go " +
			"through a power-off. What other people attach to the VM is left alone.",
		Validators: []validator.Map{mapvalidator.KeysAre(isInterface)},
		NestedObject: schema.NestedAttributeObject{Attributes: map[string]schema.Attribute{
			"user": schema.SingleNestedAttribute{
				Optional: true,
				MarkdownDescription: "QEMU's user-mode network. The guest can open connections to other hosts, but " +
					"it can be reached only through 127.0.0.1 of the host. A change takes a power-off, also one from " +
					"or to `bridge` or `network`.",
				Attributes: map[string]schema.Attribute{
					"forwards": schema.MapAttribute{
						Optional: true, ElementType: types.Int64Type,
						MarkdownDescription: "TCP ports of the guest, by the port on 127.0.0.1 of the host that is " +
							"forwarded to it: `{ \"8080\" = 80 }`.",
						Validators: []validator.Map{
							mapvalidator.KeysAre(isPort), mapvalidator.ValueInt64sAre(int64validator.Between(1, 65535)),
						},
					},
				},
			},
			"bridge": schema.StringAttribute{
				Optional:            true,
				MarkdownDescription: "Name of a bridge on the host. " + moves,
				Validators:          []validator.String{isBridge},
			},
			"network": schema.StringAttribute{
				Optional:            true,
				MarkdownDescription: "Name of a libvirt network. " + moves,
				Validators:          []validator.String{isNetwork},
			},
			"mac": schema.StringAttribute{
				Optional: true,
				MarkdownDescription: "MAC address, such as `52:54:00:aa:bb:cc`, in lower case. Default: one that follows from `uuid` and " +
					"the name of the interface, so that it lasts as long as the VM, and adding or removing an " +
					"interface does not change the others. `addresses` has it in both cases. Set it for an address " +
					"that outlives a VM, such as for a reservation of a DHCP server. " + again,
				Validators: []validator.String{isMAC},
			},
			"model": schema.StringAttribute{
				Optional: true, Computed: true, Default: stringdefault.StaticString(hypervisor.Virtio),
				MarkdownDescription: "Network card: `virtio` or `e1000e`. The kernel of the base needs a driver for it. Default: " +
					"`virtio`. " + again,
				Validators: []validator.String{isModel},
			},
			"mtu": schema.Int64Attribute{
				Optional: true,
				MarkdownDescription: "MTU in bytes that the card tells the guest, which uses it unless its own " +
					"configuration says another; for the model `virtio` only. On a bridge or network, the host's end " +
					"gets it, too. Default: the guest's own, and on the host that of the bridge or network. " + again,
				Validators: []validator.Int64{int64validator.Between(hypervisor.MinMTU, hypervisor.MaxMTU)},
			},
			"queues": schema.Int64Attribute{
				Optional: true, Computed: true, Default: int64default.StaticInt64(1),
				MarkdownDescription: "Pairs of queues of the card, so that several processors of the guest send and " +
					"receive at once; for the model `virtio` on a `bridge` or `network`, and at most as many as the " +
					"VM has processors (`vcpus`, or `max_vcpus`). The host's vhost-net serves them where it is " +
					"there, and QEMU otherwise. Default: 1. " + again,
				Validators: []validator.Int64{int64validator.Between(1, hypervisor.MaxQueues)},
			},
			"vlan": schema.Int64Attribute{
				Optional: true,
				MarkdownDescription: "Tag of the VLAN of the `bridge` that the interface is in, untagged in the guest. The bridge has to filter VLANs " +
					"(`ip link set br0 type bridge vlan_filtering 1`), and libvirt has to be 11.0 or later: the plan asks the host. It cannot be set with " +
					"`network`, whose own definition has VLANs (`<vlan>`, `<portgroup>`), or with `user`. Default: what the bridge does with " +
					"untagged packets. " + again,
				Validators: []validator.Int64{int64validator.Between(hypervisor.MinVLAN, hypervisor.MaxVLAN)},
			},
			"link": schema.StringAttribute{
				Optional: true, Computed: true, Default: stringdefault.StaticString(linkUp),
				MarkdownDescription: "Link of the card: `up`, or `down`, as if its cable was pulled. It cannot be `down` with `user`. " +
					"Default: `up`. It changes live, without an interruption of anything else.",
				Validators: []validator.String{isLink},
			},
		}},
	}
}

var interfaceType = types.ObjectType{AttrTypes: typesOf(interfacesAttribute().NestedObject.Attributes)}

func (*vmInterfaces) attributes() map[string]schema.Attribute {
	return map[string]schema.Attribute{"interfaces": interfacesAttribute(), "addresses": addressesAttribute()}
}

func (b *vmInterfaces) validate() diag.Diagnostics {
	diags := exactlyOne(path.Root("interfaces"), b.Interfaces, "user", "bridge", "network")
	elements := b.Interfaces.Elements()
	first := map[string]string{} // the interface that forwards a port
	diags.Append(b.validateCards()...)
	for _, name := range slices.Sorted(maps.Keys(elements)) {
		one, ok := elements[name].(types.Object)
		if !ok || unset(one) {
			continue
		}
		user, ok := one.Attributes()["user"].(types.Object)
		if !ok || unset(user) {
			continue
		}
		forwards, ok := user.Attributes()["forwards"].(types.Map)
		if !ok || unset(forwards) {
			continue
		}
		for _, port := range slices.Sorted(maps.Keys(forwards.Elements())) {
			if other, twice := first[port]; twice {
				diags.Append(failedAt(path.Root("interfaces").AtMapKey(name).AtName("user").AtName("forwards"), failure{
					do: "use", object: fmt.Sprintf("interface %q", name),
					err:  fmt.Errorf("interface %q forwards port %s of the host, too", other, port),
					next: "Choose another port for one of them.",
				})...)
				continue
			}
			first[port] = name
		}
	}
	return diags
}

// validateCards checks what is known of each interface: whether its network card can have these attributes, and that no
// MAC address is given twice.
func (b *vmInterfaces) validateCards() (diags diag.Diagnostics) {
	elements := b.Interfaces.Elements()
	first := map[string]string{} // the interface that has a MAC address
	for _, name := range slices.Sorted(maps.Keys(elements)) {
		one, ok := elements[name].(types.Object)
		if !ok || unset(one) {
			continue
		}
		at := path.Root("interfaces").AtMapKey(name)
		refuse := func(at path.Path, err error, next string) {
			diags.Append(failedAt(at,
				failure{do: "use", object: fmt.Sprintf("interface %q", name), err: err, next: next})...)
		}
		if mac, ok := one.Attributes()["mac"].(types.String); ok && !unset(mac) {
			if other, twice := first[mac.ValueString()]; twice {
				refuse(at.AtName("mac"), fmt.Errorf("interface %q has the same MAC address", other),
					"Choose another one for one of them.")
			}
			first[mac.ValueString()] = name
		}
		if model, ok := one.Attributes()["model"].(types.String); ok && !unset(model) &&
			model.ValueString() != hypervisor.Virtio {
			if mtu, ok := one.Attributes()["mtu"].(types.Int64); ok && !unset(mtu) {
				refuse(at.AtName("mtu"),
					fmt.Errorf("a card of the model %q does not tell the guest an MTU", model.ValueString()),
					"Leave mtu out and set the MTU in the guest, or use the model "+hypervisor.Virtio+".")
			}
		}
		number := func(name string) int64 {
			value, ok := one.Attributes()[name].(types.Int64)
			if !ok || unset(value) {
				return 0
			}
			return value.ValueInt64()
		}
		isUser := !unset(one.Attributes()["user"])
		if model, ok := one.Attributes()["model"].(types.String); ok && number("queues") > 1 &&
			(isUser || !unset(model) && model.ValueString() != hypervisor.Virtio) {
			refuse(at.AtName("queues"),
				errors.New("only a card of the model "+hypervisor.Virtio+" on a bridge or network has several queues"),
				"Leave queues out.")
		}
		if number("vlan") > 0 && (isUser || !unset(one.Attributes()["network"])) {
			refuse(at.AtName("vlan"), errors.New("a VLAN can be given only with a bridge"),
				"Leave vlan out. For a network, its definition in libvirt says the VLAN.")
		}
		if link, ok := one.Attributes()["link"].(types.String); ok && link.ValueString() == linkDown && isUser {
			refuse(at.AtName("link"),
				errors.New("the link of a user-mode network is always up: QEMU runs it, and libvirt does not know it"),
				"Leave link out, or leave out the interface, or put it on a bridge or a network.")
		}
	}
	return diags
}

// models reads the attribute, which must be known throughout.
func (b *vmInterfaces) models(ctx context.Context) (models map[string]interfaceModel, diags diag.Diagnostics) {
	if b.Interfaces.IsNull() || b.Interfaces.IsUnknown() {
		return nil, nil
	}
	diags = b.Interfaces.ElementsAs(ctx, &models, false)
	return models, diags
}

func (b *vmInterfaces) toSpec(ctx context.Context, spec *vm.Spec) diag.Diagnostics {
	models, diags := b.models(ctx)
	if models == nil {
		return diags
	}
	spec.Interfaces = make(map[string]hypervisor.Interface, len(models))
	for name, model := range models {
		var one hypervisor.Interface
		switch {
		case model.User != nil:
			one.User = &hypervisor.UserNetwork{Forwards: map[uint16]uint16{}}
			var forwards map[string]int64
			if !model.User.Forwards.IsNull() {
				diags.Append(model.User.Forwards.ElementsAs(ctx, &forwards, false)...)
			}
			for host, guest := range forwards {
				port, err := strconv.ParseUint(host, 10, 16)
				if err != nil {
					diags.Append(failedAt(path.Root("interfaces").AtMapKey(name),
						failure{do: "read the forwards of", object: vmName(spec.Name), err: err})...)
					continue
				}
				one.User.Forwards[uint16(port)] = uint16(guest)
			}
		case model.Bridge != nil:
			one.Bridge = *model.Bridge
		case model.Network != nil:
			one.Network = *model.Network
		}
		if model.MAC != nil {
			one.MAC = *model.MAC
		}
		if model.Model != nil {
			one.Model = *model.Model
		}
		if model.MTU != nil {
			one.MTU = int(*model.MTU)
		}
		if model.Queues != nil {
			one.Queues = int(*model.Queues)
		}
		if model.VLAN != nil {
			one.VLAN = int(*model.VLAN)
		}
		one.Down = model.Link != nil && *model.Link == linkDown
		spec.Interfaces[name] = one
	}
	return diags
}

func (b *vmInterfaces) fromVM(ctx context.Context, found *vm.VM) diag.Diagnostics {
	diags := b.addressesFromVM(ctx, found)
	return append(diags, b.interfacesFromVM(ctx, found)...)
}

func (b *vmInterfaces) interfacesFromVM(ctx context.Context, found *vm.VM) diag.Diagnostics {
	if len(found.Spec.Interfaces) == 0 && len(b.Interfaces.Elements()) == 0 && !b.Interfaces.IsUnknown() {
		return nil
	}
	before, diags := b.models(ctx)
	models := make(map[string]interfaceModel, len(found.Spec.Interfaces))
	for name, one := range found.Spec.Interfaces {
		var model interfaceModel
		switch {
		case one.User != nil:
			model.User = &userNetworkModel{Forwards: types.MapNull(types.Int64Type)}
			// user = {} and user = { forwards = {} } mean the same: keep the form that the user chose.
			if was := before[name].User; len(one.User.Forwards) > 0 || was != nil && !was.Forwards.IsNull() {
				ports := make(map[string]int64, len(one.User.Forwards))
				for host, guest := range one.User.Forwards {
					ports[strconv.Itoa(int(host))] = int64(guest)
				}
				var d diag.Diagnostics
				model.User.Forwards, d = types.MapValueFrom(ctx, types.Int64Type, ports)
				diags.Append(d...)
			}
		case one.Bridge != "":
			model.Bridge = &one.Bridge
		default:
			model.Network = &one.Network
		}
		// A MAC address that is given stays, also if it is the one that the interface would have without it.
		if one.MAC != "" {
			model.MAC = &one.MAC
		} else if was := before[name].MAC; was != nil && *was == one.Address(found.Spec.UUID, name) {
			model.MAC = was
		}
		card, link := cmp.Or(one.Model, hypervisor.Virtio), linkUp
		if one.Down {
			link = linkDown
		}
		model.Model, model.Link = &card, &link
		if one.MTU != 0 {
			mtu := int64(one.MTU)
			model.MTU = &mtu
		}
		queues := int64(max(1, one.Queues))
		model.Queues = &queues
		if one.VLAN != 0 {
			vlan := int64(one.VLAN)
			model.VLAN = &vlan
		}
		models[name] = model
	}
	value, d := types.MapValueFrom(ctx, interfaceType, models)
	b.Interfaces = value
	return append(diags, d...)
}

func (b *vmInterfaces) compare(state *vmModel, change *vmChange) {
	if b.Interfaces.Equal(state.Interfaces) {
		return
	}
	// What differs in words only, such as a MAC address that the interface has without it, reaches the definition.
	change.definition = true
	want, have := vm.Spec{}, vm.Spec{}
	for block, spec := range map[*vmInterfaces]*vm.Spec{b: &want, &state.vmInterfaces: &have} {
		known, err := fullyKnown(context.Background(), block, map[string]bool{"interfaces": true})
		if err != nil || !known || block.toSpec(context.Background(), spec).HasError() {
			change.hardware = true
			return
		}
	}
	moves, powerOff := vm.PlanInterfaces(state.UUID.ValueString(), have.Interfaces, want.Interfaces)
	change.hardware = change.hardware || powerOff
	change.links = change.links || moves.Any()
}
