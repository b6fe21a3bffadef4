package refresh

import (
	"slices"
	"strings"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/etcmerge"
)

const sysctls, modprobes = "usr/lib/sysctl.d/x.conf", "usr/lib/modprobe.d/x.conf"

// loading is a world in which release "two" brings files that a running system has loaded at boot, and "three" only one
// of them.
func loading(t *testing.T) *world {
	t.Helper()
	w := newWorldWith(t, map[string][]string{"two": {sysctls, modprobes}, "three": {sysctls}})
	w.active = append(w.active, "systemd-sysctl.service")
	w.release("three", 3, w.releases["two"])
	return w
}

// loadedLater are the files of which pending says that a boot loads them.
func loadedLater(pending []string) string {
	var all []string
	for _, name := range []string{sysctls, modprobes} {
		if slices.ContainsFunc(pending, func(line string) bool { return strings.Contains(line, "(/"+name+"):") }) {
			all = append(all, name)
		}
	}
	return strings.Join(all, " ")
}

func pendingOf(t *testing.T, e *Engine) string {
	t.Helper()
	status, err := e.Status()
	if err != nil {
		t.Fatal(err)
	}
	return loadedLater(status.Pending)
}

// Plan, report and status list what a boot loads, for each refresh that changed it, until a boot has loaded it.
func TestWhatABootLoadsIsPendingUntilTheBoot(t *testing.T) {
	const both = sysctls + " " + modprobes
	w := loading(t)
	e, stop := w.engine()
	w.give("one", "two")
	status := w.refresh(e, w.ask("one", "two"))
	if got := loadedLater(status.Report.GetImpact().GetPending()); got != both {
		t.Errorf("the plan says %q", got)
	}
	if got := loadedLater(status.Report.GetPending()); got != both || !status.Report.GetCommitted() {
		t.Errorf("the report says %q", got)
	}
	if got := loadedLater(status.Pending); got != both {
		t.Errorf("the status says %q", got)
	}
	stop()
	e.Wait()
	e, stop = w.engine()
	if got := pendingOf(t, e); got != both {
		t.Errorf("after a restart of the agent: %q", got)
	}
	// One of the files is as it was loaded again. The other has not changed.
	w.give("two", "three")
	if status := w.refresh(e, w.ask("two", "three")); loadedLater(status.Pending) != sysctls ||
		loadedLater(status.Report.GetPending()) != sysctls ||
		loadedLater(status.Report.GetImpact().GetPending()) != sysctls {
		t.Errorf("after the next refresh: %q; %v", status.Pending, status.Report)
	}
	stop()
	e.Wait()
	w.powerCut()
	e, stop = w.engine()
	defer stop()
	if got := pendingOf(t, e); got != "" {
		t.Errorf("after a boot: %q", got)
	}
}

func TestARungLoadsWhatABootLoads(t *testing.T) {
	for rung, want := range map[Rung]string{SoftReboot: modprobes, Kexec: "", Reboot: ""} {
		w := loading(t)
		d := w.refreshBy(rung)
		report := d.status.Report
		if !report.GetCommitted() || loadedLater(report.GetImpact().GetPending()) != want ||
			loadedLater(report.GetPending()) != want || loadedLater(d.status.Pending) != want {
			t.Errorf("%s: %q; %v", rung, d.status.Pending, report)
		}
		d.stop()
	}
}

func TestARefreshThatIsRolledBackLeavesNothingToLoad(t *testing.T) {
	w := loading(t)
	w.unhealthy = w.releases["two"].stack.Base
	e, stop := w.engine()
	defer stop()
	w.give("one", "two")
	if status := w.refresh(e, w.ask("one", "two")); status.Report.GetCommitted() || loadedLater(status.Pending) != "" {
		t.Errorf("%q; %v", status.Pending, status.Report)
	}
}

// A file of which the VM's own version stays has not changed.
func TestAFileThatStaysIsNotLoaded(t *testing.T) {
	for kind, want := range map[etcmerge.Kind]string{etcmerge.Changed: sysctls,
		etcmerge.Restricted: sysctls + " " + modprobes} {
		w := loading(t)
		w.conflicts = []etcmerge.Conflict{{Path: modprobes, Kind: kind, Reason: "both changed it"}}
		e, stop := w.engine()
		w.give("one", "two")
		status := w.refresh(e, w.ask("one", "two"))
		if !status.Report.GetCommitted() || loadedLater(status.Pending) != want ||
			loadedLater(status.Report.GetPending()) != want {
			t.Errorf("%s: %q; %v", kind, status.Pending, status.Report)
		}
		stop()
	}
}
