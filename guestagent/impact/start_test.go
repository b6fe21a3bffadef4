package impact

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// The links that a release adds are what it enables. One that was there before, an alias, and a drop-in are not.
func TestWhatAReleaseEnablesIsStarted(t *testing.T) {
	link, file := &tree.Entry{Type: tree.Symlink, Link: "/usr/lib/systemd/system/x"}, &tree.Entry{Type: tree.Regular}
	c := NewChanges()
	for _, one := range []struct {
		path     string
		old, new *tree.Entry
	}{
		{"etc/systemd/system/multi-user.target.wants/a.service", nil, link},
		{"usr/lib/systemd/system/multi-user.target.wants/a.service", nil, link},
		{"usr/lib/systemd/system/timers.target.wants/b.timer", nil, link},
		{"var/usrlocal/lib/systemd/system/a.service.requires/c.socket", file, link},
		{"etc/systemd/system/getty.target.wants/getty@tty9.service", nil, link},
		{"etc/systemd/system/graphical.target.wants/d.service", nil, link},
		{"etc/systemd/system/multi-user.target.wants/masked.service", nil, link},
		{"etc/systemd/system/multi-user.target.wants/moved.service", &tree.Entry{Type: tree.Symlink, Link: "/lib/x"}, link},
		{"etc/systemd/system/multi-user.target.wants/gone.service", link, nil},
		{"etc/systemd/system/dbus-org.a.service", nil, link},
		{"etc/systemd/system/a.service.d/x.conf", nil, file},
		{"etc/systemd/user/default.target.wants/u.service", nil, link},
		{"etc/systemd/system/multi-user.target.upholds/upheld.service", nil, link},
		{"usr/share/doc/multi-user.target.wants/x.service", nil, link},
	} {
		c.Add(one.path, one.old, one.new)
	}
	units := map[string]Unit{
		"multi-user.target": {State: "active"}, "timers.target": {State: "active"}, "a.service": {State: "inactive"},
		"getty.target":     {State: "active"},
		"graphical.target": {State: "inactive"}, "masked.service": {Masked: true}, "getty@tty9.service": {State: "active"},
	}
	a := Assess(c, Snapshot{Units: units}, Policy{Actions: map[string]Action{"b.timer": Report}})
	want := []Start{
		{Unit: "a.service", By: "multi-user.target"},
		{Unit: "b.timer", By: "timers.target", Skipped: "the policy is to report it"},
		{Unit: "c.socket", By: "a.service"}, // which is started
		{Unit: "d.service", By: "graphical.target", Skipped: "graphical.target is not active"},
		{Unit: "masked.service", By: "multi-user.target", Skipped: "it is masked"},
		{Unit: "u.service", By: "default.target", Skipped: "it is a unit of users' own service managers, which start it at the next login"},
		{Unit: "upheld.service", By: "multi-user.target"},
	}
	if diff := cmp.Diff(want, a.Starts, cmpopts.IgnoreFields(Start{}, "Path", "user")); diff != "" {
		t.Errorf("want -, got +:\n%s", diff)
	}
	if a.Level != agentapi.Level_NONE || len(a.Message().GetStarts()) != len(want) {
		t.Errorf("%+v", a.Message())
	}
	// Several want it: the one that is active counts, whichever comes first.
	for _, order := range [][]string{{"graphical", "multi-user"}, {"multi-user", "graphical"}} {
		c = NewChanges()
		for _, by := range order {
			c.Add("etc/systemd/system/"+by+".target.wants/a.service", nil, link)
		}
		if a = Assess(c, Snapshot{Units: units}, Policy{}); len(a.Starts) != 1 || a.Starts[0].Skipped != "" ||
			a.Starts[0].Path != "etc/systemd/system/multi-user.target.wants/a.service" {
			t.Errorf("%v: %+v", order, a.Starts)
		}
	}
	// After the swap the journal says what is started.
	if a = Assess(c, Snapshot{Units: units, Fresh: newUsr}, Policy{}); len(a.Starts) != 0 {
		t.Errorf("%+v", a.Starts)
	}
}

// A link of before enables a unit when the release brings the unit's file, or takes the mask from it.
func TestALinkOfBeforeEnablesAUnitThatAppears(t *testing.T) {
	file, mask := &tree.Entry{Type: tree.Regular}, &tree.Entry{Type: tree.Symlink, Link: "/dev/null"}
	const wants, lib, etc = "etc/systemd/system/multi-user.target.wants/",
		"usr/lib/systemd/system/", "etc/systemd/system/"
	c := NewChanges()
	for _, one := range []struct {
		path     string
		old, new *tree.Entry
	}{
		{lib + "new.service", nil, file},
		{lib + "worker@.service", nil, file},
		{etc + "unmasked.service", mask, nil},
		{etc + "moved.service", nil, file}, {lib + "moved.service", file, nil},
		{lib + "patched.service", file, &tree.Entry{Type: tree.Regular, Size: 1, Digest: tree.Sum([]byte("x"))}},
		{etc + "newlymasked.service", nil, mask},
		{lib + "unwanted.service", nil, file}, {wants + "unwanted.service", &tree.Entry{Type: tree.Symlink}, nil},
		{lib + "without.service", nil, file},
	} {
		c.Add(one.path, one.old, one.new)
	}
	if !c.Appeared() {
		t.Fatal("nothing appeared")
	}
	var links []Enabled
	for _, unit := range []string{"new", "worker@1", "unmasked", "moved", "patched",
		"newlymasked", "unwanted", "other"} {
		link, ok := Link(wants + unit + ".service")
		if !ok {
			t.Fatal(unit)
		}
		links = append(links, link)
	}
	c.EnableAppeared(links)
	units := map[string]Unit{
		"multi-user.target": {State: "active"}, "unmasked.service": {State: "inactive", Masked: true},
		"moved.service": {State: "inactive"}, "patched.service": {State: "inactive"},
	}
	a := Assess(c, Snapshot{Units: units}, Policy{})
	want := []Start{
		{Unit: "new.service", By: "multi-user.target"}, {Unit: "unmasked.service", By: "multi-user.target"},
		{Unit: "worker@1.service", By: "multi-user.target"},
	}
	if diff := cmp.Diff(want, a.Starts, cmpopts.IgnoreFields(Start{}, "Path", "user")); diff != "" {
		t.Errorf("want -, got +:\n%s", diff)
	}
	if c = NewChanges(); c.Appeared() {
		t.Error("nothing has changed")
	}
}

// A script of System V init is enabled by links of runlevels, from which systemd makes a unit.
func TestARunlevelEnablesAScript(t *testing.T) {
	link, file := &tree.Entry{Type: tree.Symlink, Link: "../init.d/x"}, &tree.Entry{Type: tree.Regular}
	c := NewChanges()
	for _, one := range []struct {
		path     string
		old, new *tree.Entry
	}{
		{"etc/init.d/acme", nil, file},
		{"etc/rc0.d/K01acme", nil, link}, {"etc/rc2.d/S01acme", nil, link}, {"etc/rc5.d/S01acme", nil, link},
		{"etc/rc3.d/S20old.sh", nil, link}, // with a unit file of before
		{"etc/rc2.d/S01both", nil, link}, {"usr/lib/systemd/system/both.service", nil, file},
		{"etc/rc2.d/S01native", nil, link}, {"etc/systemd/system/multi-user.target.wants/native.service", nil, link},
		{"usr/lib/systemd/system/native.service", nil, file},
		{"etc/rc2.d/S01moved", link, nil}, {"etc/rc2.d/S03moved", nil, link},
		{"etc/rc2.d/K01turned", link, nil}, {"etc/rc2.d/S01turned", nil, link},
		{"etc/rc2.d/README", nil, link}, {"etc/rc2.d/S1x", nil, link}, {"etc/rc2.d/Sxxname", nil, link}, {"etc/rc2.d/d/S01deep", nil, link},
		{"etc/rc4.d/S01masked", nil, link}, {"etc/rc5.d/S01seat.sh", nil, link},
	} {
		c.Add(one.path, one.old, one.new)
	}
	units := map[string]Unit{
		"multi-user.target": {State: "active"}, "graphical.target": {State: "inactive"}, "masked.service": {Masked: true},
		"old.service": {State: "inactive", Fragment: "usr/lib/systemd/system/old.service"},
		// systemd makes a unit of a script that no runlevel starts, too.
		"turned.service": {State: "inactive", Fragment: "run/systemd/generator.late/turned.service"},
	}
	a := Assess(c, Snapshot{Units: units}, Policy{})
	want := []Start{
		{Unit: "acme.service", By: "multi-user.target", Path: "etc/rc2.d/S01acme"},
		{Unit: "masked.service", By: "multi-user.target", Path: "etc/rc4.d/S01masked", Skipped: "it is masked"},
		{Unit: "native.service", By: "multi-user.target", Path: "etc/systemd/system/multi-user.target.wants/native.service"},
		{Unit: "seat.service", By: "graphical.target", Path: "etc/rc5.d/S01seat.sh", Skipped: "graphical.target is not active"},
		{Unit: "turned.service", By: "multi-user.target", Path: "etc/rc2.d/S01turned"},
	}
	if diff := cmp.Diff(want, a.Starts, cmpopts.IgnoreFields(Start{}, "user")); diff != "" {
		t.Errorf("want -, got +:\n%s", diff)
	}
}
