package provider_test

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/rollout"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
	"github.com/sharedos/terraform-provider-sharedos/provider"
)

// oneVM is a VM whose moves do what a test says.
type oneVM struct {
	vm.Interface
	found vm.VM
	move  func(ctx context.Context, found *vm.VM) error
	moves int
}

func (o *oneVM) Read(context.Context, string) (*vm.VM, error) {
	found := o.found
	return &found, nil
}

func (o *oneVM) Move(ctx context.Context, _ string, _ vm.Target, _ bool,
	_ vm.Progress) (*vm.VM, *agentapi.Report, error) {
	o.moves++
	err := o.move(ctx, &o.found)
	return &o.found, nil, err
}

var oldBase, newBase = tree.Sum([]byte("old")), tree.Sum([]byte("new"))

// running is a VM of rollouts that runs a base and has another one in its definition.
func running(runs, defined tree.Digest) vm.VM {
	return vm.VM{
		State: hypervisor.Running, Answered: true, Spec: vm.Spec{Name: "web", Base: defined},
		Rollout: &vm.Participation{},
		Stack:   release.Stack{Base: runs}, Configured: release.Stack{Base: defined},
	}
}

// A hostile agent that always says that it is at it holds a rollout up no longer than the limit of a move.
func TestAMoveThatDoesNotEndHasALimit(t *testing.T) {
	one := &oneVM{found: running(oldBase, oldBase), move: func(ctx context.Context, _ *vm.VM) error {
		<-ctx.Done()
		return ctx.Err()
	}}
	one.found.Rollout.Moved = &vm.Moved{From: vm.Target{Base: oldBase}}
	short := provider.RolloutFleet(one, vm.Target{Base: newBase}, time.Millisecond)
	if _, err := short.Move(t.Context(), "web"); !errors.Is(err, rollout.ErrSilent) {
		t.Errorf("move: %v", err)
	}
	if err := short.TakeBack(t.Context(), "web"); !errors.Is(err, rollout.ErrSilent) {
		t.Errorf("take back: %v", err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if _, err := provider.RolloutFleet(one, vm.Target{Base: newBase}, time.Hour).Move(ctx, "web"); errors.Is(err,
		rollout.ErrSilent) || !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the rollout itself was cut off: %v", err)
	}
}

func TestAMoveThatFailsAfterTheGuestHasCommitted(t *testing.T) {
	broken := errors.New("the pool is locked")
	for name, c := range map[string]struct {
		// runs and defined are what the VM has after the first move; mended is true if the second one succeeds.
		runs, defined tree.Digest
		mended        bool
		moves         int
		fails, notes  string
	}{
		"it runs what it ran":       {oldBase, oldBase, false, 1, "the pool is locked", ""},
		"the definition does not":   {newBase, oldBase, false, 2, "its definition does not say so", ""},
		"the definition does later": {newBase, oldBase, true, 2, "", ""},
		"all but cleaning up":       {newBase, newBase, false, 1, "", "this failed afterwards: the pool is locked"},
	} {
		one := &oneVM{found: running(oldBase, oldBase)}
		one.move = func(_ context.Context, found *vm.VM) error {
			if one.moves == 2 && c.mended {
				*found = running(newBase, newBase)
				return nil
			}
			*found = running(c.runs, c.defined)
			return broken
		}
		report, err := provider.RolloutFleet(one, vm.Target{Base: newBase}, 0).Move(t.Context(), "web")
		if (err != nil) != (c.fails != "") ||
			err != nil && (!errors.Is(err, broken) || !strings.Contains(err.Error(), c.fails)) {
			t.Errorf("%s: %v", name, err)
		}
		if one.moves != c.moves || !strings.Contains(report.Note, c.notes) || report.Off {
			t.Errorf("%s: %d moves, %+v", name, one.moves, report)
		}
	}
}

func TestWhatARolloutSeesOfAVM(t *testing.T) {
	at := time.Unix(1000, 0)
	for name, c := range map[string]struct {
		change  func(found *vm.VM)
		want    rollout.Condition
		movedAt time.Time
		off     bool
	}{
		"moved":                     {func(*vm.VM) {}, rollout.Moved, at, false},
		"silent since it was moved": {func(found *vm.VM) { found.Answered = false }, rollout.Silent, at, false},
		"paused since it was moved": {func(found *vm.VM) { found.State = hypervisor.Paused },
			rollout.Silent, at, false},
		"silent, moved to another one": {func(found *vm.VM) { found.Answered, found.Spec.Base = false, oldBase },
			rollout.Silent, time.Time{}, false},
		"off since it was moved": {func(found *vm.VM) { found.State = hypervisor.Off },
			rollout.Silent, at, true},
		"crashed since it was moved": {func(found *vm.VM) { found.State = hypervisor.Crashed },
			rollout.Silent, at, true},
		"moved while it was off": {func(found *vm.VM) {
			found.State, found.Rollout.Moved.Off = hypervisor.Off,
				true
		}, rollout.Moved, at, true},
		"it has fallen back": {func(found *vm.VM) { found.Stack.Base = oldBase },
			rollout.Behind, time.Time{}, false},
		"passed": {func(found *vm.VM) { found.Rollout.Moved = nil },
			rollout.Current, time.Time{}, false},
		"it takes no part": {func(found *vm.VM) { found.Rollout = nil },
			rollout.Apart, time.Time{}, false},
		"off, and another one is judged": {func(found *vm.VM) { found.State, found.Spec.Base = hypervisor.Off, oldBase }, rollout.Behind, time.Time{}, true},
	} {
		one := &oneVM{found: running(newBase, newBase)}
		one.found.Rollout.Moved = &vm.Moved{From: vm.Target{Base: oldBase}, At: at}
		c.change(&one.found)
		sight, err := provider.RolloutFleet(one, vm.Target{Base: newBase}, 0).Look(t.Context(), "web")
		if err != nil || sight.Condition != c.want || !sight.MovedAt.Equal(c.movedAt) || sight.Off != c.off ||
			(sight.Why != "") != (c.want == rollout.Silent) {
			t.Errorf("%s: %+v, %v", name, sight, err)
		}
	}
}
