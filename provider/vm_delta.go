package provider

import (
	"context"
	"slices"

	"github.com/hashicorp/terraform-plugin-framework/types/basetypes"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/publish"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
)

// deltaBytes counts the bytes of the layers that the VM is to run and did not run before.
func deltaBytes(ctx context.Context, publisher publish.Interface, spec vm.Spec, before vmModel) (int64, error) {
	var stack stackModel
	if !before.Stack.IsNull() {
		if diags := before.Stack.As(ctx, &stack, basetypes.ObjectAsOptions{}); diags.HasError() {
			return 0, diagError{diags[0]}
		}
	}
	var bytes int64
	for i := range 1 + len(spec.Components) {
		id := spec.Base
		if i > 0 {
			id = spec.Components[i-1]
		}
		manifest, err := publisher.Get(ctx, id)
		if err != nil {
			return 0, err
		}
		for _, layer := range manifest.Layers {
			if !slices.Contains(stack.Layers, layer.ID.String()) {
				bytes += layer.Size
			}
		}
	}
	return bytes, nil
}
