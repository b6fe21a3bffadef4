package provider

import (
	"context"
	"math"

	"github.com/hashicorp/terraform-plugin-framework/attr"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/types"
)

// object converts a struct, whose tfsdk tags name the attributes, to an object.
func object(ctx context.Context, attributes map[string]attr.Type, from any, diags *diag.Diagnostics) types.Object {
	value, d := types.ObjectValueFrom(ctx, attributes, from)
	diags.Append(d...)
	return value
}

// list converts texts to a list.
func list(ctx context.Context, from []string, diags *diag.Diagnostics) types.List {
	value, d := types.ListValueFrom(ctx, types.StringType, from)
	diags.Append(d...)
	return value
}

// textList converts texts to a list. If there are none, a list that was null stays null.
func textList(ctx context.Context, before types.List, now []string, diags *diag.Diagnostics) types.List {
	if len(now) == 0 {
		if before.IsNull() || before.IsUnknown() {
			return types.ListNull(types.StringType)
		}
		now = []string{}
	}
	return list(ctx, now, diags)
}

// texts converts a list to texts; nil if it is null.
func texts(ctx context.Context, list types.List, diags *diag.Diagnostics) []string {
	if list.IsNull() {
		return nil
	}
	var found []string
	diags.Append(list.ElementsAs(ctx, &found, false)...)
	return found
}

// unset reports whether a value is null or unknown.
func unset(value attr.Value) bool { return value == nil || value.IsNull() || value.IsUnknown() }

// digests formats ids. It is never nil.
func digests[D interface{ String() string }](ids []D) []string {
	written := make([]string, len(ids))
	for i, id := range ids {
		written[i] = id.String()
	}
	return written
}

// limited limits the length of a list from a guest.
func limited[T any](from []T) []T { return from[:min(len(from), maxGuestList)] }

// optionalText converts a text from a guest; null if it is empty.
func optionalText(from string) types.String {
	if from == "" {
		return types.StringNull()
	}
	return types.StringValue(guestText(from))
}

// round rounds to three decimals. A guest can send values that are not finite; they become 0.
func round(seconds float64) float64 {
	if math.IsNaN(seconds) || math.IsInf(seconds, 0) {
		return 0
	}
	return math.Round(seconds*1000) / 1000
}

// The following are the schemas of attributes that only the provider sets.

func computedText(description string) schema.Attribute {
	return schema.StringAttribute{Computed: true, MarkdownDescription: description}
}

func computedTexts(description string) schema.Attribute {
	return schema.ListAttribute{Computed: true, ElementType: types.StringType, MarkdownDescription: description}
}

func computedNumber(description string) schema.Attribute {
	return schema.Int64Attribute{Computed: true, MarkdownDescription: description}
}

func computedBool(description string) schema.Attribute {
	return schema.BoolAttribute{Computed: true, MarkdownDescription: description}
}
