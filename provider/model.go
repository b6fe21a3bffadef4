package provider

import (
	"context"
	"fmt"
	"reflect"

	"github.com/hashicorp/terraform-plugin-framework/attr"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema/defaults"
	"github.com/hashicorp/terraform-plugin-framework/types"
	"github.com/hashicorp/terraform-plugin-go/tftypes"
)

// A model is a pointer to a struct that holds the values of a resource's attributes: a field for each, with the name of
// the attribute in its tfsdk tag. Fields of embedded structs count as fields of the model, as they do for the
// framework. The functions here work on all attributes of a kind, so that none of them can be forgotten.

// attributeNames are the names of a resource's attributes, by who sets them.
type attributeNames struct {
	// configurable attributes can be set by the user; computed ones are set by the provider alone.
	configurable, computed map[string]bool
}

func namesOf(attributes map[string]schema.Attribute) attributeNames {
	names := attributeNames{map[string]bool{}, map[string]bool{}}
	for name, attribute := range attributes {
		if attribute.IsRequired() || attribute.IsOptional() {
			names.configurable[name] = true
		} else {
			names.computed[name] = true
		}
	}
	return names
}

// valuesOf returns the fields of a model with these names.
func valuesOf(model any, names map[string]bool) map[string]reflect.Value {
	values := map[string]reflect.Value{}
	value := reflect.ValueOf(model).Elem()
	for _, field := range reflect.VisibleFields(value.Type()) {
		if name, ok := field.Tag.Lookup("tfsdk"); ok && names[name] {
			values[name] = value.FieldByIndex(field.Index)
		}
	}
	return values
}

// copyValues sets values of a model to those of another one of the same type.
func copyValues(to, from any, names map[string]bool) {
	values := valuesOf(from, names)
	for name, value := range valuesOf(to, names) {
		value.Set(values[name])
	}
}

// completeValues sets those values of a model that are unknown to those of another one of the same type.
func completeValues(to, from any, names map[string]bool) {
	values := valuesOf(from, names)
	for name, value := range valuesOf(to, names) {
		if v, ok := value.Interface().(attr.Value); ok && v.IsUnknown() {
			value.Set(values[name])
		}
	}
}

// forgetValues makes those values of a model unknown that only the provider sets.
func forgetValues(ctx context.Context, model any, attributes map[string]schema.Attribute) error {
	return setValues(ctx, model, attributes, namesOf(attributes).computed, tftypes.UnknownValue)
}

// clearValues makes the values of all these attributes null.
func clearValues(ctx context.Context, model any, attributes map[string]schema.Attribute) error {
	all := map[string]bool{}
	for name := range attributes {
		all[name] = true
	}
	return setValues(ctx, model, attributes, all, nil)
}

// setValues sets values of a model to null, which is nil, or to tftypes.UnknownValue.
func setValues(ctx context.Context, model any, attributes map[string]schema.Attribute,
	names map[string]bool, to any) error {
	for name, value := range valuesOf(model, names) {
		attributeType := attributes[name].GetType()
		made, err := attributeType.ValueFromTerraform(ctx, tftypes.NewValue(attributeType.TerraformType(ctx), to))
		if err != nil {
			return fmt.Errorf("make %s %v: %w", name, to, err)
		}
		if !reflect.TypeOf(made).AssignableTo(value.Type()) {
			return fmt.Errorf(
				"make %s %v: its values are %T in the schema and %s in the model; this is a bug in the provider",
				name, to, made, value.Type())
		}
		value.Set(reflect.ValueOf(made))
	}
	return nil
}

// sameValues reports whether two models of the same type have equal values.
func sameValues(a, b any, names map[string]bool) bool {
	values := valuesOf(b, names)
	for name, value := range valuesOf(a, names) {
		one, ok := value.Interface().(attr.Value)
		other, okToo := values[name].Interface().(attr.Value)
		if !ok || !okToo || !one.Equal(other) {
			return false
		}
	}
	return true
}

// fullyKnown reports whether no value of a model, and no value within one, is unknown.
func fullyKnown(ctx context.Context, model any, names map[string]bool) (bool, error) {
	for name, value := range valuesOf(model, names) {
		convertible, ok := value.Interface().(attr.Value)
		if !ok {
			return false, fmt.Errorf("the attribute %s is a %s in the provider; this is a bug in the provider", name,
				value.Type())
		}
		if convertible.IsNull() { // that of a new model has no type yet
			continue
		}
		converted, err := convertible.ToTerraformValue(ctx)
		if err != nil || !converted.IsFullyKnown() {
			return false, err
		}
	}
	return true, nil
}

// typesOf returns the types of the values of attributes, as their schema says.
func typesOf[A interface{ GetType() attr.Type }](attributes map[string]A) map[string]attr.Type {
	attributeTypes := make(map[string]attr.Type, len(attributes))
	for name, attribute := range attributes {
		attributeTypes[name] = attribute.GetType()
	}
	return attributeTypes
}

// nestedDefaults is the default of an object that is not configured: it has the defaults of the object's attributes,
// and null for those without one. The framework applies these only within an object that is configured.
type nestedDefaults map[string]schema.Attribute

var _ defaults.Object = nestedDefaults{}

// Description implements defaults.Object.
func (nestedDefaults) Description(context.Context) string { return "the defaults of its attributes" }

// MarkdownDescription implements defaults.Object.
func (d nestedDefaults) MarkdownDescription(ctx context.Context) string { return d.Description(ctx) }

// DefaultObject implements defaults.Object.
func (d nestedDefaults) DefaultObject(ctx context.Context, _ defaults.ObjectRequest, resp *defaults.ObjectResponse) {
	resp.PlanValue, resp.Diagnostics = d.value(ctx)
}

// value returns the object.
func (d nestedDefaults) value(ctx context.Context) (types.Object, diag.Diagnostics) {
	var diags diag.Diagnostics
	values := make(map[string]attr.Value, len(d))
	for name, attribute := range d {
		if text, ok := attribute.(schema.StringAttribute); ok && text.Default != nil {
			var resp defaults.StringResponse
			text.Default.DefaultString(ctx, defaults.StringRequest{}, &resp)
			diags.Append(resp.Diagnostics...)
			values[name] = resp.PlanValue
			continue
		}
		null, err := attribute.GetType().ValueFromTerraform(ctx,
			tftypes.NewValue(attribute.GetType().TerraformType(ctx), nil))
		if err != nil {
			diags.AddError("Unable to make the default of "+name,
				sentence(err)+" This is a bug in the provider: please report it.")
			continue
		}
		values[name] = null
	}
	object, d2 := types.ObjectValue(typesOf(d), values)
	return object, append(diags, d2...)
}
