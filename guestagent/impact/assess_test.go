package impact

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"pgregory.net/rapid"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/proc"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

func TestResolve(t *testing.T) {
	for _, test := range []struct {
		shown, name string
		deleted     bool
	}{
		{"/usr/lib/x86_64-linux-gnu/libssl.so.3", "usr/lib/x86_64-linux-gnu/libssl.so.3", false},
		{"/lib/x86_64-linux-gnu/libssl.so.3", "usr/lib/x86_64-linux-gnu/libssl.so.3", false},
		{"/lib64/ld-linux-x86-64.so.2", "usr/lib64/ld-linux-x86-64.so.2", false},
		{"/sbin/nginx (deleted)", "usr/sbin/nginx", true},
		{"/share/zoneinfo/UTC", "usr/share/zoneinfo/UTC", false},
		{"/etc/ssl/openssl.cnf", "etc/ssl/openssl.cnf", false},
		{"/var/lib/x (deleted)", "var/lib/x", true},
		{"/usr/../etc//passwd", "etc/passwd", false},
		{"/memfd:x (deleted)", "memfd:x", true},
		{"/dev/null", "", false},
		{"socket:[1]", "", false},
		{"anon_inode:[eventpoll]", "", false},
		{"[vdso]", "", false},
	} {
		if name, deleted := Resolve(test.shown); name != test.name || deleted != test.deleted {
			t.Errorf("Resolve(%q) = %q, %v; want %q, %v", test.shown, name, deleted, test.name, test.deleted)
		}
	}
}

func TestAFileIsTheSameBeforeAndAfterItsMountWasSwappedOut(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		name := rapid.SampledFrom([]string{"bin", "sbin", "lib", "lib64", "libexec", "share"}).Draw(t, "directory") +
			"/" +
			rapid.StringMatching(`[a-z0-9_.+-]{1,8}(/[a-z0-9]{1,8}){0,3}`).Filter(
				func(s string) bool { return !strings.HasPrefix(s, ".") }).Draw(t, "rest")
		before, _ := Resolve("/usr/" + name)
		after, _ := Resolve("/" + name)
		if before != after {
			t.Errorf("%q before, %q after", before, after)
		}
	})
}

var (
	oldUsr = proc.Device{Minor: 40}
	newUsr = proc.Device{Minor: 50}
)

// changed makes a set of changes of regular files.
func changed(paths ...string) *Changes {
	c := NewChanges()
	for _, name := range paths {
		c.Add(name, &tree.Entry{Path: name, Type: tree.Regular, Digest: tree.Digest{1}},
			&tree.Entry{Path: name, Type: tree.Regular, Digest: tree.Digest{2}})
	}
	return c
}

const ssl, ld = "usr/lib/x86_64-linux-gnu/libssl.so.3", "usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2"

// service is a process of a service that maps files from the old /usr.
func service(pid int, unit string, paths ...string) Process {
	p := Process{PID: pid, Unit: unit, Command: strings.TrimSuffix(unit, ".service"), SystemRoot: true}
	for _, name := range paths {
		p.Uses = append(p.Uses, Use{Path: name, Device: oldUsr, Mapped: true})
	}
	return p
}

func TestAssess(t *testing.T) {
	type want struct {
		level                                        agentapi.Level
		restart, reload, sessions, remaining, reason string
		pending                                      int
	}
	in := func(p Process, change func(*Process)) Process { change(&p); return p }
	for _, test := range []struct {
		name     string
		changes  *Changes
		snapshot Snapshot
		policy   Policy
		want     want
	}{
		{name: "nothing uses what changes", changes: changed("usr/share/doc/x"),
			snapshot: Snapshot{Processes: []Process{service(1, "a.service")}},
			want:     want{level: agentapi.Level_NONE}},
		{name: "a mapped library", changes: changed(ssl),
			snapshot: Snapshot{Processes: []Process{service(1, "a.service"), service(2, "b.service", ssl)}},
			want:     want{level: agentapi.Level_RESTART, restart: "b.service"}},
		{name: "a changed kernel is pending and interrupts nothing", changes: changed("usr/share/doc/x"),
			policy: Policy{RunningKernel: "6.12.1", TargetKernel: "6.12.2"},
			want:   want{level: agentapi.Level_NONE, pending: 1}},
		{name: "modules of the running kernel stay",
			changes: changed("usr/lib/modules/6.12.1/modules.alias.bin", "usr/lib/modules/6.12.10/modules.alias.bin"),
			snapshot: Snapshot{Processes: []Process{service(1, "udevd.service",
				"usr/lib/modules/6.12.1/modules.alias.bin")}},
			policy: Policy{RunningKernel: "6.12.1", TargetKernel: "6.12.1"},
			want:   want{level: agentapi.Level_NONE}},
		{name: "modules of another kernel do not", changes: changed("usr/lib/modules/6.12.10/modules.alias.bin"),
			snapshot: Snapshot{Processes: []Process{service(1, "a.service",
				"usr/lib/modules/6.12.10/modules.alias.bin")}},
			policy: Policy{RunningKernel: "6.12.1", TargetKernel: "6.12.1"},
			want:   want{level: agentapi.Level_RESTART, restart: "a.service"}},
		{name: "the agent is left alone", changes: changed(ssl), policy: Policy{Agent: "agent.service"},
			snapshot: Snapshot{Processes: []Process{service(1, "agent.service", ssl)}},
			want:     want{level: agentapi.Level_NONE}},
		{name: "PID 1 re-executes", changes: changed(ssl),
			snapshot: Snapshot{Processes: []Process{service(1, "init.scope", ssl)}},
			want:     want{level: agentapi.Level_RELOAD, reload: "init.scope"}},
		{name: "the message bus is never restarted", changes: changed(ssl),
			snapshot: Snapshot{Processes: []Process{service(1, "dbus.service", ssl)}},
			want:     want{level: agentapi.Level_NONE, remaining: "dbus.service 1 /" + ssl, pending: 1}},
		{name: "a changed message bus needs a soft-reboot", changes: changed("usr/bin/dbus-daemon"),
			snapshot: Snapshot{Processes: []Process{service(1, "dbus.service", "usr/bin/dbus-daemon")}},
			want: want{level: agentapi.Level_SOFT_REBOOT, remaining: "dbus.service 1 /usr/bin/dbus-daemon",
				reason: "message bus", pending: 1}},
		{name: "the message bus reloads its policy", changes: changed("usr/share/dbus-1/system.d/x.conf"),
			snapshot: Snapshot{Processes: []Process{service(1, "dbus.service")}},
			want:     want{level: agentapi.Level_RELOAD, reload: "dbus.service"}},
		{name: "and does so though its code waits", changes: changed("usr/share/dbus-1/system.d/x.conf", ssl),
			snapshot: Snapshot{Processes: []Process{service(1, "dbus.service", ssl)}},
			want: want{level: agentapi.Level_RELOAD, reload: "dbus.service",
				remaining: "dbus.service 1 /" + ssl, pending: 1}},
		{name: "a changed loader needs a soft-reboot", changes: changed(ld),
			snapshot: Snapshot{Processes: []Process{service(1, "a.service", ld)}},
			want:     want{level: agentapi.Level_SOFT_REBOOT, restart: "a.service", reason: "dynamic loader"}},
		{name: "a kernel too old needs a soft-reboot", changes: changed("usr/x"), policy: Policy{Obstacle: "Linux 6.1"},
			want: want{level: agentapi.Level_SOFT_REBOOT, reason: "Linux 6.1"}},
		{name: "sessions are reported", changes: changed(ssl),
			snapshot: Snapshot{Processes: []Process{
				in(service(7, "session-1.scope", ssl), func(p *Process) { p.Session, p.Command = true, "bash" }),
				service(8, "getty@tty1.service", ssl)}},
			want: want{level: agentapi.Level_NONE, sessions: "getty@tty1.service 8 getty@tty1 session-1.scope 7 bash",
				remaining: "getty@tty1.service 8 /" + ssl + " session-1.scope 7 /" + ssl}},
		{name: "a container has its own files", changes: changed(ssl),
			snapshot: Snapshot{Usr: []proc.Device{oldUsr}, Processes: []Process{
				in(service(1, "docker.service", ssl),
					func(p *Process) { p.SystemRoot, p.Uses[0].Device = false, proc.Device{Minor: 99} })}},
			want: want{level: agentapi.Level_NONE}},
		{name: "a chroot with /usr bound into it does not", changes: changed(ssl),
			snapshot: Snapshot{Usr: []proc.Device{oldUsr}, Processes: []Process{
				in(service(1, "a.service", ssl), func(p *Process) { p.SystemRoot = false })}},
			want: want{level: agentapi.Level_RESTART, restart: "a.service"}},
		{name: "an interpreter with changed modules", changes: changed("usr/lib/python3/dist-packages/x.py"),
			snapshot: Snapshot{Processes: []Process{
				in(service(1, "a.service"), func(p *Process) { p.Program = "usr/bin/python3.13" }),
				in(service(2, "b.service"), func(p *Process) { p.Program = "usr/bin/perl" })}},
			want: want{level: agentapi.Level_RESTART, restart: "a.service"}},
		{name: "a shell with its own script changed", changes: changed("usr/sbin/loop"),
			snapshot: Snapshot{Processes: []Process{
				in(service(1, "a.service"),
					func(p *Process) { p.Program, p.Arguments = "usr/bin/dash", []string{"usr/sbin/loop"} }),
				in(service(2, "b.service"), func(p *Process) { p.Program = "usr/bin/dash" })}},
			want: want{level: agentapi.Level_RESTART, restart: "a.service"}},
		{name: "unit files, drop-ins, templates, environment files",
			changes: changed("usr/lib/systemd/system/a.service",
				"usr/lib/systemd/system/b.service.d/x.conf", "usr/lib/systemd/system/c@.service", "etc/default/d",
				"etc/systemd/system/multi-user.target.wants/e.service"),
			snapshot: Snapshot{Processes: []Process{service(1, "a.service"), service(2, "b.service"),
				service(3, "c@x.service"),
				service(4, "d.service"), service(5, "e.service")},
				Units: map[string]Unit{"d.service": {EnvironmentFiles: []string{"etc/default/d"}, CanReload: true}}},
			want: want{level: agentapi.Level_RESTART, restart: "a.service b.service c@x.service d.service"}},
		{name: "declared paths", changes: changed("usr/share/data"), policy: Policy{Extra: map[string][]string{"a.service": {"usr/share/data"}}},
			snapshot: Snapshot{Processes: []Process{service(1, "a.service"), service(2, "b.service")}},
			want:     want{level: agentapi.Level_RESTART, restart: "a.service"}},
		{name: "a file held open is reloaded where the unit can", changes: changed("usr/share/data"),
			snapshot: Snapshot{Processes: []Process{
				in(service(1, "a.service", "usr/share/data"), func(p *Process) { p.Uses[0].Mapped = false }),
				in(service(2, "b.service", "usr/share/data"), func(p *Process) { p.Uses[0].Mapped = false })},
				Units: map[string]Unit{"a.service": {CanReload: true}}},
			want: want{level: agentapi.Level_RESTART, restart: "b.service", reload: "a.service"}},
		{name: "a unit that refuses is reported", changes: changed(ssl),
			snapshot: Snapshot{Processes: []Process{service(1, "a.service", ssl)},
				Units: map[string]Unit{"a.service": {Refuses: true}}},
			want: want{level: agentapi.Level_NONE, remaining: "a.service 1 /" + ssl, pending: 1}},
		{name: "after the swap what runs from the new /usr is new", changes: changed(ssl),
			snapshot: Snapshot{Usr: []proc.Device{oldUsr, newUsr}, Fresh: newUsr, Processes: []Process{
				service(1, "a.service", ssl),
				in(service(2, "b.service", ssl), func(p *Process) { p.Uses[0].Device = newUsr })}},
			want: want{level: agentapi.Level_RESTART, restart: "a.service"}},
	} {
		t.Run(test.name, func(t *testing.T) {
			a := Assess(test.changes, test.snapshot, test.policy)
			got := want{level: a.Level, sessions: strings.Join(a.Sessions, " "),
				remaining: strings.Join(a.Remaining, " "), pending: len(a.Pending)}
			var restart, reload []string
			for _, affected := range a.Affected {
				switch {
				case affected.Outcome.Interrupts():
					restart = append(restart, affected.Unit)
				case affected.Outcome == Reloaded:
					reload = append(reload, affected.Unit)
				}
			}
			got.restart, got.reload = strings.Join(restart, " "), strings.Join(reload, " ")
			if all := strings.Join(a.Reasons, " "); test.want.reason != "" && strings.Contains(all, test.want.reason) {
				got.reason = test.want.reason
			} else {
				got.reason = all
			}
			if diff := cmp.Diff(test.want, got, cmp.AllowUnexported(want{})); diff != "" {
				t.Errorf("want -, got +:\n%s", diff)
			}
		})
	}
}

func TestMetadataAloneInterruptsNothing(t *testing.T) {
	c := NewChanges()
	c.Add(ssl, &tree.Entry{Type: tree.Regular, Mode: 0o644}, &tree.Entry{Type: tree.Regular, Mode: 0o600})
	c.Add("usr/lib", &tree.Entry{Type: tree.Directory, Mode: 0o755}, nil)
	a := Assess(c, Snapshot{Processes: []Process{service(1, "a.service", ssl)}}, Policy{})
	if a.Level != agentapi.Level_NONE || a.Changed != 2 || len(a.Affected) != 0 {
		t.Errorf("%+v", a)
	}
}

// Whatever runs, every unit with processes is accounted for once, and the level is what the worst of them needs.
func TestEveryUnitIsAccountedForOnce(t *testing.T) {
	files := []string{ssl, "usr/bin/x", "usr/share/data", "etc/default/d", "usr/lib/python3/y.py"}
	units := []string{"a.service", "b.service", "init.scope", "dbus.service", "getty@tty1.service", "ssh.service"}
	rapid.Check(t, func(t *rapid.T) {
		c := changed(rapid.SliceOfDistinct(rapid.SampledFrom(files), rapid.ID[string]).Draw(t, "changed")...)
		var processes []Process
		running := map[string]bool{}
		for i := range rapid.IntRange(0, 8).Draw(t, "processes") {
			unit := rapid.SampledFrom(units).Draw(t, "unit")
			running[unit] = true
			processes = append(processes,
				service(i+2, unit, rapid.SliceOfN(rapid.SampledFrom(files), 0, 3).Draw(t, "uses")...))
		}
		a := Assess(c, Snapshot{Processes: processes}, Policy{})
		seen := map[string]int{}
		for _, name := range a.Unaffected {
			seen[name]++
		}
		level := agentapi.Level_NONE
		for _, affected := range a.Affected {
			seen[affected.Unit]++
			level = max(level, affected.Outcome.Level())
			kept := affected.KeptBecause != ""
			if affected.Unit == "dbus.service" && affected.Outcome == Reloaded {
				kept = affected.Outcome.Keeps() // its code alone may be kept
			}
			if len(affected.Paths) == 0 || affected.Reason == "" || affected.Outcome.Keeps() != kept {
				t.Errorf("%s is affected without a reason", affected.Unit)
			}
		}
		for name := range running {
			if seen[name] != 1 && name != "init.scope" {
				t.Errorf("%s is named %d times", name, seen[name])
			}
		}
		if a.Level != level {
			t.Errorf("level %s, the units need %s", a.Level, level)
		}
	})
}
