package crashtest

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/mounts"
)

// full makes a release of one full layer: it shares no layer with the releases before.
func (w *world) full(t *testing.T, name string) {
	t.Helper()
	w.last, w.lastTree, w.chain = nil, nil, nil
	w.release(t, name, w.base.named(name))
}

// start boots a machine with a copy of a disk, and returns how it is once its agent has nothing to do.
func (w *world) start(t *testing.T, on disk, given string, layers []Image) (m *machine, answer Answer) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "disk.img")
	on.write(t, path)
	m = w.bootWith(t, path, given, layers)
	return m, m.carryOut(t, Order{Sync: true})
}

// Whatever way a machine reaches a stack, it ends with the same files below /etc and /opt, accounts
// and baseline, also if no layer of the stack before is attached any more.
func TestEveryWayToAStackEndsTheSame(t *testing.T) {
	w := newWorld(t)
	chain := w.chain
	w.full(t, "full")
	for _, from := range []string{"one", "two", "three"} {
		t.Run("from "+from, func(t *testing.T) {
			m, before := w.start(t, w.disks[from], from, w.images)
			order := w.move(t, from, "full", starting(from == "three"))
			order.Sync = true
			refreshed := m.carryOut(t, order)
			if !refreshed.Result.Committed || w.name(refreshed.Result.Stack) != "full" ||
				len(refreshed.Result.Pending) > 0 {
				t.Fatalf("the refresh: %+v", refreshed.Result)
			}
			after := snapshot(t, m.disk)
			m.end(t)
			m, _ = w.start(t, w.disks[from], from, w.images)
			m.carryOut(t, Order{Remove: []string{mounts.Committed}, Sync: true})
			uncommitted := snapshot(t, m.disk)
			m.end(t)
			for name, way := range map[string]struct {
				on     disk
				layers []Image
			}{
				"a start with it":                               {w.disks[from], w.images},
				"a start with its layers alone":                 {w.disks[from], w.chain},
				"a start without the record of the commit":      {uncommitted, w.chain},
				"the refresh and a start":                       {after, w.images},
				"the refresh and a start with its layers alone": {after, w.chain},
			} {
				m, answer := w.start(t, way.on, "full", way.layers)
				if w.name(answer.Result.Stack) != "full" || len(answer.Result.Pending) > 0 {
					t.Errorf("%s: %+v", name, answer.Result)
				}
				if answer.Look != refreshed.Look {
					t.Errorf("%s: not as after a refresh:\n%s", name, difference(refreshed.Look, answer.Look))
				}
				m.end(t)
			}
			// A machine that falls back, onto layers of which none was attached, is as before the refresh.
			m, answer := w.start(t, after, from, chain)
			if answer.Look != before.Look {
				t.Errorf("back: not as before the refresh:\n%s", difference(before.Look, answer.Look))
			}
			m.end(t)
		})
	}
	t.Run("without a baseline", func(t *testing.T) { w.withoutBaseline(t, "one", "full") })
}

// withoutBaseline starts a machine of an earlier version, which has left no baseline, with layers of which it had none.
func (w *world) withoutBaseline(t *testing.T, from, to string) {
	m, _ := w.start(t, w.disks[from], from, w.images)
	refreshed := m.carryOut(t, w.move(t, from, to, nil))
	m.end(t)
	m, _ = w.start(t, w.disks[from], from, w.images)
	m.carryOut(t, Order{Remove: []string{mounts.StateDir + "/baseline"}, Sync: true})
	without := snapshot(t, m.disk)
	m.end(t)

	m, answer := w.start(t, without, to, w.chain)
	stack := w.releases[from].stack.Key()
	if w.name(answer.Result.Stack) != to || len(answer.Result.Pending) != 1 ||
		!strings.Contains(answer.Result.Pending[0], stack) {
		t.Errorf("it does not say that /etc is of another stack: %+v", answer.Result)
	}
	if !strings.Contains(answer.Look, "baseline of "+stack+", unlisted true") {
		t.Errorf("it does not know at which stack /etc stands: %s", difference(refreshed.Look, answer.Look))
	}
	behind := snapshot(t, m.disk)
	m.end(t)

	// Once the layers are there again, it is made up for.
	m, answer = w.start(t, behind, to, w.images)
	if len(answer.Result.Pending) > 0 || answer.Look != refreshed.Look {
		t.Errorf("it is not made up for: %+v\n%s", answer.Result, difference(refreshed.Look, answer.Look))
	}
	m.end(t)
}
