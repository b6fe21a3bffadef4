package impact

import (
	"slices"
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
	// Instances without a process, of a template that goes and of one that stays.
	c.Add(directory+"port@.socket", &tree.Entry{Type: tree.Regular}, nil)
	units["port@80.socket"] = Unit{Name: "port@80.socket", State: "active", Fragment: directory + "port@.socket"}
	units["port@81.socket"] = Unit{Name: "port@81.socket", State: "inactive", Fragment: directory + "port@.socket"}
	units["stays@80.socket"] = Unit{Name: "stays@80.socket", State: "active", Fragment: directory + "stays@.socket"}
	// systemd makes units of init scripts, unless there is a unit file of that name.
	const generated = "run/systemd/generator.late/"
	for _, name := range []string{"old", "native", "late.sh"} {
		c.Add("etc/init.d/"+name, &tree.Entry{Type: tree.Regular}, nil)
	}
	units["old.service"] = Unit{Name: "old.service", State: "active", Fragment: generated + "old.service",
		DropIns: []string{"etc/init.d/old"}}
	units["late.service"] = Unit{Name: "late.service", State: "active", Fragment: generated + "late.service",
		DropIns: []string{"etc/init.d/late.sh"}}
	units["native.service"] = Unit{Name: "native.service", State: "active", Fragment: directory + "native.service"}
	units["other.service"] = Unit{Name: "other.service", State: "active", Fragment: generated + "other.service",
		DropIns: []string{"etc/init.d/other"}}
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
	if names := c.Removed(); !slices.Contains(names, "old.service") || !slices.Contains(names, "late.service") {
		t.Errorf("systemd is asked for %v", names)
	}
	if diff := cmp.Diff([]string{"port@.socket", "web@.service"}, c.RemovedTemplates()); diff != "" {
		t.Errorf("templates: want -, got +:\n%s", diff)
	}
	want := []string{"done.service", "late.service", "old.service", "port@80.socket", "web.mount", "web.service",
		"web.socket", "web.timer", "web@1.service"}
	if diff := cmp.Diff(want, stopped(snapshot)); diff != "" {
		t.Errorf("want -, got +:\n%s", diff)
	}
	// After the swap systemd has forgotten them.
	snapshot.Fresh = newUsr
	if names := stopped(snapshot); len(names) > 0 {
		t.Errorf("after the swap: %v", names)
	}
}

// Of tmpfiles.d and sysusers.d, the names of the files are kept that differ, from whichever directory.
func TestTheFilesOfTmpfilesAndSysusersAreNamed(t *testing.T) {
	c := NewChanges()
	file := &tree.Entry{Type: tree.Regular}
	for _, name := range []string{"usr/lib/tmpfiles.d/b.conf", "etc/tmpfiles.d/a.conf", "etc/tmpfiles.d/b.conf",
		"usr/lib/tmpfiles.d/x/c.conf", "usr/share/user-tmpfiles.d/d.conf", "usr/lib/sysusers.d/f.conf",
		"usr/lib/sysusers.d/e.conf", "etc/sysusers.d/f.conf", "usr/share/sysusers.d/x/g.conf"} {
		c.Add(name, nil, file)
	}
	if diff := cmp.Diff([]string{"a.conf", "b.conf"}, c.Temporary()); diff != "" {
		t.Errorf("want -, got +:\n%s", diff)
	}
	if diff := cmp.Diff([]string{"e.conf", "f.conf"}, c.Accounts()); diff != "" {
		t.Errorf("want -, got +:\n%s", diff)
	}
}

func TestTheTemplateOfAnInstance(t *testing.T) {
	for unit, want := range map[string]string{"a@1.service": "a@.service", "a@b@c.d.socket": "a@.socket",
		"a.service": "", "a@": "", "a.b@c": ""} {
		if got := Template(unit); got != want {
			t.Errorf("of %s: %q, want %q", unit, got, want)
		}
	}
}
