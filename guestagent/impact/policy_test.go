package impact

import (
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/proc"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// outcome is a short word for the outcome of a unit: "restart", "reload", "left", "kept", "stop", "with" or "".
func outcome(a *Assessment, unit string) string {
	at := slices.IndexFunc(a.Affected, func(x Affected) bool { return x.Unit == unit })
	if at < 0 {
		return ""
	}
	switch a.Affected[at].Outcome {
	case KeptByPolicy:
		return "left"
	case Kept, KeptInSession:
		return "kept"
	case Stopped, StoppedAlong:
		return "stop"
	case RestartedAlong:
		return "with"
	case Reloaded:
		return "reload"
	case Restarted:
		return "restart"
	}
	return "without an outcome"
}

func TestThePolicyDecidesWhatIsDoneWithAffectedServices(t *testing.T) {
	reloadable := map[string]Unit{"a.service": {CanReload: true, State: "active"}}
	for _, test := range []struct {
		name   string
		policy Policy
		unit   string
		units  map[string]Unit
		want   string
		level  agentapi.Level
	}{
		{"restart is the default", Policy{}, "a.service", reloadable, "restart", agentapi.Level_RESTART},
		{"reload reloads what can be", Policy{Default: Reload}, "a.service", reloadable, "reload", agentapi.Level_RELOAD},
		{"reload leaves what cannot be", Policy{Default: Reload}, "a.service", nil, "left", agentapi.Level_NONE},
		{"report leaves all", Policy{Default: Report}, "a.service", reloadable, "left", agentapi.Level_NONE},
		{"a unit's own action counts",
			Policy{Default: Report, Actions: map[string]Action{"a.service": Restart}}, "a.service",
			nil, "restart", agentapi.Level_RESTART},
		{"it can leave a single unit", Policy{Actions: map[string]Action{"a.service": Report}}, "a.service", nil, "left", agentapi.Level_NONE},
		{"PID 1 is not interrupted, and so renewed", Policy{Default: Report}, ManagerUnit, nil, "reload", agentapi.Level_RELOAD},
		{"unless it is named", Policy{Actions: map[string]Action{ManagerUnit: Report}}, ManagerUnit, nil, "left", agentapi.Level_NONE},
		{"no policy restarts a unit that refuses", Policy{}, "a.service", map[string]Unit{"a.service": {Refuses: true}},
			"kept", agentapi.Level_NONE},
		{"no policy ends a session",
			Policy{Actions: map[string]Action{"user@0.service": Restart}}, "user@0.service", nil,
			"kept", agentapi.Level_NONE},
	} {
		t.Run(test.name, func(t *testing.T) {
			a := Assess(changed(ssl),
				Snapshot{Units: test.units, Processes: []Process{service(7, test.unit, ssl)}}, test.policy)
			if got := outcome(a, test.unit); got != test.want || a.Level != test.level {
				t.Errorf("%s is %q at level %s, want %q at %s", test.unit, got, a.Level, test.want, test.level)
			}
			if left := test.want == "left"; left != (len(a.Left) == 1) || left &&
				(a.Left[0].Unit != test.unit || !strings.HasPrefix(a.Left[0].Text, test.unit+": ")) {
				t.Errorf("left are %q", a.Left)
			}
			if told := test.want == "left" || test.want == "kept"; told != (len(a.Remaining) == 1) {
				t.Errorf("remaining are %q", a.Remaining)
			}
		})
	}
}

func TestDeclaredPathsAffectAUnit(t *testing.T) {
	active := Unit{State: "active", CanReload: true}
	for _, test := range []struct {
		name, declared, changed string
		processes               []Process
		unit                    Unit
		want                    string
	}{
		{"a file", "usr/share/data", "usr/share/data", []Process{service(1, "a.service")}, active, "restart"},
		{"all below a directory", "usr/share/app/", "usr/share/app/x/y", []Process{service(1, "a.service")}, active, "restart"},
		{"a pattern", "usr/share/app/*.conf", "usr/share/app/x.conf", []Process{service(1, "a.service")}, active, "restart"},
		{"a name that only begins alike", "usr/share/app", "usr/share/apple", []Process{service(1, "a.service")}, active, ""},
		{"configuration is reloaded where that can be", "etc/app/", "etc/app/x", []Process{service(1, "a.service")}, active, "reload"},
		{"and restarted where it cannot", "etc/app/", "etc/app/x", []Process{service(1, "a.service")}, Unit{State: "active"}, "restart"},
		{"a unit without processes that is active", "usr/share/data", "usr/share/data", nil, Unit{State: "active"}, "restart"},
		{"a unit that is not", "usr/share/data", "usr/share/data", nil, Unit{State: "inactive"}, ""},
	} {
		t.Run(test.name, func(t *testing.T) {
			a := Assess(changed(test.changed),
				Snapshot{Units: map[string]Unit{"a.service": test.unit}, Processes: test.processes},
				Policy{Extra: map[string][]string{"a.service": {test.declared}}})
			if got := outcome(a, "a.service"); got != test.want {
				t.Errorf("it is %q, want %q", got, test.want)
			}
		})
	}
}

// For every policy, what it leaves alone is not interrupted, and is reported.
func TestNoPolicyInterruptsMoreThanItAllows(t *testing.T) {
	units := []string{"a.service", "b.service", "c.service", "d.socket", "e.scope", ManagerUnit, "dbus.service"}
	files := []string{ssl, "usr/bin/x", "usr/share/data"}
	rapid.Check(t, func(t *rapid.T) {
		actions := rapid.SampledFrom([]Action{"", Restart, Reload, Report})
		policy := Policy{Default: actions.Draw(t, "default"),
			Actions: rapid.MapOf(rapid.SampledFrom(units), actions).Draw(t, "actions")}
		snapshot := Snapshot{Units: map[string]Unit{}}
		for i, unit := range units {
			snapshot.Units[unit] = Unit{State: "active", CanReload: rapid.Bool().Draw(t, "can reload"),
				Refuses: rapid.Bool().Draw(t, "refuses")}
			snapshot.Processes = append(snapshot.Processes,
				service(i+1, unit, rapid.SliceOfN(rapid.SampledFrom(files), 0, 2).Draw(t, "uses")...))
		}
		a := Assess(changed(rapid.SliceOfDistinct(rapid.SampledFrom(files), rapid.ID[string]).Draw(t, "changed")...),
			snapshot, policy)
		for _, affected := range a.Affected {
			action := policy.action(affected.Unit)
			if affected.Outcome.Interrupts() && (action == Report || action == Reload) {
				t.Errorf("%s is restarted though the policy is %q", affected.Unit, action)
			}
			if !affected.Outcome.Keeps() && action == Report {
				t.Errorf("%s is renewed though the policy is to report it", affected.Unit)
			}
			listed := slices.ContainsFunc(a.Left, func(left Left) bool { return left.Unit == affected.Unit })
			if left := affected.Outcome == KeptByPolicy; left != listed {
				t.Errorf("%s is left %v, and listed %v", affected.Unit, left, listed)
			}
		}
	})
}

// A refresh never replaces what is the VM's own, so a build that brings another version of it affects nobody, unless
// the user declared it.
func TestWhatIsTheVMsOwnAffectsOnlyWhoDeclaredIt(t *testing.T) {
	own := []string{
		"var/lib/acme/db", "var/lib/acme/run.py", "var/lib/acme/run.sh", "var/lib/acme/env", "home/acme/bin/tool",
		"root/tool", "srv/www/app.php",
	}
	processes := func(paths ...string) []Process {
		open := service(2, "open.service", paths...)
		for i := range open.Uses {
			open.Uses[i].Mapped = false
		}
		python, shell := service(3, "python.service"), service(4, "shell.service", paths...)
		python.Program, python.Arguments = "usr/bin/python3", paths
		shell.Program, shell.Arguments = "usr/bin/dash", paths
		return []Process{service(1, "maps.service", paths...), open, python, shell, service(5, "env.service")}
	}
	units := map[string]Unit{"env.service": {State: "active", EnvironmentFiles: []string{"var/lib/acme/*"}}}
	for _, fresh := range []bool{false, true} {
		snapshot := Snapshot{Processes: processes(own...), Units: units, Usr: []proc.Device{oldUsr, newUsr}}
		if fresh {
			snapshot.Fresh = newUsr
		}
		a := Assess(changed(own...), snapshot, Policy{})
		if len(a.Affected) != 0 || a.Level != agentapi.Level_NONE || a.Changed != 0 || len(a.Unaffected) != 5 {
			t.Errorf("after the swap %t: %+v", fresh, a)
		}
	}
	for declared, unit := range map[string]string{"var/lib/acme/": "env.service", "var/lib/acme/db": "maps.service",
		"srv/www/*.php": "open.service"} {
		a := Assess(changed(own...), Snapshot{Processes: processes(own...), Units: units},
			Policy{Extra: map[string][]string{unit: {declared}}})
		if len(a.Affected) != 1 || outcome(a, unit) != "restart" || a.Changed != 0 {
			t.Errorf("%s declared for %s: %+v", declared, unit, a)
		}
	}
}

// What a release brings below /opt and /usr/local is the OS's, under whichever name it is used.
func TestWhatIsCarriedIsCode(t *testing.T) {
	for shown, name := range map[string]string{
		"/opt/acme/bin/acmed": "var/opt/acme/bin/acmed", "/var/opt/acme/bin/acmed": "var/opt/acme/bin/acmed",
		"/usr/local/bin/tool":    "var/usrlocal/bin/tool",
		"/var/usrlocal/bin/tool": "var/usrlocal/bin/tool", "/opt": "var/opt",
		"/usr/local/": "var/usrlocal",
	} {
		resolved, _ := Resolve(shown)
		if resolved != name {
			t.Errorf("%s is %s, want %s", shown, resolved, name)
		}
		if strings.Count(name, "/") < 2 {
			continue
		}
		a := Assess(changed(name), Snapshot{Processes: []Process{service(1, "acmed.service", resolved)}}, Policy{})
		if outcome(a, "acmed.service") != "restart" || a.Changed != 1 {
			t.Errorf("%s: %+v", shown, a)
		}
	}
	unit := "var/usrlocal/lib/systemd/system/acmed.service"
	if a := Assess(changed(unit), Snapshot{Processes: []Process{service(1, "acmed.service")}}, Policy{}); outcome(a,
		"acmed.service") != "restart" || !changed(unit).Manager() {
		t.Errorf("a unit file: %+v", a)
	}
}

// A policy counts for a unit also by another name of it, and for all instances by their template.
func TestAPolicyByAnotherName(t *testing.T) {
	c := NewChanges()
	c.Add("usr/lib/libx.so.1", &tree.Entry{Type: tree.Regular, Digest: tree.Sum([]byte("1"))},
		&tree.Entry{Type: tree.Regular, Digest: tree.Sum([]byte("2"))})
	uses := func(pid int, unit string) Process {
		p := service(pid, unit)
		p.Uses = []Use{{Path: "usr/lib/libx.so.1", Mapped: true}}
		return p
	}
	const units = "usr/lib/systemd/system/"
	snapshot := Snapshot{
		Processes: []Process{
			uses(1, "mariadb.service"), uses(2, "php-fpm@8.service"), uses(3, "ssh.service"),
			uses(4, "vt@tty1.service"), uses(5, "vt@tty2.service"),
			uses(6, "rsyslog.service"), uses(7, "many@1.service"),
		},
		Units: map[string]Unit{
			"mariadb.service": {Name: "mariadb.service", State: "active", Fragment: units + "mariadb.service"},
			"mysql.service":   {Name: "mysql.service", State: "active", Fragment: units + "mariadb.service"},
			"sshd.service":    {Name: "sshd.service", State: "active", Fragment: units + "ssh.service"},
			"ssh.service":     {Name: "ssh.service", State: "active", Fragment: units + "ssh.service"},
			// By a template's other name, for all instances and for one.
			"autovt@.service":     {Name: "autovt@.service", Fragment: units + "vt@.service"},
			"also@tty1.service":   {Name: "also@tty1.service", Fragment: units + "vt@.service"},
			"syslog.service":      {Name: "syslog.service", State: "active", Fragment: units + "rsyslog.service"},
			"logger.service":      {Name: "logger.service", State: "active", Fragment: units + "rsyslog.service"},
			"single.service":      {Name: "single.service", State: "active", Fragment: units + "many@.service"},
			"config.service":      {Name: "config.service", State: "active", Fragment: units + "configured.service"},
			"exited@one.service":  {Name: "exited@one.service", State: "active", Fragment: units + "exited@.service"},
			"exited@gone.service": {Name: "exited@gone.service", State: "inactive", Fragment: units + "exited@.service"},
		},
	}
	policy := Policy{Actions: map[string]Action{
		"mysql.service": Report, "php-fpm@.service": Report, "sshd.service": Report, "ssh.service": Restart,
		"autovt@.service": Report, "also@tty1.service": Restart, "logger.service": Restart, "syslog.service": Report,
		"single.service": Report,
	}, Extra: map[string][]string{"config.service": {"usr/lib/libx.so.1"}, "exited@.service": {"usr/lib/libx.so.1"}}}
	policy.ByAliases(snapshot.Units, c)
	got := map[string]Outcome{}
	for _, affected := range Assess(c, snapshot, policy).Affected {
		got[affected.Unit] = affected.Outcome
	}
	want := map[string]Outcome{
		"mariadb.service": KeptByPolicy, "php-fpm@8.service": KeptByPolicy, "ssh.service": Restarted,
		"vt@tty1.service": Restarted,
		"vt@tty2.service": KeptByPolicy, "rsyslog.service": KeptByPolicy, "many@1.service": Restarted,
		"configured.service": Restarted,
		"exited@one.service": Restarted,
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("want -, got +:\n%s", diff)
	}
}

// A name in the policy is reported if there is no such unit: none that systemd knows, and none that
// the refresh brings or takes away.
func TestANameWithoutAUnitIsTold(t *testing.T) {
	const units, own = "usr/lib/systemd/system/", "etc/systemd/system/"
	file, link := &tree.Entry{Type: tree.Regular},
		&tree.Entry{Type: tree.Symlink, Link: "/usr/lib/systemd/system/new.service"}
	c := NewChanges()
	for _, change := range []struct {
		name     string
		old, new *tree.Entry
	}{
		{"etc/init.d/script", nil, file}, {own + "alias.service", nil, link}, {units + "gone.service", file, nil}, {units + "new.service", nil, file},
		{units + "many@.service", nil, file},
	} {
		c.Add(change.name, change.old, change.new)
	}
	known := map[string]Unit{"a.service": {State: "inactive"}, "m.service": {Masked: true}, "t@.service": {}}
	names := []string{
		"a.service", "alias.service", "gone.service", "m.service", "many@1.service", "many@.service", "new.service",
		"script.service", "t@.service",
		"typo.service", "typo@.service",
	}
	policy := Policy{Actions: map[string]Action{},
		Extra: map[string][]string{"typo.socket": {"etc/x"}, "typo.service": {"etc/x"}}}
	for _, name := range names {
		policy.Actions[name] = Report
	}
	want := []string{"typo.service", "typo.socket", "typo@.service"}
	a := Assess(c, Snapshot{Units: known}, policy)
	if !slices.Equal(a.Unmatched, want) || !slices.Equal(a.Message().GetUnmatchedUnits(), want) {
		t.Errorf("%q, and to the host %q; want %q", a.Unmatched, a.Message().GetUnmatchedUnits(), want)
	}
	if a := Assess(c, Snapshot{Units: known, Fresh: newUsr}, policy); a.Unmatched != nil {
		t.Errorf("after the swap, when systemd has read its files again: %q", a.Unmatched)
	}
	// By the other name that the refresh brings, the policy counts for the unit.
	policy.ByAliases(known, c)
	if policy.action("new.service") != Report {
		t.Errorf("new.service: %q", policy.action("new.service"))
	}
}
