package provider

import (
	"context"
	"errors"

	"github.com/hashicorp/terraform-plugin-framework/attr"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	lists "github.com/hashicorp/terraform-plugin-framework/list"
	listschema "github.com/hashicorp/terraform-plugin-framework/list/schema"
	"github.com/hashicorp/terraform-plugin-framework/path"
	"github.com/hashicorp/terraform-plugin-framework/provider"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/schema/validator"
	"github.com/hashicorp/terraform-plugin-framework/types"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/plain"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
)

var _ provider.ProviderWithListResources = (*Provider)(nil)

// ListResources implements provider.ProviderWithListResources: what there is on the host, to be imported.
func (p *Provider) ListResources(context.Context) []func() lists.ListResource {
	return []func() lists.ListResource{
		func() lists.ListResource { return &releaseList{releaseResource{kind: baseKind}} },
		func() lists.ListResource { return &releaseList{releaseResource{kind: componentKind}} },
		func() lists.ListResource { return &vmList{} },
	}
}

// releaseList lists bases or components.
type releaseList struct{ releaseResource }

// vmList lists VMs.
type vmList struct{ vmResource }

var (
	_ lists.ListResourceWithConfigure = (*releaseList)(nil)
	_ lists.ListResourceWithConfigure = (*vmList)(nil)
)

// ListResourceConfigSchema implements lists.ListResource.
func (l *releaseList) ListResourceConfigSchema(_ context.Context, _ lists.ListResourceSchemaRequest,
	resp *lists.ListResourceSchemaResponse) {
	resp.Schema = listschema.Schema{
		MarkdownDescription: "All " + string(l.kind.kind) +
			"s in the pool, of any Terraform state. An import makes one belong to the state that " +
			"imports it.",
	}
}

// ListResourceConfigSchema implements lists.ListResource.
func (l *vmList) ListResourceConfigSchema(_ context.Context, _ lists.ListResourceSchemaRequest,
	resp *lists.ListResourceSchemaResponse) {
	resp.Schema = listschema.Schema{
		MarkdownDescription: "VMs of this provider in the pool, of any Terraform state, that all given attributes apply to.",
		Attributes: map[string]listschema.Attribute{
			"base": listschema.StringAttribute{Optional: true, MarkdownDescription: filterBase,
				Validators: []validator.String{isName}},
			"release": listschema.StringAttribute{Optional: true, MarkdownDescription: filterRelease,
				Validators: []validator.String{isRelease}},
			"component": listschema.StringAttribute{Optional: true, MarkdownDescription: filterComponent,
				Validators: []validator.String{isName}},
			"pending": listschema.BoolAttribute{Optional: true, MarkdownDescription: filterPending},
			"silent":  listschema.BoolAttribute{Optional: true, MarkdownDescription: filterSilent},
		},
	}
}

// entry is one object of a list.
type entry struct {
	// identity is the value of the identity's attribute, and name is shown.
	identity, name string
	// describe returns the model of the resource. It is called only if it is asked for.
	describe func(ctx context.Context) (any, diag.Diagnostics)
}

// listed returns the results of a list. entries is called when they are read.
func listed(ctx context.Context, req lists.ListRequest, identity string, attributes map[string]schema.Attribute,
	entries func(context.Context) ([]entry, diag.Diagnostics)) func(func(lists.ListResult) bool) {
	return func(push func(lists.ListResult) bool) {
		ctx, cancel := context.WithTimeout(ctx, listTimeout)
		defer cancel()
		all, diags := entries(ctx)
		if len(diags) > 0 && !push(lists.ListResult{Diagnostics: diags}) {
			return
		}
		if req.Limit > 0 && int64(len(all)) > req.Limit {
			all = all[:req.Limit]
		}
		for _, one := range all {
			result := req.NewListResult(ctx)
			result.DisplayName = plain.Line(one.name)
			result.Diagnostics.Append(identify(ctx, result.Identity, identity, one.identity)...)
			if req.IncludeResource {
				model, diags := one.describe(ctx)
				result.Diagnostics.Append(diags...)
				if !diags.HasError() {
					result.Diagnostics.Append(setAttributes(ctx, result.Resource, model, attributes)...)
				}
			}
			if !push(result) {
				return
			}
		}
	}
}

// setAttributes writes the values of a model that are of these attributes.
func setAttributes(ctx context.Context, to interface {
	SetAttribute(ctx context.Context, at path.Path, value any) diag.Diagnostics
}, model any, attributes map[string]schema.Attribute) (diags diag.Diagnostics) {
	names := map[string]bool{}
	for name := range attributes {
		names[name] = true
	}
	for name, value := range valuesOf(model, names) {
		if value, ok := value.Interface().(attr.Value); ok {
			diags.Append(to.SetAttribute(ctx, path.Root(name), value)...)
		}
	}
	return diags
}

// List implements lists.ListResource.
func (l *releaseList) List(ctx context.Context, req lists.ListRequest, stream *lists.ListResultsStream) {
	attributes := l.kind.new().attributes()
	stream.Results = listed(ctx, req, releaseIdentity, attributes,
		func(ctx context.Context) ([]entry, diag.Diagnostics) {
			backend, err := l.connection.get(ctx)
			var names []string
			if err == nil {
				names, err = l.kind.publisher(backend).Names(ctx)
			}
			if err != nil && !errors.Is(err, store.ErrNotFound) {
				return nil, failed(failure{do: "list",
					object: "the " + string(l.kind.kind) + "s of the pool", err: err})
			}
			entries := make([]entry, len(names))
			for i, name := range names {
				entries[i] = entry{name, name, func(ctx context.Context) (any, diag.Diagnostics) {
					model := l.kind.new()
					if err := clearValues(ctx, model, attributes); err != nil {
						return nil, failed(failure{do: "describe", object: l.kind.object(name), err: err})
					}
					id, manifest, err := l.kind.publisher(backend).Newest(ctx, name)
					if err != nil {
						return nil, failed(failure{do: "read", object: l.kind.object(name), err: err})
					}
					model.fields().Name = types.StringValue(name)
					return model, model.describe(ctx, backend, id, manifest, l.connection.chain())
				}}
			}
			return entries, nil
		})
}

// List implements lists.ListResource.
func (l *vmList) List(ctx context.Context, req lists.ListRequest, stream *lists.ListResultsStream) {
	var filter vmFilter
	if diags := req.Config.Get(ctx, &filter); diags.HasError() {
		stream.Results = lists.ListResultsStreamDiagnostics(diags)
		return
	}
	attributes := vmAttributes()
	stream.Results = listed(ctx, req, vmIdentityUUID, attributes,
		func(ctx context.Context) ([]entry, diag.Diagnostics) {
			backend, err := l.connection.get(ctx)
			if err != nil {
				return nil, failed(failure{do: "list", object: "the VMs of the pool", err: err})
			}
			found, diags := filter.find(ctx, backend)
			var entries []entry
			for _, one := range found {
				if one.VM == nil {
					continue // diags says so, and it cannot be imported
				}
				entries = append(entries, entry{one.UUID, one.Name, func(ctx context.Context) (any, diag.Diagnostics) {
					model, diags := describedVM(ctx, one.VM)
					return &model, diags
				}})
			}
			return entries, diags
		})
}
