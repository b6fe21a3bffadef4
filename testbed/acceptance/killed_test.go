package acceptance

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/sourcetest"
	"github.com/sharedos/terraform-provider-sharedos/testbed/workspace"
)

// kills is at how many moments an apply and a destroy are cut off.
const kills = 3

// endLimit bounds how long a provider without its Terraform needs to end by itself.
const endLimit = time.Minute

// killed runs Terraform until it has worked for a while, and then ends it with SIGKILL, as a
// machine that is out of memory does: alone, so that its provider has to end by itself, or with the
// provider. It returns false if Terraform ended before.
func (w *world) killed(t *testing.T, after time.Duration, alone bool, run func(context.Context) error) bool {
	t.Helper()
	w.work.Killed, w.work.Abrupt = !alone, alone
	defer func() { w.work.Killed, w.work.Abrupt = false, false }()
	ctx, cancel := context.WithTimeout(t.Context(), after)
	defer cancel()
	err := run(ctx)
	t.Logf("killed after %s, alone: %t: %v", after, alone, err)
	if alone {
		w.mustEnd(t, w.work.Left())
	}
	return ctx.Err() != nil
}

// mustEnd fails unless what Terraform has left ends by itself.
func (w *world) mustEnd(t *testing.T, left workspace.Left) {
	t.Helper()
	for began := time.Now(); ; time.Sleep(100 * time.Millisecond) {
		alive, err := left.Alive()
		switch {
		case err != nil:
			t.Fatal(err)
		case !alive:
			return
		case time.Since(began) > endLimit:
			t.Fatal("the provider did not end, although Terraform has")
		}
	}
}

// TestWhatWasKilledConverges kills Terraform, with the provider or without it, at moments that are
// spread over an apply that makes a base and VMs, one that makes the next release, and a destroy.
// Each time the next run brings it to its end, and nothing is left.
func TestWhatWasKilledConverges(t *testing.T) {
	w := newWorldOf(t, "off")
	vms := []string{w.bed.Name("a"), w.bed.Name("b")}
	archives := map[string]string{}
	archive := func(version string) string {
		if archives[version] == "" {
			data, err := sourcetest.NewSystem("6.12.1-cloud-amd64").With("usr/bin/server", version).Tar()
			if err != nil {
				t.Fatal(err)
			}
			archives[version] = filepath.Join(t.TempDir(), version+".tar")
			if err := os.WriteFile(archives[version], data, 0o600); err != nil {
				t.Fatal(err)
			}
		}
		return archives[version]
	}
	is := func(version string) { w.work.Variables = map[string]any{"vms": vms, "archive": archive(version)} }
	// applying plans, and returns what carries the plan out.
	applying := func(version string) func(context.Context) error {
		is(version)
		plan := w.plan(t)
		return func(ctx context.Context) error { return w.work.Apply(ctx, plan) }
	}
	destroying := func(string) func(context.Context) error { return w.work.Destroy }

	// How long it takes undisturbed says when to kill. A second turn finds releases in the cache,
	// as the turns below do.
	lasts := map[string]time.Duration{}
	for range 2 {
		for _, one := range []struct {
			name, version string
			prepare       func(version string) func(context.Context) error
		}{{"create", "1", applying}, {"patch", "2", applying}, {"destroy", "2", destroying}} {
			run := one.prepare(one.version)
			began := time.Now()
			if err := run(t.Context()); err != nil {
				t.Fatal(err)
			}
			lasts[one.name] = time.Since(began)
		}
	}
	w.mustBeEmpty(t)
	t.Logf("undisturbed: %v", lasts)

	cut := 0
	for i := range kills {
		at := func(name string) time.Duration { return lasts[name] * time.Duration(2*i+1) / (2 * kills) }
		if w.killed(t, at("create"), i%2 == 1, applying("1")) {
			cut++
		}
		w.mustApply(t)
		w.mustBeSettled(t)
		if w.killed(t, at("patch"), i%2 == 0, applying("2")) {
			cut++
		}
		w.mustApply(t)
		w.mustBeSettled(t)
		w.mustHave(t, vms)
		if w.killed(t, at("destroy"), i%2 == 1, w.work.Destroy) {
			cut++
		}
		if err := w.work.Destroy(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	if cut < kills {
		t.Errorf("only %d runs were cut off", cut)
	}
	// A destroy that was killed after its last resource leaves a rest to the next run in the pool.
	w.mustApply(t)
	if err := w.work.Destroy(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.mustBeEmpty(t)
}

// mustHave fails unless these VMs exist, and each has its private disk.
func (w *world) mustHave(t *testing.T, names []string) {
	t.Helper()
	for _, name := range names {
		if _, _, err := w.host.Fleet.Hypervisor.Lookup(t.Context(), name); err != nil {
			t.Errorf("VM %s: %v", name, err)
		}
	}
	domains, err := w.host.Fleet.Hypervisor.List(t.Context())
	if err != nil || len(domains) != len(names) {
		t.Errorf("%d domains instead of %d: %v", len(domains), len(names), err)
	}
}
