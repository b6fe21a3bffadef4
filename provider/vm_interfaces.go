package provider

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strconv"

	"github.com/hashicorp/terraform-plugin-framework-validators/int64validator"
	"github.com/hashicorp/terraform-plugin-framework-validators/mapvalidator"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
)

// vmInterfaces are the network interfaces of a VM.
type vmInterfaces struct {
	Interfaces types.Map `tfsdk:"interfaces"`
}

var (
	_ vmBlock               = (*vmInterfaces)(nil)
	_ vmBlockWithValidation = (*vmInterfaces)(nil)
)

// interfaceModel is one value of the attribute interfaces.
type interfaceModel struct {
	User    *userNetworkModel `tfsdk:"user"`
	Bridge  *string           `tfsdk:"bridge"`
	Network *string           `tfsdk:"network"`
}

type userNetworkModel struct {
	Forwards types.Map `tfsdk:"forwards"`
}

func interfacesAttribute() schema.MapNestedAttribute {
	return schema.MapNestedAttribute{
		Optional: true,
		MarkdownDescription: "Network interfaces, by names of your choice. The name determines the MAC address, so " +
			"adding or removing an interface does not affect the others. Each has exactly one of `user`, `bridge` " +
			"and `network`.",
		Validators: []validator.Map{mapvalidator.KeysAre(isInterface)},
		NestedObject: schema.NestedAttributeObject{Attributes: map[string]schema.Attribute{
			"user": schema.SingleNestedAttribute{
				Optional: true,
				MarkdownDescription: "QEMU's user-mode network. The guest can open connections to other hosts, but " +
					"it can be reached only through 127.0.0.1 of the host.",
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
				MarkdownDescription: "Name of a bridge on the host.",
				Validators:          []validator.String{isBridge},
			},
			"network": schema.StringAttribute{
				Optional:            true,
				MarkdownDescription: "Name of a libvirt network.",
				Validators:          []validator.String{isNetwork},
			},
		}},
	}
}

var interfaceType = types.ObjectType{AttrTypes: typesOf(interfacesAttribute().NestedObject.Attributes)}

func (*vmInterfaces) attributes() map[string]schema.Attribute {
	return map[string]schema.Attribute{"interfaces": interfacesAttribute()}
}

func (b *vmInterfaces) validate() diag.Diagnostics {
	diags := exactlyOne(path.Root("interfaces"), b.Interfaces, "user", "bridge", "network")
	elements := b.Interfaces.Elements()
	first := map[string]string{} // the interface that forwards a port
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
					diags.Append(failedAt(path.Root("interfaces").AtMapKey(name), failure{do: "read the forwards of", object: vmName(spec.Name), err: err})...)
					continue
				}
				one.User.Forwards[uint16(port)] = uint16(guest)
			}
		case model.Bridge != nil:
			one.Bridge = *model.Bridge
		case model.Network != nil:
			one.Network = *model.Network
		}
		spec.Interfaces[name] = one
	}
	return diags
}

func (b *vmInterfaces) fromVM(ctx context.Context, found *vm.VM) diag.Diagnostics {
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
		models[name] = model
	}
	value, d := types.MapValueFrom(ctx, interfaceType, models)
	b.Interfaces = value
	return append(diags, d...)
}

func (b *vmInterfaces) compare(state *vmModel, change *vmChange) {
	if !sameValues(b, &state.vmInterfaces, vmNames().configurable) {
		change.hardware = true
	}
}
