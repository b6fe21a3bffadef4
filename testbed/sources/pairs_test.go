//go:build pairs

package sources

import (
	"context"
	"crypto/ed25519"
	"slices"
	"strings"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/bootimage"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/publish"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/archive"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store/storetest"
	"github.com/sharedos/terraform-provider-sharedos/testbed/guest"
)

// Every pair of these components shows the tree that apt makes. It takes a quarter of an hour of a processor,
// and runs by "make test-pairs"; one pair and four components at once are tested with everything else.
func TestEveryPairOfComponentsIsWhatAptMakes(t *testing.T) {
	sets := [][]string{
		{"apache2"}, {"redis-server"}, {"postgresql"}, {"python3"}, {"gsettings-desktop-schemas", "libglib2.0-bin"}, {"bind9"},
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*limit)
	defer cancel()
	from, err := guest.DebianTar(ctx, guest.Updated)
	must(t, err)
	s := storetest.New(t)
	j := joins{s, &publish.Publisher{Store: s, Cache: t.TempDir(), Key: ed25519.NewKeyFromSeed(make([]byte, 32)),
		Modules: bootimage.Modules}, nil, t.TempDir()}
	j.base, err = j.p.Prepare(ctx, publish.Spec{Name: "debian", Source: archive.Source{Path: from}}, nil)
	must(t, err)
	must(t, j.p.Publish(ctx, j.base, nil))
	components := make([]*publish.Prepared, len(sets))
	for i, set := range sets {
		components[i] = j.of(ctx, t, slices.Clone(set)...)
	}
	for i := range sets {
		for k := range i {
			t.Run(strings.Join(slices.Concat(sets[k], sets[i]), " "), func(t *testing.T) {
				j.isWhatAptMakes(ctx, t, []*publish.Prepared{components[k], components[i]},
					slices.Concat(sets[k], sets[i]))
			})
		}
	}
}
