package boot

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// seedTree makes a lower tree with one of each kind of file under /var, and a private disk's directory.
func seedTree(t *testing.T) (lower, private string) {
	t.Helper()
	lower, private = t.TempDir(), t.TempDir()
	for _, directory := range []string{"var/lib/app", "home", "root", "srv"} {
		must(t, os.MkdirAll(filepath.Join(lower, directory), 0o755))
	}
	must(t, os.Mkdir(filepath.Join(private, "sharedos"), 0o700))
	must(t, os.Chmod(filepath.Join(lower, "root"), 0o700))
	app := filepath.Join(lower, "var/lib/app")
	must(t, os.WriteFile(filepath.Join(app, "data"), []byte("from the release"), 0o640))
	must(t, os.Chown(filepath.Join(app, "data"), 33, 34))
	must(t, os.Chmod(filepath.Join(app, "data"), 0o640|os.ModeSetuid))
	must(t, os.Link(filepath.Join(app, "data"), filepath.Join(app, "same")))
	must(t, os.WriteFile(filepath.Join(app, "sparse"), nil, 0o600))
	must(t, os.Truncate(filepath.Join(app, "sparse"), 4<<20))
	must(t, os.Symlink("/nowhere/at all", filepath.Join(app, "link")))
	must(t, os.Lchown(filepath.Join(app, "link"), 33, 33))
	must(t, unix.Mknod(filepath.Join(app, "null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))))
	must(t, unix.Mkfifo(filepath.Join(app, "pipe"), 0o600))
	must(t, os.WriteFile(filepath.Join(app, "odd\xffname"), nil, 0o600))
	must(t, os.Chown(app, 33, 33))
	must(t, os.Chmod(app, 0o750))
	// The version 2 form of file capabilities: cap_net_bind_service, effective.
	capability := string([]byte{1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0})
	must(t, os.WriteFile(filepath.Join(app, "tool"), []byte("#!"), 0o755))
	must(t, unix.Setxattr(filepath.Join(app, "tool"), "security.capability", []byte(capability), 0))
	return lower, private
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func seed(t *testing.T, lower, private, stack string) int {
	t.Helper()
	added, err := Seed(lower, private, stackOf(stack))
	must(t, err)
	return added
}

func lstat(t *testing.T, path string) unix.Stat_t {
	t.Helper()
	var stat unix.Stat_t
	if err := unix.Lstat(path, &stat); err != nil {
		t.Fatalf("lstat %s: %v", path, err)
	}
	return stat
}

func TestSeedKeepsWhatEachFileIs(t *testing.T) {
	lower, private := seedTree(t)
	seed(t, lower, private, "one")
	for _, name := range []string{"", "lib/app", "lib/app/data", "lib/app/link", "lib/app/null", "lib/app/pipe",
		"lib/app/tool", "lib/app/odd\xffname"} {
		want, got := lstat(t, filepath.Join(lower, "var", name)), lstat(t, filepath.Join(private, "var", name))
		if want.Mode != got.Mode || want.Uid != got.Uid || want.Gid != got.Gid || want.Rdev != got.Rdev {
			t.Errorf("%q: mode %o owner %d:%d device %x, want %o %d:%d %x", name, got.Mode, got.Uid, got.Gid, got.Rdev,
				want.Mode, want.Uid, want.Gid, want.Rdev)
		}
		if !isDirectory(want) && (want.Size != got.Size || want.Mtim != got.Mtim) {
			t.Errorf("%q: size %d time %v, want %d %v", name, got.Size, got.Mtim, want.Size, want.Mtim)
		}
	}
	if mode := lstat(t, filepath.Join(private, "root-home")).Mode & 0o7777; mode != 0o700 {
		t.Errorf("/root has mode %o, want 700", mode)
	}
	app := filepath.Join(private, "var/lib/app")
	if lstat(t, filepath.Join(app, "data")).Ino != lstat(t, filepath.Join(app, "same")).Ino {
		t.Error("two names of one file became two files")
	}
	if blocks := lstat(t, filepath.Join(app, "sparse")).Blocks; blocks > 128 {
		t.Errorf("a file with holes takes %d bytes", blocks*512)
	}
	content, err := os.ReadFile(filepath.Join(app, "data"))
	must(t, err)
	if string(content) != "from the release" {
		t.Errorf("content %q", content)
	}
	target, err := os.Readlink(filepath.Join(app, "link"))
	must(t, err)
	if target != "/nowhere/at all" {
		t.Errorf("link to %q", target)
	}
	value := make([]byte, 64)
	if n, err := unix.Getxattr(filepath.Join(app, "tool"), "security.capability", value); err != nil || n != 20 {
		t.Errorf("file capability: %d bytes, %v", n, err)
	}
}

func TestSeedOfTheSameStackTwiceIsNoWork(t *testing.T) {
	lower, private := seedTree(t)
	if seed(t, lower, private, "one") == 0 {
		t.Error("nothing was added")
	}
	must(t, os.WriteFile(filepath.Join(lower, "var/late"), nil, 0o644))
	if added := seed(t, lower, private, "one"); added != 0 {
		t.Errorf("%d paths were added", added)
	}
}

func TestSeedAddsWhatANewerStackBringsAndTouchesNothingElse(t *testing.T) {
	lower, private := seedTree(t)
	seed(t, lower, private, "one")
	app, own := filepath.Join(lower, "var/lib/app"), filepath.Join(private, "var/lib/app")
	must(t, os.WriteFile(filepath.Join(own, "data"), []byte("changed here"), 0o600))
	must(t, os.Remove(filepath.Join(own, "pipe")))
	must(t, os.WriteFile(filepath.Join(own, "mine"), []byte("made here"), 0o600))
	must(t, os.Chmod(own, 0o711))

	must(t, os.WriteFile(filepath.Join(app, "data"), []byte("newer release"), 0o644))
	must(t, os.WriteFile(filepath.Join(app, "mine"), []byte("release has it now"), 0o644))
	for _, directory := range []string{app, filepath.Join(lower, "var/lib/other")} {
		must(t, os.MkdirAll(filepath.Join(directory, "new"), 0o711))
		must(t, os.WriteFile(filepath.Join(directory, "new/file"), []byte("new"), 0o604))
	}
	must(t, os.MkdirAll(filepath.Join(lower, "var/opt/acme"), 0o755)) // a carry's
	if added := seed(t, lower, private, "two"); added != 4 {          // with the directory of /opt
		t.Errorf("%d paths were added, want the 4 new ones", added)
	}
	for name, want := range map[string]string{"data": "changed here", "mine": "made here", "../other/new/file": "new"} {
		content, err := os.ReadFile(filepath.Join(own, name))
		must(t, err)
		if string(content) != want {
			t.Errorf("%s holds %q, want %q", name, content, want)
		}
	}
	if mode := lstat(t, own).Mode & 0o7777; mode != 0o711 {
		t.Errorf("mode of a directory of the VM's own became %o", mode)
	}
	if mode := lstat(t, filepath.Join(own, "../other/new/file")).Mode & 0o7777; mode != 0o604 {
		t.Errorf("new file has mode %o", mode)
	}
	for _, name := range []string{"pipe", "new", "../../opt/acme"} {
		if _, err := os.Lstat(filepath.Join(own, name)); !os.IsNotExist(err) {
			t.Errorf("%s was deleted here, is in a directory in use, or is a carry's, and was added: %v", name, err)
		}
	}
}

func TestSeedThatWasCutOffIsDoneAgain(t *testing.T) {
	lower, private := seedTree(t)
	// As if cut off in the middle: a leftover of each kind, and no record.
	must(t, os.MkdirAll(filepath.Join(private, "var/lib", seedTemporary), 0o700))
	must(t, os.MkdirAll(filepath.Join(private, "var/lib/app"), 0o750))
	must(t, os.WriteFile(filepath.Join(private, "var/lib/app", seedTemporary), []byte("half"), 0o600))
	seed(t, lower, private, "one")
	must(t, filepath.WalkDir(private, func(path string, _ os.DirEntry, err error) error {
		if strings.HasSuffix(path, seedTemporary) {
			t.Errorf("%s was left", path)
		}
		return err
	}))
	if _, err := os.Lstat(filepath.Join(private, "var/lib/app/tool")); err != nil {
		t.Error(err)
	}
}

func TestSeedFollowsNoLinkOfTheVMsOwn(t *testing.T) {
	lower, private := seedTree(t)
	elsewhere := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(private, "var/lib"), 0o755))
	must(t, os.Symlink(elsewhere, filepath.Join(private, "var/lib/app")))
	seed(t, lower, private, "one")
	entries, err := os.ReadDir(elsewhere)
	must(t, err)
	if len(entries) != 0 {
		t.Errorf("seeding wrote through a symbolic link: %v", entries)
	}
}
