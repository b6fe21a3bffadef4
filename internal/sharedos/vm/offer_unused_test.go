package vm

import (
	"slices"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
)

// A preference about a component on demand is of use once the VM has attached that.
func TestAPreferenceIsUnusedOnlyIfItIsInAllStacksOfTheOffer(t *testing.T) {
	never, sometimes := release.Preference{Path: "/etc/never", Component: "a"},
		release.Preference{Path: "/etc/sometimes", Component: "b"}
	all := []release.Preference{never, sometimes}
	made := &offer{stacks: []*composed{{unused: all}, {unused: all[:1]}}}
	if got := made.unused(all); !slices.Equal(got, all[:1]) {
		t.Errorf("unused are %v", got)
	}
	if got := (*offer)(nil).unused(all); !slices.Equal(got, all) {
		t.Errorf("without an offer, unused are %v", got)
	}
}
