package refresh

import (
	"slices"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/impact"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// Whoever takes a release back wants the services back that have failed with it.
func TestUnitsThatFailedRunAgainWhenARefreshIsTakenBack(t *testing.T) {
	for name, c := range map[string]struct {
		// before says that b.service had failed before the refresh that is taken back.
		before  bool
		prepare func(*world)
		request func(*agentapi.RefreshRequest)
		// runs says that b.service runs afterwards.
		runs bool
	}{
		"it was renewed by the refresh": {runs: true},
		"a health check names it": {
			before: true,
			request: func(request *agentapi.RefreshRequest) {
				request.HealthChecks = []*agentapi.HealthCheck{{Name: "b",
					Kind: &agentapi.HealthCheck_Unit{Unit: "b.service"}, TimeoutMs: 20}}
			},
			runs: true,
		},
		"it fails again": {prepare: func(w *world) { w.broken = map[string]tree.Digest{"b.service": w.releases["one"].stack.Base} }},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			e, stop := w.engine()
			defer stop()
			w.failed["b.service"] = c.before
			w.give("one", "two")
			w.refresh(e, w.ask("one", "two"))
			w.failed["b.service"] = true
			if c.prepare != nil {
				c.prepare(w)
			}
			w.give("one", "two")
			request := w.ask("two", "one")
			request.AllowDowngrade = true
			if c.request != nil {
				c.request(request)
			}
			status := w.refresh(e, request)
			if !status.Report.GetCommitted() || status.Stack.Base != w.releases["one"].stack.Base {
				t.Fatalf("%v", status.Report)
			}
			i := slices.IndexFunc(status.Report.GetRestarts(),
				func(r *agentapi.UnitRestart) bool { return r.GetUnit() == "b.service" })
			if i < 0 || (status.Report.GetRestarts()[i].GetError() == "") != c.runs {
				t.Errorf("the report has the restarts %v", status.Report.GetRestarts())
			}
			if w.failed["b.service"] == c.runs || c.runs && w.whole(status) != nil {
				t.Errorf("b.service has failed: %v; %v", w.failed["b.service"], w.whole(status))
			}
		})
	}
}

func TestWhichUnitsAreRevived(t *testing.T) {
	one, two, three := release.Stack{Base: tree.Digest{1}}, release.Stack{Base: tree.Digest{2}},
		release.Stack{Base: tree.Digest{3}}
	last := Record{From: one, To: two, Running: two, Failed: []string{"c.service"}, Planned: []Planned{
		{Unit: "b.service", Outcome: impact.Restarted}, {Unit: "c.service", Outcome: impact.Restarted},
		{Unit: "d.service", Outcome: impact.Stopped}, {Unit: "e.service", Outcome: impact.Reloaded},
	}}
	rolledBack := last
	rolledBack.Running = one
	checks := []*agentapi.HealthCheck{{Kind: &agentapi.HealthCheck_Unit{Unit: "a.service"}},
		{Kind: &agentapi.HealthCheck_Http{Http: "http://127.0.0.1/"}}}
	for name, c := range map[string]struct {
		last    Record
		to      release.Stack
		request *agentapi.RefreshRequest
		want    []string
	}{
		"the last refresh is taken back": {last, one, &agentapi.RefreshRequest{AllowDowngrade: true, HealthChecks: checks}, []string{"a.service", "b.service"}},
		"an earlier one is": {last, three,
			&agentapi.RefreshRequest{AllowDowngrade: true, HealthChecks: checks}, []string{"a.service"}},
		"the last one had failed": {rolledBack, one, &agentapi.RefreshRequest{AllowDowngrade: true}, nil},
		"nothing is taken back":   {last, one, &agentapi.RefreshRequest{HealthChecks: checks}, nil},
	} {
		if got := revived(c.last, c.to, c.request); !slices.Equal(got, c.want) {
			t.Errorf("%s: %v, want %v", name, got, c.want)
		}
	}
}
