package publish

import (
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store/storetest"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// A patch that is taken back and comes again is a delta each time, and no layer is in a release twice.
func TestAPatchThatComesAgainIsADelta(t *testing.T) {
	p := newPublisher(t, storetest.New(t))
	p.MaxChain = 8
	for i, content := range []string{"1", "2", "1", "2", "1", "2"} {
		published := publish(t, p, newSystem().With("usr/share/patched", content))
		if published.Change != nil && published.Change.Rebase != "" {
			t.Errorf("release %d is a full layer: %s", i+1, published.Change.Rebase)
		}
		seen := map[tree.Digest]bool{}
		for _, layer := range published.Manifest.Layers {
			if seen[layer.ID] {
				t.Errorf("release %d has layer %s twice", i+1, layer.ID)
			}
			seen[layer.ID] = true
		}
		if len(published.Manifest.Layers) != i+1 {
			t.Errorf("release %d has %d layers", i+1, len(published.Manifest.Layers))
		}
	}
}
