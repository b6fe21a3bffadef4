package crashtest

import (
	"strings"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
)

// What a component has below /etc and /opt is there at the first boot, although the root stands on the base alone, and
// nothing is reported of it. When the component goes, its unit and what it has in /opt go, and its configuration stays.
func TestAComponentIsThereAtTheFirstBoot(t *testing.T) {
	w := emptyWorld(t)
	w.release(t, "one", w.base.named("one"))
	w.component(t, "extra", "extra", w.base.named("one").with("extra"))
	blank := t.TempDir() + "/disk.img"
	disk{}.write(t, blank)
	m := w.boot(t, blank, "extra")
	defer m.end(t)
	has := func(when string, look string, want map[string]string) {
		t.Helper()
		for path, text := range want {
			if got := (found{Answer: Answer{Look: look}}).file(path).text; !strings.Contains(got, text) ||
				text == "" && got != "" {
				t.Errorf("%s, %s is %q, want %q", when, path, got, text)
			}
		}
	}
	first := m.carryOut(t, Order{})
	has("at the first boot", first.Look, map[string]string{
		"etc/extra/mode.conf": "extra", "etc/mark/mode.conf": "one", "etc/passwd": "extra:x:998:",
		"var/opt/extra/data": "extra", "var/opt/acme/changed-here.conf": "extra",
	})
	if _, runs := first.Units["extra.service"]; !runs || len(first.Result.Report) > 0 || len(first.Result.Pending) > 0 {
		t.Errorf("the unit runs: %v; reported is %q, pending %q", runs, first.Result.Report, first.Result.Pending)
	}
	gone := m.carryOut(t, w.move(t, "extra", "one", nil))
	if _, runs := gone.Units["extra.service"]; runs || !gone.Result.Committed {
		t.Errorf("the unit runs: %v; %+v", runs, gone.Result)
	}
	has("without it", gone.Look, map[string]string{
		"etc/extra/mode.conf": "extra", "etc/passwd": "extra:x:998:", "var/opt/extra/data": "",
		"var/opt/acme/changed-here.conf": "one",
	})
	if again := m.carryOut(t, w.move(t, "one", "extra", nil)); !again.Result.Committed {
		t.Errorf("%+v", again.Result)
	}
	m.carryOut(t, Order{Sync: true})
	m.end(t)
	// The next boot changes nothing.
	m = w.boot(t, blank, "extra")
	defer m.end(t)
	next := m.carryOut(t, Order{})
	has("at the next boot", next.Look, map[string]string{"etc/extra/mode.conf": "extra", "var/opt/extra/data": "extra"})
	if _, runs := next.Units["extra.service"]; !runs || len(next.Result.Pending) > 0 {
		t.Errorf("the unit runs: %v; pending %q", runs, next.Result.Pending)
	}
}

// A start for which the host has detached what the machine had attached by itself does without it,
// once. What is attached after that stays.
func TestWhatTheHostDetachesFromAMachineThatIsOff(t *testing.T) {
	w := newWorld(t)
	path := t.TempDir() + "/disk.img"
	w.disks[used].write(t, path)
	for i, step := range []struct {
		detaches int
		runs     string
		attach   bool
	}{{0, "extra", false}, {1, "one", false}, {1, "one", true}, {1, "extra", false},
		{2, "one", false}, {2, "one", false}} {
		m := w.bootAs(t, Machine{Disk: path, Layers: w.images, Config: agentapi.BootConfig{Detaches: step.detaches}},
			"one")
		answer := m.carryOut(t, Order{Sync: true})
		if runs := w.name(answer.Result.Stack); runs != step.runs || len(answer.Result.Pending) > 0 {
			t.Errorf("start %d is on %s: %+v", i+1, runs, answer.Result)
		}
		if look := w.before[step.runs]; step.runs == "one" && answer.Look != look {
			t.Errorf("start %d does not look like %s:\n%s", i+1, step.runs, difference(look, answer.Look))
		}
		if step.attach {
			m.carryOut(t, w.move(t, "one", "extra", func(r *agentapi.RefreshRequest) { r.Own = true }))
			m.carryOut(t, Order{Sync: true})
		}
		m.end(t)
	}
}
