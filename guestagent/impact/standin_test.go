package impact

import (
	"testing"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// A component that is attached on demand takes the place of its stand-ins: the service that
// attaches it is restarted as the component's own, in its start job, and what listens goes on
// listening. When it is detached, its units are stopped, and the stand-ins of sockets listen again.
func TestStandInsOfComponentsOnDemand(t *testing.T) {
	const own, link = "usr/lib/systemd/system/", "etc/systemd/system/sockets.target.wants/db.socket"
	file, symlink := &tree.Entry{Type: tree.Regular}, &tree.Entry{Type: tree.Symlink, Link: "../db.socket"}
	target := Unit{Name: "sockets.target", State: "active"}
	move := func(attach bool) *Changes {
		c := NewChanges()
		change := func(name string, is *tree.Entry, attached bool) {
			if attached == attach {
				c.Add(name, nil, is)
			} else {
				c.Add(name, is, nil)
			}
		}
		change(link, symlink, true)
		for _, name := range []string{"db.service", "db.socket", "db@.service", "cleanup.service"} {
			change(own+name, file, true)
			change(standInUnits+name, file, false)
		}
		change(standInUnits+"sockets.target.wants/db.socket", symlink, false)
		return c
	}
	outcomes := func(a *Assessment) map[string]Outcome {
		all := map[string]Outcome{}
		for _, affected := range a.Affected {
			all[affected.Unit] = affected.Outcome
		}
		return all
	}
	standIn := func(name, state string) Unit {
		return Unit{Name: name, State: state, Once: state == "activating", Fragment: generatedUnits + name}
	}
	instance := standIn("db@1.service", "activating")
	instance.Fragment = generatedUnits + "db@.service"
	attached := Assess(move(true), Snapshot{
		Units: map[string]Unit{
			"db.service": standIn("db.service", "activating"), "db.socket": standIn("db.socket", "active"),
			"db@1.service":    instance,
			"cleanup.service": standIn("cleanup.service", "inactive"), "sockets.target": target,
		},
		Processes: []Process{service(1, "db.service"), service(2, "db@1.service")},
	}, Policy{Default: Report})
	if diff := cmp.Diff(map[string]Outcome{"db.service": TakenOver, "db@1.service": TakenOver},
		outcomes(attached)); diff != "" {
		t.Errorf("to attach it: want -, got +:\n%s", diff)
	}
	if len(attached.Starts) > 0 || !move(true).Manager() {
		t.Errorf("to attach it starts %+v; systemd reads its units again: %v", attached.Starts, move(true).Manager())
	}

	running := func(name string) Unit { return Unit{Name: name, State: "active", Fragment: own + name} }
	detached := Assess(move(false), Snapshot{
		Units: map[string]Unit{"db.service": running("db.service"), "db.socket": running("db.socket"),
			"sockets.target": target},
		Processes: []Process{service(1, "db.service")},
	}, Policy{})
	if diff := cmp.Diff(map[string]Outcome{"db.service": Stopped, "db.socket": Stopped},
		outcomes(detached)); diff != "" {
		t.Errorf("to detach it: want -, got +:\n%s", diff)
	}
	want := []Start{{Unit: "db.socket", By: "sockets.target", Path: standInUnits + "sockets.target.wants/db.socket"}}
	if diff := cmp.Diff(want, detached.Starts, cmpopts.IgnoreFields(Start{}, "user")); diff != "" {
		t.Errorf("to detach it starts: want -, got +:\n%s", diff)
	}

	// A component that is no longer offered leaves no stand-in behind.
	c := NewChanges()
	c.Add(standInUnits+"db.socket", file, nil)
	c.Add(standInUnits+"db.service", file, nil)
	withdrawn := Assess(c,
		Snapshot{Units: map[string]Unit{"db.socket": standIn("db.socket", "active"),
			"db.service": standIn("db.service", "inactive")}}, Policy{})
	if diff := cmp.Diff(map[string]Outcome{"db.socket": Stopped}, outcomes(withdrawn)); diff != "" {
		t.Errorf("no longer offered: want -, got +:\n%s", diff)
	}
}
