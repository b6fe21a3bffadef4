package units

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/godbus/dbus/v5"
)

func TestAUnitThatAReleaseEnablesIsStartableOrNot(t *testing.T) {
	link := filepath.Join(t.TempDir(), "a.service")
	if err := os.Symlink("/usr/lib/systemd/system/a.service", link); err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		properties map[string]any
		running    bool
		why        string
	}{
		"enabled":  {map[string]any{}, false, ""},
		"runs":     {map[string]any{"ActiveState": "active"}, true, ""},
		"starting": {map[string]any{"ActiveState": "activating"}, true, ""},
		"failed":   {map[string]any{"ActiveState": "failed"}, false, ""},
		"masked":   {map[string]any{"LoadState": "masked"}, false, "it is masked"},
		"absent":   {map[string]any{"LoadState": "not-found"}, false, "it is not-found"},
		"refusing": {map[string]any{"RefuseManualStart": true}, false, "it refuses to be started by hand; a reboot starts it"},
	} {
		properties := map[string]any{"LoadState": "loaded", "ActiveState": "inactive", "RefuseManualStart": false}
		maps.Copy(properties, test.properties)
		systemd(t, properties, func(string, []any, *dbus.Message, func(...*dbus.Message) error) error { return nil })
		running, why, err := new(Manager).Startable(t.Context(), "a.service", link)
		if err != nil || running != test.running || why != test.why {
			t.Errorf("%s: running %v, %q, %v", name, running, why, err)
		}
	}
	if _, why, err := new(Manager).Startable(t.Context(), "a.service", link+"-removed"); err != nil ||
		why != "it is disabled here" {
		t.Errorf("without its link: %q, %v", why, err)
	}
}

func TestAStartWhoseConditionIsNotMetIsSkipped(t *testing.T) {
	for _, test := range []struct {
		state    string
		met      bool
		skipped  bool
		describe string
	}{{"active", true, false, "it runs"}, {"inactive", true, false, "it ran to its end"},
		{"inactive", false, true, "a condition was not met"}} {
		properties := maps.Clone(restartedOnce)
		properties["ActiveState"], properties["ConditionResult"] = test.state, test.met
		var called []string
		systemd(t, properties, func(name string, _ []any, call *dbus.Message, send func(...*dbus.Message) error) error {
			called = append(called, name)
			return send(answerTo(call, ownJob), removed(ownJob, "a.service", "done"))
		})
		_, skipped, err := new(Manager).Start(t.Context(), "a.service")
		if err != nil || skipped != test.skipped || !slices.Equal(called, []string{"StartUnit"}) {
			t.Errorf("%s: skipped %v, %v, called %q", test.describe, skipped, err, called)
		}
	}
}

// A unit that did not run before is stopped if it runs, and systemd forgets that it has failed.
func TestAUnitIsWithdrawn(t *testing.T) {
	for state, want := range map[string][]string{
		"active": {"StopUnit", "ResetFailedUnit"}, "failed": {"ResetFailedUnit"}, "inactive": {"ResetFailedUnit"},
	} {
		properties := maps.Clone(restartedOnce)
		properties["ActiveState"] = state
		var called []string
		systemd(t, properties, func(name string, _ []any, call *dbus.Message, send func(...*dbus.Message) error) error {
			called = append(called, name)
			if name == "ResetFailedUnit" {
				return send(answerTo(call, ownJob))
			}
			return send(answerTo(call, ownJob), removed(ownJob, "a.service", "done"))
		})
		if err := new(Manager).Withdraw(t.Context(), "a.service"); err != nil || !slices.Equal(called, want) {
			t.Errorf("%s: %v, called %q", state, err, called)
		}
	}
}

// Those that run have run, and so have services that ended without failing.
func TestWhatRanIsListed(t *testing.T) {
	type unit struct {
		Name, Description, Load, Active, Sub, Following string
		Object                                          dbus.ObjectPath
		Job                                             uint32
		JobType                                         string
		JobObject                                       dbus.ObjectPath
	}
	of := func(names ...string) (units []unit) {
		for _, name := range names {
			units = append(units, unit{Name: name, Object: "/", JobObject: "/"})
		}
		return units
	}
	for ended, want := range map[uint64][]string{
		0: {"a.service", "multi-user.target"}, 1500: {"a.service", "multi-user.target", "once.service"},
	} {
		systemd(t, map[string]any{"InactiveExitTimestampMonotonic": ended},
			func(_ string, args []any, call *dbus.Message, send func(...*dbus.Message) error) error {
				states, _ := args[0].([]string)
				if slices.Contains(states, "active") {
					return send(answerTo(call, of("multi-user.target", "a.service")))
				}
				return send(answerTo(call, of("once.service", "rescue.target")))
			})
		if got, err := new(Manager).Ran(t.Context()); err != nil || !slices.Equal(got, want) {
			t.Errorf("ran %q, %v, want %q", got, err, want)
		}
	}
}
