package provider

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/hashicorp/terraform-plugin-framework/attr"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/hashicorp/terraform-plugin-framework/types"
)

var _ resource.ResourceWithValidateConfig = (*vmResource)(nil)

// ValidateConfig implements resource.ResourceWithValidateConfig: what one attribute alone cannot tell.
func (r *vmResource) ValidateConfig(ctx context.Context, req resource.ValidateConfigRequest, resp *resource.ValidateConfigResponse) {
	var config vmModel
	resp.Diagnostics.Append(req.Config.Get(ctx, &config)...)
	if resp.Diagnostics.HasError() {
		return
	}
	resp.Diagnostics.Append(exactlyOne(path.Root("interfaces"), config.Interfaces, "user", "bridge", "network")...)
	if config.Refresh.IsNull() || config.Refresh.IsUnknown() {
		return
	}
	checks, ok := config.Refresh.Attributes()["health_checks"].(types.Map)
	if !ok {
		return
	}
	resp.Diagnostics.Append(exactlyOne(path.Root("refresh").AtName("health_checks"), checks, "unit", "http", "tcp", "command")...)
}

// exactlyOne refuses objects of a map that set none or several of the names.
func exactlyOne(at path.Path, objects types.Map, names ...string) diag.Diagnostics {
	var diags diag.Diagnostics
	elements := objects.Elements()
	for _, key := range slices.Sorted(maps.Keys(elements)) {
		one, ok := elements[key].(types.Object)
		if !ok || one.IsUnknown() {
			continue
		}
		attributes := one.Attributes()
		if slices.ContainsFunc(names, func(name string) bool { return isUnknown(attributes[name]) }) {
			continue
		}
		set := slices.DeleteFunc(slices.Clone(names), func(name string) bool { return isNull(attributes[name]) })
		if len(set) == 1 {
			continue
		}
		have := "none of them is set"
		if len(set) > 1 {
			have = "these are set: " + strings.Join(set, ", ")
		}
		where := at.AtMapKey(key)
		diags.Append(failedAt(where, failure{
			do: "use", object: where.String(), err: fmt.Errorf("exactly one of %s must be set, and %s", strings.Join(names, ", "), have),
			next: "Set exactly one of them.",
		})...)
	}
	return diags
}

func isNull(value attr.Value) bool    { return value == nil || value.IsNull() }
func isUnknown(value attr.Value) bool { return value != nil && value.IsUnknown() }
