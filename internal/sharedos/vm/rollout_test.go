package vm_test

import (
	"errors"
	"slices"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"google.golang.org/protobuf/testing/protocmp"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/transport"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
)

// partaking is a VM that takes part in rollouts.
func (w *world) partaking() vm.Spec {
	spec := w.spec()
	spec.Refresh = vm.RefreshPolicy{
		Strategy: vm.Live, MaxImpact: agentapi.Level_RESTART, ByRollout: true, Settle: time.Second,
		RestartTimeout: time.Minute,
		RequireChecks:  true, KeepFiles: []string{"/etc/motd"}, Purge: true,
		HealthChecks: []*agentapi.HealthCheck{{Name: "web",
			Kind: &agentapi.HealthCheck_Unit{Unit: "web.service"}, TimeoutMs: 5}},
		Units: &agentapi.UnitPolicy{Default: "reload"},
	}
	return spec
}

func (w *world) read(t *testing.T, name string) *vm.VM {
	t.Helper()
	found, err := w.fleet.Read(t.Context(), name)
	if err != nil {
		t.Fatal(err)
	}
	return found
}

func TestADefinitionRecordsHowARolloutMovesTheVM(t *testing.T) {
	w := newWorld(t)
	spec := w.partaking()
	made := w.create(t, spec)
	if made.Rollout == nil {
		t.Fatal("it is not recorded that the VM takes part")
	}
	if diff := cmp.Diff(spec.Refresh, made.Rollout.Policy, protocmp.Transform(),
		cmp.AllowUnexported(vm.RefreshPolicy{})); diff != "" {
		t.Error(diff)
	}
	spec.Refresh.ByRollout = false
	if _, _, err := w.fleet.Update(t.Context(), spec, quiet); err != nil {
		t.Fatal(err)
	}
	if w.read(t, spec.Name).Rollout != nil {
		t.Error("a VM that takes part no more still has the record")
	}
	if _, _, err := w.fleet.Move(t.Context(), spec.Name, vm.Target{Base: w.new}, false,
		quiet); !errors.Is(err, vm.ErrNoPart) {
		t.Errorf("move: %v", err)
	}
	if _, err := w.fleet.Health(t.Context(), spec.Name); !errors.Is(err, vm.ErrNoPart) {
		t.Errorf("health: %v", err)
	}
}

func TestAVMInRolloutsIsMovedByThemAlone(t *testing.T) {
	w := newWorld(t)
	spec := w.partaking()
	w.create(t, spec)
	agent := w.agent(t, spec.Name)

	// Its own update leaves the stack alone, and does the rest.
	spec.Base, spec.Hostname = w.new, "other"
	updated, report, err := w.fleet.Update(t.Context(), spec, quiet)
	if err != nil || report != nil || updated.Spec.Base != w.old ||
		updated.Spec.Hostname != "other" || agent.Refreshes() != 0 {
		t.Fatalf("own update: %v, report %v, base %s, host name %q, %d refreshes", err, report, updated.Spec.Base,
			updated.Spec.Hostname, agent.Refreshes())
	}
	if impact, err := w.fleet.AssessMove(t.Context(), spec.Name, vm.Target{Base: w.new}, nil); err != nil ||
		impact == nil {
		t.Errorf("assessment: %v, %v", impact, err)
	}

	moved, _, err := w.fleet.Move(t.Context(), spec.Name, vm.Target{Base: w.new}, false, quiet)
	if err != nil || moved.Spec.Base != w.new || agent.Stack().Base != w.new {
		t.Fatalf("move: %v, base %s, guest %s", err, moved.Spec.Base, agent.Stack().Base)
	}
	if moved.Rollout.Moved == nil || moved.Rollout.Moved.From.Base != w.old ||
		time.Since(moved.Rollout.Moved.At) > time.Hour {
		t.Fatalf("recorded %+v", moved.Rollout.Moved)
	}
	inUse, err := w.fleet.InUse(t.Context())
	if err != nil || !slices.Contains(inUse[w.old], spec.Name) {
		t.Errorf("the stack from before is not in use by the VM: %v, %v", inUse[w.old], err)
	}

	// An update of its own after the move keeps both.
	if updated, _, err = w.fleet.Update(t.Context(), spec, quiet); err != nil || updated.Spec.Base != w.new ||
		updated.Rollout.Moved == nil {
		t.Errorf("own update after the move: %v, %+v", err, updated)
	}

	taken, _, err := w.fleet.Move(t.Context(), spec.Name, moved.Rollout.Moved.From, true, quiet)
	if err != nil || taken.Spec.Base != w.old || agent.Stack().Base != w.old {
		t.Fatalf("take back: %v, %+v", err, taken)
	}
	if !agent.Asked().GetAllowDowngrade() || agent.Asked().GetRequireChecks() {
		t.Errorf("asked for %v", agent.Asked())
	}
	if diff := cmp.Diff(spec.Refresh, taken.Rollout.Policy, protocmp.Transform(),
		cmp.AllowUnexported(vm.RefreshPolicy{})); diff != "" {
		t.Errorf("the policy is another one after it was taken back: %s", diff)
	}
	if w.read(t, spec.Name).Rollout.Moved != nil {
		t.Error("what was taken back is still recorded as a move")
	}
	if _, _, err := w.fleet.Move(t.Context(), spec.Name, vm.Target{Base: w.new}, false, quiet); err != nil {
		t.Fatal(err)
	}
	if _, _, err := w.fleet.Move(t.Context(), spec.Name, vm.Target{Base: w.old}, false,
		quiet); !errors.Is(err, vm.ErrNotLive) {
		t.Errorf("an earlier release without asking for it: %v", err)
	}
	if err := w.fleet.Passed(t.Context(), spec.Name); err != nil {
		t.Fatal(err)
	}
	if found := w.read(t, spec.Name); found.Rollout.Moved != nil || found.Spec.Base != w.new {
		t.Errorf("after it has passed: %+v", found.Rollout)
	}
	if inUse, err = w.fleet.InUse(t.Context()); err != nil || slices.Contains(inUse[w.old], spec.Name) {
		t.Errorf("the stack from before is still in use: %v", inUse[w.old])
	}
}

// keepsPart fails unless a VM takes part in rollouts as spec says, and was moved from a base.
func (w *world) keepsPart(t *testing.T, spec vm.Spec, from tree.Digest) {
	t.Helper()
	now := w.read(t, spec.Name).Rollout
	if now == nil || now.Moved == nil || now.Moved.From.Base != from {
		t.Fatalf("it takes part as %+v", now)
	}
	if diff := cmp.Diff(spec.Refresh, now.Policy, protocmp.Transform(),
		cmp.AllowUnexported(vm.RefreshPolicy{})); diff != "" {
		t.Errorf("the policy is another one: %s", diff)
	}
}

func TestWhoRebootsOrRefreshesAVMLeavesItsPartInRollouts(t *testing.T) {
	w := newWorld(t)
	spec := w.partaking()
	w.create(t, spec)
	agent := w.agent(t, spec.Name)
	before := agent.Stack()
	if _, _, err := w.fleet.Move(t.Context(), spec.Name, vm.Target{Base: w.new}, false, quiet); err != nil {
		t.Fatal(err)
	}
	if _, err := w.fleet.Reboot(within(t, time.Minute), spec.UUID, vm.Readiness{}, quiet); err != nil {
		t.Fatal(err)
	}
	w.keepsPart(t, spec, w.old)

	agent.FallBack(before)
	found := w.read(t, spec.Name)
	again := found.Spec
	again.Refresh = vm.RefreshPolicy{Strategy: vm.Live, MaxImpact: agentapi.Level_RESTART,
		Settle: time.Minute}.Once(found.Rollout)
	updated, _, err := w.fleet.Update(within(t, time.Minute), again, quiet)
	if err != nil || updated.Stack.Base != w.new || agent.Asked().GetSettleMs() != time.Minute.Milliseconds() {
		t.Fatalf("%v, it runs %s, and was asked for %v", err, updated.Stack.Base, agent.Asked())
	}
	w.keepsPart(t, spec, w.old)
	if part := (vm.RefreshPolicy{ByRollout: true}).Once(nil); part.ByRollout {
		t.Error("a VM takes part in rollouts by a refresh")
	}
}

// A move to the next release before the last one was judged keeps the way back to what was good,
// and the checks that were.
func TestAMoveThatIsNotFinalIsMovedOn(t *testing.T) {
	w := newWorld(t)
	third := w.publishAs(t, "debian-13",
		&release.Manifest{Sequence: 3, Previous: w.new, Layers: []release.Layer{w.putLayer(t, "third", false)}},
		"6.12.2")
	spec := w.partaking()
	w.create(t, spec)
	agent := w.agent(t, spec.Name)
	if _, _, err := w.fleet.Move(t.Context(), spec.Name, vm.Target{Base: w.new}, false, quiet); err != nil {
		t.Fatal(err)
	}
	agent.SetUnhealthy("web", "the second release has broken it")
	if _, _, err := w.fleet.Move(t.Context(), spec.Name, vm.Target{Base: third}, false, quiet); err != nil {
		t.Fatal(err)
	}
	w.keepsPart(t, spec, w.old)
	if failed, err := w.fleet.Health(t.Context(), spec.Name); err != nil || len(failed) != 1 {
		t.Errorf("health: %v, %v", failed, err)
	}
	taken, _, err := w.fleet.Move(t.Context(), spec.Name, vm.Target{Base: w.old}, true, quiet)
	if err != nil || taken.Rollout.Moved != nil || taken.Stack.Base != w.old {
		t.Errorf("taken back: %+v, %v", taken, err)
	}
}

func TestAMoveByAPowerCycleThatFailsIsNone(t *testing.T) {
	w := newWorld(t)
	spec := w.partaking()
	spec.Refresh.Strategy, spec.Refresh.MaxImpact = vm.Reboot, agentapi.Level_REBOOT
	w.create(t, spec)
	w.agent(t, spec.Name).RefreshError = "it does not come up"
	if _, _, err := w.fleet.Move(within(t, time.Minute), spec.Name, vm.Target{Base: w.new}, false,
		quiet); !errors.Is(err, vm.ErrRolledBack) {
		t.Fatal(err)
	}
	if found := w.read(t, spec.Name); found.Spec.Base != w.old || found.Rollout.Moved != nil {
		t.Errorf("it has base %s, and %+v", found.Spec.Base, found.Rollout.Moved)
	}
}

func TestAMoveOfAVMThatIsOffIsRecordedAsOne(t *testing.T) {
	for _, running := range []bool{true, false} {
		w := newWorld(t)
		spec := w.partaking()
		spec.Running = running
		w.create(t, spec)
		moved, _, err := w.fleet.Move(within(t, time.Minute), spec.Name, vm.Target{Base: w.new}, false, quiet)
		if err != nil || moved.Rollout.Moved == nil || moved.Rollout.Moved.Off == running {
			t.Errorf("running %v: %+v, %v", running, moved, err)
		}
	}
}

func TestHealthOfAVMThatCannotBeReached(t *testing.T) {
	w := newWorld(t)
	spec := w.partaking()
	w.create(t, spec)
	lost := errors.New("the connection to libvirt is lost")
	for err, silent := range map[error]bool{hypervisor.ErrVSockEnded: true, hypervisor.ErrNotRunning: true,
		transport.ErrPeerKey: true, lost: false} {
		w.hypervisor.Fail = func(method, _ string) error {
			if method == "Dialer" {
				return err
			}
			return nil
		}
		if _, got := w.fleet.Health(t.Context(), spec.Name); !errors.Is(got, err) ||
			errors.Is(got, vm.ErrNoAnswer) != silent {
			t.Errorf("%v: %v", err, got)
		}
	}
}

func TestHealthTellsFailedChecksAndAnotherStack(t *testing.T) {
	w := newWorld(t)
	spec := w.partaking()
	w.create(t, spec)
	agent := w.agent(t, spec.Name)
	if failed, err := w.fleet.Health(t.Context(), spec.Name); err != nil || len(failed) > 0 {
		t.Errorf("healthy: %v, %v", failed, err)
	}
	agent.SetUnhealthy("web", "it has failed")
	failed, err := w.fleet.Health(t.Context(), spec.Name)
	if err != nil || len(failed) != 1 || failed[0].GetName() != "web" || failed[0].GetReason() != "it has failed" {
		t.Errorf("unhealthy: %v, %v", failed, err)
	}
	// A check that failed before a move does not judge it.
	before := agent.Stack()
	if _, _, err := w.fleet.Move(t.Context(), spec.Name, vm.Target{Base: w.new}, false, quiet); err != nil {
		t.Fatal(err)
	}
	if failed, err = w.fleet.Health(t.Context(), spec.Name); err != nil || len(failed) > 0 {
		t.Errorf("failed before the move, too: %v, %v", failed, err)
	}
	if err := w.fleet.Passed(t.Context(), spec.Name); err != nil {
		t.Fatal(err)
	}
	if failed, err = w.fleet.Health(t.Context(), spec.Name); err != nil || len(failed) != 1 {
		t.Errorf("after the move has passed: %v, %v", failed, err)
	}
	agent.SetUnhealthy("web", "")
	agent.FallBack(before)
	if failed, err = w.fleet.Health(t.Context(), spec.Name); err != nil || len(failed) != 1 ||
		failed[0].GetName() != "stack" {
		t.Errorf("fallen back: %v, %v", failed, err)
	}
	agent.Off()
	if _, err = w.fleet.Health(t.Context(), spec.Name); !errors.Is(err, vm.ErrNoAnswer) {
		t.Errorf("silent: %v", err)
	}
}

// Whatever a move is cut off at, the next one ends it without another refresh, and records from where the VM came.
func TestAMoveThatWasCutOffIsEnded(t *testing.T) {
	for _, step := range []string{"AttachLayer", "Define", "DetachLayer"} {
		t.Run("at "+step, func(t *testing.T) {
			w := newWorld(t)
			spec := w.partaking()
			w.create(t, spec)
			w.hypervisor.Fail = func(method, _ string) error {
				if method == step {
					return errors.New("cut off")
				}
				return nil
			}
			if _, _, err := w.fleet.Move(t.Context(), spec.Name, vm.Target{Base: w.new}, false, quiet); err == nil &&
				step != "DetachLayer" {
				t.Fatal("it was not cut off")
			}
			w.hypervisor.Fail = nil
			w.agent(t, spec.Name).SetUnhealthy("web", "since the move") // which must not count as before the move
			moved, _, err := w.fleet.Move(t.Context(), spec.Name, vm.Target{Base: w.new}, false, quiet)
			if err != nil || moved.Stack.Base != w.new || moved.Spec.Base != w.new || moved.Rollout.Moved == nil ||
				moved.Rollout.Moved.From.Base != w.old {
				t.Fatalf("moved %+v, %v", moved, err)
			}
			failed, err := w.fleet.Health(t.Context(), spec.Name)
			if want := 1; step != "AttachLayer" && (err != nil || len(failed) != want) {
				t.Errorf("health: %v, %v", failed, err)
			}
			if n := w.agent(t, spec.Name).Refreshes(); n != 1 {
				t.Errorf("the guest was refreshed %d times", n)
			}
		})
	}
}
