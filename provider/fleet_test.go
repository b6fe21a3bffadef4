package provider_test

import (
	"fmt"
	"strings"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/provider/providertest"
)

// A plan of a fleet with nothing to do reads each object once, and neither builds nor assesses anything.
func TestAPlanWithNothingToDoAsksOnlyWhatIs(t *testing.T) {
	t.Parallel()
	const count = 20
	world := providertest.New()
	fleet := strings.NewReplacer(`name   = "web"`, `name   = "web-${count.index}"`).Replace(web(fmt.Sprintf("count = %d", count)))
	s := newSession(t, world, debian(patched)+fleet)
	s.run("apply", "-auto-approve")
	world.ForgetCalls()
	if said := s.run("plan", "-no-color"); !strings.Contains(said, "No changes") {
		t.Fatalf("the second plan is not empty:\n%s", said)
	}
	calls := map[string]int{}
	for _, call := range world.Calls() {
		operation, _, _ := strings.Cut(call, " ")
		calls[operation]++
	}
	if len(calls) != 2 || calls["Read"] != count || calls["Newest"] != 1 {
		t.Errorf("a plan with nothing to do called %v", calls)
	}
}
