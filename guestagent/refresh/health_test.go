package refresh

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/impact"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
)

// A check that fails without a refresh says what its unit, or a unit that the last refresh has renewed, logged last.
func TestHealthChecksAreMadeWithoutARefresh(t *testing.T) {
	w := newWorld(t)
	e, stop := w.engine()
	defer stop()
	w.give("one")
	checks := []*agentapi.HealthCheck{
		{Name: "unit", Kind: &agentapi.HealthCheck_Unit{Unit: "a.service"}}, {Name: "page", Kind: &agentapi.HealthCheck_Http{Http: "http://127.0.0.1/"}},
	}
	if failed := e.Check(t.Context(), checks); len(failed) > 0 {
		t.Errorf("all are good: %v", failed)
	}
	w.unhealthy = w.usr
	e.record.Planned = []Planned{{Unit: "b.service", Outcome: impact.Restarted}}
	const logged = " is failed; it logged last: boom"
	want := []*agentapi.FailedCheck{
		{Name: "unit", Reason: "status 500: a.service" + logged}, {Name: "page", Reason: "status 500: b.service" + logged},
	}
	if diff := cmp.Diff(want, e.Check(t.Context(), checks), protocmp.Transform()); diff != "" {
		t.Error(diff)
	}
}
