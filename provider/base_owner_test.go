package provider_test

import (
	"context"
	"errors"
	"strings"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
	"github.com/sharedos/terraform-provider-sharedos/provider"
	"github.com/sharedos/terraform-provider-sharedos/provider/providertest"
)

// refused runs a command that has to fail, and returns what Terraform said in one line.
func (s *session) refused(args ...string) string {
	s.t.Helper()
	command, output := s.command(args...)
	if err := command.Run(); err == nil {
		s.t.Errorf("terraform %s did not fail:\n%s", strings.Join(args, " "), output)
	}
	return oneLine(output.String())
}

func oneLine(text string) string {
	return strings.Join(strings.Fields(strings.NewReplacer("│", " ", "╷", " ", "╵", " ").Replace(text)), " ")
}

func newest(t *testing.T, world *providertest.World) string {
	t.Helper()
	history, err := world.Volumes.History(t.Context(), release.Base, "debian-13")
	if errors.Is(err, store.ErrNotFound) {
		return ""
	}
	must(t, err)
	return history.Releases[0].ID.String()
}

func TestABaseBelongsToOneState(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	first, second := newSession(t, world, debian(unpatched)), newSession(t, world, debian(unpatched))
	first.run("apply", "-auto-approve", "-no-color")
	published := newest(t, world)

	// The same content under the same name in another state is another's base. The plan says so.
	said := second.refused("plan", "-no-color")
	for _, part := range []string{"belongs to another Terraform state", "data source sharedos_base",
		"terraform import ADDRESS debian-13"} {
		if !strings.Contains(said, part) {
			t.Errorf("the other state's apply does not say %q: %s", part, said)
		}
	}
	second.run("destroy", "-auto-approve", "-no-color")
	if newest(t, world) != published {
		t.Fatal("the destroy of another state has taken the base")
	}

	// The other state reads it.
	second.configure(`data "sharedos_base" "debian" { name = "debian-13" }` + "\n" +
		`output "release" { value = data.sharedos_base.debian.release }`)
	if said := second.run("apply", "-auto-approve", "-no-color"); !strings.Contains(said, published) {
		t.Errorf("the data source says:\n%s", said)
	}

	// An import hands it over.
	second.configure(debian(patched))
	second.run("import", "-no-color", "sharedos_base.debian", "debian-13")
	first.configure(debian(patched))
	planning := func(p *provider.Provider) { must(t, p.StartedBy("plan", "", "")) }
	first.started = planning
	if said := first.refused("plan", "-no-color"); !strings.Contains(said, `Unable to plan base "debian-13"`) {
		t.Errorf("the first state's plan says: %s", said)
	}
	first.started = nil
	if said := first.refused("apply", "-auto-approve", "-no-color"); !strings.Contains(said,
		"belongs to another Terraform state") {
		t.Errorf("the first state's apply says: %s", said)
	}
	if newest(t, world) != published {
		t.Error("the first state has published a release of a base that is no longer its own")
	}
	second.run("apply", "-auto-approve", "-no-color")
	patched := newest(t, world)
	if patched == published {
		t.Error("the new owner has published nothing")
	}
	if said := oneLine(first.run("destroy", "-auto-approve", "-no-color")); !strings.Contains(said, "was left alone") {
		t.Errorf("the first state's destroy says: %s", said)
	}
	if newest(t, world) != patched {
		t.Error("the first state has deleted a base that is no longer its own")
	}
	second.run("destroy", "-auto-approve", "-no-color")
	if newest(t, world) != "" {
		t.Error("the owner has not deleted the base")
	}
}

// An earlier version recorded no owner, neither in the pool nor in private state.
func TestABaseOfAnEarlierVersionGetsAnOwnerWithItsNextRelease(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	s := newSession(t, world, debian(unpatched))
	s.run("apply", "-auto-approve", "-no-color")
	must(t, forgetOwner(t.Context(), world))
	if said := s.run("plan", "-no-color"); !strings.Contains(said, "No changes") {
		t.Errorf("the plan is not empty:\n%s", said)
	}
	s.configure(debian(patched))
	s.run("apply", "-auto-approve", "-no-color")
	if history, err := world.Volumes.History(t.Context(), release.Base, "debian-13"); err != nil ||
		history.Owner == "" || history.Making != nil {
		t.Errorf("its record is %+v, %v", history, err)
	}
	s.run("destroy", "-auto-approve", "-no-color")
}

func forgetOwner(ctx context.Context, world *providertest.World) error {
	history, err := world.Volumes.History(ctx, release.Base, "debian-13")
	if err != nil {
		return err
	}
	history.Owner = ""
	return world.Volumes.SetHistory(ctx, release.Base, "debian-13", history)
}

// keptOwner returns functions that save and restore the owner of a base: a step that imports it
// takes it over, into a state that the testing framework then throws away.
func keptOwner(t *testing.T, world *providertest.World, base string) (save, restore func()) {
	return keptOwnerOf(t, world, release.Base, base)
}

func keptOwnerOf(t *testing.T, world *providertest.World, kind release.Kind, name string) (save, restore func()) {
	var owner string
	save = func() {
		history, err := world.Volumes.History(t.Context(), kind, name)
		must(t, err)
		owner = history.Owner
	}
	restore = func() {
		history, err := world.Volumes.History(t.Context(), kind, name)
		must(t, err)
		if history.Owner == owner {
			t.Error("the import has not taken the base over")
		}
		history.Owner = owner
		must(t, world.Volumes.SetHistory(t.Context(), kind, name, history))
	}
	return save, restore
}
