package etcmerge

import (
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// bind mounts a file or directory over another until the test ends or the mount is removed.
func bind(t *testing.T, source, target string) (remove func()) {
	t.Helper()
	must(t, unix.Mount(source, target, "", unix.MS_BIND, ""))
	removed := false
	remove = func() {
		if !removed {
			removed = true
			must(t, unix.Unmount(target, unix.MNT_DETACH))
		}
	}
	t.Cleanup(remove)
	return remove
}

// immutableFlag is FS_IMMUTABLE_FL (Linux, include/uapi/linux/fs.h).
const immutableFlag = 0x10

// immutable sets or clears the immutable flag (chattr(1)) of a file. It reports false where the file system has none.
func immutable(t *testing.T, name string, set bool) bool {
	t.Helper()
	file, err := os.Open(name)
	must(t, err)
	defer func() { must(t, file.Close()) }()
	flags, err := unix.IoctlGetInt(int(file.Fd()), unix.FS_IOC_GETFLAGS)
	if err != nil {
		return false
	}
	flags &^= immutableFlag
	if set {
		flags |= immutableFlag
	}
	return unix.IoctlSetPointerInt(int(file.Fd()), unix.FS_IOC_SETFLAGS, flags) == nil
}

// One path that cannot be written is reported, the others are carried, and the path is tried again by the next carry,
// although the releases do not differ in it any more.
func TestOnePathThatCannotBeWrittenBlocksNoOther(t *testing.T) {
	old := files{
		"etc/a": "1", "etc/d/x": "1", "etc/z": "1", "var/opt/acme/x": "1", "var/usrlocal/bin/x": "1",
		"etc/passwd": "root:x:0:0::/root:/bin/sh\n",
	}
	next := files{
		"etc/a": "2", "etc/d/x": "2", "etc/z": "2", "var/opt/acme/x": "2", "var/usrlocal/bin/x": "2",
		"etc/passwd": "root:x:0:0::/root:/bin/sh\nsshd:x:990:990::/:\n",
	}
	for name, test := range map[string]struct {
		path  string
		kind  Kind
		block func(t *testing.T, v vm) (unblock func())
	}{
		"a bind mount over a file": {"etc/a", Mounted, func(t *testing.T, v vm) func() {
			must(t, os.WriteFile(v.Root+"/other", []byte("1"), 0o644))
			return bind(t, v.Root+"/other", v.Root+"/etc/a")
		}},
		"a bind mount over a directory": {"etc/d/x", Mounted, func(t *testing.T, v vm) func() {
			must(t, os.MkdirAll(v.Root+"/other", 0o755))
			must(t, os.WriteFile(v.Root+"/other/x", []byte("1"), 0o644))
			return bind(t, v.Root+"/other", v.Root+"/etc/d")
		}},
		"a bind mount over a directory below /opt": {"var/opt/acme/x", Mounted, func(t *testing.T, v vm) func() {
			must(t, os.MkdirAll(v.Root+"/other", 0o755))
			must(t, os.WriteFile(v.Root+"/other/x", []byte("1"), 0o644))
			return bind(t, v.Root+"/other", v.Root+"/var/opt/acme")
		}},
		"a file system over a directory below /opt": {"var/opt/acme/x", Mounted, func(t *testing.T, v vm) func() {
			target := v.Root + "/var/opt/acme"
			must(t, unix.Mount("tmpfs", target, "tmpfs", 0, ""))
			mounted := true
			unmount := func() {
				if mounted {
					mounted = false
					must(t, unix.Unmount(target, unix.MNT_DETACH))
				}
			}
			t.Cleanup(unmount)
			must(t, os.WriteFile(target+"/x", []byte("1"), 0o644))
			return unmount
		}},
		"a bind mount over a file below /usr/local": {"var/usrlocal/bin/x", Mounted, func(t *testing.T, v vm) func() {
			must(t, os.WriteFile(v.Root+"/other", []byte("1"), 0o644))
			return bind(t, v.Root+"/other", v.Root+"/var/usrlocal/bin/x")
		}},
		"a bind mount over passwd": {"etc/passwd", Mounted, func(t *testing.T, v vm) func() {
			must(t, os.WriteFile(v.Root+"/other", []byte(old["etc/passwd"]), 0o644))
			return bind(t, v.Root+"/other", v.Root+"/etc/passwd")
		}},
		"an immutable file": {"etc/a", Protected, func(t *testing.T, v vm) func() {
			if !immutable(t, v.Root+"/etc/a", true) {
				t.Fatal("the file system of the test has no immutable files")
			}
			cleared := false
			clearFlag := func() {
				if !cleared {
					cleared = immutable(t, v.Root+"/etc/a", false)
				}
			}
			t.Cleanup(clearFlag)
			return clearFlag
		}},
		"a directory": {"etc/a", OtherType, func(t *testing.T, v vm) func() {
			must(t, os.Remove(v.Root+"/etc/a"))
			must(t, os.Mkdir(v.Root+"/etc/a", 0o755))
			return func() { must(t, os.Remove(v.Root+"/etc/a")) }
		}},
		"a socket": {"etc/a", OtherType, func(t *testing.T, v vm) func() {
			must(t, os.Remove(v.Root+"/etc/a"))
			must(t, unix.Mknod(v.Root+"/etc/a", unix.S_IFSOCK|0o600, 0))
			return func() { must(t, os.Remove(v.Root+"/etc/a")) }
		}},
	} {
		t.Run(name, func(t *testing.T) {
			v := newVM(t, t.TempDir(), old, old, next)
			unblock := test.block(t, v)
			before := read(t, v.Root)
			check := func(when string, others string, conflicts []Conflict) {
				t.Helper()
				got := read(t, v.Root)
				for path := range old {
					if want := map[bool]string{true: old[path], false: next[path]}[others == "1"]; path != test.path &&
						!strings.HasSuffix(got[path], want) {
						t.Errorf("%s: %s is %q", when, path, got[path])
					}
				}
				if got[test.path] != before[test.path] {
					t.Errorf("%s: %s is %q", when, test.path, got[test.path])
				}
				if others == "2" && !slices.ContainsFunc(conflicts, func(c Conflict) bool {
					return c.Path == test.path && c.Kind == test.kind && c.Advice() != ""
				}) {
					t.Errorf("%s: conflicts %+v", when, conflicts)
				}
			}
			check("after a carry", "2", v.carry(t).Conflicts)
			must(t, v.Undo(t.Context()))
			check("after its undo", "1", nil)
			outcome := v.carry(t)
			check("after another carry", "2", outcome.Conflicts)
			must(t, v.Settle("2"))
			if !v.left(t) {
				t.Error("nothing is left to carry")
			}
			unblock()
			v.old = v.new // the next release has nothing new
			if outcome := v.carry(t); len(outcome.Conflicts) > 0 {
				t.Errorf("when nothing is in the way: %+v", outcome)
			}
			got := read(t, v.Root)
			for path, want := range next {
				if !strings.HasSuffix(got[path], want) {
					t.Errorf("when nothing is in the way, %s is %q, want %q", path, got[path], want)
				}
			}
			if v.left(t) {
				t.Error("something is left to carry")
			}
		})
	}
}

// A damaged list of deferred paths is reported and blocks no carry.
func TestADamagedListOfDeferredPathsIsReportedAndBlocksNothing(t *testing.T) {
	for name, damage := range map[string]func(t *testing.T, v vm){
		"no JSON": func(t *testing.T,
			v vm) {
			must(t, os.WriteFile(v.deferredPath(), []byte("[{"), 0o600))
		},
		"no JSON, of an earlier version": func(t *testing.T,
			v vm) {
			must(t, os.WriteFile(v.Root+"/"+formerPath, []byte("[{"), 0o600))
		},
		"a directory where it was": func(t *testing.T,
			v vm) {
			must(t, os.MkdirAll(v.Root+"/"+formerPath+"/own", 0o755))
		},
	} {
		for _, deferring := range []bool{false, true} {
			t.Run(name+map[bool]string{true: ", with a path to defer"}[deferring], func(t *testing.T) {
				v := newVM(t, t.TempDir(), files{"etc/a": "1", "etc/b": "1"}, files{"etc/a": "1", "etc/b": "1"},
					files{"etc/a": "2", "etc/b": "2"})
				damage(t, v)
				before := read(t, v.Root)
				if deferring {
					defer bind(t, v.Root+"/etc/b", v.Root+"/etc/b")()
				}
				outcome := v.carry(t)
				told := slices.ContainsFunc(outcome.Conflicts,
					func(c Conflict) bool { return c.Path == shownDeferred && c.Advice() != "" })
				if told != strings.HasPrefix(name, "no JSON") {
					t.Errorf("conflicts %+v", outcome.Conflicts)
				}
				if got := read(t, v.Root)["etc/a"]; !strings.HasSuffix(got, "2") {
					t.Errorf("the other file is %q", got)
				}
				if v.left(t) != deferring {
					t.Errorf("something is left to carry: %v", !deferring)
				}
				must(t, v.Undo(t.Context()))
				if diff := cmp.Diff(before, read(t, v.Root)); diff != "" {
					t.Errorf("after the undo:\n%s", diff)
				}
			})
		}
	}
}

// The list of an earlier version is in /etc. The next carry reads it, and moves it to the private
// disk; an undo moves it back.
func TestTheListOfAnEarlierVersionIsMoved(t *testing.T) {
	v := newVM(t, t.TempDir(), files{"etc/a": "1", "etc/b": "1"}, files{"etc/a": "1", "etc/b": "1"},
		files{"etc/a": "2", "etc/b": "2"})
	unbind := bind(t, v.Root+"/etc/b", v.Root+"/etc/b")
	v.carry(t)
	must(t, v.Settle("2"))
	list, err := os.ReadFile(v.deferredPath())
	must(t, err)
	must(t, os.WriteFile(v.Root+"/"+formerPath, list, 0o600))
	must(t, os.Remove(v.deferredPath()))

	v.old = v.new // the next release has nothing new
	before := read(t, v.Root)
	v.carry(t)
	if _, err := os.Stat(v.Root + "/" + formerPath); !os.IsNotExist(err) || !v.left(t) {
		t.Errorf("it is not moved: %v", err)
	}
	must(t, v.Undo(t.Context()))
	if _, err := os.Stat(v.deferredPath()); !os.IsNotExist(err) {
		t.Errorf("after the undo there is a new list: %v", err)
	}
	if diff := cmp.Diff(before, read(t, v.Root)); diff != "" {
		t.Errorf("after the undo:\n%s", diff)
	}
	unbind()
	if v.carry(t); v.left(t) || !strings.HasSuffix(read(t, v.Root)["etc/b"], "2") {
		t.Errorf("what was left is not brought: %v", read(t, v.Root))
	}
}

func TestAnUndoRestoresWhatItCan(t *testing.T) {
	v := newVM(t, t.TempDir(), files{"etc/a": "1", "etc/b": "1"}, files{"etc/a": "1", "etc/b": "1"},
		files{"etc/a": "2", "etc/b": "2"})
	v.carry(t)
	remove := bind(t, v.Root+"/etc/a", v.Root+"/etc/a")
	var skipped []Conflict
	v.Skipped = func(c Conflict) { skipped = append(skipped, c) }
	must(t, v.Undo(t.Context()))
	remove()
	if got := read(t, v.Root); !strings.HasSuffix(got["etc/a"], "2") || !strings.HasSuffix(got["etc/b"], "1") {
		t.Errorf("%v", got)
	}
	if len(skipped) != 1 || skipped[0].Path != "etc/a" || skipped[0].Kind != LeftInPlace {
		t.Errorf("skipped %+v", skipped)
	}
}

func TestNamesOfAnyLengthAreCarried(t *testing.T) {
	long := "etc/" + strings.Repeat("n", longestName)
	v := newVM(t, t.TempDir(), files{long: "1"}, files{long: "1"}, files{long: "2"})
	before := read(t, v.Root)
	if outcome := v.carry(t); outcome.Carried != 1 || len(outcome.Conflicts) > 0 {
		t.Errorf("%+v", outcome)
	}
	must(t, v.Undo(t.Context()))
	if diff := cmp.Diff(before, read(t, v.Root)); diff != "" {
		t.Errorf("want -, got +:\n%s", diff)
	}
}

func TestAccountFilesWaitForTheNextCarryWhileAnotherProgramHoldsTheirLock(t *testing.T) {
	old, next := files{"etc/group": "a:x:1:\n", "etc/z": "1"}, files{"etc/group": "a:x:1:\nb:x:2:\n", "etc/z": "2"}
	v := newVM(t, t.TempDir(), old, old, next)
	v.lockLimit = time.Nanosecond
	lock := holdLock(t, v.Root)
	outcome := v.carry(t)
	if len(outcome.Conflicts) != 1 || outcome.Conflicts[0].Kind != AccountsLocked || outcome.Carried != 1 {
		t.Errorf("%+v", outcome)
	}
	must(t, v.Settle("2"))
	lock()
	v.old, v.lockLimit = v.new, 0
	if outcome := v.carry(t); len(outcome.Conflicts) > 0 ||
		!strings.HasSuffix(read(t, v.Root)["etc/group"], next["etc/group"]) {
		t.Errorf("%+v, %q", outcome, read(t, v.Root)["etc/group"])
	}
}

func TestPinnedFilesStayAsTheyAre(t *testing.T) {
	old := files{"etc/a": "1", "etc/d/x": "1", "etc/gone": "1", "etc/other": "1", "etc/mine": "1"}
	live := maps.Clone(old)
	live["etc/mine"] = "my own"
	next := files{"etc/a": "2", "etc/d/x": "2", "etc/other": "2", "etc/mine": "2", "etc/d/new": "2"}
	v := newVM(t, t.TempDir(), old, live, next)
	v.Keep = []string{"/etc/a", "/etc/d", "/etc/g*", "/etc/mine"}
	outcome := v.carry(t)
	if len(outcome.Conflicts) > 0 || outcome.Carried != 2 {
		t.Errorf("%+v", outcome)
	}
	want := maps.Clone(live)
	want["etc/other"], want["etc/d/new"] = "2", "2" // a file that this VM does not have comes
	got := read(t, v.Root)
	for path, text := range want {
		if !strings.HasSuffix(got[path], " "+text) {
			t.Errorf("%s is %q, want %q", path, got[path], text)
		}
	}
	must(t, v.Undo(t.Context()))
}

func TestGeneratedFilesAreGeneratedAgainIfTheyChangedInBoth(t *testing.T) {
	old := files{"etc/ssl/certs/ca-certificates.crt": "1", "etc/ld.so.cache": "1", "etc/mailcap": "1"}
	live := files{"etc/ssl/certs/ca-certificates.crt": "1 and mine", "etc/ld.so.cache": "my own", "etc/mailcap": "1"}
	next := files{"etc/ssl/certs/ca-certificates.crt": "2", "etc/ld.so.cache": "2", "etc/mailcap": "2"}
	v := newVM(t, t.TempDir(), old, live, next)
	before := read(t, v.Root)
	outcome := v.carry(t)
	if diff := cmp.Diff([]string{"ld.so.cache", "ca-certificates"}, outcome.Generate); diff != "" ||
		len(outcome.Conflicts) > 0 {
		t.Errorf("%+v", outcome)
	}
	if got := read(t, v.Root)["etc/mailcap"]; !strings.HasSuffix(got, "2") {
		t.Errorf("a file that was not changed here is %q", got)
	}
	must(t, os.WriteFile(v.Root+"/etc/ssl/certs/ca-certificates.crt", []byte("generated"), 0o644))
	must(t, v.Undo(t.Context()))
	if diff := cmp.Diff(before, read(t, v.Root)); diff != "" {
		t.Errorf("after the undo (want -, got +):\n%s", diff)
	}
}

// A database of hardware that was made in the VM hides that of the release, which may be newer.
func TestADatabaseOfHardwareThatOnlyThisVMHasIsMadeAgain(t *testing.T) {
	const name = "etc/udev/hwdb.bin"
	for what, test := range map[string]struct {
		release, live string
		keep          []string
		again         bool
	}{
		"made here":                 {live: "mine", again: true},
		"made here, and kept":       {live: "mine", keep: []string{"/etc/udev"}},
		"the release's":             {release: "1", live: "1"},
		"a change of the release's": {release: "1", live: "mine"},
		"there is none":             {},
	} {
		old, live, next := files{"etc/motd": "1"}, files{"etc/motd": "1"}, files{"etc/motd": "2"}
		for text, in := range map[*string][]files{&test.release: {old, next}, &test.live: {live}} {
			for _, tree := range in {
				if *text != "" {
					tree[name] = *text
				}
			}
		}
		v := newVM(t, t.TempDir(), old, live, next)
		v.Keep = test.keep
		before := read(t, v.Root)
		outcome := v.carry(t)
		if again := slices.Contains(outcome.Generate, "hwdb"); again != test.again || len(outcome.Conflicts) > 0 {
			t.Errorf("%s: %+v", what, outcome)
		}
		if test.again {
			must(t, os.WriteFile(v.Root+"/"+name, []byte("made again"), 0o644))
		}
		must(t, v.Undo(t.Context()))
		if diff := cmp.Diff(before, read(t, v.Root)); diff != "" {
			t.Errorf("%s: after the undo (want -, got +):\n%s", what, diff)
		}
	}
}

func TestAnAlternativeOfThisVMStaysWhileItsTargetExists(t *testing.T) {
	old := files{"etc/alternatives/editor": "-> /usr/bin/nano", "etc/alternatives/pager": "-> /usr/bin/less"}
	live := files{"etc/alternatives/editor": "-> /usr/bin/vim", "etc/alternatives/pager": "-> /usr/bin/most"}
	next := files{"etc/alternatives/editor": "-> /usr/bin/ed", "etc/alternatives/pager": "-> /usr/bin/more",
		"usr/bin/vim": "", "usr/bin/ed": "", "usr/bin/more": ""}
	v := newVM(t, t.TempDir(), old, live, next)
	all := slices.DeleteFunc(differences(t, v.old, v.new),
		func(d Difference) bool { return !strings.HasPrefix(d.Path, "etc/") })
	outcome, err := v.Carry(t.Context(), listed(t, v.old), all, v.new)
	must(t, err)
	got := read(t, v.Root)
	if !strings.HasSuffix(got["etc/alternatives/editor"], "/usr/bin/vim") ||
		!strings.HasSuffix(got["etc/alternatives/pager"], "/usr/bin/more") {
		t.Errorf("%v", got)
	}
	if len(outcome.Conflicts) != 2 {
		t.Errorf("%+v", outcome.Conflicts)
	}
}

// Files that come with a release belong to the account of the same name here, whatever its number is.
func TestCarriedFilesBelongToTheAccountOfTheSameName(t *testing.T) {
	old := files{"etc/passwd": "root:x:0:0::/:\n", "etc/group": "root:x:0:\n"}
	live := files{"etc/passwd": "root:x:0:0::/:\nme:x:990:990::/:\n", "etc/group": "root:x:0:\nme:x:990:\n"}
	next := files{"etc/passwd": "root:x:0:0::/:\nsvc:x:990:990::/:\n", "etc/group": "root:x:0:\nsvc:x:990:\n",
		"etc/svc/key": "secret", "var/lib/svc/data": "1"}
	v := newVM(t, t.TempDir(), old, live, next)
	for _, name := range []string{"etc/svc/key", "var/lib/svc/data"} {
		must(t, os.Chown(filepath.Join(v.new, name), 990, 990))
	}
	v.carry(t)
	got := read(t, v.Root)
	for _, name := range []string{"etc/svc/key", "var/lib/svc/data"} {
		if !strings.Contains(got[name], " 999:999 ") {
			t.Errorf("%s is %q", name, got[name])
		}
	}
	must(t, v.Settle("2"))
	// The next release changes the file: it was not changed here.
	v.old, v.new = v.new, filepath.Dir(v.new)+"/third"
	next["etc/svc/key"] = "another"
	next.write(t, v.new)
	must(t, os.Chown(v.new+"/etc/svc/key", 990, 990))
	all := slices.DeleteFunc(differences(t, v.old, v.new), func(d Difference) bool { return d.Path != "etc/svc/key" })
	outcome, err := v.Carry(t.Context(), listed(t, v.old), all, v.new)
	must(t, err)
	if now := read(t, v.Root)["etc/svc/key"]; !strings.HasSuffix(now, " 999:999 another") ||
		len(outcome.Conflicts) > 0 {
		t.Errorf("%q, %+v", now, outcome)
	}
}

// left reports whether something is left for the next carry.
func (v vm) left(t *testing.T) bool {
	t.Helper()
	live, err := os.OpenRoot(v.Root)
	must(t, err)
	defer func() { must(t, live.Close()) }()
	list, err := v.readDeferred(live)
	must(t, err)
	return len(list) > 0
}

// A range of subordinate numbers that overlaps one of a local account is left out, and comes once that is gone,
// although the releases do not differ in it any more. Until then each carry says so.
func TestARangeThatOverlapsComesOnceItDoesNot(t *testing.T) {
	const passwd, mine = "root:x:0:0::/:\nme:x:1000:1000::/:\n", "me:100000:65536\n"
	old := files{"etc/passwd": "root:x:0:0::/:\n", "etc/subuid": ""}
	next := files{"etc/passwd": "root:x:0:0::/:\npod:x:990:990::/:\n",
		"etc/subuid": "pod:100000:65536\npod:300000:10\n990:400000:10\n"}
	v := newVM(t, t.TempDir(), old, files{"etc/passwd": passwd, "etc/subuid": mine}, next)
	has := func(want string, conflicts []Conflict, told int) {
		t.Helper()
		if got := contentOf(read(t, v.Root), "etc/subuid"); got != want {
			t.Errorf("subuid is %q, want %q", got, want)
		}
		if len(conflicts) != told || told > 0 && (conflicts[0].Kind != AccountLeft || conflicts[0].Advice() == "") {
			t.Errorf("conflicts %+v", conflicts)
		}
	}
	const others = "pod:300000:10\n990:400000:10\n"
	has(mine+others, v.carry(t).Conflicts, 1)
	must(t, v.Settle("2"))
	v.old = v.new // the next release has nothing new
	has(mine+others, v.carry(t).Conflicts, 1)
	must(t, v.Settle("3"))
	// Another entry of the release that was removed here stays removed.
	must(t, os.WriteFile(v.Root+"/etc/subuid", []byte("pod:300000:10\n"), 0o644))
	has("pod:300000:10\npod:100000:65536\n", v.carry(t).Conflicts, 0)
	if v.left(t) {
		t.Error("something is left to carry")
	}
}
