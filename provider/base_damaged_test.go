package provider_test

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
)

// A base whose newest manifest is gone from the pool is drift: the next apply publishes it anew, and the VM that runs
// what is lost says how it gets there. Doing that works.
func TestABaseWithoutItsManifestIsPublishedAnew(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	s := newSession(t, world, debian(unpatched)+web(""))
	lose := func() string {
		history, err := world.Volumes.History(t.Context(), release.Base, "debian-13")
		must(t, err)
		must(t, os.Remove(filepath.Join(world.PoolDir(), store.ReleaseName(history.Releases[0].ID))))
		must(t, world.ForgetCache())
		return history.Releases[0].ID.String()
	}
	s.run("apply", "-auto-approve", "-no-color")
	lost := lose()
	said := s.refused("plan", "-no-color")
	for _, part := range []string{"is damaged", "sharedos_base.debian will be updated in-place",
		"a release that it runs is gone", `Set refresh.strategy to "next_boot"`} {
		if !strings.Contains(said, part) {
			t.Errorf("the plan does not say %q: %s", part, said)
		}
	}
	// What the error says to do.
	s.configure(debian(unpatched) + web(`refresh = { strategy = "next_boot" }`))
	s.run("apply", "-auto-approve", "-no-color")
	made := newest(t, world)
	if made == lost || made == "" {
		t.Errorf("the newest release is still %s", made)
	}
	s.configure(debian(unpatched) + web("running = false"))
	s.run("apply", "-auto-approve", "-no-color")
	s.configure(debian(unpatched) + web(""))
	s.run("apply", "-auto-approve", "-no-color")
	if domain, runs, err := world.VM(t.Context(), "web"); err != nil || runs.Base.String() != made ||
		domain.Metadata.Stack.Base.String() != made {
		t.Errorf("the VM runs %s, %v", runs.Base, err)
	}
	if said := s.run("plan", "-no-color"); !strings.Contains(said, "No changes") {
		t.Errorf("the plan is not empty:\n%s", said)
	}
	// The next release follows as ever.
	s.configure(debian(patched) + web(""))
	s.run("apply", "-auto-approve", "-no-color")
	s.run("destroy", "-auto-approve", "-no-color")
	if left, err := world.Left(t.Context()); err != nil || len(left) > 0 {
		t.Errorf("left: %q, %v", left, err)
	}
}
