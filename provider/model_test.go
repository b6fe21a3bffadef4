package provider

import (
	"encoding/json"
	"strings"
	"testing"

	"github.com/hashicorp/terraform-plugin-framework/attr"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/tfsdk"
	"github.com/hashicorp/terraform-plugin-go/tftypes"
)

// testPlan is a plan of a resource in which values can be set.
type testPlan[Model any] struct {
	t *testing.T
	tfsdk.Plan
}

// newPlan is a plan in which every attribute is null.
func newPlan[Model any](t *testing.T, of resource.Resource) testPlan[Model] {
	t.Helper()
	described := schemaOf(t, of)
	object, ok := described.Type().TerraformType(t.Context()).(tftypes.Object)
	if !ok {
		t.Fatal("a resource is no object")
	}
	nulls := map[string]tftypes.Value{}
	for name, attributeType := range object.AttributeTypes {
		nulls[name] = tftypes.NewValue(attributeType, nil)
	}
	return testPlan[Model]{t, tfsdk.Plan{Schema: described, Raw: tftypes.NewValue(object, nulls)}}
}

func (p *testPlan[Model]) attributes() map[string]schema.Attribute {
	return p.Schema.(schema.Schema).Attributes
}

func (p *testPlan[Model]) setAll(model *Model) {
	p.t.Helper()
	if diags := p.Set(p.t.Context(), model); diags.HasError() {
		p.t.Fatal(diags)
	}
}

func (p *testPlan[Model]) set(at path.Path, value any) {
	p.t.Helper()
	if diags := p.SetAttribute(p.t.Context(), at, value); diags.HasError() {
		p.t.Fatal(diags)
	}
}

func (p *testPlan[Model]) model() *Model {
	p.t.Helper()
	model := new(Model)
	if diags := p.Get(p.t.Context(), model); diags.HasError() {
		p.t.Fatal(diags)
	}
	return model
}

// at is the value of an attribute, formatted.
func (p *testPlan[Model]) at(at path.Path) string {
	p.t.Helper()
	var value attr.Value
	if diags := p.GetAttribute(p.t.Context(), at, &value); diags.HasError() {
		p.t.Fatal(diags)
	}
	return value.String()
}

// eachLeaf calls do with every attribute that has no nested attributes. Its name is the path to it.
func eachLeaf(prefix string, attributes map[string]schema.Attribute, do func(name string, attribute schema.Attribute)) {
	for name, attribute := range attributes {
		name = strings.TrimPrefix(prefix+"."+name, ".")
		switch nested := attribute.(type) {
		case schema.SingleNestedAttribute:
			eachLeaf(name, nested.Attributes, do)
		case schema.MapNestedAttribute:
			eachLeaf(name, nested.NestedObject.Attributes, do)
		case schema.ListNestedAttribute:
			eachLeaf(name, nested.NestedObject.Attributes, do)
		default:
			do(name, attribute)
		}
	}
}

// text is a value in a form that can be compared.
func text(t *testing.T, value any) string {
	t.Helper()
	text, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

func unknownOf(t *testing.T, attribute schema.Attribute) attr.Value {
	t.Helper()
	terraformType := attribute.GetType().TerraformType(t.Context())
	value, err := attribute.GetType().ValueFromTerraform(t.Context(),
		tftypes.NewValue(terraformType, tftypes.UnknownValue))
	if err != nil {
		t.Fatal(err)
	}
	return value
}
