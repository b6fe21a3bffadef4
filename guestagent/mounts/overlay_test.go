package mounts

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	"pgregory.net/rapid"
)

// forms are the two ways to name an overlay's lower directories.
var forms = map[string]func(o overlay) (*Detached, error){
	"by path":   overlay.mountByPath,
	"by number": func(o overlay) (*Detached, error) { return o.mountByNumber(onThrowawayThread) },
}

// readOnly is an overlay that nothing is written to, as BuildTree makes it.
func readOnly(lowers []string) overlay {
	return overlay{
		lowers: lowers, options: [][2]string{{"redirect_dir", "nofollow"}, {"metacopy", "off"}},
		attributes: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NODEV,
	}
}

// scratch is a tmpfs.
func scratch(t *testing.T) string {
	t.Helper()
	base := filepath.Join(t.TempDir(), "b")
	must(t, os.Mkdir(base, 0o755))
	must(t, unix.Mount("b", base, "tmpfs", 0, ""))
	t.Cleanup(func() { must(t, unix.Unmount(base, unix.MNT_DETACH)) })
	return base
}

// listing tells path, type and content of all that is below a directory, or where a link to it leads, in order.
func listing(root string) (lines []string, err error) {
	root += "/"
	err = filepath.WalkDir(root, func(name string, entry os.DirEntry, err error) error {
		if err != nil || name == root {
			return err
		}
		line := strings.TrimPrefix(name, root) + " " + entry.Type().String()
		if entry.Type().IsRegular() {
			content, err := os.ReadFile(name)
			if err != nil {
				return err
			}
			line += " " + string(content)
		}
		lines = append(lines, line)
		return nil
	})
	return lines, err
}

// put places something of a kind at a path of a layer, with the directories that it lies in; a path that has something
// else already is left as it is.
func put(layer, name, kind, content string) error {
	path := filepath.Join(layer, name)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return nil // a file or a whiteout is in the way
	}
	if _, err := os.Lstat(path); err == nil {
		return nil
	}
	switch kind {
	case "file":
		return os.WriteFile(path, []byte(content), 0o644)
	case "directory":
		return os.Mkdir(path, 0o755)
	case "opaque":
		return errors.Join(os.Mkdir(path, 0o755), unix.Setxattr(path, "trusted.overlay.opaque", []byte("y"), 0))
	default:
		return unix.Mknod(path, unix.S_IFCHR, 0) // a whiteout
	}
}

func TestLowerDirectoriesByNumberShowTheTreeThatTheyShowByPath(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	base, run := scratch(t), 0
	rapid.Check(t, func(t *rapid.T) {
		run++
		var lowers []string
		for i := range rapid.IntRange(2, 16).Draw(t, "layers") {
			// Names that one option for them all would have to escape.
			layer := filepath.Join(base, fmt.Sprintf("%d:%d", run, i), `a:b,c\d e`, strings.Repeat("x", 64))
			if err := os.MkdirAll(layer, 0o755); err != nil {
				t.Fatal(err)
			}
			lowers = append(lowers, layer)
			for range rapid.IntRange(0, 5).Draw(t, "entries") {
				name := strings.Join(rapid.SliceOfN(rapid.SampledFrom([]string{"a", "b", "c"}), 1, 3).Draw(t, "name"),
					"/")
				kind := rapid.SampledFrom([]string{"file", "directory", "opaque", "whiteout"}).Draw(t, "kind")
				if err := put(layer, name, kind, fmt.Sprint(i)); err != nil {
					t.Fatalf("%s %s: %v", kind, name, err)
				}
			}
		}
		shown := map[string][]string{}
		for form, mount := range forms {
			mounted, err := mount(readOnly(lowers))
			if err != nil {
				t.Fatalf("%s: %v", form, err)
			}
			shown[form], err = listing(mounted.Path())
			if err := errors.Join(err, mounted.Close()); err != nil {
				t.Fatalf("%s: %v", form, err)
			}
		}
		if !slices.Equal(shown["by path"], shown["by number"]) {
			t.Fatalf("by path %q, by number %q", shown["by path"], shown["by number"])
		}
	})
}

func TestARootOfAsManyLayersAsAVMHasIsWrittenToItsUpperDirectory(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	for form, mount := range forms {
		t.Run(form, func(t *testing.T) {
			base := scratch(t)
			o := overlay{options: rootOptions, upper: filepath.Join(base, "upper"), work: filepath.Join(base, "work")}
			must(t, os.Mkdir(o.upper, 0o755))
			must(t, os.Mkdir(o.work, 0o755))
			for i := range 24 { // hypervisor.MaxLayers
				layer := filepath.Join(base, strings.Repeat("f", 64)+fmt.Sprint(i))
				must(t, os.Mkdir(layer, 0o755))
				must(t, put(layer, fmt.Sprint("only", i), "file", "of it"))
				must(t, put(layer, "all", "file", fmt.Sprint(i)))
				o.lowers = append(o.lowers, layer)
			}
			before, err := os.Getwd()
			must(t, err)
			mounted, err := mount(o)
			must(t, err)
			target := filepath.Join(base, "target")
			must(t, os.Mkdir(target, 0o755))
			must(t, mounted.Attach(target))

			if got := readAll(t, filepath.Join(target, "all")) +
				readAll(t, filepath.Join(target, "only0")); got != "23of it" {
				t.Errorf("it shows %q", got)
			}
			must(t, os.WriteFile(filepath.Join(target, "all"), []byte("mine"), 0o644))
			if got := readAll(t, filepath.Join(o.upper, "all")) +
				readAll(t, filepath.Join(o.lowers[23], "all")); got != "mine23" {
				t.Errorf("the upper directory and the uppermost layer have %q", got)
			}
			if after, err := os.Getwd(); err != nil || after != before {
				t.Errorf("the process works in %s now (%v), and did in %s", after, err, before)
			}
		})
	}
}

func TestMoreNumbersThanAnOptionHoldsAreRefused(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	base := scratch(t)
	_, err := readOnly(slices.Repeat([]string{base}, 200)).mountByNumber(onThrowawayThread)
	if err == nil || !strings.Contains(err.Error(), "200 directories") {
		t.Errorf("200 directories: %v", err)
	}
}

func TestAnObstacleNamesWhatTheKernelLacks(t *testing.T) {
	for release, want := range map[string]string{
		"6.1.0-40-cloud-amd64": "Linux 6.1.0-40-cloud-amd64 cannot mount beneath (6.5 is needed), so /usr cannot be swapped",
		"6.6.1":                "Linux 6.6.1 does not show from which overlay a process has mapped a file (6.7 is needed), so /usr cannot be swapped",
	} {
		if got := (Usr{Path: "/usr", Kernel: release}).Obstacle(); got != want {
			t.Errorf("%s: %q, want %q", release, got, want)
		}
	}
	// One that is new enough is asked for its mounts: this machine's /usr is none.
	if got := (Usr{Path: "/no/mount", Kernel: "6.7.0"}).Obstacle(); !strings.Contains(got, "mount point") {
		t.Errorf("6.7: %q", got)
	}
}
