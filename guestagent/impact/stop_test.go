package impact

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// Units that the new stack does not have are stopped, with or without processes, and of any kind.
func TestUnitsThatGoAreStopped(t *testing.T) {
	const directory = "usr/lib/systemd/system/"
	c := NewChanges()
	units := map[string]Unit{}
	unit := func(name, state string) {
		c.Add(directory+name, &tree.Entry{Type: tree.Regular}, nil)
		units[name] = Unit{Name: name, State: state, Fragment: directory + name}
	}
	unit("web.service", "active")
	unit("done.service", "active") // RemainAfterExit=
	unit("web.socket", "active")
	unit("web.timer", "active")
	unit("web.mount", "active")
	unit("off.socket", "inactive")
	unit("web.slice", "active")
	c.Add(directory+"web@.service", &tree.Entry{Type: tree.Regular}, nil)
	units["web@1.service"] = Unit{Name: "web@1.service", State: "active", Fragment: directory + "web@.service"}
	c.Add(directory+"alias.service", &tree.Entry{Type: tree.Symlink}, nil)
	units["alias.service"] = units["web.service"]
	c.Add(directory+"stays.socket.d/x.conf", &tree.Entry{Type: tree.Regular}, nil)
	units["stays.socket"] = Unit{Name: "stays.socket", State: "active", Fragment: directory + "stays.socket"}
	// This VM has a unit file of its own.
	c.Add(directory+"own.timer", &tree.Entry{Type: tree.Regular}, nil)
	units["own.timer"] = Unit{Name: "own.timer", State: "active", Fragment: "etc/systemd/system/own.timer"}

	snapshot := Snapshot{Units: units, Processes: []Process{service(1, "web.service"), service(2, "web@1.service")}}
	stopped := func(s Snapshot) (names []string) {
		for _, affected := range Assess(c, s, Policy{}).Affected {
			if affected.Outcome == Stopped {
				names = append(names, affected.Unit)
			}
		}
		return names
	}
	want := []string{"done.service", "web.mount", "web.service", "web.socket", "web.timer", "web@1.service"}
	if diff := cmp.Diff(want, stopped(snapshot)); diff != "" {
		t.Errorf("want -, got +:\n%s", diff)
	}
	// After the swap systemd has forgotten them.
	snapshot.Fresh = newUsr
	if names := stopped(snapshot); len(names) > 0 {
		t.Errorf("after the swap: %v", names)
	}
}
