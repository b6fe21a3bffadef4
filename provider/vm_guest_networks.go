package provider

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/hashicorp/terraform-plugin-framework-validators/int64validator"
	"github.com/hashicorp/terraform-plugin-framework-validators/mapvalidator"
	"github.com/hashicorp/terraform-plugin-framework/attr"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/booldefault"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/guestconfig"
)

// networkModel is one value of the attribute networks.
type networkModel struct {
	DHCP4     types.Bool  `tfsdk:"dhcp4"`
	DHCP6     types.Bool  `tfsdk:"dhcp6"`
	AcceptRA  types.Bool  `tfsdk:"accept_ra"`
	Addresses types.List  `tfsdk:"addresses"`
	Gateways  types.List  `tfsdk:"gateways"`
	Metric    types.Int64 `tfsdk:"metric"`
	Routes    types.List  `tfsdk:"routes"`
	DNS       types.List  `tfsdk:"dns"`
	Search    types.List  `tfsdk:"search"`
	MTU       types.Int64 `tfsdk:"mtu"`
}

// routeModel is one element of the attribute routes of a network.
type routeModel struct {
	To     types.String `tfsdk:"to"`
	Via    types.String `tfsdk:"via"`
	Metric types.Int64  `tfsdk:"metric"`
}

// isMetric accepts the metric of a route.
var isMetric = int64validator.Between(1, 1<<32-1)

func networksAttribute() schema.MapNestedAttribute {
	texts := func(description string) schema.ListAttribute {
		return schema.ListAttribute{Optional: true, ElementType: types.StringType,
			MarkdownDescription: description + " " + takenOnLive}
	}
	return schema.MapNestedAttribute{
		Optional: true,
		MarkdownDescription: "How the guest uses its network interfaces, by the names of `interfaces`. The guest finds an interface by its MAC address, and its " +
			"first boot begins with this. It is carried out by systemd-networkd or, if the base has it, by " +
			"NetworkManager; a base that has neither, or that ifupdown configures, is refused. " + takenOnLive +
			"The interfaces whose networks change are configured again, which can end connections over them; other " +
			"interfaces keep everything, also what was added to them by hand. If an address does not appear or a " +
			"health check fails, the change is taken back; the provider reaches the guest by vsock, also with a " +
			"wrong address. An interface without an entry is configured as the base does, by DHCP unless it says " +
			"otherwise, and so is one whose entry is removed here. The `forwards` of a user-mode network lead to " +
			"10.0.2.15, the address that its DHCP gives. " + overwriteDoc,
		Validators: []validator.Map{mapvalidator.KeysAre(isInterface)},
		NestedObject: schema.NestedAttributeObject{Attributes: map[string]schema.Attribute{
			"dhcp4": schema.BoolAttribute{
				Optional: true, Computed: true, Default: booldefault.StaticBool(false),
				MarkdownDescription: "Whether the guest asks for an IPv4 address, routes and name servers by DHCP. Default: false. " + takenOnLive,
			},
			"dhcp6": schema.BoolAttribute{
				Optional: true, Computed: true, Default: booldefault.StaticBool(false),
				MarkdownDescription: "Whether the guest asks for an IPv6 address by DHCP. NetworkManager also does with `accept_ra` alone, if a router says so. " +
					"Default: false. " + takenOnLive,
			},
			"accept_ra": schema.BoolAttribute{
				Optional: true, Computed: true, Default: booldefault.StaticBool(true),
				MarkdownDescription: "Whether the guest takes IPv6 addresses and routes from the advertisements of routers. Default: true. " + takenOnLive,
			},
			"addresses": texts(
				"Static addresses with the lengths of their networks: `[\"192.0.2.10/24\", \"2001:db8::10/64\"]`."),
			"gateways": texts(
				"Next hops of the default routes, at most one of each family. They must be in a network of the interface."),
			"metric": schema.Int64Attribute{
				Optional: true, Validators: []validator.Int64{isMetric},
				MarkdownDescription: "Metric of the default routes, of `routes` without one, and of the routes that DHCP and routers bring: of two routes to the same " +
					"destination, the guest uses that with the smaller metric. Default: 100 for static routes, and the network manager's for others. " + takenOnLive,
			},
			"routes": schema.ListNestedAttribute{
				Optional: true, MarkdownDescription: "Static routes. " + takenOnLive,
				NestedObject: schema.NestedAttributeObject{Attributes: map[string]schema.Attribute{
					"to": schema.StringAttribute{Required: true,
						MarkdownDescription: "Destination: a network, such as `10.0.0.0/8` or `::/0`. " + takenOnLive},
					"via": schema.StringAttribute{
						Optional:            true,
						MarkdownDescription: "Next hop. It must be in a network of the interface. Without it, the destination is on the link itself. " + takenOnLive,
					},
					"metric": schema.Int64Attribute{
						Optional: true, Validators: []validator.Int64{isMetric},
						MarkdownDescription: "Metric of the route. Default: `metric` of the network. " + takenOnLive,
					},
				}},
			},
			"dns":    texts("Addresses of name servers. They are used before those that DHCP brings."),
			"search": texts("Domains in which names without a dot are looked up."),
			"mtu": schema.Int64Attribute{
				Optional: true, Validators: []validator.Int64{int64validator.Between(guestconfig.MinMTU,
					guestconfig.MaxMTU)},
				MarkdownDescription: "MTU in bytes that the guest sets. Default: that of the interface. " + takenOnLive,
			},
		}},
	}
}

var (
	networkType = types.ObjectType{AttrTypes: typesOf(networksAttribute().NestedObject.Attributes)}
	routeType   = networkType.AttrTypes["routes"].(types.ListType).ElemType.(types.ObjectType) //nolint:forcetypeassert // the schema above says so
)

// network is the network without the MAC address of its interface.
func (m networkModel) network(ctx context.Context) (guestconfig.Network, error) {
	n := guestconfig.Network{
		DHCP4: m.DHCP4.ValueBool(), DHCP6: m.DHCP6.ValueBool(), AcceptRA: m.AcceptRA.IsNull() || m.AcceptRA.ValueBool(),
		Addresses: canonicalTexts(m.Addresses), Gateways: canonicalTexts(m.Gateways), Metric: metricOf(m.Metric),
		DNS: canonicalTexts(m.DNS), Search: textsOf(m.Search), MTU: int(m.MTU.ValueInt64()),
	}
	var routes []routeModel
	if !m.Routes.IsNull() {
		if diags := m.Routes.ElementsAs(ctx, &routes, false); diags.HasError() {
			return n, diagError{diags[0]}
		}
	}
	for _, r := range routes {
		n.Routes = append(n.Routes, guestconfig.Route{
			To:  guestconfig.CanonicalAddress(r.To.ValueString()),
			Via: guestconfig.CanonicalAddress(r.Via.ValueString()), Metric: metricOf(r.Metric),
		})
	}
	return n, nil
}

// metricOf is a metric that its validator accepts.
func metricOf(value types.Int64) *uint32 {
	if unset(value) {
		return nil
	}
	return new(uint32(value.ValueInt64()))
}

// textsOf are the elements of a list; nil if there are none.
func textsOf(list types.List) (texts []string) {
	for _, value := range list.Elements() {
		if text, ok := value.(types.String); ok {
			texts = append(texts, text.ValueString())
		}
	}
	return texts
}

// canonicalTexts are the elements of a list of addresses in their one form.
func canonicalTexts(list types.List) []string {
	texts := textsOf(list)
	for i, text := range texts {
		texts[i] = guestconfig.CanonicalAddress(text)
	}
	return texts
}

func newNetworkModel(_ string, n guestconfig.Network) networkModel {
	metric := func(value *uint32) types.Int64 {
		if value == nil {
			return types.Int64Null()
		}
		return types.Int64Value(int64(*value))
	}
	model := networkModel{
		DHCP4: types.BoolValue(n.DHCP4), DHCP6: types.BoolValue(n.DHCP6), AcceptRA: types.BoolValue(n.AcceptRA),
		Addresses: listOrNull(n.Addresses), Gateways: listOrNull(n.Gateways), Metric: metric(n.Metric),
		Routes: types.ListNull(routeType),
		DNS:    listOrNull(n.DNS), Search: listOrNull(n.Search),
	}
	if n.MTU != 0 {
		model.MTU = types.Int64Value(int64(n.MTU))
	}
	var routes []attr.Value
	for _, r := range n.Routes {
		via := types.StringNull()
		if r.Via != "" {
			via = types.StringValue(r.Via)
		}
		routes = append(routes, types.ObjectValueMust(routeType.AttrTypes, map[string]attr.Value{
			"to": types.StringValue(r.To), "via": via, "metric": metric(r.Metric),
		}))
	}
	if len(routes) > 0 {
		model.Routes = types.ListValueMust(routeType, routes)
	}
	return model
}

// validateNetworks refuses networks of interfaces that the VM does not have.
func (m *vmModel) validateNetworks() (diags diag.Diagnostics) {
	if m.Interfaces.IsUnknown() || m.Networks.IsUnknown() {
		return nil
	}
	has := slices.Sorted(maps.Keys(m.Interfaces.Elements()))
	for _, name := range slices.Sorted(maps.Keys(m.Networks.Elements())) {
		if slices.Contains(has, name) {
			continue
		}
		next := "Add it to interfaces, or use the name of one of them: " + strings.Join(has, ", ") + "."
		if len(has) == 0 {
			next = "Add it to interfaces: the VM has none."
		}
		diags.Append(failedAt(path.Root("networks").AtMapKey(name), failure{
			do: "use", object: fmt.Sprintf("networks[%q]", name),
			err: errors.New("the VM has no interface of this name"), next: next,
		})...)
	}
	return diags
}
