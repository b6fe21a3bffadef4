package providertest

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
)

// machine is one VM: its definition, and what its guest does.
type machine struct {
	spec    vm.Spec
	state   hypervisor.State
	stack   release.Stack // that the guest runs
	kernel  string        // that the guest booted
	foreign bool
	silent  bool
	impact  *agentapi.Impact
	broken  string // a health check that fails after every refresh
}

type fleet struct{ *World }

var _ vm.Interface = fleet{}

// readySeconds is how long every guest takes to boot.
const readySeconds = 4.25

func (f fleet) Create(ctx context.Context, spec vm.Spec, progress vm.Progress) (*vm.VM, error) {
	fail := func(err error) (*vm.VM, error) { return nil, fmt.Errorf("create VM %q: %w", spec.Name, err) }
	step := func(step string) error { progress(step); return f.at(ctx, "Create", spec.Name, step) }
	if err := f.enter(ctx, "Create", spec.Name); err != nil {
		return fail(err)
	}
	if spec.UUID == "" {
		return fail(errors.New("no UUID"))
	}
	f.mu.Lock()
	known := f.vms[spec.Name]
	stack, err := f.stack(spec)
	f.mu.Unlock()
	switch {
	case known != nil && known.foreign:
		return fail(hypervisor.ErrForeign)
	case known != nil && known.spec.UUID != spec.UUID:
		return fail(fmt.Errorf("%w, with UUID %s", vm.ErrExists, known.spec.UUID))
	case err != nil:
		return fail(err)
	}
	if err := step("making the private disk"); err != nil {
		return fail(err)
	}
	f.mu.Lock()
	if known == nil {
		known = &machine{state: hypervisor.Off}
		f.vms[spec.Name] = known
	}
	known.spec = spec
	f.mu.Unlock()
	if err := step("booting"); err != nil {
		return fail(err)
	}
	if spec.Running {
		f.mu.Lock()
		if known.state != hypervisor.Running {
			known.state, known.stack, known.kernel = hypervisor.Running, stack, stack.Kernel
		}
		f.mu.Unlock()
		if err := step("waiting for the agent"); err != nil {
			return fail(err)
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	made, err := f.describe(known)
	if err == nil && spec.Running {
		made.ReadySeconds = readySeconds
	}
	return made, err
}

// stack is what a VM of the spec's releases runs. The lock is held.
func (w *World) stack(spec vm.Spec) (release.Stack, error) {
	manifest, err := w.manifest(spec.Base)
	if err != nil {
		return release.Stack{}, err
	}
	if len(spec.Components) > 0 {
		return release.Stack{}, errors.New("this host has no components")
	}
	return release.StackOf(manifest, spec.Base), nil
}

// describe is a VM as a caller sees it. The lock is held.
func (w *World) describe(m *machine) (*vm.VM, error) {
	defined, err := w.stack(m.spec)
	if err != nil {
		return nil, err
	}
	found := &vm.VM{Spec: m.spec, State: m.state, Stack: defined, DiskAllocated: 9 << 20}
	found.Spec.Running = m.state == hypervisor.Running
	found.Spec.Refresh = vm.RefreshPolicy{}
	if m.state == hypervisor.Running && !m.silent {
		found.Answered, found.Stack = true, m.stack
		found.Agent = &agentapi.StatusResponse{AgentVersion: "test", Kernel: m.kernel, ReadySeconds: 3, Pending: m.pending()}
	}
	return found, nil
}

func (m *machine) pending() []string {
	if m.kernel == m.stack.Kernel {
		return nil
	}
	return []string{"kernel " + m.kernel + " → " + m.stack.Kernel}
}

func (f fleet) Read(ctx context.Context, name string) (*vm.VM, error) {
	if err := f.enter(ctx, "Read", name); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	known, err := f.find(name)
	if err != nil {
		return nil, fmt.Errorf("read VM %q: %w", name, err)
	}
	return f.describe(known)
}

// find looks a VM up. The lock is held.
func (w *World) find(name string) (*machine, error) {
	known := w.vms[name]
	switch {
	case known == nil:
		return nil, vm.ErrNotFound
	case known.foreign:
		return nil, hypervisor.ErrForeign
	default:
		return known, nil
	}
}

func (f fleet) Update(ctx context.Context, spec vm.Spec, progress vm.Progress) (*vm.VM, *agentapi.Report, error) {
	fail := func(report *agentapi.Report, err error) (*vm.VM, *agentapi.Report, error) {
		return nil, report, fmt.Errorf("update VM %q: %w", spec.Name, err)
	}
	step := func(step string) error { progress(step); return f.at(ctx, "Update", spec.Name, step) }
	if err := f.enter(ctx, "Update", spec.Name); err != nil {
		return fail(nil, err)
	}
	f.mu.Lock()
	known, err := f.find(spec.Name)
	var stack release.Stack
	if err == nil {
		stack, err = f.stack(spec)
	}
	f.mu.Unlock()
	switch {
	case err != nil:
		return fail(nil, err)
	case known.spec.UUID != spec.UUID:
		return fail(nil, vm.ErrExists)
	case spec.DiskSize < known.spec.DiskSize:
		return fail(nil, errors.New("its private disk cannot shrink"))
	case known.state == hypervisor.Paused:
		return fail(nil, errors.New("the domain is paused"))
	}
	running := known.state == hypervisor.Running
	power := running && spec.Running && hardwareDiffers(known.spec, spec)
	if power && spec.Refresh.MaxImpact < agentapi.Level_REBOOT {
		return fail(nil, vm.ErrImpact)
	}
	var report *agentapi.Report
	live := running && spec.Running && !power && spec.Refresh.Strategy == "live"
	if live && known.stack.Base != stack.Base {
		if known.silent {
			return fail(nil, vm.ErrNoAnswer)
		}
		if err := step("refreshing"); err != nil {
			return fail(nil, err)
		}
		if report, err = f.refresh(known, spec, stack); err != nil {
			return fail(report, err)
		}
	}
	if err := step("redefining"); err != nil {
		return fail(report, err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	known.spec = spec
	switch {
	case !spec.Running:
		known.state = hypervisor.Off
	case power || !running:
		known.state, known.stack, known.kernel = hypervisor.Running, stack, stack.Kernel
	}
	updated, err := f.describe(known)
	if err == nil && (power || !running && spec.Running) {
		updated.ReadySeconds = readySeconds
	}
	return updated, report, err
}

// refresh moves the guest to another stack, or not.
func (f fleet) refresh(known *machine, spec vm.Spec, stack release.Stack) (*agentapi.Report, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	impact := known.assessment()
	report := &agentapi.Report{
		From: &agentapi.Stack{Base: known.stack.Base.String()}, To: &agentapi.Stack{Base: stack.Base.String()},
		Done: true, Impact: impact, Timings: []*agentapi.Timing{{Step: "assess", Micros: 1500}},
	}
	if impact.GetLevel() > spec.Refresh.MaxImpact {
		report.Error = "the impact is too large"
		return report, vm.ErrImpact
	}
	for _, unit := range impact.GetUnits() {
		report.Restarts = append(report.Restarts, &agentapi.UnitRestart{Unit: unit.GetUnit(), Level: unit.GetLevel(), InterruptionUs: 12500})
	}
	if known.broken != "" {
		report.State, report.Error = agentapi.State_ROLLING_BACK, "health check "+known.broken+" failed: connection refused"
		return report, fmt.Errorf("%w: %s", vm.ErrRolledBack, report.GetError())
	}
	known.stack = stack
	report.State, report.Committed, report.Pending = agentapi.State_COMMITTED, true, known.pending()
	report.Timings = append(report.Timings, &agentapi.Timing{Step: "swap", Micros: 250})
	return report, nil
}

func (m *machine) assessment() *agentapi.Impact {
	if m.impact != nil {
		return m.impact
	}
	return &agentapi.Impact{
		Level:      agentapi.Level_RESTART,
		Units:      []*agentapi.UnitImpact{{Unit: "nginx.service", Level: agentapi.Level_RESTART, Reason: "maps libssl.so.3"}},
		Unaffected: []string{"cron.service"},
	}
}

func hardwareDiffers(a, b vm.Spec) bool {
	same := maps.EqualFunc(a.Interfaces, b.Interfaces, func(x, y hypervisor.Interface) bool {
		if x.User == nil || y.User == nil {
			return x == y
		}
		return maps.Equal(x.User.Forwards, y.User.Forwards)
	})
	return a.VCPUs != b.VCPUs || a.Memory != b.Memory || a.DiskSize != b.DiskSize || !same
}

func (f fleet) Assess(ctx context.Context, spec vm.Spec) (*agentapi.Impact, error) {
	if err := f.enter(ctx, "Assess", spec.Name); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	known, err := f.find(spec.Name)
	if err != nil {
		return nil, fmt.Errorf("assess VM %q: %w", spec.Name, err)
	}
	if known.state != hypervisor.Running || !spec.Running {
		return nil, nil //nolint:nilnil // the contract: nothing is interrupted
	}
	if hardwareDiffers(known.spec, spec) {
		return &agentapi.Impact{Level: agentapi.Level_REBOOT, Reasons: []string{"memory changes only through a power-off"}}, nil
	}
	stack, err := f.stack(spec)
	switch {
	case err != nil:
		return nil, fmt.Errorf("assess VM %q: %w", spec.Name, err)
	case known.silent:
		return nil, fmt.Errorf("assess VM %q: %w", spec.Name, vm.ErrNoAnswer)
	case stack.Base == known.stack.Base:
		return nil, nil //nolint:nilnil // the contract: nothing is interrupted
	}
	return known.assessment(), nil
}

func (f fleet) Delete(ctx context.Context, name, uuid string, progress vm.Progress) error {
	if err := f.enter(ctx, "Delete", name); err != nil {
		return err
	}
	progress("powering off")
	f.mu.Lock()
	defer f.mu.Unlock()
	known := f.vms[name]
	if known != nil && known.foreign {
		return fmt.Errorf("delete VM %q: %w", name, hypervisor.ErrForeign)
	}
	if known != nil && known.spec.UUID != uuid {
		return fmt.Errorf("delete VM %q: %w", name, vm.ErrOther)
	}
	delete(f.vms, name)
	return nil
}

func (f fleet) InUse(ctx context.Context) (map[tree.Digest][]string, error) {
	if err := f.enter(ctx, "InUse", ""); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	inUse := map[tree.Digest][]string{}
	for name, known := range f.vms {
		if !known.foreign {
			inUse[known.spec.Base] = append(inUse[known.spec.Base], name)
		}
	}
	for _, names := range inUse {
		slices.Sort(names)
	}
	return inUse, nil
}
