package provider_test

import (
	"errors"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/provider/providertest"
)

// example copies the configuration files of examples/<name> into a session.
func example(t *testing.T, world *providertest.World, name string) *session {
	t.Helper()
	s := newSession(t, world, "")
	files, err := filepath.Glob(filepath.Join("..", "examples", filepath.FromSlash(name), "*.tf"))
	if err != nil || len(files) == 0 {
		t.Fatalf("example %s has no configuration: %v", name, err)
	}
	for _, file := range files {
		text, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		// An example that declares the required provider replaces main.tf.
		if strings.Contains(string(text), "required_providers") {
			if err := os.RemoveAll(filepath.Join(s.dir, "main.tf")); err != nil {
				t.Fatal(err)
			}
		}
		if err := os.WriteFile(filepath.Join(s.dir, "example_"+filepath.Base(file)), text, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	return s
}

// configurations are the directories below examples/ that hold a configuration.
func configurations(t *testing.T) []string {
	t.Helper()
	root := filepath.Join("..", "examples")
	found := map[string]bool{}
	must(t, filepath.WalkDir(root, func(path string, _ fs.DirEntry, err error) error {
		if filepath.Ext(path) == ".tf" {
			name, relErr := filepath.Rel(root, filepath.Dir(path))
			found[name], err = true, errors.Join(err, relErr)
		}
		return err
	}))
	return slices.Sorted(maps.Keys(found))
}

func TestExamplesAreValid(t *testing.T) {
	names := configurations(t)
	for _, source := range []string{"debian", "archive", "url", "directory", "oci", "oci-layout", "disk-image"} {
		if !slices.Contains(names, filepath.Join("bases", source)) {
			t.Errorf("there is no example of the source %s", source)
		}
	}
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			example(t, newWorld(t), name).run("validate")
		})
	}
}

// One base, and three roles that differ in their components alone.
func TestTheRolesOfTheExampleArePatchedByOneVariable(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	s := example(t, world, "components")
	patch := `-var=additional_suites=["trixie-updates","trixie-security"]`
	if said := s.run("apply", "-auto-approve", "-no-color"); !strings.Contains(said,
		"8 added, 0 changed, 0 destroyed") {
		t.Errorf("the first apply:\n%s", said)
	}
	if said := s.run("apply", "-auto-approve", "-no-color", patch); !strings.Contains(said,
		"0 added, 8 changed, 0 destroyed") {
		t.Errorf("the patch:\n%s", said)
	}
	for name, want := range map[string]string{"web": "nginx", "cache": "redis", "db": "postgres"} {
		_, stack, err := world.VM(t.Context(), name)
		must(t, err)
		newest, err := world.Volumes.History(t.Context(), release.Component, want)
		must(t, err)
		if len(stack.Components) != 1 || stack.Components[0] != newest.Releases[0].ID {
			t.Errorf("VM %s runs %v, want %s", name, stack.Components, newest.Releases[0].ID)
		}
		if debug, err := world.Volumes.History(t.Context(), release.Component, "debug"); err != nil ||
			len(stack.Offered) != 1 ||
			stack.Offered[0] != debug.Releases[0].ID {
			t.Errorf("VM %s has %v on demand, want the newest release of debug: %v", name, stack.Offered, err)
		}
	}
	if said := s.run("plan", "-detailed-exitcode", "-no-color", patch); !strings.Contains(said, "No changes") {
		t.Errorf("after the patch:\n%s", said)
	}
	s.run("destroy", "-auto-approve", "-no-color", patch)
	if left, err := world.Left(t.Context()); err != nil || len(left) > 0 {
		t.Errorf("after the destroy these are left: %v, %v", left, err)
	}
}

func TestTheQuickstartIsPatchedByOneVariable(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	s := example(t, world, "quickstart")
	patch := `-var=additional_suites=["trixie-updates","trixie-security"]`
	if said := s.run("apply", "-auto-approve", "-no-color"); !strings.Contains(said,
		"3 added, 0 changed, 0 destroyed") {
		t.Errorf("the first apply:\n%s", said)
	}
	if said := s.run("apply", "-auto-approve", "-no-color", patch); !strings.Contains(said,
		"0 added, 3 changed, 0 destroyed") {
		t.Errorf("the patch:\n%s", said)
	}
	if said := s.run("plan", "-detailed-exitcode", "-no-color", patch); !strings.Contains(said, "No changes") {
		t.Errorf("after the patch:\n%s", said)
	}
	s.run("destroy", "-auto-approve", "-no-color", patch)
	if left, err := world.Left(t.Context()); err != nil || len(left) > 0 {
		t.Errorf("after the destroy these are left: %v, %v", left, err)
	}
}
