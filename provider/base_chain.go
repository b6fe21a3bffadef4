package provider

import "fmt"

// chain is when a full layer is written instead of a delta.
type chain struct {
	// most is how many layers a release may have, and percent how much of its content a delta may hold.
	most, percent int
}

// next tells how the release will be stored that follows one of so many layers.
func (c chain) next(layers int) string {
	if layers >= c.most {
		return fmt.Sprintf("a full layer: %d of at most %d layers are there", layers, c.most)
	}
	return fmt.Sprintf("a delta over %d of at most %d layers, or a full layer if it would hold more than %d%% of the content", layers, c.most, c.percent)
}
