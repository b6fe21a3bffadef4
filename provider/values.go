package provider

import (
	"context"
	"math"

	"github.com/hashicorp/terraform-plugin-framework/attr"
	"github.com/hashicorp/terraform-plugin-framework/diag"
	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/types"
)

// object makes an object of a struct whose tfsdk tags name the attributes.
func object(ctx context.Context, attributes map[string]attr.Type, from any, diags *diag.Diagnostics) types.Object {
	value, d := types.ObjectValueFrom(ctx, attributes, from)
	diags.Append(d...)
	return value
}

// list makes a list of texts.
func list(ctx context.Context, from []string, diags *diag.Diagnostics) types.List {
	value, d := types.ListValueFrom(ctx, types.StringType, from)
	diags.Append(d...)
	return value
}

// textList makes a list of texts that stays null if it was null and there is nothing to say.
func textList(ctx context.Context, before types.List, now []string, diags *diag.Diagnostics) types.List {
	if len(now) == 0 {
		if before.IsNull() || before.IsUnknown() {
			return types.ListNull(types.StringType)
		}
		now = []string{}
	}
	return list(ctx, now, diags)
}

// texts reads a list of texts; nil if it is null.
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

// digests writes ids as texts. It is never nil.
func digests[D interface{ String() string }](ids []D) []string {
	written := make([]string, len(ids))
	for i, id := range ids {
		written[i] = id.String()
	}
	return written
}

// limited cuts a list that a guest sent.
func limited[T any](from []T) []T { return from[:min(len(from), maxGuestList)] }

// optionalText makes a text that a guest sent null if it is empty.
func optionalText(from string) types.String {
	if from == "" {
		return types.StringNull()
	}
	return types.StringValue(guestText(from))
}

// round keeps three decimals. What a guest sends may be no number at all.
func round(seconds float64) float64 {
	if math.IsNaN(seconds) || math.IsInf(seconds, 0) {
		return 0
	}
	return math.Round(seconds*1000) / 1000
}

// Attributes that only the provider sets.

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
