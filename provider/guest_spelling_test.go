package provider

import (
	"maps"
	"testing"

	"github.com/hashicorp/terraform-plugin-framework/attr"
	"github.com/hashicorp/terraform-plugin-framework/types"
	"github.com/hashicorp/terraform-plugin-go/tftypes"
)

// element is a map with one object, whose other attributes are null.
func element(t *testing.T, of types.ObjectType, attributes map[string]attr.Value) types.Map {
	t.Helper()
	all := map[string]attr.Value{}
	for name, kind := range of.AttrTypes {
		null, err := kind.ValueFromTerraform(t.Context(), tftypes.NewValue(kind.TerraformType(t.Context()), nil))
		if err != nil {
			t.Fatal(err)
		}
		all[name] = null
	}
	maps.Copy(all, attributes)
	return types.MapValueMust(of, map[string]attr.Value{"x": types.ObjectValueMust(of.AttrTypes, all)})
}

// An import has the one spelling of the guest. Another one that means the same is no difference,
// and one that does not is.
func TestAPlanKeepsTheSpellingOfWhatAGuestHas(t *testing.T) {
	const key = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ8eL7Xown0333MZLobOFmWbF+pv5+cDS15+BuJS+7Nf me"
	texts := func(all ...string) types.List { return listOrNull(all) }
	text := types.StringValue
	for name, test := range map[string]struct {
		of         types.ObjectType
		attribute  string
		have, want attr.Value
		same       bool
	}{
		"mode":          {fileType, "mode", text("0644"), text("644"), true},
		"another mode":  {fileType, "mode", text("0644"), text("0640"), false},
		"restart":       {fileType, "restart", texts("a.service", "b.service"), texts("b.service", "a.service"), true},
		"another unit":  {fileType, "reload", texts("a.service"), texts("b.service"), false},
		"groups":        {userType, "groups", texts("adm", "staff"), texts("staff", "adm"), true},
		"a further one": {userType, "groups", texts("adm"), texts("staff", "adm"), false},
		"keys":          {userType, "ssh_authorized_keys", texts(key), texts(key + "\n"), true},
		"no such key":   {userType, "ssh_authorized_keys", texts(key), types.ListNull(types.StringType), false},
		"an empty list": {userType, "groups", types.ListNull(types.StringType),
			types.ListValueMust(types.StringType, nil), false},
		"not known yet":  {userType, "groups", texts("adm"), types.ListUnknown(types.StringType), false},
		"a base64":       {fileType, "content_base64", text("/w=="), text("/v8="), false},
		"an address":     {networkType, "addresses", texts("2001:db8::1/64"), texts("2001:DB8:0::1/64"), true},
		"another one":    {networkType, "gateways", texts("2001:db8::1"), texts("2001:db8::2"), false},
		"another order":  {networkType, "dns", texts("192.0.2.1", "192.0.2.2"), texts("192.0.2.2", "192.0.2.1"), false},
		"an equal value": {fileType, "owner", text("root"), text("root"), true},
	} {
		t.Run(name, func(t *testing.T) {
			block := func(value attr.Value) vmGuest {
				one, guest := element(t, test.of, map[string]attr.Value{test.attribute: value}), vmGuest{
					Files: types.MapNull(fileType), Users: types.MapNull(userType),
					Networks: types.MapNull(networkType),
				}
				switch {
				case test.of.Equal(fileType):
					guest.Files = one
				case test.of.Equal(userType):
					guest.Users = one
				default:
					guest.Networks = one
				}
				return guest
			}
			plan, state := block(test.want), &vmModel{vmGuest: block(test.have)}
			plan.completePlan(nil, state)
			want := block(test.want)
			if test.same {
				want = state.vmGuest
			}
			if !plan.Files.Equal(want.Files) || !plan.Users.Equal(want.Users) || !plan.Networks.Equal(want.Networks) {
				t.Errorf("the plan has %v %v %v, want %v %v %v", plan.Files, plan.Users, plan.Networks, want.Files,
					want.Users, want.Networks)
			}
		})
	}
}
