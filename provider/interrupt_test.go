package provider_test

import (
	"strings"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/provider/providertest"
)

func TestCtrlCAndApplyAgainConverges(t *testing.T) {
	for _, moment := range []struct {
		name, operation, step string
		want                  string // in the plan of the second apply
	}{
		{"while uploading", "Publish", "uploading the layer", "2 to add, 0 to change, 0 to destroy"},
		{"when uploaded", "Publish", providertest.Done, "2 to add, 0 to change, 0 to destroy"},
		{"before the domain", "Create", "making the private disk", "1 to add, 0 to change, 0 to destroy"},
		{"when made, before the domain", "Create", "defining the domain", "1 to add, 0 to change, 0 to destroy"},
		{"while booting", "Create", "starting", "0 to add, 1 to change, 0 to destroy"},
		{"while waiting for the agent", "Create", "waiting for the agent", "0 to add, 1 to change, 0 to destroy"},
	} {
		t.Run(moment.name, func(t *testing.T) {
			t.Parallel()
			world := newWorld(t)
			s := newSession(t, world, debian(unpatched)+web(""))
			if said := s.interrupt(moment.operation, moment.step); !strings.Contains(said, "nterrupt") {
				t.Errorf("the interrupted apply does not say so:\n%s", said)
			}
			before, _, _ := world.VM(t.Context(), "web") // none if it was not defined yet
			if said := s.run("apply", "-auto-approve", "-no-color"); !strings.Contains(said, moment.want) {
				t.Errorf("the next apply is not %q:\n%s", moment.want, said)
			}
			after, _, err := world.VM(t.Context(), "web")
			if err != nil {
				t.Fatal(err)
			}
			if before.UUID != "" && before.UUID != after.UUID {
				t.Errorf("the VM was replaced: %s became %s", before.UUID, after.UUID)
			}
			if said := s.run("plan", "-detailed-exitcode", "-no-color"); !strings.Contains(said, "No changes") {
				t.Errorf("the plan after it is not empty:\n%s", said)
			}
		})
	}
}

// Terraform does not stop the plan of an apply at the first Ctrl-C (it waits for it), but it stops that of "terraform
// plan".
func TestCtrlCWhileAPlanBuilds(t *testing.T) {
	for name, step := range map[string]string{"before building": providertest.Begun,
		"while building": "writing the layer"} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			world := newWorld(t)
			s := newSession(t, world, debian(unpatched)+web(""))
			if said := s.interruptCommand("Prepare", step, "plan", "-no-color"); !strings.Contains(said, "nterrupt") {
				t.Errorf("the interrupted plan does not say so:\n%s", said)
			}
			if left, err := world.Left(t.Context()); err != nil || len(left) > 0 {
				t.Errorf("a plan left %v on the host, %v", left, err)
			}
			if said := s.run("apply", "-auto-approve", "-no-color"); !strings.Contains(said,
				"2 to add, 0 to change, 0 to destroy") {
				t.Errorf("the next apply:\n%s", said)
			}
		})
	}
}

func TestCtrlCWhileRefreshingAndApplyAgainConverges(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	s := newSession(t, world, debian(unpatched)+web(""))
	s.run("apply", "-auto-approve")
	before, _, err := world.VM(t.Context(), "web")
	if err != nil {
		t.Fatal(err)
	}
	s.configure(debian(patched) + web(""))
	for _, step := range []string{"uploading the contents lists", "refreshing", "defining the domain"} {
		if said := s.interrupt("Update", step); !strings.Contains(said, "nterrupt") {
			t.Errorf("the apply interrupted at %s does not say so:\n%s", step, said)
		}
	}
	if said := s.run("apply", "-auto-approve", "-no-color"); !strings.Contains(said,
		"0 to add, 1 to change, 0 to destroy") {
		t.Errorf("the next apply does not update the VM alone:\n%s", said)
	}
	after, stack, err := world.VM(t.Context(), "web")
	if err != nil {
		t.Fatal(err)
	}
	if after.UUID != before.UUID || stack.Base != after.Metadata.Stack.Base ||
		stack.Base == before.Metadata.Stack.Base {
		t.Errorf("the VM was not patched in place: %+v, then %+v running %s", before, after, stack.Base)
	}
	if said := s.run("plan", "-no-color"); !strings.Contains(said, "No changes") {
		t.Errorf("the plan after it is not empty:\n%s", said)
	}
}
