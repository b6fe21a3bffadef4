package configure_test

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/configure"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/guestconfig"
)

const (
	service = "[Service]\nExecStart=/bin/a\n[Install]\nWantedBy=multi-user.target\n"
	motd    = "/etc/motd"
)

func (s *system) id() string {
	s.t.Helper()
	id, err := s.configurator.ID()
	must(s.t, err)
	return id
}

func (s *system) drift() map[string]string {
	s.t.Helper()
	now, err := s.configurator.Configuration(s.t.Context())
	must(s.t, err)
	return now.GetDrift()
}

func TestAFileIsWrittenChangedAndRemoved(t *testing.T) {
	s := newSystem(t)
	before := s.all()
	deep := "/srv/www/a/index.html"
	s.mustGive(files(map[string]guestconfig.File{motd: file("one"),
		deep: {Content: []byte("page"), Mode: 0o600, Owner: "root", Group: "root"}}))
	if s.has(motd) != "one" || s.has(deep) != "page" {
		t.Fatalf("it has\n%s", s.all())
	}
	if info, err := os.Stat(filepath.Join(s.root, deep)); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("its mode is %v, %v", info, err)
	}
	first := s.id()
	s.mustGive(files(map[string]guestconfig.File{motd: file("two"), deep: file("page")}))
	if s.has(motd) != "two" || s.id() == first {
		t.Errorf("it has %q", s.has(motd))
	}
	s.mustHaveDone()
	s.mustGive(files(map[string]guestconfig.File{motd: file("two"), deep: file("page")}))
	s.mustGive(nothing)
	if after := s.all(); after != before || s.id() != "" {
		t.Errorf("it has\n%s\nand before\n%s", after, before)
	}
}

func TestAFileOfSomebodyElseIsRefused(t *testing.T) {
	s := newSystem(t)
	s.write(motd, "mine")
	before := s.all()
	_, err := s.give(files(map[string]guestconfig.File{motd: file("mine"), "/etc/other": file("x")}))
	if !errors.Is(err, configure.ErrRefused) || !strings.Contains(err.Error(), motd) ||
		s.all() != before || s.id() != "" {
		t.Errorf("%v\n%s", err, s.all())
	}
}

func TestAFileOfTheStackIsOverriddenAndComesBack(t *testing.T) {
	for name, later := range map[string]struct{ stack, want string }{
		"the same release":               {"stock", "stock"},
		"a release with another version": {"newer", "newer"},
		"a release that has it no more":  {"", ""},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSystem(t)
			s.stack["etc/motd"] = "stock"
			s.write(motd, "stock")
			s.mustGive(files(map[string]guestconfig.File{motd: file("ours")}))
			if s.has(motd) != "ours" {
				t.Fatalf("it has %q", s.has(motd))
			}
			if s.stack["etc/motd"] = later.stack; later.stack == "" {
				delete(s.stack, "etc/motd")
			}
			s.mustGive(nothing)
			if s.has(motd) != later.want {
				t.Errorf("it has %q, want %q", s.has(motd), later.want)
			}
		})
	}
}

func TestAFileOfTheStackThatWasChangedIsRefused(t *testing.T) {
	s := newSystem(t)
	s.stack["etc/motd"] = "stock"
	s.write(motd, "changed")
	if _, err := s.give(files(map[string]guestconfig.File{motd: file("ours")})); !errors.Is(err,
		configure.ErrRefused) || s.has(motd) != "changed" {
		t.Errorf("%v, it has %q", err, s.has(motd))
	}
}

// What a release brings at a path that the configuration owns is there when the configuration gives the path back.
func TestAFileThatTheStackBringsLaterIsThereAfterwards(t *testing.T) {
	s := newSystem(t)
	s.mustGive(files(map[string]guestconfig.File{motd: file("ours")}))
	s.stack["etc/motd"] = "stock"
	s.mustGive(nothing)
	if s.has(motd) != "stock" {
		t.Errorf("it has %q", s.has(motd))
	}
}

func TestWhatSomebodyChangedIsToldAndOverwrittenOnlyOnRequest(t *testing.T) {
	for name, test := range map[string]struct {
		change func(s *system)
		want   string
	}{
		"content": {func(s *system) { s.write(motd, "mine") }, "content"},
		"gone":    {func(s *system) { must(s.t, os.Remove(filepath.Join(s.root, motd))) }, "gone"},
		"mode": {func(s *system) { must(s.t, os.Chmod(filepath.Join(s.root, motd), 0o666)) },
			"mode is 0666 instead of 0644"},
		"a link": {func(s *system) {
			must(s.t, os.Remove(filepath.Join(s.root, motd)))
			must(s.t, os.Symlink("/etc/passwd", filepath.Join(s.root, motd)))
		}, "another type"},
	} {
		for _, next := range []string{"ours", "other", ""} {
			t.Run(name+", next "+next, func(t *testing.T) {
				s := newSystem(t)
				passwd := s.has("etc/passwd")
				s.mustGive(files(map[string]guestconfig.File{motd: file("ours")}))
				if drift := s.drift(); len(drift) != 0 {
					t.Fatalf("it tells %v", drift)
				}
				test.change(s)
				if drift := s.drift(); len(drift) != 1 || !strings.Contains(drift[motd], test.want) {
					t.Fatalf("it tells %v", drift)
				}
				wanted := files(map[string]guestconfig.File{motd: file(next)})
				if next == "" {
					wanted = nothing
				}
				before := s.all()
				_, err := s.give(wanted)
				// Nothing is lost where a file is gone.
				if refused := errors.Is(err, configure.ErrRefused); refused == (name == "gone") ||
					refused && s.all() != before {
					t.Errorf("it is %v", err)
				}
				s.mustGive(wanted, overwriting(motd))
				if s.has(motd) != next || len(s.drift()) != 0 || s.has("etc/passwd") != passwd {
					t.Errorf("it has %q and tells %v", s.has(motd), s.drift())
				}
			})
		}
	}
}

func TestNoLinkIsFollowed(t *testing.T) {
	for name, at := range map[string]string{"the file itself": "/etc/a/b", "its directory": "/etc/a/b/c"} {
		t.Run(name, func(t *testing.T) {
			s := newSystem(t)
			outside := t.TempDir()
			must(t, os.MkdirAll(filepath.Join(s.root, "etc/a"), 0o755))
			must(t, os.Symlink(outside, filepath.Join(s.root, "etc/a/b")))
			_, err := s.give(files(map[string]guestconfig.File{at: file("x")}))
			if left, _ := os.ReadDir(outside); !errors.Is(err, configure.ErrRefused) || len(left) != 0 {
				t.Errorf("%v, and there is %v", err, left)
			}
		})
	}
}

func TestASecretIsInItsFileAlone(t *testing.T) {
	s := newSystem(t)
	const secret = "correct horse battery staple"
	at := func(version int64) func(d *guestconfig.Document) {
		return files(map[string]guestconfig.File{"/etc/key": {Secret: true, SecretVersion: version, Mode: 0o600,
			Owner: "root", Group: "root"}})
	}
	with := func(secret string) func(*agentapi.ConfigureRequest) {
		return func(r *agentapi.ConfigureRequest) { r.Secrets = map[string][]byte{"/etc/key": []byte(secret)} }
	}
	if _, err := s.give(at(1)); !errors.Is(err, guestconfig.ErrDocument) || s.has("etc/key") != "" {
		t.Errorf("without its content: %v", err)
	}
	s.mustGive(at(1), with(secret))
	if s.has("etc/key") != secret {
		t.Fatalf("it has %q", s.has("etc/key"))
	}
	s.mustGive(at(1), with("another that is not written, since the version is the same"))
	if s.has("etc/key") != secret {
		t.Errorf("it has %q", s.has("etc/key"))
	}
	must(t, filepath.WalkDir(s.configurator.StateDirectory, func(name string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		text, err := os.ReadFile(name)
		digest := sum(secret)
		if bytes.Contains(text, []byte(secret)) || bytes.Contains(text, []byte(digest)) {
			t.Errorf("%s has the secret or its digest", name)
		}
		return err
	}))
	s.mustGive(at(2), with("new"))
	if s.has("etc/key") != "new" || len(s.drift()) != 0 {
		t.Errorf("it has %q", s.has("etc/key"))
	}
	s.write("etc/key", "mine")
	must(t, os.Chmod(filepath.Join(s.root, "etc/key"), 0o600))
	if s.drift()["/etc/key"] == "" {
		t.Error("a changed secret is not told")
	}
}

func sum(text string) string {
	digest := sha256.Sum256([]byte(text))
	return hex.EncodeToString(digest[:])
}

func unit(name string, u guestconfig.Unit) func(*guestconfig.Document) {
	return func(d *guestconfig.Document) { d.Units = map[string]guestconfig.Unit{name: u} }
}

func pointer[T any](v T) *T { return &v }

func TestAUnitIsMadeEnabledStartedChangedAndRemoved(t *testing.T) {
	s := newSystem(t)
	before := s.all()
	own := guestconfig.Unit{Content: pointer(service), Enabled: pointer(true), Started: pointer(true)}
	answer := s.mustGive(unit("a.service", own))
	s.mustHaveDone("reload systemd", "enable a.service", "start a.service")
	if starts := answer.GetImpact().GetStarts(); len(starts) != 1 || starts[0].GetUnit() != "a.service" ||
		answer.GetImpact().GetLevel() != agentapi.Level_NONE {
		t.Errorf("the impact is %v", answer.GetImpact())
	}
	s.mustGive(unit("a.service", own))
	s.mustHaveDone()
	own.DropIns = map[string]string{"more.conf": "[Service]\nNice=5\n"}
	answer = s.mustGive(unit("a.service", own))
	s.mustHaveDone("reload systemd", "restart a.service")
	if units := answer.GetImpact().GetUnits(); answer.GetImpact().GetLevel() != agentapi.Level_RESTART ||
		len(units) != 1 || units[0].GetUnit() != "a.service" ||
		!slices.Contains(units[0].GetPaths(), "/etc/systemd/system/a.service.d/more.conf") ||
		len(answer.GetRestarts()) != 1 {
		t.Errorf("the impact is %v", answer)
	}
	s.mustGive(nothing)
	s.mustHaveDone("withdraw a.service", "disable a.service", "reload systemd")
	if s.all() != before || s.active["a.service"] || s.enabled["a.service"] {
		t.Errorf("it has\n%s", s.all())
	}
}

func TestAUnitOfTheStackIsAsItWasAfterwards(t *testing.T) {
	for name, test := range map[string]struct{ enabled, active bool }{"it ran": {true, true},
		"it did not": {false, false}} {
		t.Run(name, func(t *testing.T) {
			s := newSystem(t)
			s.write("usr/lib/systemd/system/a.service", service)
			s.enabled["a.service"], s.active["a.service"] = test.enabled, test.active
			s.mustGive(unit("a.service",
				guestconfig.Unit{Enabled: pointer(!test.enabled), Started: pointer(!test.active)}))
			if s.enabled["a.service"] == test.enabled || s.active["a.service"] == test.active {
				t.Fatalf("it did %v", s.did)
			}
			s.mustGive(unit("a.service",
				guestconfig.Unit{Enabled: pointer(!test.enabled), Started: pointer(!test.active),
					DropIns: map[string]string{"a.conf": "x"}}))
			s.mustGive(nothing)
			if s.enabled["a.service"] != test.enabled || s.active["a.service"] != test.active {
				t.Errorf("it did %v", s.did)
			}
		})
	}
}

func TestAUnitThatSomebodyStoppedOrDisabledIsTold(t *testing.T) {
	s := newSystem(t)
	own := unit("a.service",
		guestconfig.Unit{Content: pointer(service), Enabled: pointer(true), Started: pointer(true)})
	s.mustGive(own)
	s.enabled["a.service"] = false
	if why := s.drift()["a.service"]; why != "it was disabled" {
		t.Errorf("it tells %q", why)
	}
	s.enabled["a.service"], s.active["a.service"] = true, false
	if why := s.drift()["a.service"]; why != "it is inactive" {
		t.Errorf("it tells %q", why)
	}
	s.mustGive(own) // nothing is lost
	s.mustHaveDone("start a.service")
	s.enabled["a.service"] = false
	if _, err := s.give(own); !errors.Is(err, configure.ErrRefused) {
		t.Errorf("it is %v", err)
	}
	s.mustGive(own, overwriting("a.service"))
	s.mustHaveDone("enable a.service")
}

func TestAUnitThatRanAlreadyIsToldWhenItIsStopped(t *testing.T) {
	s := newSystem(t)
	s.write("usr/lib/systemd/system/a.service", service)
	s.active["a.service"] = true
	s.mustGive(unit("a.service", guestconfig.Unit{Started: pointer(true)}))
	s.active["a.service"] = false
	if why := s.drift()["a.service"]; why != "it is inactive" {
		t.Errorf("it tells %q", why)
	}
}

func TestWhatSomebodyChangedOfSettingsAndUsersIsTold(t *testing.T) {
	const keys = "/home/alice/.ssh/authorized_keys"
	own := func(d *guestconfig.Document) {
		d.Sysctl = map[string]string{"vm.swappiness": "10"}
		d.Users = map[string]guestconfig.User{"alice": {Home: "/home/alice", Shell: "/bin/sh",
			AuthorizedKeys: []string{"ssh-ed25519 AAAA a"}}}
	}
	for name, test := range map[string]struct {
		change func(s *system)
		at     string
		lost   bool
	}{
		"a kernel parameter": {func(s *system) { s.write("proc/sys/vm/swappiness", "99\n") }, "vm.swappiness", true},
		"an account":         {func(s *system) { must(s.t, s.RemoveAccount(s.t.Context(), "alice")) }, "alice", false},
		"a key":              {func(s *system) { s.write(keys, "own\n# ours\nssh-ed25519 BBBB b\n") }, keys, true},
		"no keys":            {func(s *system) { s.write(keys, "own\n") }, keys, false},
		"no file of keys":    {func(s *system) { must(s.t, os.Remove(filepath.Join(s.root, keys))) }, keys, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSystem(t)
			s.mustGive(own)
			s.write(keys, "own\n"+s.has(keys)) // the rest of the file is the user's
			if drift := s.drift(); len(drift) != 0 {
				t.Fatalf("it tells %v", drift)
			}
			test.change(s)
			if drift := s.drift(); len(drift) != 1 || drift[test.at] == "" {
				t.Fatalf("it tells %v", drift)
			}
			if _, err := s.give(own); errors.Is(err, configure.ErrRefused) != test.lost {
				t.Errorf("it is %v", err)
			}
			s.mustGive(own, overwriting(test.at))
			if drift := s.drift(); len(drift) != 0 || s.has("proc/sys/vm/swappiness") != "10\n" ||
				!strings.Contains(s.has(keys), "AAAA") {
				t.Errorf("it tells %v and has\n%s", drift, s.all())
			}
		})
	}
}

// The kernel may write a value in another form than it was given.
func TestAKernelParameterInAnotherFormIsNoChange(t *testing.T) {
	s := newSystem(t)
	s.before = func(action string) {
		if action == "start a.service" {
			s.write("proc/sys/vm/swappiness", "16\n")
		}
	}
	s.mustGive(func(d *guestconfig.Document) {
		d.Sysctl = map[string]string{"vm.swappiness": "0x10"}
		d.Units = map[string]guestconfig.Unit{"a.service": {Content: pointer(service), Started: pointer(true)}}
	})
	if drift := s.drift(); len(drift) != 0 {
		t.Errorf("it tells %v", drift)
	}
}

func TestOnlyUnitsThatUseAFileAreInterrupted(t *testing.T) {
	s := newSystem(t)
	s.active["a.service"], s.active["b.service"], s.active["c.service"] = true, true, true
	s.reloads["a.service"], s.reloads["b.service"] = true, true
	with := func(content string) func(*guestconfig.Document) {
		one := file(content)
		one.Restart, one.Reload = []string{"a.service", "off.service"}, []string{"b.service"}
		return files(map[string]guestconfig.File{"/etc/app.conf": one})
	}
	assessed := s.mustGive(with("1"), func(r *agentapi.ConfigureRequest) { r.AssessOnly = true })
	if s.has("etc/app.conf") != "" || assessed.GetImpact().GetLevel() != agentapi.Level_RESTART ||
		len(assessed.GetImpact().GetUnits()) != 2 {
		t.Errorf("assessed %v", assessed)
	}
	if _, err := s.give(with("1"),
		func(r *agentapi.ConfigureRequest) { r.MaxImpact = agentapi.Level_RELOAD }); !errors.Is(err,
		configure.ErrImpact) || s.has("etc/app.conf") != "" {
		t.Errorf("more than is allowed: %v", err)
	}
	s.mustGive(with("1"))
	s.mustHaveDone("restart a.service", "reload b.service")
	s.mustGive(with("1"))
	s.mustHaveDone()
}

// A configuration that fails anywhere leaves everything as it was, also if the agent is killed there.
func TestAFailureTakesEverythingBack(t *testing.T) {
	first := func(d *guestconfig.Document) {
		d.Files = map[string]guestconfig.File{motd: file("one"), "/etc/old/x": file("x")}
		d.Units = map[string]guestconfig.Unit{
			"a.service":   {Content: pointer(service), Enabled: pointer(true), Started: pointer(true)},
			"old.service": {Content: pointer(service), Enabled: pointer(true), Started: pointer(true)},
		}
		d.Sysctl = map[string]string{"vm.swappiness": "10"}
		d.Networks = map[string]guestconfig.Network{"lan": static(lan, "192.0.2.1/24")}
		d.Swap = 1 << 20
	}
	second := func(d *guestconfig.Document) {
		d.Files = map[string]guestconfig.File{motd: file("two"), "/etc/new/y": file("y")}
		d.Units = map[string]guestconfig.Unit{
			"a.service": {Content: pointer(service + "# 2\n"), Enabled: pointer(true), Started: pointer(true)},
			"b.service": {Content: pointer(service), Enabled: pointer(true), Started: pointer(true)},
		}
		d.Users = map[string]guestconfig.User{"alice": {Home: "/home/alice", Shell: "/bin/sh",
			AuthorizedKeys: []string{"ssh-ed25519 AAAA a"}, Sudo: true}}
		d.Sysctl = map[string]string{"vm.swappiness": "20"}
		d.TimeZone = "Europe/Berlin"
		d.Networks = map[string]guestconfig.Network{"lan": static(lan, "192.0.2.2/24"),
			"wan": static(wan, "203.0.113.2/24")}
		d.Swap = 2 << 20
	}
	start := func(t *testing.T) *system {
		s := newSystem(t)
		s.mustGive(first)
		return s
	}
	whole := start(t)
	whole.mustGive(second)
	actions := slices.Clone(whole.did)
	if len(actions) < 8 {
		t.Fatalf("it did only %v", actions)
	}
	same := func(t *testing.T, s *system, before, id string) {
		t.Helper()
		if now := s.all(); now != before || s.id() != id {
			t.Errorf("it has\n%s\nand before\n%s", now, before)
		}
		if !s.active[guestconfig.SwapUnit] {
			t.Error("the swap file is not in use")
		}
		for _, name := range []string{"a.service", "old.service"} {
			if !s.active[name] || !s.enabled[name] {
				t.Errorf("%s: active %t, enabled %t", name, s.active[name], s.enabled[name])
			}
		}
		if s.active["b.service"] || s.enabled["b.service"] || len(s.drift()) != 0 {
			t.Errorf("b.service: active %t, enabled %t; it tells %v", s.active["b.service"],
				s.enabled["b.service"], s.drift())
		}
		// It can be taken on afterwards.
		s.fails, s.sick, s.before = map[string]error{}, map[string]bool{}, nil
		s.mustGive(second)
		if s.has(motd) != "two" || !s.active["b.service"] || s.has(link(lan)) != "192.0.2.2/24\n" ||
			s.has("home/alice/.ssh/authorized_keys") == "" {
			t.Errorf("then it has\n%s", s.all())
		}
	}
	for _, action := range actions {
		t.Run(action+" fails", func(t *testing.T) {
			s := start(t)
			before, id := s.all(), s.id()
			failed := false
			s.before = func(now string) { // once: taking it back needs the same
				s.fails = map[string]error{}
				if now == action && !failed {
					failed, s.fails = true, map[string]error{action: errors.New("it was made to fail")}
				}
			}
			if _, err := s.give(second); !errors.Is(err, configure.ErrTakenBack) ||
				!strings.Contains(err.Error(), "made to fail") {
				t.Fatalf("it is %v", err)
			}
			same(t, s, before, id)
		})
		t.Run("killed before "+action, func(t *testing.T) {
			s := start(t)
			before, id := s.all(), s.id()
			s.before = func(now string) {
				if now == action {
					runtime.Goexit()
				}
			}
			ended := make(chan struct{})
			go func() {
				defer close(ended)
				_, err := s.give(second)
				t.Errorf("it was not killed: %v", err)
			}()
			<-ended
			s.before = nil
			s.restart()
			must(t, s.configurator.Recover(t.Context()))
			same(t, s, before, id)
		})
	}
	t.Run("a health check fails", func(t *testing.T) {
		s := start(t)
		before, id := s.all(), s.id()
		s.before = func(now string) { s.sick["web"] = now == "start b.service" || s.sick["web"] }
		checks := func(r *agentapi.ConfigureRequest) {
			r.HealthChecks = []*agentapi.HealthCheck{{Name: "web", Kind: &agentapi.HealthCheck_Unit{Unit: "a.service"}}}
		}
		s.configurator.ReadyLimit = 1
		if _, err := s.give(second, checks); !errors.Is(err, configure.ErrTakenBack) ||
			!strings.Contains(err.Error(), `"web"`) {
			t.Fatalf("it is %v", err)
		}
		same(t, s, before, id)
	})
}

func TestWhatIsNotTakenBackIsTriedAgain(t *testing.T) {
	s := newSystem(t)
	s.fails["reload systemd"] = errors.New("no")
	if _, err := s.give(unit("a.service", guestconfig.Unit{Content: pointer(service)})); !errors.Is(err,
		configure.ErrUnfinished) {
		t.Fatalf("it is %v", err)
	}
	if _, err := s.give(nothing); !errors.Is(err, configure.ErrUnfinished) {
		t.Errorf("then it is %v", err)
	}
	s.fails = map[string]error{}
	s.mustGive(nothing)
	if s.unitFile("a.service") != "" {
		t.Errorf("it has\n%s", s.all())
	}
}

// What does not come back with the files is told, and the next configuration can be taken on.
func TestWhatDoesNotComeBackBlocksNothing(t *testing.T) {
	with := func(d *guestconfig.Document) {
		one := file("x")
		one.Restart = []string{"a.service"}
		d.Files, d.Sysctl = map[string]guestconfig.File{motd: one}, map[string]string{"vm.swappiness": "10"}
	}
	for name, prepare := range map[string]func(s *system){
		"restore": func(s *system) { s.fails["restore a.service"] = errors.New("restore: no") },
		"vm.swappiness": func(s *system) {
			s.before = func(action string) {
				if action == "restart a.service" {
					must(s.t, os.Remove(filepath.Join(s.root, "proc/sys/vm/swappiness")))
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSystem(t)
			s.active["a.service"] = true
			s.fails["restart a.service"] = errors.New("no")
			prepare(s)
			_, err := s.give(with)
			if !errors.Is(err, configure.ErrTakenBack) || errors.Is(err, configure.ErrUnfinished) ||
				!strings.Contains(err.Error(), name) || s.has(motd) != "" {
				t.Fatalf("it is %v, and it has\n%s", err, s.all())
			}
			s.mustGive(files(map[string]guestconfig.File{"/etc/other": file("y")}))
			if s.has("etc/other") != "y" || slices.Contains(s.did, "restore a.service") {
				t.Errorf("it did %v and has\n%s", s.did, s.all())
			}
		})
	}
}

// A plan only asks: it takes nothing back.
func TestAnAssessmentTakesNothingBack(t *testing.T) {
	s := newSystem(t)
	s.active["a.service"] = true
	with := func(d *guestconfig.Document) {
		one := file("x")
		one.Restart = []string{"a.service"}
		d.Files = map[string]guestconfig.File{motd: one}
	}
	s.before = func(string) { runtime.Goexit() }
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_, err := s.give(with)
		t.Errorf("it was not killed: %v", err)
	}()
	<-ended
	s.before = nil
	s.restart()
	before := s.all()
	if _, err := s.give(with, func(r *agentapi.ConfigureRequest) { r.AssessOnly = true }); !errors.Is(err,
		configure.ErrUnfinished) || s.all() != before {
		t.Errorf("it is %v, and it has\n%s", err, s.all())
	}
	s.mustHaveDone()
	s.mustGive(with)
}

func TestAUserIsMadeWithKeysAndSudoAndRemoved(t *testing.T) {
	s := newSystem(t)
	alice := guestconfig.User{Home: "/home/alice", Shell: "/bin/sh", Groups: []string{"adm"},
		AuthorizedKeys: []string{"ssh-ed25519 AAAA a"}, Sudo: true}
	with := func(u guestconfig.User) func(*guestconfig.Document) {
		return func(d *guestconfig.Document) {
			d.Users = map[string]guestconfig.User{"alice": u}
			d.Files = map[string]guestconfig.File{"/home/alice/hello": {Content: []byte("hi"), Mode: 0o600,
				Owner: "alice", Group: "alice"}}
		}
	}
	s.mustGive(with(alice))
	if !strings.Contains(s.has("etc/passwd"), "alice:x:") ||
		s.has("home/alice/.ssh/authorized_keys") != "# ours\nssh-ed25519 AAAA a\n" ||
		!strings.Contains(s.has("etc/sudoers.d/90-sharedos-alice"), "NOPASSWD") || s.has("home/alice/hello") != "hi" {
		t.Errorf("it has\n%s", s.all())
	}
	s.write("home/alice/.ssh/authorized_keys", "own\n"+s.has("home/alice/.ssh/authorized_keys"))
	alice.AuthorizedKeys, alice.Sudo = nil, false
	s.mustGive(with(alice))
	if s.has("home/alice/.ssh/authorized_keys") != "own\n" || s.has("etc/sudoers.d/90-sharedos-alice") != "" {
		t.Errorf("it has\n%s", s.all())
	}
	s.mustGive(nothing)
	if strings.Contains(s.has("etc/passwd"), "alice") {
		t.Errorf("passwd is %q", s.has("etc/passwd"))
	}
	if _, err := s.give(func(d *guestconfig.Document) { d.Users = map[string]guestconfig.User{"root2": alice} }); err != nil {
		t.Error(err)
	}
	s.write("etc/passwd", s.has("etc/passwd")+"bob:x:1:1::/:/bin/sh\n")
	if _, err := s.give(func(d *guestconfig.Document) {
		d.Users = map[string]guestconfig.User{"bob": {Home: "/home/bob", Shell: "/bin/sh"}}
	}); !errors.Is(err, configure.ErrRefused) {
		t.Errorf("an account of somebody else: %v", err)
	}
}

// An account that is gone already keeps nothing from being taken on, whoever has removed it.
func TestARemovalOfAccountsCanBeRepeated(t *testing.T) {
	both := func(d *guestconfig.Document) {
		d.Users = map[string]guestconfig.User{"alice": {Home: "/home/alice", Shell: "/bin/sh"},
			"bob": {Home: "/home/bob", Shell: "/bin/sh"}}
	}
	start := func(t *testing.T) *system {
		s := newSystem(t)
		s.mustGive(both)
		return s
	}
	back := func(t *testing.T, s *system) {
		t.Helper()
		if passwd := s.has("etc/passwd"); !strings.Contains(passwd, "alice:") || !strings.Contains(passwd, "bob:") ||
			s.has(guestconfig.SysusersFile) == "" {
			t.Errorf("it has\n%s", s.all())
		}
	}
	ends := func(t *testing.T, s *system) {
		t.Helper()
		s.fails, s.before = map[string]error{}, nil
		s.mustGive(nothing)
		if passwd := s.has("etc/passwd"); strings.Contains(passwd, "alice") || strings.Contains(passwd, "bob") {
			t.Errorf("passwd is %q", passwd)
		}
	}
	t.Run("one of them is in use", func(t *testing.T) {
		s := start(t)
		s.fails["remove bob"] = errors.New("user bob is currently used by process 1")
		if _, err := s.give(nothing); !errors.Is(err, configure.ErrTakenBack) {
			t.Fatalf("it is %v", err)
		}
		back(t, s)
		ends(t, s)
	})
	t.Run("the agent is killed between them", func(t *testing.T) {
		s := start(t)
		s.before = func(now string) {
			if now == "remove bob" {
				runtime.Goexit()
			}
		}
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			_, err := s.give(nothing)
			t.Errorf("it was not killed: %v", err)
		}()
		<-ended
		s.before = nil
		s.restart()
		must(t, s.configurator.Recover(t.Context()))
		back(t, s)
		ends(t, s)
	})
	t.Run("somebody has removed one", func(t *testing.T) {
		s := start(t)
		must(t, s.RemoveAccount(t.Context(), "alice"))
		ends(t, s)
	})
}

// A directory that has files of somebody else becomes nobody's home.
func TestAHomeOfSomebodyElseIsRefused(t *testing.T) {
	const home = "srv/app"
	own := uint32(os.Getuid())
	other := own + 1
	for name, test := range map[string]struct {
		prepare func(s *system)
		uid     *uint32
		refused bool
	}{
		"files":                   {func(s *system) { s.write(home+"/data", "mine") }, nil, true},
		"files of another number": {func(s *system) { s.write(home+"/data", "mine") }, &other, true},
		"keys":                    {func(s *system) { s.write(home+"/.ssh/authorized_keys", "mine") }, nil, true},
		"a file":                  {func(s *system) { s.write(home, "mine") }, nil, true},
		"a link": {func(s *system) {
			s.write("srv/x", "")
			must(
				s.t, os.Symlink("/etc", filepath.Join(s.root, home)))
		}, nil, true},
		"nothing": {func(*system) {}, nil, false},
		"an empty directory": {func(s *system) {
			must(
				s.t, os.MkdirAll(filepath.Join(s.root, home, ".ssh"), 0o755))
		}, nil, false},
		"a new file system": {func(s *system) {
			must(
				s.t, os.MkdirAll(filepath.Join(s.root, home, "lost+found"), 0o755))
		}, nil, false},
		"a configured file": {func(s *system) {
			s.mustGive(
				files(map[string]guestconfig.File{"/" + home + "/data": file("x")}))
		}, nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSystem(t)
			test.prepare(s)
			before := s.all()
			_, err := s.give(func(d *guestconfig.Document) {
				d.Users = map[string]guestconfig.User{"app": {Home: "/" + home, Shell: "/bin/sh", UID: test.uid}}
			})
			if errors.Is(err, configure.ErrRefused) != test.refused || test.refused && s.all() != before ||
				!test.refused && err != nil {
				t.Errorf("it is %v", err)
			}
		})
	}
	t.Run("a home that moves", func(t *testing.T) {
		s := newSystem(t)
		with := func(home string) func(*guestconfig.Document) {
			return func(d *guestconfig.Document) {
				d.Users = map[string]guestconfig.User{"app": {Home: home, Shell: "/bin/sh"}}
			}
		}
		s.write("var/log/messages", "x")
		s.mustGive(with("/srv/app"))
		s.write("srv/app/own", "x")
		s.mustGive(with("/srv/app")) // it is the account's own
		passwd := strings.ReplaceAll(s.has("etc/passwd"), fmt.Sprintf("app:x:%d:", own),
			fmt.Sprintf("app:x:%d:", other))
		s.write("etc/passwd", passwd)
		if _, err := s.give(with("/var/log")); !errors.Is(err, configure.ErrRefused) {
			t.Errorf("it is %v", err)
		}
	})
}

func TestANumberThatIsTakenIsNotReplacedByAnother(t *testing.T) {
	s := newSystem(t)
	s.write("etc/passwd", s.has("etc/passwd")+"bob:x:4321:1::/:/bin/sh\n")
	_, err := s.give(func(d *guestconfig.Document) {
		d.Users = map[string]guestconfig.User{"alice": {Home: "/home/alice", Shell: "/bin/sh",
			UID: pointer(uint32(4321))}}
	})
	if !errors.Is(err, configure.ErrTakenBack) || !strings.Contains(err.Error(), "4321") ||
		strings.Contains(s.has("etc/passwd"), "alice") {
		t.Errorf("it is %v, and passwd is %q", err, s.has("etc/passwd"))
	}
}

func TestSettingsAreTakenOnAndGivenBack(t *testing.T) {
	s := newSystem(t)
	s.mustGive(func(d *guestconfig.Document) {
		d.Sysctl, d.TimeZone, d.Locale = map[string]string{"vm.swappiness": "10"}, "Europe/Berlin", "C.UTF-8"
	})
	if s.has("proc/sys/vm/swappiness") != "10\n" || s.has("etc/localtime") != "->../usr/share/zoneinfo/Europe/Berlin" ||
		s.has("etc/locale.conf") != "LANG=C.UTF-8\n" {
		t.Errorf("it has\n%s", s.all())
	}
	s.mustGive(nothing)
	if s.has("proc/sys/vm/swappiness") != "60\n" || s.has("etc/localtime") != "" || s.has("etc/locale.conf") != "" {
		t.Errorf("it has\n%s", s.all())
	}
	for _, change := range []func(d *guestconfig.Document){
		func(d *guestconfig.Document) { d.TimeZone = "Mars/Olympus" },
		func(d *guestconfig.Document) { d.Sysctl = map[string]string{"vm.none": "1"} },
	} {
		if _, err := s.give(change); !errors.Is(err, configure.ErrRefused) {
			t.Errorf("it is %v", err)
		}
	}
}

func TestARefreshLeavesWhatIsConfiguredAlone(t *testing.T) {
	s := newSystem(t)
	s.mustGive(files(map[string]guestconfig.File{"/etc/a[1]": file("x"), "/srv/b": file("y"), "/opt/c": file("z"),
		"/usr/local/bin/d": file("z")}))
	owned, err := configure.Owned(s.configurator.StateDirectory)
	if err != nil || !slices.Equal(owned, []string{`/etc/a\[1]`, "/var/opt/c", "/var/usrlocal/bin/d"}) {
		t.Errorf("%q, %v", owned, err)
	}
}

func TestNothingIsTakenOnDuringARefreshOrByABadDocument(t *testing.T) {
	s := newSystem(t)
	busy := errors.New("a refresh is in flight")
	s.fails["yield"] = busy
	if _, err := s.give(files(map[string]guestconfig.File{motd: file("x")})); !errors.Is(err, busy) {
		t.Errorf("it is %v", err)
	}
	s.fails = map[string]error{}
	for _, text := range []string{"", "{}", `{"version":1,"other":1}`, `{"version":1} x`,
		`{"version":1,"files":{"/etc/../usr/x":{"mode":420,"owner":"root","group":"root"}}}`} {
		if _, err := s.configurator.Configure(t.Context(),
			&agentapi.ConfigureRequest{Document: []byte(text)}); !errors.Is(err, guestconfig.ErrDocument) {
			t.Errorf("%s: %v", text, err)
		}
	}
}
