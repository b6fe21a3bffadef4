package impact

import (
	"slices"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

func TestFilesOfAUnitStandUnderAllItsNames(t *testing.T) {
	for unit, want := range map[string][]string{
		"a.service":           {"a.service", "service"},
		"foo-bar-baz.service": {"foo-bar-baz.service", "foo-bar-.service", "foo-.service", "service"},
		"foo-bar@x.service":   {"foo-bar@x.service", "foo-bar@.service", "foo-@x.service", "foo-@.service", "service"},
		"x@a-b.service":       {"x@a-b.service", "x@.service", "service"},
		"a-.mount":            {"a-.mount", "mount"},
		"odd":                 {"odd"},
	} {
		if got := NamesOf(unit); !slices.Equal(got, want) {
			t.Errorf("%s: %q, want %q", unit, got, want)
		}
	}
}

func TestUnitFilesAndDropInsAffectTheirUnits(t *testing.T) {
	for name, units := range map[string][]string{
		"usr/lib/systemd/system/a-b.service":                 {"a-b.service"},
		"etc/systemd/system/a-b.service.d/x.conf":            {"a-b.service"},
		"usr/lib/systemd/system/a-.service.d/x.conf":         {"a-b.service"},
		"usr/lib/systemd/system/service.d/x.conf":            {"a-b.service", "t@1.service", "t@2.service"},
		"usr/lib/systemd/system/t@.service":                  {"t@1.service", "t@2.service"},
		"usr/lib/systemd/system/t@2.service.d/x.conf":        {"t@2.service"},
		"usr/lib/systemd/system/a-b.service.d/README":        nil,
		"etc/systemd/system/multi-user.target.wants/x.timer": nil,
		"usr/lib/systemd/user/a-b.service":                   nil,
		"etc/default/a":                                      {"a-b.service"},
		"etc/app/1.env":                                      {"t@1.service"},
		"etc/init.d/t":                                       {"t@2.service"},
	} {
		snapshot := Snapshot{
			Processes: []Process{service(1, "a-b.service"), service(2, "t@1.service"), service(3, "t@2.service")},
			Units: map[string]Unit{
				"a-b.service": {EnvironmentFiles: []string{"etc/default/a"}}, "t@1.service": {EnvironmentFiles: []string{"etc/app/*.env"}},
				"t@2.service": {DropIns: []string{"etc/init.d/t"}},
			},
		}
		var got []string
		for _, affected := range Assess(changed(name), snapshot, Policy{}).Affected {
			got = append(got, affected.Unit)
		}
		if !slices.Equal(got, units) {
			t.Errorf("%s affects %q, want %q", name, got, units)
		}
	}
}

func TestTheManagerIsToldOnlyOfWhatItReads(t *testing.T) {
	for name, want := range map[string]struct{ manager, configuration bool }{
		"usr/lib/x86_64-linux-gnu/libssl.so.3":      {false, false},
		"etc/ld.so.cache":                           {false, false},
		"etc/passwd":                                {false, false},
		"etc/nginx/nginx.conf":                      {false, true},
		"usr/lib/systemd/system/nginx.service":      {true, false},
		"usr/lib/systemd/system-generators/x":       {true, false},
		"etc/fstab":                                 {true, true},
		"etc/systemd/system/nginx.service.d/a.conf": {true, true},
		"etc/init.d/nginx":                          {true, true},
		"etc/rc2.d/S01nginx":                        {true, true},
	} {
		c := NewChanges()
		c.Add(name, nil, &tree.Entry{Path: name, Type: tree.Regular})
		if c.Manager() != want.manager || c.Configuration() != want.configuration {
			t.Errorf("%s: %v, %v, want %v", name, c.Manager(), c.Configuration(), want)
		}
	}
}

// systemd is asked only about units that changes may concern: one that is left out here is never assessed.
func TestUnitsThatChangesMayConcern(t *testing.T) {
	changes := changed("usr/lib/systemd/system/a.service", "usr/lib/python3/dist-packages/x.py")
	for name, c := range map[string]struct {
		process Process
		want    bool
	}{
		"a file":                 {Process{Unit: "b.service", Uses: []Use{{Path: "usr/bin/x"}}}, true},
		"an argument":            {Process{Unit: "b.service", Arguments: []string{"/usr/bin/x"}}, true},
		"a profile of AppArmor":  {Process{Unit: "b.service", Confined: "x"}, true},
		"the message bus":        {Process{Unit: "dbus.service"}, true},
		"a changed language":     {Process{Unit: "b.service", Program: "usr/bin/python3.13"}, true},
		"another language":       {Process{Unit: "b.service", Program: "usr/bin/perl"}, false},
		"a changed unit file":    {Process{Unit: "a.service"}, true},
		"nothing of all of that": {Process{Unit: "b.service", Program: "usr/bin/x"}, false},
	} {
		if got := changes.Concerned(&c.process); got != c.want {
			t.Errorf("%s: %v", name, got)
		}
	}
}
