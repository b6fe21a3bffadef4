package configure_test

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/configure"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/impact"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/guestconfig"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// system is a guest in a directory: its files are real, and systemd and the stack are stand-ins.
type system struct {
	t            *testing.T
	root         string
	configurator *configure.Configurator
	// active and enabled are units by name; reloads are those that can be reloaded.
	active, enabled, reloads map[string]bool
	// stack is what the running stack has, by path.
	stack map[string]string
	// did is what systemd was asked to do, fails makes one of these fail.
	did   []string
	fails map[string]error
	// sick are health checks that fail.
	sick map[string]bool
	// before is called before each action.
	before func(action string)
	// manager manages the network, and instead is what does so without one. carried is what each
	// link was brought to last, by MAC address; lost are addresses that no link takes.
	manager  guestconfig.Manager
	instead  string
	carried  map[string]string
	lost     []string
	unlinked []string
}

func newSystem(t *testing.T) *system {
	t.Helper()
	s := &system{
		t: t, root: t.TempDir(), active: map[string]bool{}, enabled: map[string]bool{}, reloads: map[string]bool{},
		stack: map[string]string{},
		fails: map[string]error{}, sick: map[string]bool{}, manager: guestconfig.Networkd, carried: map[string]string{},
	}
	s.write("etc/passwd", fmt.Sprintf("root:x:%d:%d:root:/root:/bin/sh\n", os.Getuid(), os.Getgid()))
	s.write("etc/group", fmt.Sprintf("root:x:%d:\nalice:x:%[1]d:\n", os.Getgid()))
	s.write("proc/sys/vm/swappiness", "60\n")
	s.write("proc/swaps", "Filename Type Size Used Priority\n")
	s.write("proc/meminfo", "MemTotal: 500000 kB\nMemAvailable: 102400 kB\n")
	must(t, os.MkdirAll(filepath.Join(s.root, "var/lib"), 0o755))
	s.write("usr/share/zoneinfo/Europe/Berlin", "TZif")
	s.boot()
	s.restart()
	return s
}

// restart has another agent begin.
func (s *system) restart() {
	s.configurator = &configure.Configurator{
		Root: s.root, StateDirectory: filepath.Join(s.root, "state"), Engine: s, Units: s,
		Stack: stack{s}, Health: s, Networks: s,
		MergeKeys: func(existing []byte, keys []string) []byte {
			own, _, _ := strings.Cut(string(existing), "# ours\n")
			if len(keys) == 0 {
				return []byte(own)
			}
			return []byte(own + "# ours\n" + strings.Join(keys, "\n") + "\n")
		},
	}
	must(s.t, os.MkdirAll(s.configurator.StateDirectory, 0o700))
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func (s *system) write(name, content string) {
	s.t.Helper()
	file := filepath.Join(s.root, name)
	must(s.t, os.MkdirAll(filepath.Dir(file), 0o755))
	must(s.t, os.WriteFile(file, []byte(content), 0o644))
}

// has is the content of a file, the target of a link after "->", and "" for nothing.
func (s *system) has(name string) string {
	s.t.Helper()
	file := filepath.Join(s.root, name)
	if target, err := os.Readlink(file); err == nil {
		return "->" + target
	}
	content, err := os.ReadFile(file)
	if errors.Is(err, fs.ErrNotExist) {
		return ""
	}
	must(s.t, err)
	return string(content)
}

// give has the system take on a document.
func (s *system) give(change func(d *guestconfig.Document),
	options ...func(*agentapi.ConfigureRequest)) (*agentapi.ConfigureResponse, error) {
	s.t.Helper()
	d := guestconfig.New()
	change(d)
	text, err := d.Encode()
	must(s.t, err)
	request := &agentapi.ConfigureRequest{Document: text}
	for _, option := range options {
		option(request)
	}
	s.did = nil
	return s.configurator.Configure(s.t.Context(), request)
}

func (s *system) mustGive(change func(d *guestconfig.Document),
	options ...func(*agentapi.ConfigureRequest)) *agentapi.ConfigureResponse {
	s.t.Helper()
	response, err := s.give(change, options...)
	must(s.t, err)
	return response
}

func overwriting(names ...string) func(*agentapi.ConfigureRequest) {
	return func(r *agentapi.ConfigureRequest) { r.Overwrite = names }
}

// all is everything below the root, but for the agent's own state, to compare.
func (s *system) all() string {
	s.t.Helper()
	var lines []string
	must(s.t, filepath.WalkDir(s.root, func(name string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(s.root, name)
		if relative == "state" {
			return fs.SkipDir
		}
		if entry.IsDir() {
			lines = append(lines, relative+"/")
			return err
		}
		info, infoErr := entry.Info()
		must(s.t, infoErr)
		if "/"+relative == guestconfig.SwapFile { // each has a UUID of its own
			lines = append(lines, fmt.Sprintf("%s %v %d bytes", relative, info.Mode(), info.Size()))
			return err
		}
		lines = append(lines, fmt.Sprintf("%s %v %q", relative, info.Mode(), s.has(relative)))
		return err
	}))
	return strings.Join(lines, "\n")
}

func file(content string) guestconfig.File {
	return guestconfig.File{Content: []byte(content), Mode: 0o644, Owner: "root", Group: "root"}
}

func files(all map[string]guestconfig.File) func(*guestconfig.Document) {
	return func(d *guestconfig.Document) { d.Files = all }
}

func nothing(*guestconfig.Document) {}

func (s *system) do(action, unit string) error {
	what := action + " " + unit
	if s.before != nil {
		s.before(what)
	}
	s.did = append(s.did, what)
	return s.fails[what]
}

func (s *system) Reload(context.Context) error { return s.do("reload", "systemd") }

func (s *system) Order(_ context.Context, units []string,
	_ map[string]impact.Unit) ([]string, map[string][]string, error) {
	return units, nil, nil
}

func (s *system) Restart(_ context.Context, unit string) (time.Duration, error) {
	err := s.do("restart", unit)
	s.active[unit] = err == nil
	return time.Millisecond, err
}

func (s *system) Restore(_ context.Context, unit string) (time.Duration, error) {
	err := s.do("restore", unit)
	s.active[unit] = err == nil
	return time.Millisecond, err
}

func (s *system) ReloadUnit(_ context.Context, unit string) error { return s.do("reload", unit) }

func (s *system) Start(_ context.Context, unit string) (time.Duration, bool, error) {
	err := s.do("start", unit)
	if err == nil && s.unitFile(unit) == "" {
		err = fmt.Errorf("no unit %s", unit)
	}
	s.active[unit] = err == nil
	return 0, false, err
}

func (s *system) Withdraw(_ context.Context, unit string) error {
	err := s.do("withdraw", unit)
	s.active[unit] = s.active[unit] && err != nil
	return err
}

func (s *system) ActiveState(_ context.Context, unit string) (string, error) {
	if s.active[unit] {
		return "active", nil
	}
	return "inactive", nil
}

func (s *system) Failure(_ context.Context, unit string) string { return unit + " is failed" }

func (s *system) Enabled(_ context.Context, unit string) (bool, error) { return s.enabled[unit], nil }

func (s *system) Enable(_ context.Context, unit string) error {
	err := s.do("enable", unit)
	if err == nil && !strings.Contains(s.unitFile(unit), "[Install]") {
		return nil // as systemctl does
	}
	s.enabled[unit] = err == nil
	return err
}

func (s *system) Disable(_ context.Context, unit string) error {
	s.enabled[unit] = false
	return s.do("disable", unit)
}

func (s *system) unitFile(unit string) string {
	if text := s.has("etc/systemd/system/" + unit); text != "" {
		return text
	}
	return s.has("usr/lib/systemd/system/" + unit)
}

// ApplyAccounts makes the accounts that a file of sysusers.d declares.
func (s *system) ApplyAccounts(_ context.Context, names []string) error {
	if want := []string{filepath.Base(guestconfig.SysusersFile)}; !slices.Equal(names, want) {
		return fmt.Errorf("make the accounts of %q, and not of %q", names, want)
	}
	passwd := s.has("etc/passwd")
	for line := range strings.Lines(s.has(guestconfig.SysusersFile)) {
		if fields := strings.Fields(line); fields[0] == "u" && !strings.Contains(passwd, "\n"+fields[1]+":") {
			uid := fields[2]
			if uid == "-" || strings.Contains(passwd, ":x:"+uid+":") { // another one, as systemd-sysusers chooses
				uid = strconv.Itoa(os.Getuid())
			}
			passwd += fmt.Sprintf("%s:x:%s:%d::%s:%s\n", fields[1], uid, os.Getgid(), fields[4], fields[5])
		}
	}
	s.write("etc/passwd", passwd)
	return s.do("make", "accounts")
}

func (s *system) ApplyTemporary(_ context.Context, names []string) error {
	return s.do("make", strings.Join(names, " "))
}

// RemoveAccount fails for an account that does not exist, as userdel(8) does.
func (s *system) RemoveAccount(_ context.Context, name string) error {
	if err := s.do("remove", name); err != nil {
		return err
	}
	var kept string
	passwd := s.has("etc/passwd")
	for line := range strings.Lines(passwd) {
		if !strings.HasPrefix(line, name+":") {
			kept += line
		}
	}
	if kept == passwd {
		return fmt.Errorf("user %s does not exist", name)
	}
	s.write("etc/passwd", kept)
	return nil
}

func (s *system) Check(_ context.Context, check *agentapi.HealthCheck) error {
	if s.sick[check.GetName()] {
		return errors.New("it is sick")
	}
	return nil
}

func (s *system) Yield() (func(), error) { return func() {}, s.fails["yield"] }

// AssessFiles assesses the units of the system by the real rules.
func (s *system) AssessFiles(_ context.Context, changes *impact.Changes,
	message *agentapi.UnitPolicy) (*impact.Assessment, map[string]impact.Unit, error) {
	policy := impact.Policy{Default: impact.Restart, Actions: map[string]impact.Action{}, Extra: map[string][]string{}}
	for unit, action := range message.GetUnits() {
		policy.Actions[unit] = impact.Action(action)
	}
	for unit, list := range message.GetPaths() {
		for _, name := range list.GetPaths() {
			policy.Extra[unit] = append(policy.Extra[unit], strings.TrimPrefix(name, "/"))
		}
	}
	snapshot := impact.Snapshot{Units: map[string]impact.Unit{}}
	pid := 100
	for unit, active := range s.active {
		if active {
			pid++
			snapshot.Processes = append(snapshot.Processes, impact.Process{PID: pid, Unit: unit, SystemRoot: true})
			snapshot.Units[unit] = impact.Unit{Name: unit, State: "active", CanReload: s.reloads[unit],
				Fragment: "etc/systemd/system/" + unit}
		}
	}
	return impact.Assess(changes, snapshot, policy), snapshot.Units, nil
}

// stack implements configure.Stack.
type stack struct{ *system }

func (s stack) Entry(name string) (*tree.Entry, bool, error) {
	content, has := s.system.stack[name]
	if !has {
		return nil, true, nil
	}
	return &tree.Entry{
		Path: name, Type: tree.Regular, Mode: 0o644, UID: uint32(os.Getuid()), GID: uint32(os.Getgid()),
		Digest: tree.Sum([]byte(content)),
	}, true, nil
}

func (s stack) Read(name string) ([]byte, error) { return []byte(s.system.stack[name]), nil }

func (s *system) mustHaveDone(want ...string) {
	s.t.Helper()
	if !slices.Equal(s.did, want) {
		s.t.Errorf("systemd was asked to %q, want %q", s.did, want)
	}
}

// lan and wan are the MAC addresses of the links of a system. The addresses of a link are a file of its own.
const (
	lan = "52:54:00:00:00:01"
	wan = "52:54:00:00:00:02"
)

func link(mac string) string { return "sys/links/" + mac }

// byDHCP is what a link has that no file is about.
const byDHCP = "10.0.2.15/24\n"

// boot has the network manager begin.
func (s *system) boot() {
	for _, mac := range []string{lan, wan} {
		s.carried[mac] = ""
		s.write(link(mac), byDHCP)
	}
	must(s.t, s.carryOut(nil))
}

// Manager implements configure.Networks.
func (s *system) Manager() (guestconfig.Manager, string) { return s.manager, s.instead }

// Addresses implements configure.Networks.
func (s *system) Addresses(mac string) (addresses []netip.Prefix, ready bool, err error) {
	for _, text := range strings.Fields(s.has(link(mac))) {
		addresses = append(addresses, netip.MustParsePrefix(text))
	}
	return addresses, (mac == lan || mac == wan) && !slices.Contains(s.unlinked, mac), nil
}

// Renew implements configure.Networks.
func (s *system) Renew(_ context.Context, manager guestconfig.Manager, changed map[string]guestconfig.Network) error {
	if err := s.do("renew", string(manager)); err != nil {
		return err
	}
	if manager != s.manager {
		return fmt.Errorf("%s does not run", manager)
	}
	return s.carryOut(changed)
}

// carryOut brings links to their files, as their manager does: systemd-networkd those whose files
// differ, NetworkManager those that it is told to, and those whose files are gone.
func (s *system) carryOut(changed map[string]guestconfig.Network) error {
	for _, mac := range []string{lan, wan} {
		file, content := s.networkFile(mac)
		now := file + "\n" + content
		if file == "" {
			now = ""
		}
		told := s.manager == guestconfig.Networkd || now == ""
		for _, n := range changed {
			told = told || n.MAC == mac
		}
		if now == s.carried[mac] || !told {
			continue
		}
		s.carried[mac] = now
		addresses := byDHCP
		if now != "" {
			addresses = ""
			for _, found := range regexp.MustCompile("(?m)^(?:Address|address[0-9]+)=(.*)$").FindAllStringSubmatch(content, -1) {
				if !slices.Contains(s.lost, found[1]) {
					addresses += found[1] + "\n"
				}
			}
		}
		s.write(link(mac), addresses)
	}
	return nil
}

// networkFile is the file that a manager uses for the link with a MAC address. One below /etc takes
// the place of one of the same name below /run.
func (s *system) networkFile(mac string) (name, content string) {
	directory := map[guestconfig.Manager]string{guestconfig.Networkd: "systemd/network",
		guestconfig.NetworkManager: "NetworkManager/system-connections"}[s.manager]
	byName := map[string]string{}
	for _, top := range []string{"run", "etc"} {
		files, err := filepath.Glob(filepath.Join(s.root, top, directory, "*.n*"))
		must(s.t, err)
		for _, file := range files {
			relative, err := filepath.Rel(s.root, file)
			must(s.t, err)
			byName[filepath.Base(file)] = relative
		}
	}
	for _, base := range slices.Sorted(maps.Keys(byName)) {
		if content := s.has(byName[base]); strings.Contains(strings.ToLower(content), "address="+mac+"\n") {
			return byName[base], content
		}
	}
	return "", ""
}
