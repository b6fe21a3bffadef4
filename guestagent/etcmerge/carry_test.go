package etcmerge

import (
	"context"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
	"pgregory.net/rapid"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// files is a tree by path: "text", "dir" with a trailing slash in the path, "-> target".
type files map[string]string

func (f files) write(t tb, root string) {
	for _, name := range slices.Sorted(maps.Keys(f)) {
		path := filepath.Join(root, name)
		must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		switch target, isLink := strings.CutPrefix(f[name], "-> "); {
		case strings.HasSuffix(name, "/"):
			must(t, os.MkdirAll(path, 0o755))
		case isLink:
			must(t, os.Symlink(target, path))
		default:
			must(t, os.WriteFile(path, []byte(f[name]), 0o644))
		}
	}
}

// tb is what tests and properties share.
type tb interface {
	Fatal(...any)
	Helper()
}

func must(t tb, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// read reads a tree back, with mode, owner and type.
func read(t tb, root string) map[string]string {
	found := map[string]string{}
	must(t, filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(root, path)
		if err != nil || name == "." || name == lockPath {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		text := info.Mode().String()
		if stat, ok := info.Sys().(*syscall.Stat_t); ok {
			text += fmt.Sprintf(" %d:%d ", stat.Uid, stat.Gid)
		}
		switch {
		case info.Mode()&fs.ModeSymlink != 0:
			target, err := os.Readlink(path)
			found[name] = text + "-> " + target
			return err
		case info.Mode().IsRegular():
			data, err := os.ReadFile(path)
			found[name] = text + string(data)
			return err
		default:
			found[name] = text
			return nil
		}
	}))
	return found
}

// differences compares two roots as release.DiffContents does.
func differences(t tb, old, new string) []Difference {
	entries := func(root string) map[string]*tree.Entry {
		opened, err := os.OpenRoot(root)
		must(t, err)
		all := map[string]*tree.Entry{}
		for name := range read(t, root) {
			e, err := entryAt(opened, name)
			must(t, err)
			all[name] = e
		}
		must(t, opened.Close())
		return all
	}
	was, is := entries(old), entries(new)
	var all []Difference
	names := slices.Sorted(maps.Keys(was))
	for name := range is {
		if was[name] == nil {
			names = append(names, name)
		}
	}
	slices.SortFunc(names, tree.Compare)
	for _, name := range names {
		if !same(was[name], is[name]) {
			all = append(all, NewDifference(name, was[name], is[name]))
		}
	}
	return all
}

// vm is a carrier with two releases.
type vm struct {
	Carrier
	old, new string
}

func newVM(t tb, directory string, old, live, new files) vm {
	v := vm{Carrier: Carrier{Root: directory + "/live", Record: directory + "/record"},
		old: directory + "/old", new: directory + "/new"}
	for root, content := range map[string]files{v.Root: live, v.old: old, v.new: new} {
		must(t, os.MkdirAll(filepath.Join(root, "etc"), 0o755))
		must(t, os.MkdirAll(filepath.Join(root, "var"), 0o755))
		content.write(t, root)
	}
	return v
}

func (v vm) carry(t tb) Outcome {
	outcome, err := v.Carry(context.Background(), listed(t, v.old), differences(t, v.old, v.new), v.new)
	must(t, err)
	return outcome
}

// listed is the baseline of a tree.
func listed(t tb, root string) *Baseline {
	t.Helper()
	baseline, err := ListTree(root, filepath.Base(root))
	must(t, err)
	return baseline
}

func TestCarry(t *testing.T) {
	old := files{"etc/same": "1", "etc/plain": "1", "etc/mine": "1", "etc/gone": "1", "etc/link": "-> a",
		"etc/d/in": "1", "etc/deleted": "1",
		"etc/hostname": "builder", "etc/todir": "1", "etc/tofile/x": "1", "etc/kept/x": "1", "etc/minegone": "1",
		"etc/passwd": "root:x:0:0::/root:/bin/sh\n", "var/lib/old": "1"}
	live := maps.Clone(old)
	maps.Copy(live, files{"etc/mine": "my own", "etc/hostname": "web-a", "etc/minegone": "my own",
		"etc/kept/own": "my own", "etc/clash": "my own",
		"etc/passwd": "root:x:0:0::/root:/bin/sh\nme:x:1000:1000::/:\n", "var/lib/old": "data"})
	delete(live, "etc/deleted")
	next := files{"etc/same": "1", "etc/plain": "2", "etc/mine": "2", "etc/link": "-> b", "etc/d/in": "2",
		"etc/d/new": "2", "etc/deleted": "2",
		"etc/hostname": "builder 2", "etc/todir/x": "2", "etc/tofile": "2",
		"etc/kept": "a file now", "etc/clash/x": "2",
		"etc/passwd": "root:x:0:0::/root:/bin/bash\nsshd:x:990:990::/:\n", "var/lib/old": "2", "var/lib/new/x": "2"}
	v := newVM(t, t.TempDir(), old, live, next)
	must(t, os.Chmod(v.new+"/etc/plain", 0o600))
	must(t, os.Chown(v.new+"/etc/plain", 7, 8))
	before := read(t, v.Root)
	outcome := v.carry(t)
	want := maps.Clone(before)
	for name, text := range map[string]string{
		"etc/plain": "-rw------- 7:8 2", "etc/link": "Lrwxrwxrwx 0:0 -> b", "etc/d/in": "-rw-r--r-- 0:0 2",
		"etc/d/new": "-rw-r--r-- 0:0 2",
		"etc/todir": "drwxr-xr-x 0:0 ", "etc/todir/x": "-rw-r--r-- 0:0 2", "etc/tofile": "-rw-r--r-- 0:0 2",
		"etc/passwd":  "-rw-r--r-- 0:0 root:x:0:0::/root:/bin/bash\nme:x:1000:1000::/:\nsshd:x:990:990::/:\n",
		"var/lib/new": "drwxr-xr-x 0:0 ", "var/lib/new/x": "-rw-r--r-- 0:0 2",
	} {
		want[name] = text
	}
	for _, name := range []string{"etc/gone", "etc/tofile/x", "etc/kept/x"} {
		delete(want, name)
	}
	if diff := cmp.Diff(want, read(t, v.Root)); diff != "" {
		t.Errorf("after the carry (want -, got +):\n%s", diff)
	}
	var conflicts []string
	for _, conflict := range outcome.Conflicts {
		conflicts = append(conflicts, "/"+conflict.Path)
	}
	if diff := cmp.Diff([]string{"/etc/clash/x", "/etc/clash", "/etc/deleted", "/etc/kept",
		"/etc/mine", "/etc/minegone",
		"/var/lib/old"}, conflicts); diff != "" {
		t.Errorf("conflicts (want -, got +):\n%s%q", diff, outcome.Conflicts)
	}
	must(t, v.Undo(t.Context()))
	if diff := cmp.Diff(before, read(t, v.Root)); diff != "" {
		t.Errorf("after the undo (want -, got +):\n%s", diff)
	}
	must(t, v.Undo(t.Context()))
	if diff := cmp.Diff(before, read(t, v.Root)); diff != "" {
		t.Errorf("after a second undo (want -, got +):\n%s", diff)
	}
}

func TestWhatIsChangedAfterTheCarryStaysWhenItIsUndone(t *testing.T) {
	v := newVM(t, t.TempDir(), files{"etc/a": "1", "etc/b": "1"}, files{"etc/a": "1", "etc/b": "1"},
		files{"etc/a": "2", "etc/b": "2", "etc/c": "2"})
	v.carry(t)
	must(t, os.WriteFile(v.Root+"/etc/a", []byte("my own"), 0o644))
	must(t, os.WriteFile(v.Root+"/etc/c", []byte("my own"), 0o644))
	must(t, v.Undo(t.Context()))
	got := read(t, v.Root)
	for name, want := range map[string]string{"etc/a": "my own", "etc/b": "1", "etc/c": "my own"} {
		if !strings.HasSuffix(got[name], " "+want) {
			t.Errorf("%s is %q, want %q", name, got[name], want)
		}
	}
}

func TestASettledCarryIsNotUndoneButTakenBack(t *testing.T) {
	v := newVM(t, t.TempDir(), files{"etc/a": "1", "etc/b": "1"}, files{"etc/a": "1", "etc/b": "1"},
		files{"etc/a": "2", "etc/b": "2", "etc/c": "2"})
	before := read(t, v.Root)
	v.From, v.To = "release 1", "release 2"
	v.carry(t)
	for range 2 { // done twice it does the same as once
		must(t, v.Settle("release 2"))
	}
	after := read(t, v.Root)
	must(t, v.Undo(t.Context()))
	if diff := cmp.Diff(after, read(t, v.Root)); diff != "" {
		t.Errorf("it was undone (want -, got +):\n%s", diff)
	}
	if ends, found, err := v.Settled(); err != nil || !found || ends != (Ends{From: "release 1", To: "release 2"}) {
		t.Errorf("%+v is settled (%v, %v)", ends, found, err)
	}
	must(t, v.TakeBack(t.Context()))
	if diff := cmp.Diff(before, read(t, v.Root)); diff != "" {
		t.Errorf("after it was taken back (want -, got +):\n%s", diff)
	}
	if ends, found, err := v.Settled(); err != nil || found {
		t.Errorf("%+v is still settled (%v)", ends, err)
	}
}

func TestTheLastSettledCarryIsTheOneThatIsKept(t *testing.T) {
	kept := func(v vm, want Ends) {
		t.Helper()
		if ends, found, err := v.Settled(); err != nil || ends != want || found != (want != Ends{}) {
			t.Errorf("%+v is settled (%v, %v), want %+v", ends, found, err, want)
		}
	}
	v := newVM(t, t.TempDir(), files{"etc/a": "1"}, files{"etc/a": "1"}, files{"etc/a": "2"})
	v.From, v.To = "1", "2"
	v.carry(t)
	must(t, v.Settle("2"))
	v.old, v.new = v.new, v.old
	v.From, v.To = "2", "3"
	v.carry(t)
	kept(v, Ends{"1", "2"}) // until the commit
	must(t, v.Settle("3"))
	kept(v, Ends{"2", "3"})
	must(t, v.Settle("4")) // which nothing had to be carried to: /etc is as it was for 3
	kept(v, Ends{})
}

func TestACarryTellsItsEndsUntilItEnds(t *testing.T) {
	v := newVM(t, t.TempDir(), files{"etc/a": "1"}, files{"etc/a": "1"}, files{"etc/a": "2"})
	v.From, v.To = "release 1", "release 2"
	told := func(want bool) {
		t.Helper()
		ends, whole, found, err := v.Carried()
		if err != nil || found != want || whole != want || want && ends != (Ends{From: "release 1", To: "release 2"}) {
			t.Errorf("it tells %+v (%v, %v, %v)", ends, whole, found, err)
		}
	}
	told(false)
	for _, end := range []func() error{func() error { return v.Settle("release 2") },
		func() error { return v.Undo(t.Context()) }} {
		v.carry(t)
		told(true)
		must(t, end())
		told(false)
		must(t, v.TakeBack(t.Context()))
	}
}

// A carry that was cut off is none to settle: what /etc is then is neither.
func TestACarryThatWasCutOffTellsSo(t *testing.T) {
	v := newVM(t, t.TempDir(), files{"etc/a": "1", "etc/d/x": "1"}, files{"etc/a": "1", "etc/d/x": "1"},
		files{"etc/a": "2", "etc/d": "2"})
	all := differences(t, v.old, v.new)
	must(t, os.Remove(v.new+"/etc/d")) // the layer does not have what its list says
	if _, err := v.Carry(t.Context(), listed(t, v.old), all, v.new); err == nil {
		t.Fatal("it was carried")
	}
	if _, whole, found, err := v.Carried(); err != nil || whole || !found {
		t.Errorf("it tells that one is recorded: %v, whole: %v (%v)", found, whole, err)
	}
}

// The power may be cut before the list of a record is there: nothing was carried then.
func TestARecordWithoutAListIsNone(t *testing.T) {
	v := newVM(t, t.TempDir(), files{"etc/a": "1"}, files{"etc/a": "1"}, files{"etc/a": "2"})
	for _, end := range []func() error{func() error { return v.Undo(t.Context()) },
		func() error { return v.Settle("release 2") }} {
		must(t, os.MkdirAll(v.Record, 0o700))
		must(t, os.WriteFile(v.Record+"/0", []byte("1"), 0o600))
		if _, _, found, err := v.Carried(); err != nil || found {
			t.Errorf("it tells that a carry is recorded (%v)", err)
		}
		must(t, end())
		if _, err := os.Stat(v.Record); !os.IsNotExist(err) {
			t.Errorf("it is left: %v", err)
		}
	}
}

func TestBaselinesDifferAsContentsListsDo(t *testing.T) {
	directory := t.TempDir()
	count := 0
	rapid.Check(t, func(t *rapid.T) {
		count++
		v := newVM(t, filepath.Join(directory, fmt.Sprint(count)), drawFiles(t, "old"), nil, drawFiles(t, "new"))
		got := listed(t, v.old).Differences(listed(t, v.new))
		want := slices.DeleteFunc(differences(t, v.old, v.new),
			func(d Difference) bool { return d.Path == "etc" || d.Path == "var" })
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("want -, got +:\n%s", diff)
		}
	})
	if _, err := ListTree(directory+"/none", "none"); err == nil {
		t.Error("a tree that is not there was listed")
	}
}

func TestALinkOutOfTheSystemIsNotFollowed(t *testing.T) {
	directory := t.TempDir()
	must(t, os.Mkdir(directory+"/outside", 0o755))
	v := newVM(t, directory, files{"etc/d/x": "1"}, files{"etc/d": "-> ../../outside"},
		files{"etc/d/x": "2", "etc/d/y": "2"})
	outcome, err := v.Carry(t.Context(), listed(t, v.old), differences(t, v.old, v.new), v.new)
	if err != nil || len(outcome.Conflicts) != 2 {
		t.Errorf("%+v, %v", outcome, err)
	}
	if found := read(t, directory+"/outside"); len(found) > 0 {
		t.Errorf("written outside: %v, %v", found, err)
	}
}

func TestTheAccountLockIsWaitedForAndTheWaitIsBounded(t *testing.T) {
	v := newVM(t, t.TempDir(), files{"etc/group": ""}, files{"etc/group": ""}, files{"etc/group": "a:x:1:\n"})
	ctx, cancel := context.WithTimeout(t.Context(), time.Nanosecond)
	defer cancel()
	if _, err := v.Carry(ctx, listed(t, v.old), differences(t, v.old, v.new), v.new); err == nil {
		t.Error("a carry without time succeeded")
	}
}

// drawFiles draws a small tree below etc.
func drawFiles(t *rapid.T, label string) files {
	f := files{}
	for _, name := range rapid.SliceOfNDistinct(rapid.SampledFrom([]string{"a", "b", "c", "d", "e"}), 0, 5,
		rapid.ID[string]).Draw(t, label) {
		switch rapid.IntRange(0, 3).Draw(t, "kind") {
		case 0:
			f["etc/"+name] = rapid.SampledFrom([]string{"1", "2", "3"}).Draw(t, "content")
		case 1:
			f["etc/"+name] = "-> " + rapid.SampledFrom([]string{"x", "y"}).Draw(t, "target")
		case 2:
			f["etc/"+name+"/"] = ""
		default:
			f["etc/"+name+"/in"] = rapid.SampledFrom([]string{"1", "2"}).Draw(t, "content")
		}
	}
	return f
}

func TestUndoRestoresEverythingAndCarryKeepsWhatIsThisVMs(t *testing.T) {
	directory := t.TempDir()
	count := 0
	rapid.Check(t, func(t *rapid.T) {
		count++
		old, live, next := drawFiles(t, "old"), drawFiles(t, "live"), drawFiles(t, "new")
		if rapid.Bool().Draw(t, "untouched") {
			live = old
		}
		v := newVM(t, filepath.Join(directory, fmt.Sprint(count)), old, live, next)
		before, was := read(t, v.Root), read(t, v.old)
		v.carry(t)
		after := read(t, v.Root)
		for name, text := range before {
			if was[name] != text && !strings.HasPrefix(text, "d") && after[name] != text {
				t.Errorf("%s was this VM's own (%q) and is %q", name, text, after[name])
			}
		}
		if maps.Equal(before, was) {
			if diff := cmp.Diff(read(t, v.new), after); diff != "" {
				t.Errorf("nothing was changed here, and it is not the new release (want -, got +):\n%s", diff)
			}
		}
		must(t, v.Undo(context.Background()))
		if diff := cmp.Diff(before, read(t, v.Root)); diff != "" {
			t.Errorf("after the undo (want -, got +):\n%s", diff)
		}
	})
}

// holdLock holds the account lock like another process: a lock of an open file description excludes the locks of all
// processes, this one included (fcntl(2)).
func holdLock(t *testing.T, root string) (release func()) {
	t.Helper()
	file, err := os.OpenFile(root+"/"+lockPath, os.O_RDWR|os.O_CREATE, 0o600)
	must(t, err)
	must(t, unix.FcntlFlock(file.Fd(), unix.F_OFD_SETLK, &unix.Flock_t{Type: unix.F_WRLCK}))
	return func() { must(t, file.Close()) }
}
