package provider

import (
	"context"

	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/resource"
	"github.com/hashicorp/terraform-plugin-framework/resource/identityschema"
	"github.com/hashicorp/terraform-plugin-framework/tfsdk"
)

// An identity says which object on the host a resource is, as long as it exists: the name of a base
// or component, and the UUID of a VM, which stays the same when somebody renames the domain. List
// resources return identities, and an import takes one.
const (
	releaseIdentity = "name"
	vmIdentityUUID  = "uuid"
)

var (
	_ resource.ResourceWithIdentity = (*baseResource)(nil)
	_ resource.ResourceWithIdentity = (*componentResource)(nil)
	_ resource.ResourceWithIdentity = (*vmResource)(nil)
)

// IdentitySchema implements resource.ResourceWithIdentity.
func (r *releaseResource) IdentitySchema(_ context.Context, _ resource.IdentitySchemaRequest,
	resp *resource.IdentitySchemaResponse) {
	resp.IdentitySchema = identityschema.Schema{Attributes: map[string]identityschema.Attribute{
		releaseIdentity: identityschema.StringAttribute{RequiredForImport: true,
			Description: "Name of the " + string(r.kind.kind) + "."},
	}}
}

// IdentitySchema implements resource.ResourceWithIdentity.
func (r *vmResource) IdentitySchema(_ context.Context, _ resource.IdentitySchemaRequest,
	resp *resource.IdentitySchemaResponse) {
	resp.IdentitySchema = identityschema.Schema{Attributes: map[string]identityschema.Attribute{
		vmIdentityUUID: identityschema.StringAttribute{RequiredForImport: true, Description: "UUID of the VM."},
	}}
}

// identify sets an identity. It is nil where Terraform does not have identities.
func identify(ctx context.Context, identity *tfsdk.ResourceIdentity, attribute, value string) diag.Diagnostics {
	if identity == nil || value == "" {
		return nil
	}
	return identity.SetAttribute(ctx, path.Root(attribute), value)
}
