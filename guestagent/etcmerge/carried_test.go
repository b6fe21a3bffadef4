package etcmerge

import (
	"errors"
	"fmt"
	"maps"
	"math"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// content returns what a tree has at a path, without mode and owner; "" if there is nothing.
func contentOf(found map[string]string, name string) string {
	_, text, _ := strings.Cut(found[name], " ")
	_, text, _ = strings.Cut(text, " ")
	return text
}

// asides returns the contents of all replaced files that are kept, by path below their set.
func (v vm) asides(t tb) map[string]string {
	kept := map[string]string{}
	for name := range read(t, filepath.Dir(v.Record)) {
		if rest, ok := strings.CutPrefix(name, replacedName+"/"); ok {
			if _, rest, ok = strings.Cut(rest, "/"); ok {
				kept[rest] = contentOf(read(t, filepath.Dir(v.Record)), name)
			}
		}
	}
	maps.DeleteFunc(kept, func(_, text string) bool { return text == "" })
	return kept
}

// Where the release changed a path below /opt or /usr/local, the release wins, and this VM's version is kept aside.
func TestFilesOfTheOSFollowTheRelease(t *testing.T) {
	const acmed = "var/opt/acme/acmed"
	for name, test := range map[string]struct {
		old, live, next files
		want            files
		aside           files
		conflicts       int
	}{
		"a patch": {files{acmed: "1.0"}, files{acmed: "1.0"}, files{acmed: "2.0"}, files{acmed: "2.0"}, nil, 0},
		"a local change": {files{acmed: "1.0"}, files{acmed: "mine"}, files{acmed: "2.0"},
			files{acmed: "2.0"}, files{"opt/acme/acmed": "mine"}, 1},
		"a local change alone": {files{acmed: "1.0"}, files{acmed: "mine"}, files{acmed: "1.0"},
			files{acmed: "mine"}, nil, 1},
		"the same change": {files{acmed: "1.0"}, files{acmed: "2.0"}, files{acmed: "2.0"},
			files{acmed: "2.0"}, nil, 0},
		"a local deletion":       {files{acmed: "1.0"}, files{}, files{acmed: "2.0"}, files{acmed: "2.0"}, nil, 1},
		"a local deletion alone": {files{acmed: "1.0"}, files{}, files{acmed: "1.0"}, files{acmed: ""}, nil, 1},
		"a file of the VM": {files{acmed: "1.0"}, files{acmed: "1.0", "var/opt/acme/own": "mine"},
			files{acmed: "2.0"}, files{acmed: "2.0", "var/opt/acme/own": "mine"}, nil, 0},
		"a new file": {files{}, files{}, files{acmed: "2.0"}, files{acmed: "2.0"}, nil, 0},
		"a new file that is here": {files{}, files{acmed: "mine"}, files{acmed: "2.0"}, files{acmed: "2.0"},
			files{"opt/acme/acmed": "mine"}, 1},
		"a removal": {files{acmed: "1.0"}, files{acmed: "1.0"}, files{}, files{acmed: "", "var/opt/acme": ""}, nil, 0},
		"a removal of a changed file": {files{acmed: "1.0"}, files{acmed: "mine"}, files{}, files{acmed: ""},
			files{"opt/acme/acmed": "mine"}, 1},
		"a removal beside a VM's file": {files{acmed: "1.0"}, files{acmed: "1.0", "var/opt/acme/own": "mine"}, files{},
			files{acmed: "", "var/opt/acme/own": "mine"}, nil, 0},
		"a script in /usr/local": {files{"var/usrlocal/bin/x": "1"}, files{"var/usrlocal/bin/x": "mine"},
			files{"var/usrlocal/bin/x": "2"}, files{"var/usrlocal/bin/x": "2"}, files{"usr/local/bin/x": "mine"}, 1},
		"a link for a file": {files{acmed: "1.0"}, files{acmed: "mine"}, files{acmed: "-> /usr/bin/acmed"},
			files{acmed: "-> /usr/bin/acmed"}, files{"opt/acme/acmed": "mine"}, 1},
		"a file for a directory": {files{"var/opt/acme/d/x": "1"}, files{"var/opt/acme/d/x": "1"},
			files{"var/opt/acme/d": "2"}, files{"var/opt/acme/d": "2"}, nil, 0},
		"a file for a VM's directory": {files{acmed: "1.0"}, files{"var/opt/acme/acmed/own": "mine"}, files{acmed: "2.0"},
			files{acmed: "2.0"}, files{"opt/acme/acmed/own": "mine"}, 1},
		"a directory for a VM's file": {files{acmed: "1.0"}, files{acmed: "mine"}, files{acmed + "/x": "2.0"},
			files{acmed + "/x": "2.0"}, files{"opt/acme/acmed": "mine"}, 1},
		"a link of the VM in its place": {files{acmed: "1.0"}, files{"var/opt/acme": "-> /srv/acme"}, files{acmed: "2.0"},
			files{"var/opt/acme": "-> /srv/acme"}, nil, 1},
		"/opt itself is gone": {files{acmed: "1.0"}, files{"var/x": ""}, files{acmed: "2.0", "var/x": ""},
			files{acmed: "2.0"}, nil, 1},
		"a program with a library added": {files{acmed: "1.0"}, files{acmed: "1.0"},
			files{acmed: "2.0", "var/opt/acme/lib/deep/so": "2"}, files{"var/opt/acme/lib/deep/so": "2"}, nil, 0},
	} {
		t.Run(name, func(t *testing.T) {
			v := newVM(t, t.TempDir(), test.old, test.live, test.next)
			v.To = "0123456789abcdef"
			before := read(t, v.Root)
			outcome := v.carry(t)
			after := read(t, v.Root)
			for path, want := range test.want {
				if got := contentOf(after, path); got != want {
					t.Errorf("%s is %q, want %q", path, got, want)
				}
			}
			if diff := cmp.Diff(map[string]string(test.aside), v.asides(t)); diff != "" &&
				len(test.aside)+len(v.asides(t)) > 0 {
				t.Errorf("kept aside (want -, got +):\n%s", diff)
			}
			if len(outcome.Conflicts) != test.conflicts {
				t.Errorf("conflicts %+v, want %d", outcome.Conflicts, test.conflicts)
			}
			for _, conflict := range outcome.Conflicts {
				if len(test.aside) > 0 && !strings.Contains(conflict.Reason, filepath.Dir(v.Record)+"/replaced/") {
					t.Errorf("%s does not say where this VM's version is", conflict)
				}
			}
			must(t, v.Undo(t.Context()))
			if diff := cmp.Diff(before, read(t, v.Root)); diff != "" {
				t.Errorf("after the undo (want -, got +):\n%s", diff)
			}
			if kept := v.asides(t); len(kept) > 0 {
				t.Errorf("still kept aside after the undo: %v", kept)
			}
		})
	}
}

// What the VM's configuration owns stays, whatever the release has there.
func TestAKeptFileBelowOptStays(t *testing.T) {
	const own, other = "var/usrlocal/bin/own", "var/opt/acme/other"
	for name, next := range map[string]files{
		"changed": {own: "2", other: "2"}, "removed": {other: "2"}, "unchanged": {own: "1", other: "2"},
	} {
		t.Run(name, func(t *testing.T) {
			v := newVM(t, t.TempDir(), files{own: "1", other: "1"}, files{own: "configured", other: "1"}, next)
			v.Keep = []string{"/" + own}
			outcome := v.carry(t)
			if after := read(t, v.Root); contentOf(after, own) != "configured" || contentOf(after, other) != "2" ||
				len(outcome.Conflicts) != 0 {
				t.Errorf("it has %q and %q, and tells %+v", contentOf(after, own),
					contentOf(after, other), outcome.Conflicts)
			}
		})
	}
}

// Files below /opt may be larger than the memory of a small VM: neither the new version nor the saved one is read into
// memory.
func TestALargeFileIsNotHeldInMemory(t *testing.T) {
	const size = 256 << 20
	v := newVM(t, t.TempDir(), files{"var/opt/model": "1"}, files{"var/opt/model": "1"}, files{"var/opt/model": "2"})
	for _, name := range []string{v.old, v.Root, v.new} {
		must(t, os.Truncate(name+"/var/opt/model", size))
	}
	old, all := listed(t, v.old), differences(t, v.old, v.new)
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	_, err := v.Carry(t.Context(), old, all, v.new)
	must(t, err)
	must(t, v.Undo(t.Context()))
	runtime.ReadMemStats(&after)
	if took := after.TotalAlloc - before.TotalAlloc; took > 8<<20 {
		t.Errorf("it allocated %d bytes for a file of %d", took, size)
	}
	if data, err := os.ReadFile(v.Root + "/var/opt/model"); err != nil || len(data) != size || data[0] != '1' {
		t.Errorf("after the undo it has %d bytes, %v", len(data), err)
	}
}

func TestACarryWithoutRoomChangesNothing(t *testing.T) {
	v := newVM(t, t.TempDir(), files{"var/opt/acme": "1", "etc/a": "1"}, files{"var/opt/acme": "1", "etc/a": "1"},
		files{"var/opt/acme": "2", "etc/a": "2"})
	all := differences(t, v.old, v.new)
	for i := range all {
		if all[i].Path == "var/opt/acme" {
			all[i].New.Size = 1 << 60
		}
	}
	before := read(t, filepath.Dir(v.Root))
	for what, act := range map[string]func() error{
		"the check": func() error { return v.Room(all) },
		"the carry": func() error { _, err := v.Carry(t.Context(), listed(t, v.old), all, v.new); return err },
	} {
		if err := act(); !errors.Is(err, ErrRoom) || !strings.Contains(err.Error(), "115292150460684697") {
			t.Errorf("%s says %v", what, err)
		}
		if diff := cmp.Diff(before, read(t, filepath.Dir(v.Root))); diff != "" {
			t.Errorf("%s changed something (want -, got +):\n%s", what, diff)
		}
	}
}

func TestOnlyTheNewestReplacedFilesAreKept(t *testing.T) {
	v := newVM(t, t.TempDir(), files{"var/opt/x": "0"}, files{"var/opt/x": "mine 0"}, files{"var/opt/x": "1"})
	for i := 1; i <= maxReplaced+2; i++ {
		v.carry(t)
		must(t, v.Settle(""))
		must(t, os.WriteFile(v.Root+"/var/opt/x", []byte(fmt.Sprint("mine ", i)), 0o644))
		v.old = v.new
		v.new = filepath.Join(t.TempDir(), "next")
		files{"etc/": "", "var/opt/x": fmt.Sprint(i + 1)}.write(t, v.new)
	}
	sets, err := os.ReadDir(v.replaced())
	must(t, err)
	if len(sets) != maxReplaced {
		t.Errorf("%d sets are kept, want %d", len(sets), maxReplaced)
	}
	data, err := os.ReadFile(filepath.Join(v.replaced(), sets[len(sets)-1].Name(), "opt/x"))
	if want := fmt.Sprint("mine ", maxReplaced+1); err != nil || string(data) != want {
		t.Errorf("the newest is %q (%v), want %q", data, err, want)
	}
}

// What an agent that did not carry these files has left is made up for by the first carry of one that does.
func TestFilesOfTheOSFromAnUnknownReleaseFollowToo(t *testing.T) {
	old := files{"var/opt/acmed": "2", "var/opt/same": "1", "var/opt/new": "2", "etc/a": "2"}
	v := newVM(t, t.TempDir(), old,
		files{"var/opt/acmed": "1", "var/opt/same": "1", "var/opt/own": "1", "etc/a": "2"}, old)
	v.From, v.To = "2", "2"
	baseline := listed(t, v.old)
	baseline.Partial = true
	stale := func(want ...string) {
		t.Helper()
		if files, err := v.Stale(baseline); err != nil || !slices.Equal(files, want) {
			t.Errorf("outdated are %q, %v, want %q", files, err, want)
		}
	}
	stale("/opt/acmed", "/opt/new")
	outcome, err := v.CarryFrom(t.Context(), baseline, nil, v.new)
	must(t, err)
	stale()
	found := read(t, v.Root)
	for name, want := range map[string]string{"var/opt/acmed": "2", "var/opt/same": "1", "var/opt/new": "2",
		"var/opt/own": "1", "etc/a": "2"} {
		if got := contentOf(found, name); got != want {
			t.Errorf("%s is %q, want %q", name, got, want)
		}
	}
	if len(outcome.Conflicts) != 1 || outcome.Conflicts[0].Kind != Replaced || outcome.Carried != 2 {
		t.Errorf("%+v", outcome)
	}
	must(t, v.Settle("2"))
	settled, err := v.Baseline()
	if err != nil || settled.Partial || settled.Stack != "2" || settled.Digest() != listed(t, v.new).Digest() {
		t.Errorf("the baseline is %+v, %v", settled, err)
	}
}

// A boot that failed to carry leaves /etc at a stack before the one that runs. The next refresh
// starts from there: what the product had then does not count as this VM's.
func TestARefreshStartsFromTheStackAtWhichEtcStands(t *testing.T) {
	for name, test := range map[string]struct {
		shape     func(*Baseline)
		to        string
		want      string
		conflicts int
	}{
		"it is known": {func(*Baseline) {}, "three", "3", 0},
		"it is not known": {func(b *Baseline) { *b = Baseline{Stack: "one", Unlisted: true} }, "three",
			"1", 1},
		"it is not known, but the target": {func(b *Baseline) { *b = Baseline{Stack: "one", Unlisted: true} }, "one", "1", 0},
	} {
		t.Run(name, func(t *testing.T) {
			one, two, three := files{"etc/a": "1", "var/opt/a": "1"}, files{"etc/a": "2", "var/opt/a": "2"},
				files{"etc/a": "3", "var/opt/a": "3"}
			v := newVM(t, t.TempDir(), one, one, map[string]files{"one": one, "three": three}[test.to])
			baseline := listed(t, v.old)
			baseline.Stack = "one"
			test.shape(baseline)
			must(t, v.WriteBaseline(baseline))
			running := filepath.Join(t.TempDir(), "two")
			two.write(t, running)
			v.From, v.To = "two", test.to
			found, err := v.Baseline()
			must(t, err)
			outcome, err := v.CarryFrom(t.Context(), found, differences(t, running, v.new), v.new)
			must(t, err)
			after := read(t, v.Root)
			if got := contentOf(after, "etc/a"); got != test.want {
				t.Errorf("/etc/a is %q, want %q", got, test.want)
			}
			if got, want := contentOf(after, "var/opt/a"), contentOf(read(t, v.new), "var/opt/a"); got != want {
				t.Errorf("/opt/a is %q, want %q", got, want)
			}
			etc := slices.DeleteFunc(outcome.Conflicts,
				func(c Conflict) bool { return !strings.HasPrefix(c.Path, "etc/") })
			if len(etc) != test.conflicts {
				t.Errorf("conflicts %+v, want %d", etc, test.conflicts)
			}
			must(t, v.Settle(test.to))
			settled, err := v.Baseline()
			if known := test.conflicts == 0; err != nil || settled.Unlisted == known ||
				known && settled.Stack != test.to {
				t.Errorf("the baseline is then %+v, %v", settled, err)
			}
		})
	}
}

// A baseline is used only if it is whole.
func TestABaselineThatWasTornOrForgedIsNone(t *testing.T) {
	v := newVM(t, t.TempDir(),
		files{"etc/passwd": "root:x:0:0::/:\n", "etc/a": "1", "etc/link": "-> a", "var/opt/x": "1",
			"root/.profile": "1"}, nil, nil)
	must(t, unix.Setxattr(v.old+"/etc/a", "user.note", []byte("a b\x00"), 0))
	baseline := listed(t, v.old)
	must(t, v.WriteBaseline(baseline))
	again, err := v.Baseline()
	must(t, err)
	if again.Digest() != baseline.Digest() || len(again.Differences(baseline)) > 0 || again.Stack != baseline.Stack {
		t.Errorf("it is read as %+v", again)
	}
	path := v.baselinePath()
	whole, err := os.ReadFile(path)
	must(t, err)
	forge := func(body string) []byte {
		return []byte(baselineMagic + tree.Sum([]byte(body)).Hex() + "\n" + body)
	}
	for name, data := range map[string][]byte{
		"empty":             nil,
		"cut off":           whole[:len(whole)/2],
		"a bit flipped":     append(slices.Clone(whole[:len(whole)-3]), 'X', whole[len(whole)-2], whole[len(whole)-1]),
		"of another format": []byte(strings.Replace(string(whole), "baseline 1", "baseline 9", 1)),
		"without a list":    forge("{}\n"),
		"no object":         forge("[]\nsharedos-contents 1\n"),
		"of the OS's files": forge("{}\nsharedos-contents 1\nd 755 0 0 .\nd 755 0 0 usr/bin\nend 2\n"),
		"with a bad path":   forge("{}\nsharedos-contents 1\nd 755 0 0 .\nd 755 0 0 etc/../../x\nend 2\n"),
	} {
		must(t, os.WriteFile(path, data, 0o600))
		if b, err := v.Baseline(); !errors.Is(err, ErrBaseline) {
			t.Errorf("%s: %+v, %v", name, b, err)
		}
	}
	must(t, os.Remove(path))
	if _, err := v.Baseline(); !errors.Is(err, ErrBaseline) {
		t.Errorf("without one: %v", err)
	}
}

// An agent of an earlier version, which knows no baseline, may have carried since.
func TestABaselineFromBeforeAnotherVersionsCarryIsNone(t *testing.T) {
	v := newVM(t, t.TempDir(), files{"etc/a": "1"}, files{"etc/a": "1"}, files{"etc/a": "2"})
	must(t, v.WriteBaseline(listed(t, v.old)))
	v.From, v.To = "old", "new"
	v.carry(t)
	must(t, os.Remove(filepath.Join(v.Record, baselineName)))
	must(t, v.Settle("new"))
	if b, err := v.Baseline(); !errors.Is(err, ErrBaseline) {
		t.Errorf("%+v, %v", b, err)
	}
	must(t, v.WriteBaseline(listed(t, v.new)))
	if b, err := v.Baseline(); err != nil || b.Stack != "new" {
		t.Errorf("once it is made again: %+v, %v", b, err)
	}
}

// A power cut between the two renames that settle a carry leaves the new baseline in the record.
func TestTheBaselineOfASettledCarryIsFoundBeforeItIsInItsPlace(t *testing.T) {
	v := newVM(t, t.TempDir(), files{"etc/a": "1"}, files{"etc/a": "1"}, files{"etc/a": "2"})
	must(t, v.WriteBaseline(listed(t, v.old)))
	v.From, v.To = "old", "new"
	v.carry(t)
	if b, err := v.Baseline(); err != nil || b.Stack != "old" {
		t.Errorf("before the carry is settled: %+v, %v", b, err)
	}
	must(t, os.Rename(v.Record, v.Record+settledSuffix))
	for range 2 {
		if b, err := v.Baseline(); err != nil || b.Stack != "new" {
			t.Errorf("while the carry is settled: %+v, %v", b, err)
		}
		must(t, v.Settle("new"))
	}
	if _, err := os.Stat(v.Record + settledSuffix + "/" + baselineName); !os.IsNotExist(err) {
		t.Errorf("it is still in the record: %v", err)
	}
}

// drawSystem draws a small tree of all that a carry looks at.
func drawSystem(t *rapid.T, label string) files {
	f := files{"etc/passwd": "root:x:0:0::/root:/bin/sh\n"}
	for _, name := range rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"a", "d/x", "d/y", "e/x"}), 0, 4,
		rapid.ID[string]).Draw(t, label) {
		for _, top := range []string{"etc/", "var/opt/", "var/usrlocal/", "var/lib/p/"} {
			if rapid.Bool().Draw(t, top) {
				f[top+name] = rapid.SampledFrom([]string{"1", "2", "-> 1"}).Draw(t, "content")
			}
		}
	}
	if rapid.Bool().Draw(t, label+" account") {
		f["etc/passwd"] += rapid.SampledFrom([]string{"a:x:1:1::/:\n", "a:x:2:2::/:\n", "b:x:1:1::/:\n"}).Draw(t,
			"account")
	}
	return f
}

// booted is the root that a boot of the new release shows: /etc is an overlay, so that paths that
// this VM has left alone are the new release's already. What is below /var is on the private disk.
func booted(old, live, next files) files {
	is := func(f files, name string) string { return f[name] }
	root := files{}
	for _, f := range []files{old, live, next} {
		for name := range f {
			text := is(live, name)
			if strings.HasPrefix(name, "etc/") && is(old, name) == text {
				text = is(next, name)
			}
			if text != "" {
				root[name] = text
			}
		}
	}
	return root
}

// mustReport fails unless each path that the release changed, and that this VM does not have as the release has it, is
// reported.
func mustReport(t tb, v vm, outcome Outcome) {
	t.Helper()
	here, there := read(t, v.Root), read(t, v.new)
	for _, d := range differences(t, v.old, v.new) {
		if d.Path == passwdPath || tree.OwnerOf(d.Path) == tree.OwnedByVM || here[d.Path] == there[d.Path] {
			continue
		}
		if !slices.ContainsFunc(outcome.Conflicts, func(c Conflict) bool { return c.Path == d.Path }) {
			t.Fatal(d.Path, "is", here[d.Path], "here and", there[d.Path], "in the release, which is not reported")
		}
	}
}

// A boot of a stack ends with what a live refresh to it ends with, whatever this VM has changed.
func TestABootCarriesAsALiveRefresh(t *testing.T) {
	directory := t.TempDir()
	count := 0
	rapid.Check(t, func(t *rapid.T) {
		count++
		at := filepath.Join(directory, fmt.Sprint(count))
		old, next := drawSystem(t, "old"), drawSystem(t, "new")
		live := maps.Clone(old)
		for name, text := range drawSystem(t, "changed here") {
			if rapid.Bool().Draw(t, "change "+name) {
				live[name] = text
			}
		}
		for _, name := range slices.Sorted(maps.Keys(old)) {
			if name != "etc/passwd" && rapid.IntRange(0, 4).Draw(t, "delete "+name) == 0 {
				delete(live, name)
			}
		}
		// Directories do not differ in this property: overlayfs's rules for them are the kernel's.
		for _, f := range []files{old, live, next} {
			for _, top := range []string{"etc", "var/opt", "var/usrlocal", "var/lib/p"} {
				f[top+"/d/keep"], f[top+"/e/keep"] = "1", "1"
			}
		}
		refreshed := newVM(t, at+"/live", old, live, next)
		refreshed.From, refreshed.To = "old", "new"
		refreshed.sync = syncer{one: func(*os.Root, string) error { return nil }}
		must(t, refreshed.WriteBaseline(listed(t, refreshed.old)))
		first := refreshed.carry(t)
		must(t, refreshed.Settle("new"))

		started := newVM(t, at+"/boot", old, booted(old, live, next), next)
		started.From, started.To, started.sync = "old", "new", refreshed.sync
		must(t, started.WriteBaseline(listed(t, started.old)))
		baseline, err := started.Baseline()
		must(t, err)
		started.Upper = at + "/boot/upper"
		for name, text := range live {
			if strings.HasPrefix(name, "etc/") && old[name] != text {
				files{name: text}.write(t, started.Upper)
			}
		}
		must(t, os.RemoveAll(started.old)) // no layer of the old stack is attached
		second, err := started.Carry(t.Context(), baseline, baseline.Differences(listed(t, started.new)), started.new)
		must(t, err)
		must(t, started.Settle("new"))

		if diff := cmp.Diff(read(t, refreshed.Root), read(t, started.Root)); diff != "" {
			t.Errorf("a live refresh -, a boot +:\n%s", diff)
		}
		if diff := cmp.Diff(refreshed.asides(t), started.asides(t)); diff != "" {
			t.Errorf("kept aside by a live refresh -, a boot +:\n%s", diff)
		}
		mustReport(t, refreshed, first)
		kinds := func(outcome Outcome) (all []string) {
			for _, c := range outcome.Conflicts {
				all = append(all, c.Path+" "+string(c.Kind))
			}
			return all
		}
		if diff := cmp.Diff(kinds(first), kinds(second)); diff != "" {
			t.Errorf("conflicts of a live refresh -, a boot +:\n%s", diff)
		}
		one, err := refreshed.Baseline()
		must(t, err)
		two, err := started.Baseline()
		must(t, err)
		if one.Digest() != two.Digest() || one.Stack != two.Stack || len(one.Differences(two)) > 0 {
			t.Errorf("the baselines differ: %+v", one.Differences(two))
		}
	})
}

// A file of the release that was changed here and not by the release stays, and is reported. One of
// the same size that was not touched since the last carry is read as long as that does not take long.
func TestWhatWasChangedHereAloneIsTold(t *testing.T) {
	const acmed = "var/opt/acme/acmed"
	v := newVM(t, t.TempDir(), files{acmed: "1.0"}, files{acmed: "0.9"}, files{acmed: "1.0"})
	outcome := v.carry(t)
	if len(outcome.Conflicts) != 1 || outcome.Conflicts[0].Kind != Kept ||
		outcome.Conflicts[0].File() != "/opt/acme/acmed" {
		t.Errorf("%+v", outcome.Conflicts)
	}
	v.Keep = []string{"/var/opt/acme/*"}
	if outcome := v.carry(t); len(outcome.Conflicts) > 0 {
		t.Errorf("a pinned file: %+v", outcome.Conflicts)
	}
	live, err := os.OpenRoot(v.Root)
	must(t, err)
	defer func() { must(t, live.Close()) }()
	old := listed(t, v.old)
	p := newPlanner(v.Carrier, live, old, live)
	at := slices.IndexFunc(old.entries, func(e tree.Entry) bool { return e.Path == acmed })
	info, err := live.Stat(acmed)
	must(t, err)
	touched := changeTime(info)
	for _, test := range []struct {
		since, left int64
		same        bool
	}{{touched + 1, 0, true}, {touched + 1, 3, false}, {touched, 0, false}, {0, 0, false}} {
		if same, err := p.asReleased(&old.entries[at], test.since, &test.left); err != nil || same != test.same {
			t.Errorf("since %d, %d bytes left: the same %v, %v", test.since-touched, test.left, same, err)
		}
	}
	must(t, os.WriteFile(v.Root+"/"+acmed, []byte("another size"), 0o600))
	left := int64(0)
	if same, err := p.asReleased(&old.entries[at], math.MaxInt64, &left); err != nil || same {
		t.Errorf("another size: the same %v, %v", same, err)
	}
}
