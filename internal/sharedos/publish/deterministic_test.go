package publish

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/sys/unix"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/bootimage"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/archive"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/directory"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/sourcetest"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store/storetest"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// buildVariable is an environment variable. If it has builds as JSON, the test program publishes these releases and
// prints them as JSON, instead of running tests.
const buildVariable = "SHAREDOS_TEST_BUILDS"

// builds describes releases of one base to build one after the other, as on a separate machine.
type builds struct {
	// Directories or Archives are the sources of the releases.
	Directories, Archives []string
	// Work is a directory for the cache and the store.
	Work  string
	Umask int
}

// built describes a release that was built.
type built struct {
	ID     string
	Delta  bool
	Volume map[string]tree.Digest // digests of the release's files, by their names in the cache
}

func TestMain(m *testing.M) {
	asked := os.Getenv(buildVariable)
	if asked == "" {
		os.Exit(m.Run())
	}
	made, err := buildHere([]byte(asked))
	if err == nil {
		err = json.NewEncoder(os.Stdout).Encode(made)
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "build releases:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

func buildHere(asked []byte) ([]built, error) {
	var b builds
	if err := json.Unmarshal(asked, &b); err != nil {
		return nil, err
	}
	unix.Umask(b.Umask)
	pool := filepath.Join(b.Work, "pool")
	if err := os.MkdirAll(pool, 0o755); err != nil {
		return nil, err
	}
	p := &Publisher{Store: storetest.In(pool), Cache: filepath.Join(b.Work, "cache"), Key: testKey(1),
		Modules: bootimage.Modules}
	var made []built
	for i := range max(len(b.Directories), len(b.Archives)) {
		var from source.Source
		if len(b.Archives) > 0 {
			from = archive.Source{Path: b.Archives[i]}
		} else {
			from = directory.Source{Path: b.Directories[i]}
		}
		prepared, err := p.Prepare(context.Background(), Spec{Name: "os", Source: from}, nil)
		if err != nil {
			return nil, err
		}
		one := built{ID: prepared.ID.String(), Delta: len(prepared.Manifest.Layers) > 1,
			Volume: map[string]tree.Digest{}}
		for _, name := range []string{layerFile, contentsFile, imageFile, modulesFile, manifestFile} {
			data, err := os.ReadFile(filepath.Join(prepared.entry, name))
			if err != nil {
				return nil, err
			}
			one.Volume[name] = tree.Sum(data)
		}
		made = append(made, one)
		if err := p.Publish(context.Background(), prepared, nil); err != nil {
			return nil, err
		}
	}
	return made, nil
}

// buildApart builds releases in another process with the given environment.
func buildApart(t *testing.T, b builds, environment ...string) []built {
	t.Helper()
	asked, err := json.Marshal(b)
	must(t, err)
	command := exec.CommandContext(t.Context(), "/proc/self/exe")
	command.Env = append(append(os.Environ(), environment...), buildVariable+"="+string(asked))
	var told, complaint bytes.Buffer
	command.Stdout, command.Stderr = &told, &complaint
	if err := command.Run(); err != nil {
		t.Fatalf("%v: %s", err, complaint.String())
	}
	var made []built
	must(t, json.Unmarshal(told.Bytes(), &made))
	return made
}

func TestTheSameInputYieldsTheSameReleasesOnAnyMachine(t *testing.T) {
	first := newSystem()
	first["usr/bin/twin"] = strings.Repeat("twin", 3000)
	first["usr/bin/other-twin"] = first["usr/bin/twin"]
	first["usr/share/old"] = "goes"
	second := first.With("usr/bin/server", "version 2", "usr/share/old", "", "usr/share/new/file", "comes")
	second["usr/bin/link"] = "-> server"

	here, there := inOrderOfCreation(t), inOrderOfCreation(t)
	var forward, backward []string
	for i, system := range []sourcetest.System{first, second} {
		names := slices.Sorted(maps.Keys(system))
		forward = append(forward, extract(t, filepath.Join(here, fmt.Sprint(i)), system, names))
		slices.Reverse(names)
		backward = append(backward, extract(t, filepath.Join(there, fmt.Sprint(i)), system, names))
	}
	if slices.Equal(listed(t, forward[0]), listed(t, backward[0])) {
		t.Fatal(
			"both directories list their files in the same order, so the test cannot show that the order does not matter")
	}
	want := buildApart(t, builds{Directories: forward, Work: here, Umask: 0o022},
		"TZ=UTC", "LC_ALL=C", "GOMAXPROCS=1", "HOME="+here)
	if len(want) != 2 || want[0].Delta || !want[1].Delta {
		t.Fatalf("the releases should be one with a full layer and one with a delta over it: %+v", want)
	}
	time.Sleep(1100 * time.Millisecond) // recorded times have a resolution of a second
	got := buildApart(t, builds{Directories: backward, Work: there, Umask: 0o077},
		"TZ=Pacific/Kiritimati", "LC_ALL=tr_TR.UTF-8", "GOMAXPROCS=4", "HOME="+there)
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("on another machine (-first +second):\n%s", diff)
	}
}

// inOrderOfCreation makes a directory on a tmpfs, which lists files in the order of their creation or in reverse. ext4
// and others list them in the order of a hash of their names.
func inOrderOfCreation(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("/dev/shm", "sharedos-")
	must(t, err)
	t.Cleanup(func() { must(t, os.RemoveAll(dir)) })
	return dir
}

// listed returns the names in a directory in the order of getdents(2).
func listed(t *testing.T, dir string) []string {
	t.Helper()
	file, err := os.Open(dir)
	must(t, err)
	names, err := file.Readdirnames(-1)
	must(t, errors.Join(err, file.Close()))
	return names
}

func TestTheOrderOfAnArchiveIsNotInALayer(t *testing.T) {
	system := newSystem()
	names := slices.Sorted(maps.Keys(system))
	var made [][]built
	for range 2 {
		work := t.TempDir()
		archive := filepath.Join(work, "os.tar")
		stream, err := system.TarOf(names)
		must(t, err)
		must(t, os.WriteFile(archive, stream, 0o600))
		made = append(made, buildApart(t, builds{Archives: []string{archive}, Work: work}))
		slices.Reverse(names)
	}
	for _, name := range []string{layerFile, contentsFile, modulesFile} {
		if made[0][0].Volume[name] != made[1][0].Volume[name] {
			t.Errorf("the %s differs", name)
		}
	}
}

// extract writes a system to a directory. It creates files in the order of names.
func extract(t *testing.T, at string, system sourcetest.System, names []string) string {
	t.Helper()
	old := time.Unix(1_700_000_000, 0)
	directories := map[string]bool{at: true}
	for _, name := range names {
		path := filepath.Join(at, name)
		must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		for dir := filepath.Dir(path); dir != at; dir = filepath.Dir(dir) {
			directories[dir] = true
		}
		if target, ok := strings.CutPrefix(system[name], "-> "); ok {
			must(t, os.Symlink(target, path))
		} else {
			must(t, os.WriteFile(path, []byte(system[name]), 0o600))
			must(t, os.Chmod(path, 0o755))
		}
		moment := []unix.Timespec{{Sec: old.Unix()}, {Sec: old.Unix()}}
		must(t, unix.UtimesNanoAt(unix.AT_FDCWD, path, moment, unix.AT_SYMLINK_NOFOLLOW))
	}
	for dir := range directories {
		must(t, errors.Join(os.Chmod(dir, 0o755), os.Chtimes(dir, old, old)))
	}
	return at
}
