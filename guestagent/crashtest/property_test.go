package crashtest

import (
	"bytes"
	"fmt"
	"maps"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"google.golang.org/protobuf/proto"
	"pgregory.net/rapid"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/boot"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/failpoint"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
)

// cases is how many random pairs of releases are tried. Each takes some ten boots.
const cases = 12

// The kernels of the two releases of a case.
const oldKernel, newKernel = "1.0-old", "2.0-new"

// version is a file of a release, or in a machine.
type version struct {
	there bool
	text  string
	mode  uint32
	owner uint32
}

func (v version) String() string {
	if !v.there {
		return "absent"
	}
	return fmt.Sprintf("%q %o of %d", v.text, v.mode, v.owner)
}

// The paths in which the releases of a case differ, and which an administrator may change.
var (
	osPaths   = []string{"usr/lib/sysimage/dpkg/status", "usr/share/a", "usr/share/b/c", "usr/lib/libx.so"}
	usedPaths = []string{"etc/p.conf", "etc/q/r.conf", "var/opt/acme/s", "var/opt/acme/bin/t"}
	unitNames = []string{"u0", "u1", "u2"}
)

// What a component has: a unit, a file in /usr, and one in /etc that an administrator may change.
const partUnit, partData, partConf = "part", "usr/share/part/data", "etc/part/part.conf"

// unitOf is a unit in a release.
type unitOf struct {
	// Program is the version of its program; 0 if the release does not have the unit.
	Program int
	Enabled bool
}

// variant is what one release of a case has.
type variant struct {
	Files   map[string]version
	Units   map[string]unitOf
	Account bool
	Loader  bool
	// Part is the release of a component on it, without whose files it is a release of the base; 0 for none. The
	// component's unit is among Units.
	Part int
}

// part returns what the stack has of the component at a path.
func (v variant) part(path string) version {
	if v.Part == 0 {
		return version{}
	}
	return version{there: true, text: fmt.Sprint(path, v.Part), mode: 0o644}
}

// local is what an administrator does to a path.
type local string

// The local changes.
const (
	untouched local = ""
	written   local = "written"
	moded     local = "another mode"
	removed   local = "removed"
)

// scenario is one case of the test.
type scenario struct {
	Old, New variant
	Local    map[string]local
	// Account is true if the machine has an account of its own with the number of the release's.
	Account bool
	// Report is a unit that the policy leaves alone in a second refresh; "" for none.
	Report string
	// Full is true if the new release is one full layer.
	Full bool
}

func someVersion(t *rapid.T, what string) version {
	v := version{
		there: rapid.IntRange(0, 3).Draw(t, what+" is there") > 0,
		text:  rapid.SampledFrom([]string{"1", "2", "3"}).Draw(t, what+" has"),
		mode:  rapid.SampledFrom([]uint32{0o644, 0o600, 0o755}).Draw(t, what+" has the mode"),
		owner: rapid.SampledFrom([]uint32{0, 0, 7}).Draw(t, what+" is of"),
	}
	if !v.there {
		return version{}
	}
	return v
}

func someVariant(t *rapid.T, what string) variant {
	v := variant{Files: map[string]version{}, Units: map[string]unitOf{}}
	for _, path := range slices.Concat(osPaths, usedPaths) {
		v.Files[path] = someVersion(t, what+" "+path)
	}
	for _, name := range unitNames {
		program := rapid.IntRange(0, 2).Draw(t, what+" program of "+name)
		v.Units[name] = unitOf{program, program > 0 && rapid.Bool().Draw(t, what+" enables "+name)}
	}
	v.Account = rapid.Bool().Draw(t, what+" has the account")
	return v
}

var scenarios = rapid.Custom(func(t *rapid.T) scenario {
	s := scenario{Old: someVariant(t, "old"), New: someVariant(t, "new"), Local: map[string]local{}}
	for _, path := range usedPaths {
		choices := []local{untouched, written}
		if s.Old.Files[path].there {
			choices = append(choices, moded, removed)
		}
		s.Local[path] = rapid.SampledFrom(choices).Draw(t, "local "+path)
	}
	s.New.Loader = rapid.IntRange(0, 3).Draw(t, "another loader") == 0
	s.Account = rapid.Bool().Draw(t, "a local account")
	s.Report = rapid.SampledFrom(append([]string{""}, unitNames...)).Draw(t, "left alone")
	s.Full = rapid.Bool().Draw(t, "full")
	s.Old.Part = rapid.IntRange(0, 2).Draw(t, "the component of the old one")
	s.New.Part = rapid.IntRange(0, 2).Draw(t, "the component of the new one")
	for _, v := range []variant{s.Old, s.New} {
		v.Units[partUnit] = unitOf{v.Part, v.Part > 0}
	}
	if s.Old.Part > 0 {
		s.Local[partConf] = rapid.SampledFrom([]local{untouched, untouched, written}).Draw(t, "local "+partConf)
	}
	return s
})

const enabledLinks = "usr/lib/systemd/system/multi-user.target.wants/"

// files returns the files of a release.
func (v variant) files(base files, name string) files {
	f := base.copied()
	f.put("usr/share/mark", name)
	f.put("etc/mark/changes.conf", "the same")
	f.put("etc/q/kept", "the same")
	f.put("var/opt/acme/bin/kept", "the same")
	for _, program := range []string{"usr/bin/db", "usr/bin/web"} {
		f.content[program] = append(bytes.Clone(f.content[service]), "the same"...)
	}
	for path, version := range v.Files {
		if version.there {
			f.put(path, version.text)
			f.modes[path], f.owners[path] = version.mode, version.owner
		}
	}
	for name, unit := range v.Units {
		if unit.Program == 0 {
			continue
		}
		f.content["usr/bin/"+name] = append(bytes.Clone(f.content[service]), fmt.Sprint(name, unit.Program)...)
		f.put("usr/lib/systemd/system/"+name+".service", "[Service]\nExecStart=/usr/bin/"+name+"\n")
		if unit.Enabled {
			f.links[enabledLinks+name+".service"] = "../" + name + ".service"
		}
	}
	for _, path := range []string{partData, partConf} {
		if part := v.part(path); part.there {
			f.put(path, part.text)
		}
	}
	if v.Account {
		f.content["etc/passwd"] = append(bytes.Clone(f.content["etc/passwd"]), "daemon:x:990:990::/:/bin/false\n"...)
	}
	if v.Loader {
		f.content[loader] = append(bytes.Clone(f.content[loader]), 0)
	}
	return f
}

// found is what one way has led to.
type found struct {
	Answer

	report *agentapi.Report
	// was are the units before.
	was map[string]Running
}

// trial is a case with its releases.
type trial struct {
	*world
	scenario

	// alone are the layers of the new stack.
	alone  []Image
	start  disk
	before Answer
}

func newTrial(t *testing.T, w *world, s scenario) *trial {
	t.Helper()
	c := &trial{world: w, scenario: s}
	w.images, w.chain, w.last, w.lastTree, w.releases = nil, nil, nil, nil, map[string]*made{}
	w.dir = t.TempDir()
	w.kernel = oldKernel
	w.stack(t, "old", s.Old)
	if s.Full {
		w.last, w.lastTree, w.chain = nil, nil, nil
	}
	w.kernel = newKernel
	c.alone = w.stack(t, "new", s.New)

	blank := filepath.Join(t.TempDir(), "disk.img")
	disk{}.write(t, blank)
	m := w.bootAs(t, Machine{Disk: blank, Layers: w.images, Kernel: oldKernel}, "old")
	change := Order{Write: map[string]string{"/var/opt/acme-of-the-admin": "mine"}, Modes: map[string]uint32{}}
	remove := Order{Sync: true}
	for path, what := range s.Local {
		switch what {
		case written:
			change.Write["/"+path] = "here"
		case moded:
			change.Modes["/"+path] = 0o640
		case removed:
			remove.Remove = append(remove.Remove, "/"+path)
		}
	}
	if s.Account {
		text := w.base.content["etc/passwd"]
		if s.Old.Account {
			text = append(bytes.Clone(text), "daemon:x:990:990::/:/bin/false\nmine:x:991:991::/:/bin/sh\n"...)
		} else {
			text = append(bytes.Clone(text), "mine:x:990:990::/:/bin/sh\n"...)
		}
		change.Write["/etc/passwd"] = string(text)
	}
	m.carryOut(t, change)
	m.carryOut(t, remove)
	c.before = m.carryOut(t, Order{Sync: true})
	c.start = snapshot(t, blank)
	m.end(t)
	return c
}

// stack makes a release of the base and, if the variant has one, of the component on it. It returns the stack's layers.
func (w *world) stack(t *testing.T, name string, v variant) []Image {
	t.Helper()
	if v.Part == 0 {
		w.release(t, name, v.files(w.base, name))
		return slices.Clone(w.chain)
	}
	base := v
	base.Part, base.Units = 0, maps.Clone(v.Units)
	delete(base.Units, partUnit)
	w.release(t, name+" base", base.files(w.base, name))
	own := w.component(t, name, "part", v.files(w.base, name))
	return append(slices.Clone(w.chain), own)
}

// on starts a machine with a copy of a disk.
func (c *trial) on(t *testing.T, from disk, as Machine, given string) *machine {
	t.Helper()
	as.Disk = filepath.Join(t.TempDir(), "disk.img")
	from.write(t, as.Disk)
	return c.bootAs(t, as, given)
}

func (c *trial) rung() string {
	if c.New.Loader {
		return "soft_reboot"
	}
	return "live"
}

// request is the order for the refresh, by a strategy and with a policy.
func (c *trial) request(t *testing.T, strategy, left string) Order {
	t.Helper()
	return c.move(t, "old", "new", func(r *agentapi.RefreshRequest) {
		r.Strategy, r.MaxImpact = strategy, agentapi.Level_REBOOT
		if left != "" {
			r.Policy = &agentapi.UnitPolicy{Units: map[string]string{left + ".service": "report"}}
		}
	})
}

// result reads the report of an answer.
func (c *trial) result(t *testing.T, answer Answer, was map[string]Running) found {
	t.Helper()
	report := &agentapi.Report{}
	if err := proto.Unmarshal(answer.Result.Report, report); err != nil {
		t.Fatal(err)
	}
	return found{answer, report, was}
}

// refresh carries the refresh out in a machine, and leaves the machine running.
func (c *trial) refresh(t *testing.T, left string) (*machine, found) {
	t.Helper()
	m := c.on(t, c.start, Machine{Layers: c.images, Kernel: oldKernel}, "old")
	was := m.carryOut(t, Order{}).Units
	order := c.request(t, c.rung(), left)
	order.Sync = true
	got := c.result(t, m.carryOut(t, order), was)
	if !got.Result.Committed || got.report.GetStrategy() != c.rung() {
		t.Fatalf("the refresh: %v", got.report)
	}
	return m, got
}

// anew carries out the refresh by a strategy that starts another kernel: the machine ends, and
// another one starts with its disk.
func (c *trial) anew(t *testing.T, strategy string) found {
	t.Helper()
	m := c.on(t, c.start, Machine{Layers: c.images, Kernel: oldKernel}, "old")
	order := c.request(t, strategy, "")
	order.Arm = []string{failpoint.Pause + " 1 after journal starting"}
	if paused := m.carryOut(t, order); paused.Paused == "" {
		t.Fatalf("by %s: %+v", strategy, paused.Result)
	}
	at := snapshot(t, m.disk)
	m.end(t)
	as, given := Machine{Layers: c.images, Kernel: newKernel}, "new"
	if strategy == "kexec" {
		// The host knows nothing of it. Only this kernel may boot the new stack.
		as.Trial, given = boot.TrialKey(c.releases["new"].stack), "old"
	}
	m = c.on(t, at, as, given)
	defer m.end(t)
	got := c.result(t, m.carryOut(t, Order{}), nil)
	if !got.Result.Committed || got.report.GetStrategy() != strategy {
		t.Errorf("by %s: pending %q, %v", strategy, got.Result.Pending, got.report)
	}
	c.checkNextPlan(t, m, got)
	return got
}

// next starts a machine that was off with the new release.
func (c *trial) next(t *testing.T, layers []Image) found {
	t.Helper()
	m := c.on(t, c.start, Machine{Layers: layers, Kernel: newKernel}, "new")
	defer m.end(t)
	got := c.result(t, m.carryOut(t, Order{}), nil)
	c.checkNextPlan(t, m, got)
	return got
}

// file reads a file from what a machine shows.
func (f found) file(path string) version {
	for line := range strings.SplitSeq(f.Look, "\n") {
		fields := strings.SplitN(line, " ", 5)
		if len(fields) < 5 || fields[0] != "/"+path {
			continue
		}
		mode, err := strconv.ParseUint(fields[1], 8, 32)
		owner, ownerErr := strconv.ParseUint(fields[2], 10, 32)
		text, textErr := strconv.Unquote(fields[4])
		if err == nil && ownerErr == nil && textErr == nil {
			return version{true, text, uint32(mode) & 0o7777, uint32(owner)}
		}
	}
	return version{}
}

// told reports whether the report has a conflict of a path.
func (f found) told(path string) bool {
	return slices.ContainsFunc(f.report.GetConflictDetails(), func(c *agentapi.Conflict) bool {
		return c.GetPath() == "/"+path || c.GetPath() == strings.Replace("/"+path, "/var/opt/", "/opt/", 1)
	})
}

// checkFiles compares the files of a machine with those of the new release, with what was changed
// here, and with the report.
func (c *trial) checkFiles(t *testing.T, way string, got found) {
	t.Helper()
	for _, path := range osPaths {
		if is, want := got.file(path), c.New.Files[path]; is != want {
			t.Errorf("%s: %s is %v, in the release %v", way, path, is, want)
		}
	}
	for _, path := range usedPaths {
		is, was, want, local := got.file(path), c.Old.Files[path], c.New.Files[path], c.Local[path]
		switch told := got.told(path); {
		case told && local == untouched:
			t.Errorf("%s: a conflict of %s is told, which was not changed here", way, path)
		case is != want && !told && (local == untouched || was != want || strings.HasPrefix(path, "var/opt/")) &&
			!c.followsBoth(path, is):
			t.Errorf("%s: %s is %v, in the releases %v and then %v, %s here: it is not told", way,
				path, is, was, want, local)
		case local == written && strings.HasPrefix(path, "etc/") && is.text != "here":
			t.Errorf("%s: %s, which was written here, is %v", way, path, is)
		}
	}
	if is, want := got.file(partData), c.New.part(partData); is != want {
		t.Errorf("%s: %s is %v, in the component %v", way, partData, is, want)
	}
	// The configuration of a component that goes stays as it is.
	want := c.New.part(partConf)
	if c.New.Part == 0 {
		want = c.Old.part(partConf)
	}
	if is := got.file(partConf); c.Local[partConf] == untouched && is != want ||
		c.Local[partConf] == written && is.text != "here" {
		t.Errorf("%s: %s is %v, in the components %d and then %d, %s here", way, partConf, is, c.Old.Part,
			c.New.Part, c.Local[partConf])
	}
	passwd := got.file("etc/passwd").text
	if c.New.Account && !strings.Contains(passwd, "daemon:x:990:") &&
		!(strings.Contains(passwd, "daemon:x:") && got.told("etc/passwd")) {
		t.Errorf("%s: the account of the release: %q, conflicts %v", way, passwd, got.report.GetConflictDetails())
	}
	if c.Account && !strings.Contains(passwd, "mine:x:99") {
		t.Errorf("%s: the account of the machine is lost: %q", way, passwd)
	}
}

// followsBoth reports whether a file below /etc has the content and the mode that were changed here, and the
// release's where they were not, and neither was changed both here and by the release: that is no conflict.
func (c *trial) followsBoth(path string, is version) bool {
	was, want := c.Old.Files[path], c.New.Files[path]
	here := map[local]version{written: {true, "here", was.mode, was.owner},
		moded: {true, was.text, 0o640, was.owner}}[c.Local[path]]
	if !strings.HasPrefix(path, "etc/") || !was.there || !want.there || !here.there {
		return false
	}
	merged := want
	if here.text != was.text {
		if want.text != was.text {
			return false
		}
		merged.text = here.text
	}
	if here.mode != was.mode {
		if want.mode != was.mode {
			return false
		}
		merged.mode = here.mode
	}
	return is == merged
}

// checkUnits compares the units that run, and their code, with the new release and with what the agent says.
func (c *trial) checkUnits(t *testing.T, way string, got found, left string) {
	t.Helper()
	started := got.was == nil || got.report.GetStrategy() != "live"
	var restarts, starts []string
	for _, r := range got.report.GetRestarts() {
		restarts = append(restarts, r.GetUnit())
	}
	for _, s := range got.report.GetStarts() {
		if s.GetSkipped() == "" && s.GetError() == "" {
			starts = append(starts, s.GetUnit())
		}
	}
	stale := map[string]bool{}
	for _, short := range append(slices.Clone(unitNames), partUnit) {
		name := short + ".service"
		before, after := c.Old.Units[short], c.New.Units[short]
		_, ran := got.was[name]
		is, runs := got.Units[name]
		wants := after.Enabled
		if !started {
			// A refresh stops units that the release does not have, and starts those that it newly
			// enables. It does not stop units that the release only disables.
			wants = after.Program > 0 && (ran || after.Enabled && !before.Enabled)
			if short == left { // it is neither stopped nor started
				wants = ran
			}
		}
		if runs != wants {
			t.Errorf("%s: %s runs: %v; it was %+v, ran %v, and is %+v", way, name, runs, before, ran, after)
			continue
		}
		stale[name] = runs && is.Runs != is.Present
		if started {
			continue
		}
		if again := ran && runs &&
			got.was[name].PID != is.PID; again != slices.Contains(restarts, name) && after.Program > 0 {
			t.Errorf("%s: %s was restarted: %v; reported are %q", way, name, again, restarts)
		}
		if fresh := !ran && runs; fresh != slices.Contains(starts, name) {
			t.Errorf("%s: %s was started: %v; reported are %q", way, name, fresh, starts)
		}
	}
	for name, is := range stale {
		said := func(lines []string) bool {
			return slices.ContainsFunc(lines, func(line string) bool {
				return strings.HasPrefix(line, name+" ") || strings.HasPrefix(line, name+":")
			})
		}
		if is != said(got.Result.Remaining) {
			t.Errorf("%s: %s runs old code: %v; the status has %q", way, name, is, got.Result.Remaining)
		}
		if !started && is != said(got.report.GetRemaining()) {
			t.Errorf("%s: %s runs old code: %v; the report has %q", way, name, is, got.report.GetRemaining())
		}
		if is && name != left+".service" {
			t.Errorf("%s: %s runs old code", way, name)
		}
	}
}

// checkNextPlan compares the plan of the next refresh with the code that is mapped: back to the old release.
func (c *trial) checkNextPlan(t *testing.T, m *machine, got found) {
	t.Helper()
	request, err := proto.Marshal(&agentapi.AssessRequest{
		Target: &agentapi.Target{From: c.releases["new"].signed, To: c.releases["old"].signed}, Strategy: "live",
	})
	if err != nil {
		t.Fatal(err)
	}
	order := c.move(t, "new", "old", nil)
	planned := &agentapi.Impact{}
	if err := proto.Unmarshal(m.carryOut(t, Order{Assess: request, Blobs: order.Blobs}).Result.Impact,
		planned); err != nil {
		t.Fatal(err)
	}
	for _, short := range append(slices.Clone(unitNames), partUnit) {
		name := short + ".service"
		is, runs := got.Units[name]
		old := is.Runs != is.Present
		changes := c.Old.Units[short].Program != c.New.Units[short].Program
		plans := slices.ContainsFunc(planned.GetUnits(),
			func(u *agentapi.UnitImpact) bool { return u.GetUnit() == name })
		if runs && plans != (changes || old || c.New.Loader) {
			t.Errorf("%s runs old code: %v, and its program changes: %v; the next plan has %v", name, old,
				changes, planned.GetUnits())
		}
	}
}

// For random releases and local changes, what the report, the state and the next plan say is true,
// and each way to a release leads to the same result.
func TestWhatIsSaidIsWhatIsFound(t *testing.T) {
	w := emptyWorld(t)
	for seed := range cases {
		s := scenarios.Example(seed + 1)
		t.Run(fmt.Sprint("case ", seed+1), func(t *testing.T) {
			c := newTrial(t, w, s)
			m, refreshed := c.refresh(t, "")
			at := snapshot(t, m.disk)
			c.checkNextPlan(t, m, refreshed)
			m.end(t)
			kernelLine := func(lines []string) bool {
				return len(lines) == 1 && strings.Contains(lines[0], oldKernel) && strings.Contains(lines[0], newKernel)
			}
			if !kernelLine(refreshed.Result.Pending) {
				t.Errorf("after the refresh: pending is %q", refreshed.Result.Pending)
			}
			ways := map[string]found{
				"a kexec": c.anew(t, "kexec"), "a start by the host": c.anew(t, "reboot"),
				"the next start": c.next(t, c.images), "a start with the new layers alone": c.next(t, c.alone),
			}
			m = c.on(t, at, Machine{Layers: c.images, Kernel: newKernel}, "new")
			again := c.result(t, m.carryOut(t, Order{}), nil)
			m.end(t)
			for name, got := range ways {
				if lines := difference(withoutJournal(again.Look), withoutJournal(got.Look)); lines != "" {
					t.Errorf("%s: not as after a refresh and a start:\n%s", name, lines)
				}
				if len(got.Result.Pending)+len(got.Result.Remaining) > 0 {
					t.Errorf("%s: pending is %q, remaining %q", name, got.Result.Pending, got.Result.Remaining)
				}
				c.checkFiles(t, name, got)
				c.checkUnits(t, name, got, "")
			}
			c.checkFiles(t, "the refresh", refreshed)
			c.checkUnits(t, "the refresh", refreshed, "")
			if s.Report != "" && !s.New.Loader {
				m, left := c.refresh(t, s.Report)
				c.checkFiles(t, "a refresh with a policy", left)
				c.checkUnits(t, "a refresh with a policy", left, s.Report)
				c.checkNextPlan(t, m, left)
				m.end(t)
			}
		})
	}
}

// withoutJournal leaves out the records of a refresh, of which there are none before the first one.
func withoutJournal(look string) string {
	lines := slices.DeleteFunc(strings.Split(look, "\n"), func(line string) bool {
		return line == "state: journal" || line == "state: request.pb"
	})
	return strings.Join(lines, "\n")
}
