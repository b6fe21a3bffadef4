package provider_test

import (
	"path/filepath"
	"strings"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/provider"
)

// fails runs a command that has to fail, and returns what it says.
func (s *session) fails(args ...string) string {
	s.t.Helper()
	command, output := s.command(args...)
	if err := command.Run(); err == nil {
		s.t.Fatalf("terraform %s worked:\n%s", strings.Join(args, " "), output)
	}
	return output.String()
}

// startedBy has the next commands take this one for the command of Terraform.
func (s *session) startedBy(command, run, plan string) {
	s.started = func(p *provider.Provider) {
		if plan != "" {
			plan = filepath.Join(s.dir, filepath.Base(plan))
		}
		must(s.t, p.StartedBy(command, run, plan))
	}
}

// A saved plan says itself what was planned: also on another machine, also of something new, and
// also if another plan was made since.
func TestASavedPlanIsAppliedAsPlannedOrNotAtAll(t *testing.T) {
	for _, new := range []bool{true, false} {
		t.Run(map[bool]string{true: "new", false: "changed"}[new], func(t *testing.T) {
			t.Parallel()
			world, own := newWorld(t), newImage(t)
			s := newSession(t, world, own.base()+web(""))
			if !new {
				s.run("apply", "-auto-approve")
				own.set("2")()
			}
			s.startedBy("plan", "1", "")
			s.run("plan", "-out=first", "-no-color")
			own.set("3")()
			s.run("plan", "-out=second", "-no-color")
			must(t, world.ForgetCache())

			s.startedBy("apply", "2", "first")
			said := s.fails("apply", "-no-color", "first")
			if !says(`Unable to apply the plan of base "own"`, "this is not what the plan said", "rootfs.tar",
				"the source has changed since",
				"Nothing was changed", "Plan again").MatchString(said) ||
				strings.Contains(said, "bug in the provider") {
				t.Errorf("it says:\n%s", said)
			}
			// After another plan, it works.
			s.startedBy("plan", "3", "")
			s.run("plan", "-out=third", "-no-color")
			s.startedBy("apply", "4", "third")
			s.run("apply", "-no-color", "third")
			s.startedBy("plan", "5", "")
			if said := s.run("plan", "-no-color"); !strings.Contains(said, "No changes") {
				t.Errorf("the plan after it is not empty:\n%s", said)
			}
		})
	}
}

// What Terraform plans before it destroys is thrown away, so that nothing is built for it.
func TestNothingIsBuiltForADestroy(t *testing.T) {
	world, own := newWorld(t), newImage(t)
	s := newSession(t, world, own.base())
	s.run("apply", "-auto-approve")
	own.set("2")()
	for command, args := range map[string][]string{"refresh": {"plan", "-refresh-only", "-no-color"},
		"destroy": {"destroy", "-auto-approve", "-no-color"}} {
		world.ForgetCalls()
		s.startedBy(command, "1", "")
		s.run(args...)
		if count := world.Count(); count["Prepare"]+count["PrepareCached"] > 0 {
			t.Errorf("terraform %s built: %v", strings.Join(args, " "), count)
		}
	}
}

// What a plan has built, its apply uses.
func TestAPlanBuildsForItsApply(t *testing.T) {
	world, own := newWorld(t), newImage(t)
	s := newSession(t, world, own.base())
	s.run("plan", "-out=p")
	if left, err := world.Left(t.Context()); err != nil || len(left) > 0 {
		t.Errorf("the plan left %v on the host, %v", left, err)
	}
	built := world.Built()
	s.run("apply", "p")
	if built != 1 || world.Built() != 1 {
		t.Errorf("the plan read the source %d times, plan and apply %d times", built, world.Built())
	}
}

func TestAPlanThatBuildsNothingSaysWhatThatCosts(t *testing.T) {
	world, own := newWorld(t), newImage(t)
	s := newSession(t, world, "provider \"sharedos\" {\n  build_at_plan = false\n}\n"+own.base()+web(""))
	said := s.run("plan", "-no-color")
	if !says(`This plan does not know the next release of base "own"`, "build_at_plan is false", "refresh.max_impact",
		"Remove build_at_plan = false").MatchString(said) ||
		!strings.Contains(said, "(known after apply)") {
		t.Errorf("it says:\n%s", said)
	}
	if world.Built() != 0 {
		t.Errorf("it read the source %d times", world.Built())
	}
	s.run("apply", "-auto-approve")
	if said := s.run("plan", "-no-color"); !strings.Contains(said, "No changes") {
		t.Errorf("the plan after it is not empty:\n%s", said)
	}
}
