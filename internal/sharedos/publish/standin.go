package publish

import (
	"context"
	"errors"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/compose"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// StandIn returns the id of the release of a component's stand-in layer. If there is none yet, StandIn builds it into
// the cache: nothing in the store changes. Offer has it then, and PublishDerived stores it.
func (p *Publisher) StandIn(ctx context.Context, component tree.Digest, progress source.Progress) (tree.Digest, error) {
	return tree.Digest{}, errors.New("not written yet")
}

// MakeOffer returns the id of the release of an offer of these stacks, all of which are on one base release. If there
// is none yet, MakeOffer builds it into the cache: nothing in the store changes. PublishDerived stores it. The order of
// the stacks does not matter.
func (p *Publisher) MakeOffer(ctx context.Context, base tree.Digest, stacks []compose.OfferedStack, progress source.Progress) (tree.Digest, error) {
	return tree.Digest{}, errors.New("not written yet")
}
