package provider

import (
	"context"
	"strings"
	"testing"

	"github.com/hashicorp/terraform-plugin-framework/datasource"
	framework "github.com/hashicorp/terraform-plugin-framework/provider"
	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/types"
)

func schemaOf(t *testing.T, r resource.Resource) schema.Schema {
	t.Helper()
	var resp resource.SchemaResponse
	r.Schema(context.Background(), resource.SchemaRequest{}, &resp)
	if diags := resp.Schema.ValidateImplementation(context.Background()); resp.Diagnostics.HasError() ||
		diags.HasError() {
		t.Fatalf("%v %v", resp.Diagnostics, diags)
	}
	return resp.Schema
}

func TestEveryAttributeIsDescribed(t *testing.T) {
	var describe func(path string, attributes map[string]schema.Attribute)
	describe = func(path string, attributes map[string]schema.Attribute) {
		for name, attribute := range attributes {
			at := path + "." + name
			if text := attribute.GetMarkdownDescription() + attribute.GetDescription(); text == "" ||
				!strings.HasSuffix(strings.TrimSpace(text), ".") {
				t.Errorf("%s is described as %q: a sentence is wanted", at, text)
			}
			switch nested := attribute.(type) {
			case schema.SingleNestedAttribute:
				describe(at, nested.Attributes)
			case schema.MapNestedAttribute:
				describe(at, nested.NestedObject.Attributes)
			case schema.ListNestedAttribute:
				describe(at, nested.NestedObject.Attributes)
			}
		}
	}
	describe("sharedos_base", schemaOf(t, newBaseResource()).Attributes)
	describe("sharedos_component", schemaOf(t, newComponentResource()).Attributes)
	describe("sharedos_vm", schemaOf(t, &vmResource{}).Attributes)
	for _, source := range New("test", nil).DataSources(context.Background()) {
		var described datasource.SchemaResponse
		source().Schema(context.Background(), datasource.SchemaRequest{}, &described)
		if diags := described.Schema.ValidateImplementation(context.Background()); diags.HasError() {
			t.Errorf("a data source: %v", diags)
		}
		for name, attribute := range described.Schema.Attributes {
			if text := attribute.GetMarkdownDescription(); !strings.HasSuffix(text, ".") {
				t.Errorf("data source attribute %s is described as %q: a sentence is wanted", name, text)
			}
		}
	}
	var resp framework.SchemaResponse
	New("test", nil).Schema(context.Background(), framework.SchemaRequest{}, &resp)
	for name, attribute := range resp.Schema.Attributes {
		if attribute.GetMarkdownDescription() == "" {
			t.Errorf("provider.%s is not described", name)
		}
	}
}

func TestConfigurationHasDefaults(t *testing.T) {
	for _, name := range []string{envURI, envLibvirtURI, envPool, envPoolPath, envOperatorKey, envCache} {
		t.Setenv(name, "")
	}
	t.Setenv("XDG_CONFIG_HOME", "/config")
	t.Setenv("XDG_CACHE_HOME", "/cache")
	config := func(m providerModel) (Config, []string) {
		t.Helper()
		c, unknown, diags := m.config()
		if diags.HasError() {
			t.Fatal(diags)
		}
		return c, unknown
	}
	got, _ := config(providerModel{})
	want := Config{
		URI: "qemu:///system", Pool: "sharedos", OperatorKey: "/config/sharedos/operator.key", Cache: "/cache/sharedos",
		BuildAtPlan: true, MaxLayers: 8, MaxDeltaPercent: 50,
	}
	if got != want {
		t.Errorf("the defaults are %+v, want %+v", got, want)
	}
	t.Setenv(envLibvirtURI, "qemu:///session")
	if got, _ := config(providerModel{}); got.URI != "qemu:///session" {
		t.Errorf("with %s the URI is %s", envLibvirtURI, got.URI)
	}
	t.Setenv(envURI, "qemu:///system?socket=/s")
	if got, _ := config(providerModel{}); got.URI != "qemu:///system?socket=/s" {
		t.Errorf("with %s the URI is %s", envURI, got.URI)
	}
	got, unknown := config(providerModel{URI: types.StringValue("test:///default"), Cache: types.StringUnknown()})
	if got.URI != "test:///default" || len(unknown) != 1 || unknown[0] != "cache" {
		t.Errorf("the configuration wins over the environment: %+v, unknown %v", got, unknown)
	}
	if got, unknown := config(providerModel{BuildAtPlan: types.BoolUnknown()}); got.BuildAtPlan || len(unknown) != 1 {
		t.Errorf("an unknown build_at_plan: %+v, unknown %v", got, unknown)
	}
	if got, _ := config(providerModel{BuildAtPlan: types.BoolValue(false)}); got.BuildAtPlan {
		t.Error("build_at_plan = false builds at plan")
	}
	t.Setenv("XDG_CACHE_HOME", "")
	t.Setenv("HOME", "")
	if _, _, diags := (providerModel{}).config(); !diags.HasError() || !strings.Contains(diags[0].Detail(), envCache) {
		t.Errorf("without a home directory: %v", diags)
	}
}
