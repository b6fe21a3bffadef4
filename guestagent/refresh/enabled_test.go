package refresh

import (
	"slices"
	"strings"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/compose"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
	"github.com/sharedos/terraform-provider-sharedos/testbed/matrix"
)

// enabling is a world with a release "three" that enables new.service, and from which a refresh starts at "one".
func enabling(t *testing.T) *world {
	t.Helper()
	w := newWorld(t)
	w.links["three"] = []string{"usr/lib/systemd/system/multi-user.target.wants/new.service"}
	w.release("three", 3, w.releases["one"])
	w.active = []string{"multi-user.target"}
	return w
}

func starts(report interface{ GetStarts() []*agentapi.UnitStart }) string {
	var all []string
	for _, start := range report.GetStarts() {
		text := start.GetUnit() + " by " + start.GetWantedBy()
		if start.GetSkipped() != "" {
			text += " skipped: " + start.GetSkipped()
		}
		if start.GetError() != "" {
			text += " failed"
		}
		all = append(all, text)
	}
	return strings.Join(all, "; ")
}

func TestAUnitThatAReleaseEnablesIsStarted(t *testing.T) {
	const plain = "new.service by multi-user.target"
	for name, c := range map[string]struct {
		world   func(w *world)
		request func(r *agentapi.RefreshRequest)
		// want is in the report, planned in the impact.
		want, planned string
		runs          bool
	}{
		"as a package manager would": {want: plain, planned: plain, runs: true},
		"not if its target is not active": {
			world:   func(w *world) { w.active = nil },
			want:    plain + " skipped: multi-user.target is not active",
			planned: plain + " skipped: multi-user.target is not active",
		},
		"not if it is disabled here": {
			world: func(w *world) { w.notStartable = map[string]string{"new.service": "it is disabled here"} },
			want:  plain + " skipped: it is disabled here", planned: plain,
		},
		"not if a condition is not met": {
			world: func(w *world) { w.unmet = map[string]bool{"new.service": true} },
			want:  plain + " skipped: a condition of it is not met", planned: plain,
		},
		"not if the policy is to report it": {
			request: func(r *agentapi.RefreshRequest) {
				r.Policy = &agentapi.UnitPolicy{Units: map[string]string{"new.service": "report"}}
			},
			want:    plain + " skipped: the policy is to report it",
			planned: plain + " skipped: the policy is to report it",
		},
		"and its failure is reported: it was not healthy before": {
			world: func(w *world) { w.broken = map[string]tree.Digest{"new.service": w.releases["three"].stack.Base} },
			want:  plain + " failed", planned: plain, runs: true,
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := enabling(t)
			if c.world != nil {
				c.world(w)
			}
			e, stop := w.engine()
			defer stop()
			w.give("one", "three")
			request := w.ask("one", "three")
			if c.request != nil {
				c.request(request)
			}
			report := w.refresh(e, request).Report
			if !report.GetCommitted() {
				t.Fatalf("%v", report)
			}
			if got := starts(report); got != c.want {
				t.Errorf("the report says %q, want %q", got, c.want)
			}
			if got := starts(report.GetImpact()); got != c.planned {
				t.Errorf("the plan says %q, want %q", got, c.planned)
			}
			if _, runs := w.services["new.service"]; runs != c.runs {
				t.Errorf("it runs: %v", runs)
			}
			// After what it may need: the units that are restarted come first.
			start, last := slices.Index(w.log, "start new.service"), slices.Index(w.log, "restart b.service")
			if start >= 0 && start < last {
				t.Errorf("it was started before %v", w.log[start:last])
			}
		})
	}
}

// attaching is a world in which "three" is a base with a component on it, which enables new.service.
func attaching(t *testing.T) *world {
	t.Helper()
	w := enabling(t)
	w.releases["three"] = w.withComponent("three")
	return w
}

// withComponent makes the signed stack of a base with a component on it.
func (w *world) withComponent(name string) *made {
	w.t.Helper()
	base := w.releases[name]
	component := &release.Manifest{
		Schema: release.Schema, Kind: release.Component, Name: "web", Sequence: 1, BuiltOn: base.stack.Base,
		Architecture: "amd64", OS: "Debian",
		Layers:   []release.Layer{{ID: tree.Sum([]byte("layer web")), DataSize: 4096, Size: 8192, Delta: true}},
		Contents: base.manifest.Contents,
	}
	encoded, err := component.Encode()
	if err != nil {
		w.t.Fatal(err)
	}
	stack := w.signStack(compose.Parts{
		Base:       release.Identified{ID: base.stack.Base, Manifest: base.manifest},
		Components: []release.Identified{{ID: release.ID(encoded), Manifest: component}},
	}, nil)
	stack.contents = base.contents
	w.pathOf[layerPath(component.Layers[0])] = base.stack.Base
	return stack
}

// A component is attached for its units. If one does not start, the component goes.
func TestAComponentWhoseUnitFailsIsRolledBack(t *testing.T) {
	for name, fails := range map[string]func(w *world, version map[string]tree.Digest){
		"at its start":        func(w *world, version map[string]tree.Digest) { w.broken = version },
		"soon after":          func(w *world, version map[string]tree.Digest) { w.flaky = version },
		"not at all":          func(*world, map[string]tree.Digest) {},
		"by another strategy": func(w *world, version map[string]tree.Digest) { w.broken = version },
	} {
		t.Run(name, func(t *testing.T) {
			w := attaching(t)
			fails(w, map[string]tree.Digest{"new.service": w.releases["three"].stack.Base})
			e, stop := w.engine()
			defer stop()
			w.give("one", "three")
			request := w.ask("one", "three")
			request.SettleMs = 100
			if name == "by another strategy" {
				request.Strategy = string(SoftReboot)
				if _, err := e.Refresh(request); err != nil {
					t.Fatal(err)
				}
				stop()
				for range 2 { // the soft-reboot to the new stack, and the one back
					e, stop = w.engine()
					defer stop()
					e.Wait()
				}
			} else {
				w.refresh(e, request)
			}
			status, err := e.Status()
			if err != nil {
				t.Fatal(err)
			}
			if want := name == "not at all"; status.Report.GetCommitted() != want ||
				!want && !strings.Contains(status.Report.GetError(), "new.service") {
				t.Errorf("%v", status.Report)
			}
			if _, runs := w.services["new.service"]; runs != (name == "not at all") {
				t.Errorf("it runs: %v", runs)
			}
			if err := w.whole(status); err != nil {
				t.Error(err)
			}
		})
	}
}

// What the new stack does not have is stopped while its files are there, and runs again after a rollback.
func TestAUnitThatGoesIsStoppedBeforeTheSwap(t *testing.T) {
	const unit = "enabled.service"
	for name, unhealthy := range map[string]bool{"committed": false, "rolled back": true} {
		t.Run(name, func(t *testing.T) {
			w := newWorldWith(t, map[string][]string{"one": {"usr/lib/systemd/system/" + unit}})
			if unhealthy {
				w.unhealthy = w.releases["two"].stack.Base
			}
			e, stop := w.engine()
			defer stop()
			w.give("one", "two")
			status := w.refresh(e, w.ask("one", "two"))
			if status.Report.GetCommitted() == unhealthy {
				t.Fatalf("%v", status.Report)
			}
			stopped, swapped := slices.Index(w.log, "withdraw "+unit), slices.Index(w.log, "swap")
			if stopped < 0 || stopped > swapped {
				t.Errorf("it was stopped at %d, and /usr swapped at %d", stopped, swapped)
			}
			if _, runs := w.services[unit]; runs != unhealthy {
				t.Errorf("it runs: %v", runs)
			}
			planned := slices.ContainsFunc(status.Report.GetImpact().GetUnits(), func(u *agentapi.UnitImpact) bool {
				return u.GetUnit() == unit && u.GetReason() == "it is no part of the new stack and is stopped"
			})
			if !planned {
				t.Errorf("planned %v", status.Report.GetImpact())
			}
		})
	}
}

func TestWhatStartsOthersIsStoppedFirst(t *testing.T) {
	started := []string{"data.mount", "x.target", "a.socket", "b.service", "c.service", "d.timer"}
	want := "d.timer a.socket c.service b.service x.target data.mount"
	if got := strings.Join(stopOrder(started), " "); got != want {
		t.Errorf("%s, want %s", got, want)
	}
}

// A rollback for another reason stops what the refresh has started.
func TestARollbackStopsWhatWasStarted(t *testing.T) {
	w := enabling(t)
	w.unhealthy = w.releases["three"].stack.Base
	e, stop := w.engine()
	defer stop()
	w.give("one", "three")
	status := w.refresh(e, w.ask("one", "three"))
	if status.Report.GetCommitted() || !slices.Contains(w.log, "start new.service") {
		t.Fatalf("%v", status.Report)
	}
	if _, runs := w.services["new.service"]; runs {
		t.Error("it still runs")
	}
	if err := w.whole(status); err != nil {
		t.Error(err)
	}
	stopped, back := slices.Index(w.log, "withdraw new.service"), slices.Index(w.log, "back")
	if stopped < 0 || stopped > back {
		t.Errorf("it was stopped at %d, and /usr swapped back at %d: its files were gone", stopped, back)
	}
}

// Wherever the agent is stopped, the unit is started once or not at all, and no rollback leaves it behind.
func TestAnEnabledUnitSurvivesARestartOfTheAgent(t *testing.T) {
	for _, at := range []string{"startable", "start new.service", "journal checking", "check"} {
		t.Run(at, func(t *testing.T) {
			w := enabling(t)
			release := w.hold(at)
			e, stop := w.engine()
			w.give("one", "three")
			if started, err := e.Refresh(w.ask("one", "three")); err != nil || !started {
				t.Fatal(started, err)
			}
			ended := make(chan bool)
			go func() {
				stop()
				close(ended)
			}()
			release(func() {})
			<-ended
			e, stop = w.engine()
			defer stop()
			status := until(t, e)
			_, runs := w.services["new.service"]
			if runs != status.Report.GetCommitted() {
				t.Errorf("it runs: %v; %v", runs, status.Report)
			}
		})
	}
	matrix.Record(t, "the agent is stopped", "while it starts a unit that the release enables",
		"the unit runs on new, and not on old")
}

// Only what ran before counts as broken after a start of the new stack.
func TestAUnitThatNeverRanBeforeDoesNotBreakASoftReboot(t *testing.T) {
	for unit, committed := range map[string]bool{"new.service": true, "b.service": false} {
		t.Run(unit, func(t *testing.T) {
			w := newWorld(t)
			w.broken = map[string]tree.Digest{unit: w.releases["two"].stack.Base}
			d := w.refreshBy(SoftReboot)
			defer d.stop()
			status := d.status
			if status.Report.GetCommitted() != committed {
				t.Errorf("%v", status.Report)
			}
			if got := starts(status.Report); committed && got != "new.service by soft_reboot failed" {
				t.Errorf("the report says %q", got)
			}
		})
	}
}

// A unit that makes a secret is started once systemd has read it, and before the units that may need the secret. It is
// reported like other units that the release enables.
func TestSecretsAreMadeBetweenTheReloadAndTheRestarts(t *testing.T) {
	const unit = "sharedos-secret-x.service"
	for _, enabled := range []bool{false, true} {
		links := map[string][]string{}
		if enabled {
			links["two"] = []string{"usr/lib/systemd/system/multi-user.target.wants/" + unit}
		}
		w := newWorldWith(t, links)
		w.generate = []string{unit}
		e, stop := w.engine()
		defer stop()
		w.give("one", "two")
		report := w.refresh(e, w.ask("one", "two")).Report
		made := "generate " + unit
		if enabled {
			made = "start " + unit
		}
		at := slices.Index(w.log, made)
		if at < 0 || at < slices.Index(w.log, "reexecute") || at > slices.Index(w.log, "restart a.service") ||
			count(w.log, made) != 1 {
			t.Errorf("enabled %v: %v", enabled, w.log)
		}
		reported := slices.ContainsFunc(report.GetStarts(), func(s *agentapi.UnitStart) bool {
			return s.GetUnit() == unit && s.GetSkipped() == "" && s.GetError() == ""
		})
		if reported != enabled || len(report.GetConflicts()) > 0 {
			t.Errorf("enabled %v: %v", enabled, report)
		}
	}
}

func count(all []string, one string) (n int) {
	for _, other := range all {
		if other == one {
			n++
		}
	}
	return n
}

// The stand-in of a component's unit is restarted as the unit itself. After a rollback it does not run: it would attach
// the component again.
func TestAStandInIsTakenOver(t *testing.T) {
	const unit = "db.service"
	for name, fails := range map[string]bool{"committed": false, "its unit does not start": true} {
		t.Run(name, func(t *testing.T) {
			w := newWorldWith(t, map[string][]string{
				"one": {"usr/lib/sharedos/on-demand/units/" + unit}, "two": {"usr/lib/systemd/system/" + unit},
			})
			w.standIn, w.services[unit] = unit, w.usr
			if fails {
				w.broken = map[string]tree.Digest{unit: w.releases["two"].stack.Base}
			}
			e, stop := w.engine()
			defer stop()
			w.give("one", "two")
			status := w.refresh(e, w.ask("one", "two"))
			if status.Report.GetCommitted() == fails {
				t.Fatalf("%v", status.Report)
			}
			swapped, restarted := slices.Index(w.log, "swap"), slices.Index(w.log, "restore "+unit)
			if restarted < swapped || swapped < 0 || slices.Contains(w.log[restarted+1:], "restore "+unit) {
				t.Errorf("it is restarted once, after the swap: %v", w.log)
			}
			if _, runs := w.services[unit]; runs == fails {
				t.Errorf("it runs: %v", runs)
			}
			withdrawn, back := slices.Index(w.log, "withdraw "+unit), slices.Index(w.log, "back")
			if fails && (withdrawn < 0 || withdrawn > back) {
				t.Errorf("it is stopped at %d, and /usr swapped back at %d: %v", withdrawn, back, w.log)
			}
			if err := w.whole(status); err != nil {
				t.Error(err)
			}
		})
	}
}

// What a unit of a component has started itself, such as a unit that it wants, does not run on
// after a rollback. A unit of that name that ran before does.
func TestWhatAFailedUnitHasStartedIsStopped(t *testing.T) {
	for name, before := range map[string]bool{"it did not run before": false, "it ran before": true} {
		t.Run(name, func(t *testing.T) {
			w := newWorldWith(t, map[string][]string{"three": {
				"usr/lib/systemd/system/helper.service", "usr/lib/systemd/system/multi-user.target.wants/new.service",
			}})
			w.release("three", 3, w.releases["one"])
			w.releases["three"] = w.withComponent("three")
			w.followers = map[string][]string{"new.service": {"helper.service"}}
			w.broken = map[string]tree.Digest{"new.service": w.releases["three"].stack.Base}
			if before {
				w.services["helper.service"] = w.usr
			}
			e, stop := w.engine()
			defer stop()
			w.give("one", "three")
			status := w.refresh(e, w.ask("one", "three"))
			if status.Report.GetCommitted() {
				t.Fatalf("%v", status.Report)
			}
			if _, runs := w.services["helper.service"]; runs != before {
				t.Errorf("it runs: %v", runs)
			}
		})
	}
}

// A component whose only service is a script of System V init comes and goes like one with a unit.
func TestAComponentWithAnInitScriptComesAndGoes(t *testing.T) {
	const unit = "acme.service"
	script := []string{"etc/init.d/acme", "etc/rc2.d/S01acme", "etc/rc5.d/S01acme"}
	t.Run("attached", func(t *testing.T) {
		for name, fails := range map[string]bool{"it starts": false, "it does not start": true} {
			w := newWorldWith(t, map[string][]string{"three": script})
			w.anyEtc = true
			w.release("three", 3, w.releases["one"])
			w.releases["three"] = w.withComponent("three")
			if fails {
				w.broken = map[string]tree.Digest{unit: w.releases["three"].stack.Base}
			}
			e, stop := w.engine()
			w.give("one", "three")
			report := w.refresh(e, w.ask("one", "three")).Report
			if got := starts(report.GetImpact()); got != unit+" by multi-user.target" ||
				report.GetCommitted() == fails {
				t.Errorf("%s: the plan says %q: %v", name, got, report)
			}
			if _, runs := w.services[unit]; runs == fails {
				t.Errorf("%s: it runs: %v", name, runs)
			}
			read, started := slices.Index(w.log, "reexecute"), slices.Index(w.log, "start "+unit)
			if started < read || read < slices.Index(w.log, "swap") {
				t.Errorf("%s: it is started before systemd has read it: %v", name, w.log)
			}
			stop()
		}
	})
	t.Run("detached", func(t *testing.T) {
		w := newWorldWith(t, map[string][]string{"one": script})
		w.anyEtc, w.script, w.services[unit] = true, unit, w.usr
		e, stop := w.engine()
		defer stop()
		w.give("one", "two")
		report := w.refresh(e, w.ask("one", "two")).Report
		planned := slices.ContainsFunc(report.GetImpact().GetUnits(),
			func(u *agentapi.UnitImpact) bool { return u.GetUnit() == unit })
		if _, runs := w.services[unit]; runs || !planned || !report.GetCommitted() {
			t.Errorf("it runs: %v; it is in the plan: %v; %v", runs, planned, report)
		}
		if stopped := slices.Index(w.log, "withdraw "+unit); stopped < 0 || stopped > slices.Index(w.log, "swap") {
			t.Errorf("it is stopped after its script has gone: %v", w.log)
		}
	})
}
