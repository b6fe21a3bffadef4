package guest

import (
	"context"
	"crypto/ed25519"
	"fmt"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/compose"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/publish"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// Stack composes and signs the stack of a base release alone, as a fleet does for an agent.
func Stack(ctx context.Context, publisher publish.Interface, operator ed25519.PrivateKey,
	base tree.Digest) ([]byte, *release.StackManifest, error) {
	manifest, err := publisher.Get(ctx, base)
	if err != nil {
		return nil, nil, err
	}
	stack, _, err := compose.Compose(compose.Parts{Base: release.Identified{ID: base, Manifest: manifest}}, nil)
	if err != nil {
		return nil, nil, fmt.Errorf("compose the stack of release %s: %w", base, err)
	}
	signed, _, err := release.SignStack(stack, operator)
	return signed, stack, err
}
