package impact

import (
	"strings"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/proc"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

func TestWhatIsRestartedWithAUnitIsTold(t *testing.T) {
	active := func(followers ...string) Unit { return Unit{State: "active", Followers: followers} }
	processes := []Process{service(1, "a.service", ssl), service(2, "b.service"), service(3, "c.service"),
		service(4, "d.service", ssl)}
	for _, test := range []struct {
		name   string
		units  map[string]Unit
		policy Policy
		want   map[string]string
	}{
		{"one that requires it", map[string]Unit{"a.service": active("b.service"), "b.service": active()}, Policy{},
			map[string]string{"a.service": "restart", "b.service": "with", "c.service": ""}},
		{"and what requires that", map[string]Unit{"a.service": active("b.service"),
			"b.service": active("c.service", "x.service"), "c.service": active()}, Policy{},
			map[string]string{"b.service": "with", "c.service": "with", "x.service": ""}},
		{"one that is affected itself is restarted once", map[string]Unit{"a.service": active("d.service"),
			"d.service": active("a.service")}, Policy{},
			map[string]string{"a.service": "restart", "d.service": "restart"}},
		{"whatever the policy wants of it", map[string]Unit{"a.service": active("d.service"), "d.service": active()},
			Policy{Actions: map[string]Action{"d.service": Report}},
			map[string]string{"a.service": "restart", "d.service": "with"}},
		{"but not one that does not run", map[string]Unit{"a.service": active("b.service"), "b.service": {State: "inactive"}}, Policy{},
			map[string]string{"b.service": ""}},
		{"and nothing with one that is left", map[string]Unit{"a.service": active("b.service"), "b.service": active()}, Policy{Default: Report},
			map[string]string{"a.service": "left", "b.service": ""}},
	} {
		t.Run(test.name, func(t *testing.T) {
			a := Assess(changed(ssl), Snapshot{Units: test.units, Processes: processes}, test.policy)
			for unit, want := range test.want {
				if got := outcome(a, unit); got != want {
					t.Errorf("%s is %q, want %q", unit, got, want)
				}
			}
			for _, affected := range a.Affected {
				if affected.Outcome == RestartedAlong && !strings.Contains(affected.Reason, "it is restarted with") {
					t.Errorf("%s is restarted because %q", affected.Unit, affected.Reason)
				}
			}
		})
	}
}

// A backup that is in progress is not ended because its database gets a patch.
func TestARestartThatWouldEndAnotherUnitIsLeft(t *testing.T) {
	const database, backup, between = "postgresql.service", "backup.service", "between.service"
	for name, test := range map[string]struct {
		unit Unit
		want string
		says string
	}{
		"in progress":        {Unit{State: "activating", Once: true}, "kept", "in progress"},
		"refuses":            {Unit{State: "active", Refuses: true}, "kept", "refuses"},
		"has ended":          {Unit{State: "inactive"}, "restart", ""},
		"is a plain service": {Unit{State: "active"}, "restart", ""},
	} {
		a := Assess(changed(ssl), Snapshot{
			Units: map[string]Unit{
				database: {State: "active", Followers: []string{between}},
				between:  {State: "active", Followers: []string{backup}}, backup: test.unit,
			},
			Processes: []Process{service(1, database, ssl), service(2, backup)},
		}, Policy{})
		if got := outcome(a, database); got != test.want {
			t.Errorf("%s: the database is %q, want %q", name, got, test.want)
		}
		if test.says != "" &&
			(outcome(a, backup) != "" || outcome(a, between) != "" ||
				!strings.Contains(a.Affected[a.index(database)].KeptBecause, test.says)) {
			t.Errorf("%s: %+v", name, a.Affected)
		}
	}
	gone := NewChanges()
	const file = "usr/lib/systemd/system/postgresql.service"
	gone.Add(file, &tree.Entry{Path: file, Type: tree.Regular}, nil)
	a := Assess(gone, Snapshot{Units: map[string]Unit{
		database: {State: "active", Fragment: file, Followers: []string{backup}},
		backup:   {State: "activating", Once: true},
	}}, Policy{})
	if a.Level != agentapi.Level_SOFT_REBOOT ||
		!strings.Contains(strings.Join(a.Reasons, "\n"), backup+" is in progress") {
		t.Errorf("its leader is no part of the new stack: %+v", a)
	}
}

func TestAUnitThatTheNewStackHasNoMoreIsStopped(t *testing.T) {
	const file = "usr/lib/systemd/system/a.service"
	gone := NewChanges()
	gone.Add(file, &tree.Entry{Path: file, Type: tree.Regular}, nil)
	units := map[string]Unit{
		"a.service": {State: "active", Fragment: file, CanReload: true, Followers: []string{"b.service"}},
		"b.service": {State: "active"},
	}
	processes := []Process{service(1, "a.service"), service(2, "b.service")}
	a := Assess(gone, Snapshot{Units: units, Processes: processes}, Policy{})
	if outcome(a, "a.service") != "stop" || outcome(a, "b.service") != "stop" || a.Level != agentapi.Level_RESTART {
		t.Errorf("%+v", a)
	}
	// One of the VM's own in /etc goes before the release's.
	units["a.service"] = Unit{State: "active", Fragment: "etc/systemd/system/a.service"}
	if a = Assess(gone, Snapshot{Units: units, Processes: processes}, Policy{}); outcome(a, "a.service") != "restart" {
		t.Errorf("%+v", a)
	}
}

func TestOnlyServicesThatRunAreRestarted(t *testing.T) {
	for name, unit := range map[string]Unit{
		"once.service": {State: "activating", Once: true}, "stopping.service": {State: "deactivating"},
		"leftovers.service": {State: "inactive"}, "crashed.service": {State: "failed"}, "refusing.service": {State: "active", Refuses: true},
		"a.socket": {State: "active"}, "a.mount": {State: "active"}, "a.scope": {State: "active"}, "": {},
	} {
		p := service(3, name, ssl)
		a := Assess(changed(ssl), Snapshot{Units: map[string]Unit{name: unit}, Processes: []Process{p}}, Policy{})
		if name == "" {
			name = "process 3"
		}
		if outcome(a, name) != "kept" || len(a.Remaining) != 1 || a.Level != agentapi.Level_NONE {
			t.Errorf("%s: %+v", name, a)
		}
	}
	starting := Snapshot{Units: map[string]Unit{"a.service": {State: "activating"}},
		Processes: []Process{service(1, "a.service", ssl)}}
	if a := Assess(changed(ssl), starting, Policy{}); outcome(a, "a.service") != "restart" {
		t.Errorf("one that starts: %+v", a)
	}
}

// Code that is interpreted is closed once it was read: only the time tells which one a process has read.
func TestAnInterpreterRunsWhatWasThereWhenItStarted(t *testing.T) {
	const script = "usr/share/app/run.pl"
	process := func(started uint64) Process {
		p := service(1, "a.service")
		p.Program, p.ProgramDevice, p.Arguments, p.Started = "usr/bin/perl", oldUsr, []string{script}, started
		return p
	}
	forward := Snapshot{Usr: []proc.Device{oldUsr, newUsr}, Fresh: newUsr, Swaps: []Swap{{Ticks: 100, Usr: newUsr}}}
	back := Snapshot{Usr: []proc.Device{oldUsr, newUsr}, Fresh: oldUsr,
		Swaps: []Swap{{Ticks: 100, Usr: newUsr}, {Ticks: 200, Usr: oldUsr}}}
	for _, test := range []struct {
		name     string
		snapshot Snapshot
		started  uint64
		stale    bool
	}{
		{"before the swap", forward, 99, true}, {"in the very tick of it", forward, 100, true}, {"after it", forward, 101, false},
		{"before, and it was undone", back, 99, false}, {"between, and it was undone", back, 150, true}, {"after all", back, 201, false},
	} {
		test.snapshot.Processes = []Process{process(test.started)}
		if got := outcome(Assess(changed(script), test.snapshot, Policy{}),
			"a.service") == "restart"; got != test.stale {
			t.Errorf("started %s: stale %v", test.name, got)
		}
	}
	// One with its own root is concerned if it runs from the system's /usr.
	for device, want := range map[proc.Device]string{oldUsr: "restart", {Minor: 99}: ""} {
		p := process(99)
		p.SystemRoot, p.ProgramDevice = false, device
		a := Assess(changed(script), Snapshot{Usr: []proc.Device{oldUsr}, Processes: []Process{p}}, Policy{})
		if got := outcome(a, "a.service"); got != want {
			t.Errorf("from device %s it is %q", device, got)
		}
	}
}

func TestAShellThatHoldsItsScriptOpenRunsIt(t *testing.T) {
	p := service(1, "a.service", "usr/lib/app/run")
	p.Uses[0].Mapped, p.Program = false, "usr/bin/dash"
	units := map[string]Unit{"a.service": {CanReload: true, State: "active"}}
	a := Assess(changed("usr/lib/app/run"), Snapshot{Units: units, Processes: []Process{p}}, Policy{})
	if outcome(a, "a.service") != "restart" || a.Affected[0].Reason != "it interprets code that differs" {
		t.Errorf("%+v", a)
	}
}

// Before and after a swap, whatever the changes of this refresh are: an earlier version counts, the
// mounted one does not.
func TestWhatIsOlderThanWhatIsMountedCounts(t *testing.T) {
	const other = "usr/lib/x86_64-linux-gnu/libz.so.1"
	use := func(pid int, unit, path string, version Version) Process {
		p := service(pid, unit, path)
		p.Uses[0].Version = version
		return p
	}
	processes := []Process{use(1, "earlier.service", ssl, Earlier), use(2, "mounted.service", ssl, Mounted),
		use(3, "dbus.service", ssl, Earlier),
		use(4, "modules.service", "usr/lib/modules/6.12.1/modules.dep.bin", Earlier)}
	for _, fresh := range []proc.Device{{}, newUsr} {
		a := Assess(changed(other), Snapshot{Processes: processes, Fresh: fresh, Usr: []proc.Device{oldUsr, newUsr}},
			Policy{RunningKernel: "6.12.1"})
		if outcome(a, "earlier.service") != "restart" || outcome(a, "dbus.service") != "kept" || len(a.Affected) != 2 {
			t.Errorf("%+v", a.Affected)
		}
		if a.Affected[1].Reason != "it still runs code of an earlier release" ||
			len(a.Pending) != 1 || len(a.Remaining) != 1 {
			t.Errorf("%+v", a)
		}
	}
	// A refresh back to the content that a process still has leaves nothing to do, once it is mounted.
	a := Assess(changed(ssl), Snapshot{Processes: []Process{use(1, "a.service", ssl, Mounted)}, Fresh: newUsr,
		Usr: []proc.Device{oldUsr, newUsr}}, Policy{})
	if len(a.Affected) != 0 {
		t.Errorf("%+v", a.Affected)
	}
}

// What an interpreter has read is not seen later, so it is remembered for as long as the process lives.
func TestInterpretedCodeIsRemembered(t *testing.T) {
	const script = "usr/share/app/run.py"
	p := service(1, "a.service")
	p.Program, p.ProgramDevice, p.Arguments, p.Started = "usr/bin/python3", oldUsr, []string{script}, 99
	policy := Policy{Actions: map[string]Action{"a.service": Report}}
	a := Assess(changed(script), Snapshot{Usr: []proc.Device{oldUsr, newUsr}, Fresh: newUsr,
		Swaps: []Swap{{Ticks: 100, Usr: newUsr}}, Processes: []Process{p}}, policy)
	if len(a.Interpreted) != 1 ||
		a.Interpreted[0] != (Interpreted{PID: 1, Started: 99, Path: script}) || len(a.Remaining) != 1 {
		t.Fatalf("%+v", a)
	}
	later := service(1, "a.service")
	later.Program, later.Started, later.Uses = "usr/bin/python3", 99,
		[]Use{{Path: script, Version: Earlier, Interpreted: true}}
	a = Assess(NewChanges(), Snapshot{Processes: []Process{later}, Fresh: newUsr}, policy)
	if len(a.Interpreted) != 1 || a.Interpreted[0].Path != script || len(a.Remaining) != 1 ||
		outcome(a, "a.service") != "left" {
		t.Errorf("%+v", a)
	}
}

// What a restart or a reload of systemd does beyond the change is said before.
func TestWhatARefreshDoesBesidesIsSaidBefore(t *testing.T) {
	const networkd = "systemd-networkd.service"
	a := Assess(changed(ssl), Snapshot{Processes: []Process{service(1, networkd, ssl)}}, Policy{})
	if outcome(a, networkd) != "restart" || !strings.Contains(a.Affected[0].Reason, "added by hand") {
		t.Errorf("%+v", a.Affected)
	}
	a = Assess(changed(ssl), Snapshot{Processes: []Process{service(1, networkd, ssl)}}, Policy{Default: Report})
	if strings.Contains(a.Affected[0].Reason, "added by hand") {
		t.Errorf("it is left alone: %+v", a.Affected)
	}
	// A oneshot in progress whose file goes away would be ended by systemd's default time limit.
	gone := NewChanges()
	const file = "usr/lib/systemd/system/once.service"
	gone.Add(file, &tree.Entry{Path: file, Type: tree.Regular}, nil)
	for once, want := range map[bool]agentapi.Level{true: agentapi.Level_SOFT_REBOOT, false: agentapi.Level_RESTART} {
		units := map[string]Unit{"once.service": {State: "activating", Once: once, Fragment: file}}
		a := Assess(gone, Snapshot{Units: units, Processes: []Process{service(1, "once.service")}}, Policy{})
		if a.Level != want || once != (len(a.Reasons) == 1) {
			t.Errorf("in progress %v: %+v", once, a)
		}
	}
}

func TestWhatARestartDoesToTheNetworkIsSaidBefore(t *testing.T) {
	quiet, configures := changed(ssl), changed(ssl, "etc/systemd/network/10-eth0.network")
	for _, test := range []struct {
		unit    string
		changes *Changes
		manages NetworkManager
		says    string
	}{
		{"systemd-networkd.service", quiet, MarkingManager, "they are added again"},
		{"systemd-networkd.service", configures, MarkingManager, "only routes and rules without a protocol"},
		{"NetworkManager.service", quiet, MarkingManager, "they are added again"},
		{"networking.service", quiet, PlainManager, "they are added again"},
		{"ifup@eth0.service", configures, PlainManager, "they are not added again"},
		{"dhcpcd@eth0.service", quiet, PlainManager, "they are added again"},
		{"nftables.service", quiet, NoManager, "packet filter"},
		{"firewalld.service", quiet, NoManager, "packet filter"},
		{"nginx.service", configures, NoManager, ""},
		{"networking.socket", quiet, NoManager, ""},
	} {
		if got := ManagesNetwork(test.unit); got != test.manages {
			t.Errorf("%s manages the network: %v", test.unit, got)
		}
		if got := sideEffect(test.unit, Restarted, test.changes); got != "" && test.says == "" ||
			!strings.Contains(got, test.says) {
			t.Errorf("%s: %q", test.unit, got)
		}
		if got := sideEffect(test.unit, KeptByPolicy, test.changes); got != "" {
			t.Errorf("%s is left alone: %q", test.unit, got)
		}
	}
	// A unit that is restarted along does the same.
	units := map[string]Unit{"a.service": {Followers: []string{"networking.service"}},
		"networking.service": {State: "active"}}
	a := Assess(quiet, Snapshot{Units: units, Processes: []Process{service(1, "a.service", ssl)}}, Policy{})
	if reason := a.Affected[1].Reason; !strings.Contains(reason, "they are added again") {
		t.Error(reason)
	}
}
