package provider

import (
	"context"

	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
)

var _ resource.ResourceWithValidateConfig = (*vmResource)(nil)

// Schema implements resource.Resource.
func (r *vmResource) Schema(ctx context.Context, _ resource.SchemaRequest, resp *resource.SchemaResponse) {
	resp.Schema = schema.Schema{
		Version: stateVersion,
		MarkdownDescription: "A VM that runs a base and keeps its own data on a private disk. When the base or a " +
			"component changes, the running VM is refreshed in place: a VM is never replaced because its operating " +
			"system changed.",
		Attributes: vmAttributes(),
	}
	resp.Schema.Attributes["timeouts"] = timeoutsAttribute(ctx, vmWriteTimeout)
}

// ValidateConfig implements resource.ResourceWithValidateConfig: rules that concern several attributes together.
func (r *vmResource) ValidateConfig(ctx context.Context, req resource.ValidateConfigRequest,
	resp *resource.ValidateConfigResponse) {
	var config vmModel
	if resp.Diagnostics.Append(req.Config.Get(ctx, &config)...); resp.Diagnostics.HasError() {
		return
	}
	resp.Diagnostics.Append(config.validate()...)
}
