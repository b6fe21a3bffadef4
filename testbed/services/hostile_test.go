package services_test

import (
	"slices"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
	"github.com/sharedos/terraform-provider-sharedos/testbed/guest"
	"github.com/sharedos/terraform-provider-sharedos/testbed/matrix"
)

// hostile checks services that resist a restart and went through the same refresh.
func (h *house) hostile(t *testing.T) {
	for _, test := range []struct {
		unit, fault string
		// atLeast and atMost bound the interruption that is reported.
		atLeast, atMost time.Duration
	}{
		{"bomb.service", "a service that forks without end", 0, time.Minute},
		{"deaf.service", "a service that ignores SIGTERM", 4 * time.Second, time.Minute},
		{"swarm.service", "hundreds of processes start during the swap", 0, time.Minute},
	} {
		t.Run(test.unit, func(t *testing.T) {
			if !h.restarted(test.unit) || len(h.stale(test.unit)) > 0 {
				t.Errorf("%+v, then %+v; old code in %v", h.before[test.unit], h.after[test.unit], h.stale(test.unit))
			}
			away := time.Duration(h.reported(test.unit).GetInterruptionUs()) * time.Microsecond
			if away < test.atLeast || away > test.atMost {
				t.Errorf("it is reported to have been away for %s", away)
			}
			matrix.Record(t, test.fault, "restart", "new stack, no old code")
		})
	}
	h.run(t, "systemctl stop bomb.service swarm.service once.service")
}

// failures checks that the VM and all of its services go back to what ran before, whatever fails after the swap.
func (h *house) failures(t *testing.T) {
	h.vm.World.KeepLogin = true // from here on no test looks at the code that logins run
	h.run(t, "systemctl restart report.service reload.service")
	good := h.vm.Spec.Refresh.HealthChecks
	for _, test := range []struct {
		fault, step, mood string
		// fails are the checks that are not going to be good, and within how long that is found.
		fails  []string
		within time.Duration
		wants  []string
	}{
		{"a service that fails to start again", "restart", "refuse", []string{"unit", "tcp"}, 6 * time.Second, []string{"the database has another format"}},
		{"a service that dies after three seconds", "check", "die", []string{"tcp"}, 15 * time.Second, []string{"the index is broken"}},
		{"a service that runs but does not listen", "check", "tcp", []string{"tcp"}, 4 * time.Second,
			[]string{`health check "tcp"`, "connection refused", "the address is in use"}},
		{"a service that runs but answers with an error", "check", "http", []string{"http"}, 4 * time.Second,
			[]string{`health check "http"`, "500", "the template is broken"}},
		{"a service that runs but fails a command check", "check", "command", []string{"command"}, 4 * time.Second,
			[]string{`health check "command"`, "/usr/bin/test", "the cache is cold"}},
	} {
		t.Run(test.fault, func(t *testing.T) {
			before := h.active(t)
			h.run(t, "echo "+test.mood+" > /var/lib/mood")
			h.vm.Spec.Refresh.HealthChecks = impatient(good, test.fails, test.within)
			report, err := h.vm.Refresh(t.Context(), h.releases[2])
			h.vm.Spec.Refresh.HealthChecks = good
			if err == nil || report.GetCommitted() {
				t.Fatalf("it was committed: %v", report)
			}
			for _, want := range append(test.wants, "moody.service", vm.ErrRolledBack.Error()) {
				if !guest.Says(err, want) {
					t.Errorf("the error does not say %q: %v", want, err)
				}
			}
			after := h.active(t)
			for _, unit := range before {
				if !slices.Contains(after, unit) {
					t.Errorf("%s was active and is not", unit)
				}
			}
			status, err := h.vm.Status(t.Context())
			if err != nil || status.GetStack().GetBase() != h.releases[1].String() ||
				!strings.Contains(h.run(t, "cat /usr/lib/t/moody"), "# two ") {
				t.Errorf("it runs %s, %v", status.GetStack().GetBase(), err)
			}
			for _, file := range h.mappedFiles(t, "/t/changing") {
				// own.service has its own files, and refusing.service has refused to be stopped since the first
				// refresh.
				if file.GetDigest() != h.changed && file.GetUnit() != "own.service" &&
					file.GetUnit() != "refusing.service" {
					t.Errorf("%s (pid %d) runs another program than it is to", file.GetUnit(), file.GetPid())
				}
			}
			outcome := "old stack; the error contains the unit and its log"
			if len(test.wants) > 1 {
				outcome = "old stack; the error contains the check, the unit and its log"
			}
			matrix.Record(t, test.fault, test.step, outcome)
		})
	}
	h.run(t, "rm /var/lib/mood")
	if report, err := h.vm.Refresh(t.Context(), h.releases[2]); err != nil || !report.GetCommitted() {
		t.Errorf("the next refresh: %v, %v", report, err)
	}
}

// stone checks a service that only SIGKILL ends, in a unit without a stop timeout: the refresh still has one.
func (h *house) stone(t *testing.T) {
	h.run(t, "systemctl start stone.service")
	before := h.statesOf(t, "stone.service")["stone.service"]
	policy := h.vm.Spec.Refresh
	h.vm.Spec.Refresh.RestartTimeout = 5 * time.Second
	h.vm.Spec.Refresh.Units = &agentapi.UnitPolicy{Paths: map[string]*agentapi.PathList{"stone.service": {Paths: []string{"/usr/lib/t/moody"}}}}
	began := time.Now()
	report, err := h.vm.Refresh(t.Context(), h.releases[2])
	h.vm.Spec.Refresh = policy
	if err == nil || report.GetCommitted() || !guest.Says(err, "stone.service") ||
		!guest.Says(err, vm.ErrRolledBack.Error()) {
		t.Fatalf("after %s: %v, %v", time.Since(began), err, report)
	}
	t.Logf("after %s: %v", time.Since(began), err)
	status, err := h.vm.Status(t.Context())
	if err != nil || status.GetStack().GetBase() != h.releases[1].String() {
		t.Errorf("it runs %s, %v", status.GetStack().GetBase(), err)
	}
	if after := h.statesOf(t, "stone.service")["stone.service"]; after.pid != before.pid ||
		after.active != "deactivating" {
		t.Errorf("it was %+v and is %+v", before, after)
	}
	// When the process is killed, systemd starts the unit again.
	h.run(t, "systemctl kill --signal=KILL stone.service")
	h.run(t, "for i in $(seq 600); do systemctl is-active --quiet stone.service && exit; sleep 0.1; done; exit 1")
	h.run(t, "systemctl kill --signal=KILL stone.service; systemctl stop stone.service; systemctl reset-failed stone.service || true")
	matrix.Record(t, "a service that ignores SIGTERM, with TimeoutStopSec=infinity", "restart",
		"old stack, after refresh.restart_timeout")
}

// impatient returns the checks, with a short timeout for those that are going to fail.
func impatient(checks []*agentapi.HealthCheck, names []string, limit time.Duration) []*agentapi.HealthCheck {
	var all []*agentapi.HealthCheck
	for _, check := range checks {
		check, _ := proto.Clone(check).(*agentapi.HealthCheck)
		if slices.Contains(names, check.GetName()) {
			check.TimeoutMs = limit.Milliseconds()
		}
		all = append(all, check)
	}
	return all
}
