package units

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/godbus/dbus/v5"
	"pgregory.net/rapid"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/impact"
)

func TestOrderPutsAUnitAfterThoseItWaitsFor(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		all := []string{"a.service", "b.service", "c.service", "d.service", "e.service"}
		facts := map[string]impact.Unit{}
		for i, name := range all { // waits only for names before it in a drawn order: no circle
			facts[name] = impact.Unit{After: rapid.SliceOf(rapid.SampledFrom(append([]string{"x.target"},
				all[:i]...))).Draw(t, name)}
		}
		names := rapid.Permutation(all).Draw(t, "names")[:rapid.IntRange(0, 5).Draw(t, "count")]
		ordered, after := order(names, facts)
		if !slices.Equal(slices.Sorted(slices.Values(ordered)), slices.Sorted(slices.Values(names))) {
			t.Fatalf("order of %v is %v", names, ordered)
		}
		for i, name := range ordered {
			for _, later := range ordered[i+1:] {
				if slices.Contains(facts[name].After, later) {
					t.Errorf("%s waits for %s and comes before it in %v", name, later, ordered)
				}
			}
			for _, earlier := range ordered[:i] {
				if slices.Contains(facts[name].After, earlier) && !slices.Contains(after[name], earlier) {
					t.Errorf("%s is to wait for %s, and is said to wait for %v", name, earlier, after[name])
				}
			}
			for _, earlier := range after[name] {
				if !waits(facts, name, earlier) {
					t.Errorf("%s is said to wait for %s, which it need not", name, earlier)
				}
			}
		}
	})
}

// waits tells whether a unit is to be started after another one, be it by way of others.
func waits(facts map[string]impact.Unit, name, other string) bool {
	return slices.ContainsFunc(facts[name].After,
		func(earlier string) bool { return earlier == other || waits(facts, earlier, other) })
}

func TestUnitsThatWaitForEachOtherAreAllOrdered(t *testing.T) {
	facts := map[string]impact.Unit{"a": {After: []string{"b"}}, "b": {After: []string{"a"}}}
	got, after := order([]string{"b", "a"}, facts)
	if len(got) != 2 || len(after[got[0]]) != 0 || !slices.Equal(after[got[1]], got[:1]) {
		t.Errorf("%v, %v", got, after)
	}
}

func TestOrderFollowsTargetsAndWhatIsRestartedTogether(t *testing.T) {
	facts := map[string]impact.Unit{
		"a.service": {After: []string{"x.target"}}, "x.target": {After: []string{"b.service"}},
		"c.service": {Followers: []string{"b.service"}},
	}
	got, after := order([]string{"a.service", "b.service", "c.service"}, facts)
	if !slices.Equal(got, []string{"c.service", "b.service", "a.service"}) {
		t.Errorf("%v", got)
	}
	if len(after["c.service"]) != 0 || !slices.Equal(after["b.service"], got[:1]) ||
		!slices.Equal(after["a.service"], got[:2]) {
		t.Errorf("they wait for %v", after)
	}
}

// A unit is not restarted while what another one waits for is, that is restarted with it.
func TestAUnitAndWhatItsFollowersWaitForTakeTurns(t *testing.T) {
	facts := map[string]impact.Unit{
		"a.service": {Followers: []string{"f.service"}}, "f.service": {After: []string{"x.service"}, Followers: []string{"g.service"}},
		"g.service": {After: []string{"y.service"}},
	}
	got, after := order([]string{"a.service", "x.service", "y.service", "z.service"}, facts)
	if !slices.Equal(after["x.service"], []string{"a.service"}) ||
		!slices.Equal(after["y.service"], []string{"a.service"}) || len(after["z.service"]) != 0 {
		t.Errorf("in the order %v they wait for %v", got, after)
	}
}

// Of Debian's PostgreSQL: what others come after is a service without a process, which the one that serves is part of.
func TestWhatUnitsWaitForIsAskedForAndFollowed(t *testing.T) {
	waits := map[string][]string{
		"app.service": {"postgresql.service", "network.target", "app.socket"}, "postgresql.service": {"postgresql_main.service"},
		"network.target": {"networkd.service"}, "app.socket": {"none.service"},
	}
	asked := map[string]int{}
	answered(t, func(call *dbus.Message, send func(...*dbus.Message) error) error {
		path, _ := call.Headers[dbus.FieldPath].Value().(dbus.ObjectPath)
		asked[string(path)]++
		for name, after := range waits {
			if objectOf(name) == string(path) {
				return send(answerTo(call, dbus.MakeVariant(after)))
			}
		}
		return send(answerTo(call, dbus.MakeVariant([]string{})))
	})
	m := &Manager{}
	// The facts were gathered when the units were others.
	facts := map[string]impact.Unit{"app.service": {}, "networkd.service": {After: []string{"app.service"}}}
	names, after, err := m.Order(t.Context(),
		[]string{"app.service", "networkd.service", "postgresql_main.service", "z.service"}, facts)
	m.drop()
	if err != nil || len(names) != 4 || !slices.Equal(slices.Sorted(slices.Values(after["app.service"])),
		[]string{"networkd.service", "postgresql_main.service"}) || len(after) != 1 {
		t.Errorf("%v, %v, %v", names, after, err)
	}
	for path, times := range asked {
		if times != 1 || path == objectOf("app.socket") {
			t.Errorf("%s was asked about %d times", path, times)
		}
	}
}

func TestRunIsBounded(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
	defer cancel()
	started := time.Now()
	_, err := Run(ctx, "sh", "-c", "echo before; sleep 60 & wait")
	if !errors.Is(err, context.DeadlineExceeded) || time.Since(started) > 10*time.Second {
		t.Errorf("%v after %v", err, time.Since(started))
	}
	text, err := Run(t.Context(), "head", "--bytes=100000", "/dev/zero")
	if err != nil || len(text) > maxOutput {
		t.Errorf("%d bytes of output, %v", len(text), err)
	}
	if _, err := Run(t.Context(), "sh", "-c", "echo the reason; exit 3"); err == nil ||
		!strings.Contains(err.Error(), "the reason") {
		t.Errorf("%v", err)
	}
	if _, err := Run(t.Context()); err == nil {
		t.Error("an empty command ran")
	}
}

func TestAbsentSystemdIsAnErrorWithinTheCallersTime(t *testing.T) {
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	var m Manager
	if state, err := m.State(ctx); err == nil && state == "" {
		t.Error("no state and no error")
	}
}
