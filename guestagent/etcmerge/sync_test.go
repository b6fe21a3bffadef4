package etcmerge

import (
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// What is synced may have become anything meanwhile: a pipe that nobody writes to, a link out of the root, nothing.
func TestWhatIsSyncedMayBeAnything(t *testing.T) {
	directory := t.TempDir()
	must(t, os.MkdirAll(filepath.Join(directory, "etc/a/b"), 0o700))
	must(t, os.WriteFile(filepath.Join(directory, "etc/a/b/file"), []byte("x"), 0o600))
	must(t, unix.Mkfifo(filepath.Join(directory, "etc/pipe"), 0o600))
	must(t, os.Symlink("/", filepath.Join(directory, "etc/out")))
	must(t, os.Symlink("nothing", filepath.Join(directory, "etc/dangling")))
	root, err := os.OpenRoot(directory)
	must(t, err)
	defer func() { must(t, root.Close()) }()
	names := []string{
		"etc/a/b/file", "etc/a/b", "etc/pipe", "etc/out", "etc/out/proc/1/mem", "etc/dangling",
		"etc/gone", "etc/gone/below",
		"etc/a/b/file/below", "new",
	}
	must(t, syncer{}.files(t.Context(), root, names))
	must(t, syncer{}.directories(t.Context(), root, names))
}

// A file has its name only once its content is on the disk, the record is there before anything is done, and every
// directory in which something came or went follows.
func TestWhatACarryMakesIsOnTheDiskBeforeItIsNamed(t *testing.T) {
	directory := t.TempDir()
	files{
		"old/etc/a": "1", "old/etc/gone/x": "1", "old/etc/link": "-> a", "old/etc/dir/": "", "old/etc/conf": "1",
		"new/etc/a": "2", "new/etc/link": "-> b", "new/etc/dir/": "", "new/etc/fresh/y": "2", "new/etc/conf": "2",
		"live/etc/a": "1", "live/etc/gone/x": "1", "live/etc/link": "-> a",
		"live/etc/dir/": "", "live/etc/conf": "mine",
	}.write(t, directory)
	must(t, os.Chmod(filepath.Join(directory, "new/etc/dir"), 0o700))
	var synced []string
	live := filepath.Join(directory, "live")
	carrier := Carrier{Root: live, Record: filepath.Join(directory, "undo"), From: "one", To: "two",
		sync: syncer{one: func(root *os.Root, name string) error {
			at, err := filepath.Rel(directory, filepath.Join(root.Name(), name))
			must(t, err)
			data, err := root.ReadFile(name)
			switch {
			case err != nil:
				at += "/"
			case len(data) == 0:
				t.Errorf("%s is synced without content", at)
			}
			if _, err := os.Stat(filepath.Join(live, "etc/fresh/y")); err == nil &&
				!slices.Contains(synced, "live/etc/fresh/.y.sharedos-new") {
				t.Error("a file has its name before its content is synced")
			}
			synced = append(synced, at)
			return nil
		}}}
	old, next := treeOf(t, filepath.Join(directory, "old")), treeOf(t, filepath.Join(directory, "new"))
	var differences []Difference
	for _, name := range []string{"etc/a", "etc/conf", "etc/dir", "etc/fresh", "etc/fresh/y", "etc/gone",
		"etc/gone/x", "etc/link"} {
		differences = append(differences, NewDifference(name, old[name], next[name]))
	}
	_, err := carrier.Carry(t.Context(), listed(t, filepath.Join(directory, "old")), differences,
		filepath.Join(directory, "new"))
	must(t, err)
	want := []string{
		"undo/0", "undo/5", "undo/ends.json", "undo/baseline", "undo/steps.json.sharedos-new", "undo/", "./",
		"live/etc/.a.sharedos-new", "live/etc/fresh/.y.sharedos-new", // a link has no content to sync
		"live/etc/", "live/etc/dir/", "live/etc/fresh/",
	}
	slices.Sort(synced[min(9, len(synced)):])
	if !slices.Equal(synced, want) {
		t.Errorf("a carry syncs %q, want %q", synced, want)
	}
	synced = nil
	must(t, carrier.Undo(t.Context()))
	slices.Sort(synced)
	want = []string{"live/etc/", "live/etc/.a.sharedos-new", "live/etc/dir/", "live/etc/gone/",
		"live/etc/gone/.x.sharedos-new"}
	if !slices.Equal(synced, want) {
		t.Errorf("undoing it syncs %q, want %q", synced, want)
	}
}

// treeOf reads the entries of a tree by path.
func treeOf(t *testing.T, directory string) map[string]*tree.Entry {
	t.Helper()
	root, err := os.OpenRoot(directory)
	must(t, err)
	defer func() { must(t, root.Close()) }()
	entries := map[string]*tree.Entry{}
	must(t, filepath.WalkDir(directory, func(path string, _ fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(directory, path)
		if err == nil && name != "." {
			entries[name], err = entryAt(root, name)
		}
		return err
	}))
	return entries
}
