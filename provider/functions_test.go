package provider_test

import (
	"strings"
	"testing"

	"github.com/hashicorp/terraform-plugin-go/tfprotov6"
	"github.com/hashicorp/terraform-plugin-go/tftypes"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
)

// calls calls a function of the provider, which is not configured.
func (c *client) calls(name string, arguments ...tftypes.Value) (tftypes.Value, *tfprotov6.FunctionError) {
	c.t.Helper()
	defined, err := c.server.GetFunctions(c.t.Context(), &tfprotov6.GetFunctionsRequest{})
	must(c.t, err)
	function, ok := defined.Functions[name]
	if !ok {
		c.t.Fatalf("there is no function %s", name)
	}
	request := &tfprotov6.CallFunctionRequest{Name: name}
	for i, argument := range arguments {
		request.Arguments = append(request.Arguments, c.dynamic(function.Parameters[i].Type, argument))
	}
	resp, err := c.server.CallFunction(c.t.Context(), request)
	must(c.t, err)
	if resp.Error != nil {
		return tftypes.Value{}, resp.Error
	}
	result, err := resp.Result.Unmarshal(function.Return.Type)
	must(c.t, err)
	return result, nil
}

func TestFunctions(t *testing.T) {
	text := func(text string) tftypes.Value { return tftypes.NewValue(tftypes.String, text) }
	number := func(number int64) tftypes.Value { return tftypes.NewValue(tftypes.Number, number) }
	list := func(texts ...string) tftypes.Value {
		elements := []tftypes.Value{}
		for _, one := range texts {
			elements = append(elements, text(one))
		}
		return tftypes.NewValue(tftypes.List{ElementType: tftypes.String}, elements)
	}
	id := func(digit string) string { return "sha256:" + strings.Repeat(digit, 64) }
	const uuid = "6ba7b810-9dad-41d1-80b4-00c04fd430c8"
	c := newClient(t, newWorld(t))
	for _, test := range []struct {
		function  string
		arguments []tftypes.Value
		want      tftypes.Value
		refuses   string
	}{
		{"parse_size", []tftypes.Value{text("512MiB")}, number(512 << 20), ""},
		{"parse_size", []tftypes.Value{text("0B")}, number(0), ""},
		{"parse_size", []tftypes.Value{text("512MB")}, tftypes.Value{}, "not a size"},
		{"parse_size", []tftypes.Value{text("9999999TiB")}, tftypes.Value{}, "larger than any disk"},
		{"format_size", []tftypes.Value{number(512 << 20)}, text("512MiB"), ""},
		{"format_size", []tftypes.Value{number(1025)}, text("1025B"), ""},
		{"format_size", []tftypes.Value{number(0)}, text("0B"), ""},
		{"format_size", []tftypes.Value{number(-1)}, tftypes.Value{}, "negative"},
		{"mac_address", []tftypes.Value{text(uuid), text("lan")}, text(hypervisor.MAC(uuid, "lan")), ""},
		{"mac_address", []tftypes.Value{text("web"), text("lan")}, text("52:54:00:b1:43:fd"),
			""}, // it must never change
		{"mac_address", []tftypes.Value{text(""), text("lan")}, tftypes.Value{}, "empty"},
		{"mac_address", []tftypes.Value{text("web"), text("")}, tftypes.Value{}, "empty"},
		{"compare_releases", []tftypes.Value{list(id("3"), id("2"), id("1")), text(id("3")), text(id("1"))}, text("newer"), ""},
		{"compare_releases", []tftypes.Value{list(id("3"), id("2"), id("1")), text(id("1")), text(id("2"))}, text("older"), ""},
		{"compare_releases", []tftypes.Value{list(), text(id("1")), text(id("1"))}, text("same"), ""},
		{"compare_releases", []tftypes.Value{list(id("2")), text(id("2")), text(id("1"))}, tftypes.Value{}, "not in the history"},
		{"compare_releases", []tftypes.Value{list(id("2")), text(id("1")), text(id("2"))}, tftypes.Value{}, "not in the history"},
		{"compare_releases", []tftypes.Value{list(), text("newest"), text(id("1"))}, tftypes.Value{}, "not the id of a release"},
		{"compare_releases", []tftypes.Value{list(), text(id("1")), text("newest")}, tftypes.Value{}, "not the id of a release"},
	} {
		got, refused := c.calls(test.function, test.arguments...)
		switch {
		case test.refuses != "":
			if refused == nil || !strings.Contains(refused.Text, test.refuses) || refused.FunctionArgument == nil {
				t.Errorf("%s%v: got %v, %+v, want an error with %q", test.function, test.arguments,
					got, refused, test.refuses)
			}
		case refused != nil || !got.Equal(test.want):
			t.Errorf("%s%v: got %v, %+v, want %v", test.function, test.arguments, got, refused, test.want)
		}
	}
}

// Terraform itself calls them, before it configures the provider.
func TestFunctionsInAConfiguration(t *testing.T) {
	s := newSession(t, newWorld(t), `
output "bytes" { value = provider::sharedos::parse_size("1GiB") }
output "mac"   { value = provider::sharedos::mac_address("web", "lan") }
`)
	s.run("apply", "-auto-approve", "-no-color")
	if said := s.run("output", "-no-color"); !strings.Contains(said, "bytes = 1073741824") ||
		!strings.Contains(said, `mac = "52:54:00:`) {
		t.Error(said)
	}
}
