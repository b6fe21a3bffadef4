package provider

import (
	"fmt"

	"github.com/hashicorp/terraform-plugin-framework/resource/schema"
	"github.com/hashicorp/terraform-plugin-framework/types"
)

// baseChain says how the next release of a base will be stored.
type baseChain struct {
	DeltasLeft types.Int64  `tfsdk:"deltas_left"`
	NextLayer  types.String `tfsdk:"next_layer"`
}

// chain says when a full layer is written instead of a delta.
type chain struct {
	// most is the maximum number of layers of a release, and percent the maximum size of a delta in percent of the
	// content of its release.
	most, percent int
}

func chainAttributes() map[string]schema.Attribute {
	return map[string]schema.Attribute{
		"deltas_left": computedNumber("Number of releases that can still be deltas before the provider's " +
			"`max_layers` is reached. At 0, the next release is a full layer."),
		"next_layer": computedText("How the next release will be stored, as far as this is known before it is built: " +
			"as a delta or as a full layer, and why. The plan of a release that has to be built first shows it as " +
			"the old value."),
	}
}

// describe describes the layer that follows a release with this number of layers.
func (b *baseChain) describe(c chain, layers int) {
	b.DeltasLeft = types.Int64Value(int64(max(0, c.most-layers)))
	next := fmt.Sprintf("a delta over %d of at most %d layers, or a full layer if it would hold more than %d%% of "+
		"the content", layers, c.most, c.percent)
	if layers >= c.most {
		next = fmt.Sprintf("a full layer: %d of at most %d layers are there", layers, c.most)
	}
	b.NextLayer = types.StringValue(next)
}
