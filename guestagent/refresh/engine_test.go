package refresh

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/etcmerge"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/impact"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/journal"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

func TestARefreshEndsOnTheNewStack(t *testing.T) {
	w := newWorld(t)
	e, stop := w.engine()
	defer stop()
	w.give("one", "two")
	status := w.refresh(e, w.ask("one", "two"))
	report := status.Report
	if !report.GetCommitted() || !report.GetDone() || report.GetError() != "" || report.GetRefused() {
		t.Fatalf("%v", report)
	}
	if status.Stack.Base != w.releases["two"].stack.Base || status.Generation != 1 || status.State != Idle {
		t.Errorf("%+v", status)
	}
	if got := restartedUnits(report); !slices.Equal(got, []string{"a.service", "b.service", "init.scope"}) {
		t.Errorf("renewed %v", got)
	}
	if !slices.Equal(report.GetImpact().GetUnaffected(), []string{"idle.service"}) || report.GetEtcCarried() != 1 {
		t.Errorf("%v", report)
	}
	if err := w.whole(status); err != nil {
		t.Error(err)
	}
	var journal []string
	for _, op := range w.log {
		if state, is := strings.CutPrefix(op, "journal "); is &&
			(len(journal) == 0 || journal[len(journal)-1] != state) {
			journal = append(journal, state)
		}
	}
	if got := strings.Join(journal, " "); got != "staged verified swapped restarted checking committed idle" {
		t.Errorf("journal: %s", got)
	}
	// The same again changes nothing.
	count := w.count
	if started, err := e.Refresh(w.ask("one", "two")); started || err != nil || w.count != count {
		t.Errorf("the same target again: started %v, %v", started, err)
	}
}

// A caller that waits for another state than it has seen gets each one until the refresh ends, and
// does not wait after it.
func TestWhoWaitsIsToldOfEveryTurn(t *testing.T) {
	w := newWorld(t)
	e, stop := w.engine()
	defer stop()
	w.give("one", "two")
	e.Await(t.Context(), agentapi.State_IDLE) // nothing is in flight
	w.slow, w.held = "swap", make(chan struct{})
	if started, err := e.Refresh(w.ask("one", "two")); err != nil || !started {
		t.Fatal(started, err)
	}
	seen, turns := agentapi.State_STATE_UNSPECIFIED, 0
	for seen != agentapi.State_SWAPPED {
		e.Await(t.Context(), seen)
		now, err := e.Status()
		if err != nil {
			t.Fatal(err)
		}
		if now.Message() == seen {
			t.Fatalf("told of %v again", seen)
		}
		seen = now.Message()
		turns++
	}
	short, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	e.Await(short, seen)
	if short.Err() == nil {
		t.Error("told of a turn where there was none")
	}
	var waiting sync.WaitGroup
	for range 3 {
		waiting.Go(func() { e.Await(t.Context(), seen) })
	}
	// A refresh is idle already when it is put away, and ends only then.
	put := make(chan struct{})
	w.mutex.Lock()
	held := w.held
	w.slow, w.held = "drop blobs", put
	w.mutex.Unlock()
	close(held)
	waiting.Wait()
	for seen != agentapi.State_IDLE {
		e.Await(t.Context(), seen)
		now, err := e.Status()
		if err != nil {
			t.Fatal(err)
		}
		seen = now.Message()
	}
	time.AfterFunc(20*time.Millisecond, func() { close(put) })
	long, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	e.Await(long, seen)
	if now, err := e.Status(); err != nil || !now.Report.GetDone() || long.Err() != nil {
		t.Errorf("told of the end before it or not at all: %v, %v, %v", now, err, long.Err())
	}
	e.Await(t.Context(), agentapi.State_IDLE)
	if turns < 2 {
		t.Errorf("%d turns", turns)
	}
}

func TestWhatIsRefusedChangesNothing(t *testing.T) {
	for name, test := range map[string]struct {
		prepare func(*world, *agentapi.RefreshRequest)
		want    error
		text    string
		code    agentapi.Refusal
	}{
		"impact too large": {prepare: func(_ *world, r *agentapi.RefreshRequest) { r.MaxImpact = agentapi.Level_RELOAD },
			want: ErrImpact, code: agentapi.Refusal_REFUSAL_IMPACT},
		"live is impossible": {prepare: func(w *world, r *agentapi.RefreshRequest) {
			w.obstacle = "Linux 6.1 has no MOVE_MOUNT_BENEATH"
		}, want: ErrImpact, text: "MOVE_MOUNT_BENEATH", code: agentapi.Refusal_REFUSAL_IMPACT},
		"what is allowed lies above the strategy": {prepare: func(w *world, r *agentapi.RefreshRequest) {
			w.obstacle = "Linux 6.1 has no MOVE_MOUNT_BENEATH"
			r.MaxImpact = agentapi.Level_REBOOT
		}, want: ErrDeferred, code: agentapi.Refusal_REFUSAL_STRATEGY},
		"a flipped byte": {prepare: func(w *world, _ *agentapi.RefreshRequest) {
			w.readError = errors.New("layer x: offset 4096: input/output error")
		}, text: "offset 4096", code: agentapi.Refusal_REFUSAL_SYSTEM},
		"the caller compares with another stack": {prepare: func(w *world, r *agentapi.RefreshRequest) {
			r.Target.From = w.releases["two"].signed
		}, want: ErrStale, code: agentapi.Refusal_REFUSAL_TARGET},
		"another base": {prepare: func(w *world, r *agentapi.RefreshRequest) {
			m := *w.releases["two"].manifest
			m.Name = "other"
			w.resign(&m, "two")
			r.Target.To = w.releases["two"].signed
		}, want: ErrTarget, code: agentapi.Refusal_REFUSAL_TARGET},
		"a check fails before it, and all are required": {prepare: func(w *world, r *agentapi.RefreshRequest) {
			w.unhealthy, r.RequireChecks = w.releases["one"].stack.Base, true
		}, want: ErrChecks, code: agentapi.Refusal_REFUSAL_CHECKS},
		"contents that were not handed over": {prepare: func(w *world, _ *agentapi.RefreshRequest) { clear(w.blobs) },
			text: "no blob", code: agentapi.Refusal_REFUSAL_SYSTEM},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			e, stop := w.engine()
			defer stop()
			w.give("one", "two")
			request := w.ask("one", "two")
			test.prepare(w, request)
			status := w.refresh(e, request)
			report := status.Report
			if !report.GetRefused() || !report.GetDone() || report.GetCommitted() || report.GetRefusal() != test.code {
				t.Fatalf("%v", report)
			}
			text := test.text
			if test.want != nil && text == "" {
				text = test.want.Error()
			}
			if !strings.Contains(report.GetError(), text) {
				t.Errorf("error %q does not say %q", report.GetError(), text)
			}
			if slices.Contains(w.log, "swap") || slices.Contains(w.log, "carry") || slices.Contains(w.log, "reload") {
				t.Errorf("something was changed: %v", w.log)
			}
			if err := w.whole(status); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestReplayedAndForeignReleasesAreRefused(t *testing.T) {
	w := newWorld(t)
	e, stop := w.engine()
	defer stop()
	w.give("one", "two")
	w.refresh(e, w.ask("one", "two"))
	w.give("one", "two")
	status := w.refresh(e, w.ask("two", "one"))
	if !status.Report.GetRefused() || !strings.Contains(status.Report.GetError(), ErrDowngrade.Error()) {
		t.Errorf("downgrade: %v", status.Report)
	}
	w.give("one", "two")
	request := w.ask("two", "one")
	request.AllowDowngrade = true
	if status = w.refresh(e, request); !status.Report.GetCommitted() {
		t.Errorf("downgrade that was asked for: %v", status.Report)
	}
	if err := w.whole(status); err != nil {
		t.Error(err)
	}
	foreign := newWorld(t)
	request = w.ask("one", "two")
	request.Target.To = foreign.releases["two"].signed
	if started, err := e.Refresh(request); started || err == nil {
		t.Errorf("a foreign signature: started %v, %v", started, err)
	}
	request.Strategy = "magic"
	if _, err := e.Refresh(request); !errors.Is(err, ErrStrategy) {
		t.Errorf("a strategy that is none: %v", err)
	}
}

func TestAServiceThatDoesNotComeBackRollsBack(t *testing.T) {
	for name, break_ := range map[string]func(*world){
		"it does not start": func(w *world) {
			w.broken = map[string]tree.Digest{"b.service": w.releases["two"].stack.Base}
		},
		"it dies soon after": func(w *world) {
			w.flaky = map[string]tree.Digest{"b.service": w.releases["two"].stack.Base}
		},
		"a health check turns bad": func(w *world) { w.unhealthy = w.releases["two"].stack.Base },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			e, stop := w.engine()
			defer stop()
			w.give("one", "two")
			break_(w)
			w.left = []etcmerge.Conflict{{Path: "etc/passwd", Kind: etcmerge.LeftInPlace, Reason: "changed since"}}
			request := w.ask("one", "two")
			request.SettleMs = 600
			status := w.refresh(e, request)
			if all := status.Report.GetConflictDetails(); len(all) != 1 ||
				all[0].GetKind() != string(etcmerge.LeftInPlace) {
				t.Errorf("what stays is not reported: %v", status.Report)
			}
			if status.Report.GetCommitted() || status.Report.GetRefused() || !status.Report.GetDone() ||
				!strings.Contains(status.Report.GetError(), ".service is failed; it logged last: boom") {
				t.Errorf("%v", status.Report)
			}
			if name == "a health check turns bad" && !strings.Contains(status.Report.GetError(), `health check "web"`) {
				t.Errorf("the error does not name the check: %v", status.Report)
			}
			if err := w.whole(status); err != nil {
				t.Error(err)
			}
			if status.Stack.Base != w.releases["one"].stack.Base {
				t.Errorf("it runs %s", w.name(status.Stack.Base))
			}
		})
	}
}

func TestARestartHasItsTimeoutAndTheWayBackHasNot(t *testing.T) {
	w := newWorld(t)
	e, stop := w.engine()
	defer stop()
	w.give("one", "two")
	w.broken = map[string]tree.Digest{"b.service": w.releases["two"].stack.Base}
	request := w.ask("one", "two")
	request.RestartTimeoutMs = 5000
	if status := w.refresh(e, request); status.Report.GetCommitted() || w.whole(status) != nil {
		t.Fatalf("%v", status.Report)
	}
	if there, back := w.within["restart b.service"],
		w.within["restore b.service"]; there <= 0 || there > 5*time.Second || back < time.Minute {
		t.Errorf("a restart had %s, and the way back %s: %v", there, back, w.within)
	}
}

func TestACheckThatWasBadBeforeFailsNothing(t *testing.T) {
	w := newWorld(t)
	w.unhealthy = w.releases["one"].stack.Base
	e, stop := w.engine()
	defer stop()
	w.give("one", "two")
	status := w.refresh(e, w.ask("one", "two"))
	if !status.Report.GetCommitted() {
		t.Errorf("%v", status.Report)
	}
	if unchecked := status.Report.GetUnchecked(); len(unchecked) != 1 ||
		!strings.Contains(unchecked[0], "web: status 500") {
		t.Errorf("as unchecked it tells %q", unchecked)
	}
}

func TestADamagedJournalIsToldAndNothingBeginsOnTopOfIt(t *testing.T) {
	w := newWorld(t)
	w.give("one", "two")
	e, stop := w.engine()
	if status := w.refresh(e, w.ask("one", "two")); !status.Report.GetCommitted() {
		t.Fatalf("%v", status.Report)
	}
	stop()
	e.Wait()
	w.unreadable = fmt.Errorf("%w: unexpected end of JSON input", journal.ErrDamaged)
	// The agent is restarted twice in this boot.
	for range 2 {
		e, stop = w.engine()
		w.give("one", "two")
		status, err := e.Status()
		if err != nil || status.Stack.Base != w.releases["two"].stack.Base ||
			!slices.ContainsFunc(status.Pending, func(pending string) bool {
				return strings.Contains(pending, "restart the VM") && strings.Contains(pending, "end of JSON")
			}) {
			t.Errorf("it is %+v, %v", status, err)
		}
		if started, err := e.Refresh(w.ask("two", "one")); started || !errors.Is(err, journal.ErrDamaged) {
			t.Errorf("a refresh: started %v, %v", started, err)
		}
		stop()
		e.Wait()
		w.unreadable = nil // a new one was begun
	}
	w.powerCut()
	e, stop = w.engine()
	defer stop()
	if status, err := e.Status(); err != nil || slices.ContainsFunc(status.Pending,
		func(pending string) bool { return strings.Contains(pending, "journal") }) {
		t.Errorf("after a boot it is %+v, %v", status, err)
	}
}

// What a refresh is at is in the journal's own words; a report that cannot be decoded does not keep it from ending.
func TestADamagedReportIsMadeAgainOfTheRecord(t *testing.T) {
	w := newWorld(t)
	from, to := w.releases["one"].stack, w.releases["two"].stack
	for _, test := range []struct {
		record    Record
		committed bool
	}{
		{Record{State: Idle, From: from, To: to, Running: to, Report: []byte{0xff}}, true},
		{Record{State: Idle, From: from, To: to, Running: from, Report: []byte{0xff}}, false},
	} {
		if got := test.record.ReadReport(); !got.GetDone() || got.GetCommitted() != test.committed ||
			got.GetTo().GetBase() != to.Base.String() || got.GetError() == "" {
			t.Errorf("%+v is told as %v", test.record, got)
		}
	}
	inFlight := Record{State: Swapped, From: from, To: to, Running: from, Report: []byte{0xff}}
	if got := inFlight.ReadReport(); got.GetDone() || got.GetState() != agentapi.State_SWAPPED {
		t.Errorf("a refresh in flight is told as %v", got)
	}
}

func TestAnotherTargetWaitsAndTheSameOneIsTheSame(t *testing.T) {
	w := newWorld(t)
	w.release("three", 3, w.releases["two"])
	e, stop := w.engine()
	defer stop()
	w.give("one", "two")
	request := w.ask("one", "two")
	request.SettleMs = 300
	if started, err := e.Refresh(proto.Clone(request).(*agentapi.RefreshRequest)); !started || err != nil { //nolint:forcetypeassert // a clone
		t.Fatalf("%v, %v", started, err)
	}
	if started, err := e.Refresh(request); started || err != nil {
		t.Errorf("the same target: started %v, %v", started, err)
	}
	if started, err := e.Refresh(w.ask("one", "three")); started || !errors.Is(err, ErrBusy) {
		t.Errorf("another target: started %v, %v", started, err)
	}
	if status := until(t, e); !status.Report.GetCommitted() {
		t.Errorf("%v", status.Report)
	}
}

// resign replaces a release of the world by a changed one.
func (w *world) resign(m *release.Manifest, name string) {
	w.t.Helper()
	contents := w.releases[name].contents
	w.releases[name] = w.sign(m)
	w.releases[name].contents = contents
}

func TestAFailureInterruptsNoUnitThatTheWayForwardHadNotComeTo(t *testing.T) {
	w := newWorld(t)
	e, stop := w.engine()
	defer stop()
	w.give("one", "two")
	w.services["c.service"] = w.usr
	w.broken = map[string]tree.Digest{"b.service": w.releases["two"].stack.Base}
	status := w.refresh(e, w.ask("one", "two"))
	if status.Report.GetCommitted() {
		t.Fatalf("%v", status.Report)
	}
	for operation, times := range map[string]int{
		"restart a.service": 1, "restore a.service": 1, "restart b.service": 1, "restore b.service": 1,
		"restart c.service": 0, "restore c.service": 0,
	} {
		if got := countOf(w.log, operation); got != times {
			t.Errorf("%s happened %d times, not %d", operation, got, times)
		}
	}
	if err := w.whole(status); err != nil {
		t.Error(err)
	}
}

func TestAUnitThatIsRestartedWithAnotherOneIsNotRestartedAgain(t *testing.T) {
	w := newWorld(t)
	w.followers = map[string][]string{"a.service": {"b.service"}}
	e, stop := w.engine()
	defer stop()
	w.give("one", "two")
	status := w.refresh(e, w.ask("one", "two"))
	if !status.Report.GetCommitted() || countOf(w.log, "restart a.service") != 1 ||
		countOf(w.log, "restart b.service") != 0 {
		t.Errorf("%v, %v", w.log, status.Report)
	}
	if got := restartedUnits(status.Report); !slices.Equal(got, []string{"a.service", "b.service", "init.scope"}) {
		t.Errorf("it reports %v", got)
	}
}

func TestThePolicyLeavesUnitsAndTellsWhich(t *testing.T) {
	w := newWorld(t)
	e, stop := w.engine()
	defer stop()
	w.give("one", "two")
	request := w.ask("one", "two")
	request.Policy = &agentapi.UnitPolicy{Default: "report", Units: map[string]string{"a.service": "restart"}}
	status := w.refresh(e, request)
	if !status.Report.GetCommitted() || countOf(w.log, "restart a.service") != 1 ||
		countOf(w.log, "restart b.service") != 0 {
		t.Errorf("%v, %v", w.log, status.Report)
	}
	left := status.Report.GetLeft()
	if len(left) != 1 || !strings.HasPrefix(left[0], "b.service: it runs code that differs") ||
		!slices.Equal(left, status.Report.GetImpact().GetLeft()) {
		t.Errorf("left are %q, and assessed %q", left, status.Report.GetImpact().GetLeft())
	}
	if remaining := status.Report.GetRemaining(); len(remaining) != 1 ||
		!strings.HasPrefix(remaining[0], "b.service ") {
		t.Errorf("remaining are %q", remaining)
	}
	request.Policy.Default = "all"
	if _, err := e.Refresh(request); !errors.Is(err, ErrPolicy) {
		t.Errorf("a policy that is none: %v", err)
	}
}

func countOf(log []string, operation string) (times int) {
	for _, one := range log {
		if one == operation {
			times++
		}
	}
	return times
}

// The time for which everything has to stay good begins with the last restart, if everything was good then and the same
// units run since.
func TestTheTimeToStayGoodBeginsWithTheLastRestart(t *testing.T) {
	w := newWorld(t)
	e, stop := w.engine()
	defer stop()
	w.give("one", "two")
	const hold = time.Minute
	settle := func(change func(r *run)) error {
		r := &run{Engine: e, request: w.ask("one", "two")}
		r.request.SettleMs = hold.Milliseconds()
		e.record = Record{Planned: []Planned{{Unit: "b.service", Outcome: impact.Restarted}}, Baseline: []string{"web"}}
		if r.observe(t.Context()); r.observed == nil || len(r.observed.running) == 0 {
			t.Fatalf("observed %v", r.observed)
		}
		r.observed.at = time.Now().Add(-hold)
		change(r)
		ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
		defer cancel()
		return r.settle(ctx)
	}
	if err := settle(func(*run) {}); err != nil {
		t.Errorf("all was good for long: %v", err)
	}
	for name, change := range map[string]func(*run){
		"never":                func(r *run) { r.observed = nil },
		"a moment ago":         func(r *run) { r.observed.at = time.Now() },
		"a unit started again": func(r *run) { r.observed.running["b.service"]++ },
		"a unit runs only now": func(r *run) { delete(r.observed.running, "b.service") },
		"a check was not good": func(r *run) {
			w.unhealthy = w.usr
			r.observe(
				t.Context())
			w.unhealthy = tree.Digest{}
		},
	} {
		if err := settle(change); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A disk that is full says so before anything was checked: the first thing that a refresh does is to save the request.
func TestAFullDiskIsToldAsSuch(t *testing.T) {
	w := newWorld(t)
	w.full = true
	e, stop := w.engine()
	defer stop()
	w.give("one", "two")
	status := w.refresh(e, w.ask("one", "two"))
	if report := status.Report; report.GetCommitted() || !report.GetRefused() ||
		report.GetError() != errNoRoom.Error() {
		t.Errorf("it ended with %v", report)
	}
	if err := w.whole(status); err != nil {
		t.Error(err)
	}
}
