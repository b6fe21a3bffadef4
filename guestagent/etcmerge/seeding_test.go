package etcmerge

import (
	"maps"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"
)

// New files of a release are not mixed into what a VM uses, and they are added where it uses nothing.
func TestNewPathsAreAddedWhereTheVMUsesNothing(t *testing.T) {
	old := files{"var/lib/acme/db": "1", "var/lib/acme/empty/": "", "var/lib/acme/sub/x": "1",
		"var/spool/acme/": "", "var/log/acme/": "",
		"home/app/.profile": "1", "root/.profile": "1", "srv/www/index": "1", "etc/x": "1"}
	added := files{"var/lib/acme/db2": "2", "var/lib/acme/empty/new": "2", "var/lib/acme/new/deep/x": "2",
		"var/lib/acme/sub/y": "2", "var/spool/acme/job": "2",
		"var/lib/other/x": "2", "var/top": "2", "home/app/.vimrc": "2", "home/other/.profile": "2", "root/.vimrc": "2",
		"srv/www/new": "2", "srv/ftp/x": "2"}
	next := maps.Clone(old)
	maps.Copy(next, added)
	maps.Copy(next, files{"var/lib/acme/db": "2", "srv/www/index": "2"}) // what exists stays as it is
	acme := []string{"var/lib/acme/db2", "var/lib/acme/empty/new", "var/lib/acme/new/deep/x", "var/lib/acme/sub/y"}
	for name, test := range map[string]struct {
		change  func(live files)
		omitted []string
		in      string
	}{
		"nothing changed":     {func(files) {}, nil, ""},
		"a file changed":      {func(live files) { live["var/lib/acme/db"] = "rows" }, acme, "/var/lib/acme"},
		"a file created":      {func(live files) { live["var/lib/acme/wal"] = "rows" }, acme, "/var/lib/acme"},
		"a directory created": {func(live files) { live["var/lib/acme/own/"] = "" }, acme, "/var/lib/acme"},
		"a file deleted":      {func(live files) { delete(live, "var/lib/acme/db") }, acme, "/var/lib/acme"},
		"a file replaced":     {func(live files) { live["var/lib/acme/db"] = "-> /srv/db" }, acme, "/var/lib/acme"},
		"a file changed below": {func(live files) { live["var/lib/acme/sub/x"] = "rows" }, []string{"var/lib/acme/sub/y"},
			"/var/lib/acme/sub"},
		"a job in the spool": {func(live files) { live["var/spool/acme/own"] = "job" },
			[]string{"var/spool/acme/job"}, "/var/spool/acme"},
		"a home": {func(live files) { live["root/.history"] = "ls" },
			[]string{"root/.vimrc"}, "/root"},
		"a site": {func(live files) { live["srv/www/index"] = "mine" },
			[]string{"srv/www/new"}, "/srv/www"},
		"another program's": {func(live files) { live["var/lib/mine/x"] = "1"; live["home/me/x"] = "1"; live["var/own"] = "1" }, nil, ""},
		"a directory of the VM's": {func(live files) { live["var/lib/other/own"] = "1" },
			[]string{"var/lib/other/x"}, "/var/lib/other"},
		"a link in place of it": {func(live files) { live["var/lib/other"] = "-> /srv" },
			[]string{"var/lib/other/x"}, "/var/lib/other"},
		"a file in place of it": {func(live files) { live["var/lib/other"] = "file" },
			[]string{"var/lib/other/x"}, "/var/lib/other"},
		"what is new is here too":  {func(live files) { live["var/top"] = "mine" }, []string{"var/top"}, ""},
		"only a log was written":   {func(live files) { live["var/log/acme/log"] = "line" }, nil, ""},
		"the configuration, alone": {func(live files) { live["etc/x"] = "mine" }, nil, ""},
	} {
		t.Run(name, func(t *testing.T) {
			live := maps.Clone(old)
			test.change(live)
			v := newVM(t, t.TempDir(), old, live, next)
			before := read(t, v.Root)
			outcome := v.carry(t)
			after := read(t, v.Root)
			for path, text := range before {
				if after[path] != text {
					t.Errorf("%s was %q and is %q", path, text, after[path])
				}
			}
			for path := range added {
				if _, is := after[path]; is != (!contains(test.omitted, path) || before[path] != "") {
					t.Errorf("%s is there: %v", path, is)
				}
			}
			var said []string
			for _, conflict := range outcome.Conflicts {
				if conflict.Kind == InUse {
					said = append(said, "/"+conflict.Path)
				}
			}
			if got := strings.Join(said, " "); got != test.in {
				t.Errorf("in use are %q, want %q: %q", got, test.in, outcome.Conflicts)
			}
			must(t, v.Undo(t.Context()))
			if diff := cmp.Diff(before, read(t, v.Root)); diff != "" {
				t.Errorf("after the undo (want -, got +):\n%s", diff)
			}
		})
	}
}

func contains(all []string, one string) bool {
	for _, name := range all {
		if name == one {
			return true
		}
	}
	return false
}

// A file that was only touched is as it was delivered, and one with the size and time of the delivered one is not read.
func TestAFileIsComparedByContentIfOnlyItsTimeDiffers(t *testing.T) {
	old := files{"var/lib/acme/db": "12"}
	v := newVM(t, t.TempDir(), old, files{"var/lib/acme/db": "12"},
		files{"var/lib/acme/db": "12", "var/lib/acme/new": "1"})
	must(t, os.Chtimes(v.Root+"/var/lib/acme/db", time.Time{}, time.Unix(1, 0)))
	v.carry(t)
	if _, err := os.Lstat(v.Root + "/var/lib/acme/new"); err != nil {
		t.Error(err)
	}
}

// A directory of another file system is others': a release adds nothing to it.
func TestNothingIsAddedToAMountOfOthers(t *testing.T) {
	v := newVM(t, t.TempDir(), files{"etc/a": "1"}, files{"etc/a": "1"},
		files{"etc/a": "1", "srv/x/y": "1", "srv/z": "1"})
	must(t, os.MkdirAll(v.Root+"/srv", 0o755))
	v.Private = v.Root // what is of another file system is not of the private disk
	must(t, unix.Mount("tmpfs", v.Root+"/srv", "tmpfs", 0, ""))
	t.Cleanup(func() { must(t, unix.Unmount(v.Root+"/srv", unix.MNT_DETACH)) })
	outcome := v.carry(t)
	left, err := os.ReadDir(v.Root + "/srv")
	if must(t, err); len(left) > 0 {
		t.Errorf("/srv has %v", left)
	}
	if got := outcome.Conflicts; len(got) != 1 || got[0].Path != "srv" || got[0].Kind != InUse {
		t.Errorf("%+v", got)
	}
}

// Otherwise each package that a component brings would be reported.
func TestNotesOfToolsOfPackagesAreNotTold(t *testing.T) {
	const states, enabled = "var/lib/apt/extended_states", "var/lib/systemd/deb-systemd-helper-enabled/web.service"
	v := newVM(t, t.TempDir(), files{states: "1", "var/lib/systemd/x": "1"},
		files{states: "here", "var/lib/systemd/own": "1"},
		files{states: "2", enabled: "1", "var/lib/systemd/x": "1", "var/lib/systemd/y": "1"})
	outcome := v.carry(t)
	if len(outcome.Conflicts) != 1 || !strings.Contains(outcome.Conflicts[0].Reason, "/var/lib/systemd/y;") {
		t.Errorf("conflicts: %v", outcome.Conflicts)
	}
}

// Names of one file are names of one file in the VM, too, and a hole stays a hole.
func TestSeedsKeepHardLinksAndHoles(t *testing.T) {
	v := newVM(t, t.TempDir(), files{"var/opt/acme/bin/a": "1", "var/opt/acme/bin/b": "1"},
		files{"var/opt/acme/bin/a": "1", "var/opt/acme/bin/b": "1"},
		files{"var/lib/acme/data": "2", "var/opt/acme/bin/a": "2", "var/opt/acme/bin/b": "2"})
	in := func(root, name string) string { return root + "/" + name }
	must(t, os.Link(in(v.new, "var/lib/acme/data"), in(v.new, "var/lib/acme/same")))
	must(t, os.Remove(in(v.new, "var/opt/acme/bin/b")))
	must(t, os.Link(in(v.new, "var/opt/acme/bin/a"), in(v.new, "var/opt/acme/bin/b")))
	must(t, os.WriteFile(in(v.new, "var/lib/acme/sparse"), nil, 0o600))
	must(t, os.Truncate(in(v.new, "var/lib/acme/sparse"), 4<<20))
	v.carry(t)
	stat := func(name string) (stat unix.Stat_t) {
		must(t, unix.Lstat(in(v.Root, name), &stat))
		return stat
	}
	for first, second := range map[string]string{"var/lib/acme/data": "var/lib/acme/same",
		"var/opt/acme/bin/a": "var/opt/acme/bin/b"} {
		if stat(first).Ino != stat(second).Ino {
			t.Errorf("%s and %s are two files", first, second)
		}
		for _, name := range []string{first, second} {
			if text, err := os.ReadFile(in(v.Root, name)); err != nil || string(text) != "2" {
				t.Errorf("%s is %q (%v)", name, text, err)
			}
		}
	}
	if hole := stat("var/lib/acme/sparse"); hole.Size != 4<<20 || hole.Blocks > 128 {
		t.Errorf("a file with holes has %d bytes and takes %d", hole.Size, hole.Blocks*512)
	}
	must(t, v.Undo(t.Context()))
	if left := read(t, v.Root); !strings.HasSuffix(left["var/opt/acme/bin/a"], " 1") ||
		!strings.HasSuffix(left["var/opt/acme/bin/b"], " 1") || left["var/lib/acme/same"] != "" {
		t.Errorf("undone, it is %v", left)
	}
}
