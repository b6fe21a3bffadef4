package provider_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

// The module's own tests, as its users run them: without a host.
func TestTheTestsOfTheFleetModulePass(t *testing.T) {
	t.Parallel()
	s := example(t, newWorld(t), "modules/fleet")
	text, err := os.ReadFile(filepath.Join("..", "examples", "modules", "fleet", "tests", "fleet.tftest.hcl"))
	must(t, err)
	must(t, os.Mkdir(filepath.Join(s.dir, "tests"), 0o755))
	must(t, os.WriteFile(filepath.Join(s.dir, "tests", "fleet.tftest.hcl"), text, 0o600))
	if said := s.run("test", "-no-color"); !strings.Contains(said, "3 passed, 0 failed") {
		t.Errorf("terraform test says:\n%s", said)
	}
}

// The module on a host: a fleet with its canary first, patched by one variable.
func TestTheFleetModuleIsPatchedInWaves(t *testing.T) {
	t.Parallel()
	world := newWorld(t)
	s := example(t, world, "modules/fleet")
	vars := []string{
		"-var=name=shop", `-var=components={nginx=["nginx-light"]}`, `-var=vms={a={},b={},c={}}`, `-var=canaries=["c"]`,
		`-var=rollout={soak="0s",waves=["1","100%"]}`, `-var=health_checks={web={unit="nginx.service"}}`,
	}
	run := func(args ...string) string { return s.run(append(args, vars...)...) }
	run("apply", "-auto-approve", "-no-color", "-var=additional_suites=[]")
	before := bases(t, world, "shop-a", "shop-b", "shop-c")
	world.ForgetCalls()
	if said := run("apply", "-auto-approve", "-no-color"); !strings.Contains(said,
		"0 added, 3 changed, 0 destroyed") { // base, component, rollout
		t.Errorf("the patch:\n%s", said)
	}
	if got := moves(world); !slices.Equal(got, []string{"Move shop-c", "Move shop-a", "Move shop-b"}) {
		t.Errorf("moves: %v", got)
	}
	if now := bases(t, world, "shop-a", "shop-b", "shop-c"); now[0] == before[0] ||
		now[0] != now[1] || now[1] != now[2] {
		t.Errorf("the VMs run %v", now)
	}
	if said := run("plan", "-detailed-exitcode", "-no-color"); !strings.Contains(said, "No changes") {
		t.Errorf("after the patch:\n%s", said)
	}
	run("destroy", "-auto-approve", "-no-color")
	if left, err := world.Left(t.Context()); err != nil || len(left) > 0 {
		t.Errorf("after the destroy these are left: %v, %v", left, err)
	}
}
