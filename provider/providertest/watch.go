package providertest

import (
	"context"
	"net"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/publish"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
)

// Steps that every operation reports to a Hook.
const (
	Begun = "begun"
	// Done is after the operation has done its work. An error here stands for a lost answer.
	Done = "done"
)

// Hook is called at each step of each operation, with the names of the operation ("Prepare", "Create", …), the object
// and the step. If it returns an error at Begun or Done, the operation returns this error. At other steps, the error is
// ignored; a hook can cancel the operation's context instead.
type Hook func(ctx context.Context, operation, object, step string) error

// SetHook sets the function that is called at each step; nil for none.
func (w *World) SetHook(hook Hook) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.hook = hook
}

// watch runs an operation and calls the hook.
func (w *World) watch(ctx context.Context, operation, object string, run func(tell func(step string)) error) error {
	w.mu.Lock()
	w.calls = append(w.calls, operation+" "+object)
	hook := w.hook
	w.mu.Unlock()
	if hook == nil {
		return run(func(string) {})
	}
	if err := hook(ctx, operation, object, Begun); err != nil {
		return err
	}
	if err := run(func(step string) { _ = hook(ctx, operation, object, step) }); err != nil { // as Hook says
		return err
	}
	return hook(ctx, operation, object, Done)
}

type watchedPublisher struct {
	world *World
	real  *publish.Publisher
}

var _ publish.Interface = watchedPublisher{}

// parts reports steps to both.
func parts(tell func(string), progress source.Progress) source.Progress {
	return func(step string, done, total int64) {
		if progress != nil {
			progress(step, done, total)
		}
		tell(step)
	}
}

func (p watchedPublisher) Fingerprint(ctx context.Context, spec publish.Spec) (string, error) {
	return p.real.Fingerprint(ctx, p.world.readable(spec))
}

func (p watchedPublisher) Inputs(ctx context.Context, spec publish.Spec) (map[string]string, error) {
	return p.real.Inputs(ctx, p.world.readable(spec))
}

func (p watchedPublisher) Prepare(ctx context.Context, spec publish.Spec,
	progress source.Progress) (made *publish.Prepared, err error) {
	err = p.world.watch(ctx, "Prepare", spec.Name, func(tell func(string)) error {
		made, err = p.real.Prepare(ctx, p.world.readable(spec), parts(tell, progress))
		return err
	})
	return made, err
}

func (p watchedPublisher) PrepareCached(ctx context.Context, spec publish.Spec) (made *publish.Prepared, err error) {
	err = p.world.watch(ctx, "PrepareCached", spec.Name, func(func(string)) error {
		made, err = p.real.PrepareCached(ctx, p.world.readable(spec))
		return err
	})
	return made, err
}

func (p watchedPublisher) Publish(ctx context.Context, prepared *publish.Prepared, progress source.Progress) error {
	return p.world.watch(ctx, "Publish", prepared.Manifest.Name, func(tell func(string)) error {
		return p.real.Publish(ctx, prepared, parts(tell, progress))
	})
}

func (p watchedPublisher) Names(ctx context.Context) ([]string, error) { return p.real.Names(ctx) }

func (p watchedPublisher) Newest(ctx context.Context,
	name string) (id tree.Digest, manifest *release.Manifest, err error) {
	err = p.world.watch(ctx, "Newest", name, func(func(string)) error {
		id, manifest, err = p.real.Newest(ctx, name)
		return err
	})
	return id, manifest, err
}

func (p watchedPublisher) Get(ctx context.Context, id tree.Digest) (manifest *release.Manifest, err error) {
	err = p.world.watch(ctx, "Get", id.String(), func(func(string)) error {
		manifest, err = p.real.Get(ctx, id)
		return err
	})
	return manifest, err
}

func (p watchedPublisher) Offered(id tree.Digest) *release.Manifest { return p.real.Offered(id) }

func (p watchedPublisher) History(ctx context.Context, name string) (history []publish.Recorded, err error) {
	err = p.world.watch(ctx, "History", name, func(func(string)) error {
		history, err = p.real.History(ctx, name)
		return err
	})
	return history, err
}

func (p watchedPublisher) Owner(ctx context.Context, name string) (publish.Ownership, error) {
	return p.real.Owner(ctx, name)
}

func (p watchedPublisher) Made(ctx context.Context, name, owner string) error {
	return p.real.Made(ctx, name, owner)
}

func (p watchedPublisher) SetOwner(ctx context.Context, name, owner string) error {
	return p.real.SetOwner(ctx, name, owner)
}

func (p watchedPublisher) Abandon(ctx context.Context, name, owner string) error {
	return p.real.Abandon(ctx, name, owner)
}

func (p watchedPublisher) Verify(ctx context.Context, name string) (found *publish.Verified, err error) {
	err = p.world.watch(ctx, "Verify", name, func(func(string)) error {
		found, err = p.real.Verify(ctx, name)
		return err
	})
	return found, err
}

func (p watchedPublisher) Usage(ctx context.Context, inUse publish.InUse) (usage *publish.Usage, err error) {
	err = p.world.watch(ctx, "Usage", "", func(func(string)) error {
		usage, err = p.real.Usage(ctx, inUse)
		return err
	})
	return usage, err
}

func (p watchedPublisher) Retain(ctx context.Context, name string, newest int,
	inUse publish.InUse) (dropped []tree.Digest, err error) {
	err = p.world.watch(ctx, "Retain", name, func(func(string)) error {
		dropped, err = p.real.Retain(ctx, name, newest, inUse)
		return err
	})
	return dropped, err
}

func (p watchedPublisher) Delete(ctx context.Context, name string, inUse publish.InUse) error {
	return p.world.watch(ctx, "Delete", name, func(func(string)) error { return p.real.Delete(ctx, name, inUse) })
}

type watchedFleet struct {
	world *World
	real  *vm.Fleet
}

var _ vm.Interface = watchedFleet{}

// steps reports steps to both.
func steps(tell func(string), progress vm.Progress) vm.Progress {
	return func(step string) { progress(step); tell(step) }
}

func (f watchedFleet) Create(ctx context.Context, spec vm.Spec, progress vm.Progress) (made *vm.VM, err error) {
	err = f.world.watch(ctx, "Create", spec.Name, func(tell func(string)) error {
		made, err = f.real.Create(ctx, spec, steps(tell, progress))
		return err
	})
	return made, err
}

func (f watchedFleet) Interrupted(ctx context.Context, name string) (string, error) {
	return f.real.Interrupted(ctx, name)
}

func (f watchedFleet) Recorded(ctx context.Context, uuid string) error {
	return f.real.Recorded(ctx, uuid)
}

func (f watchedFleet) Find(ctx context.Context, name, uuid string) (string, error) {
	return f.real.Find(ctx, name, uuid)
}

func (f watchedFleet) Check(ctx context.Context, spec vm.Spec, build bool) (stack vm.Checked, err error) {
	err = f.world.watch(ctx, "Check", spec.Name, func(func(string)) error {
		stack, err = f.real.Check(ctx, spec, build)
		return err
	})
	return stack, err
}

func (f watchedFleet) Preflight(ctx context.Context, question vm.Question) (problems []vm.Problem, err error) {
	err = f.world.watch(ctx, "Preflight", question.Want.Name, func(func(string)) error {
		problems, err = f.real.Preflight(ctx, question)
		return err
	})
	return problems, err
}

func (f watchedFleet) Read(ctx context.Context, name string) (found *vm.VM, err error) {
	err = f.world.watch(ctx, "Read", name, func(func(string)) error {
		found, err = f.real.Read(ctx, name)
		return err
	})
	return found, err
}

func (f watchedFleet) List(ctx context.Context) (all []vm.Listed, err error) {
	err = f.world.watch(ctx, "List", "", func(func(string)) error {
		all, err = f.real.List(ctx)
		return err
	})
	return all, err
}

func (f watchedFleet) Dial(ctx context.Context, uuid string, port uint32) (net.Conn, error) {
	return f.real.Dial(ctx, uuid, port)
}

func (f watchedFleet) Reboot(ctx context.Context, uuid string, ready vm.Readiness,
	progress vm.Progress) (rebooted *vm.VM, err error) {
	err = f.world.watch(ctx, "Reboot", uuid, func(tell func(string)) error {
		rebooted, err = f.real.Reboot(ctx, uuid, ready, steps(tell, progress))
		return err
	})
	return rebooted, err
}

func (f watchedFleet) Update(ctx context.Context, spec vm.Spec,
	progress vm.Progress) (updated *vm.VM, report *agentapi.Report, err error) {
	err = f.world.watch(ctx, "Update", spec.Name, func(tell func(string)) error {
		updated, report, err = f.real.Update(ctx, spec, steps(tell, progress))
		return err
	})
	return updated, report, err
}

func (f watchedFleet) Assess(ctx context.Context, spec vm.Spec) (impact *agentapi.Impact, err error) {
	err = f.world.watch(ctx, "Assess", spec.Name, func(func(string)) error {
		impact, err = f.real.Assess(ctx, spec)
		return err
	})
	return impact, err
}

func (f watchedFleet) Move(ctx context.Context, name string, to vm.Target, back bool,
	progress vm.Progress) (moved *vm.VM, report *agentapi.Report, err error) {
	operation := "Move"
	if back {
		operation = "TakeBack"
	}
	err = f.world.watch(ctx, operation, name, func(tell func(string)) error {
		moved, report, err = f.real.Move(ctx, name, to, back, steps(tell, progress))
		return err
	})
	return moved, report, err
}

func (f watchedFleet) AssessMove(ctx context.Context, name string, to vm.Target,
	policy *vm.RefreshPolicy) (impact *agentapi.Impact, err error) {
	err = f.world.watch(ctx, "AssessMove", name, func(func(string)) error {
		impact, err = f.real.AssessMove(ctx, name, to, policy)
		return err
	})
	return impact, err
}

func (f watchedFleet) Passed(ctx context.Context, name string) error {
	return f.world.watch(ctx, "Passed", name, func(func(string)) error { return f.real.Passed(ctx, name) })
}

func (f watchedFleet) Health(ctx context.Context, name string) (failed []*agentapi.FailedCheck, err error) {
	err = f.world.watch(ctx, "Health", name, func(func(string)) error {
		failed, err = f.real.Health(ctx, name)
		return err
	})
	return failed, err
}

func (f watchedFleet) SetLifeCycle(ctx context.Context, name, uuid string, want vm.LifeCycle) error {
	return f.world.watch(ctx, "SetLifeCycle", name,
		func(func(string)) error { return f.real.SetLifeCycle(ctx, name, uuid, want) })
}

func (f watchedFleet) Delete(ctx context.Context, name, uuid string, progress vm.Progress) error {
	return f.world.watch(ctx, "Delete", name, func(tell func(string)) error {
		return f.real.Delete(ctx, name, uuid, steps(tell, progress))
	})
}

func (f watchedFleet) InUse(ctx context.Context) (inUse map[tree.Digest][]string, err error) {
	err = f.world.watch(ctx, "InUse", "", func(func(string)) error {
		inUse, err = f.real.InUse(ctx)
		return err
	})
	return inUse, err
}
