package vm

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/transport"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// Update implements Interface.
//
// Its order makes every interruption resumable: first the guest is moved and commits the new stack, then the definition
// is changed. Until the definition is changed, Read returns the old releases. So the next apply comes here again, finds
// that the guest runs the new stack, and changes the definition.
func (f *Fleet) Update(ctx context.Context, spec Spec, progress Progress) (*VM, *agentapi.Report, error) {
	var connected []string
	updated, report, err := f.change(ctx, spec, progress, func() (*agentapi.Report, float64, error) {
		return f.update(ctx, spec, &connected, progress)
	}, func() error { return f.awaitInterfaces(ctx, spec, connected, progress) })
	if err != nil {
		return nil, report, fmt.Errorf("update VM %q: %w", spec.Name, err)
	}
	return updated, report, nil
}

// change carries a change of a VM out, and deletes what the VM no longer refers to afterwards.
// await waits for what comes after the guest has taken on its configuration.
func (f *Fleet) change(ctx context.Context, spec Spec, progress Progress,
	carryOut func() (*agentapi.Report, float64, error),
	await func() error,
) (*VM, *agentapi.Report, error) {
	f.garbage.begin()
	domain, _, err := f.find(ctx, spec.Name, spec.UUID)
	var had []tree.Digest
	if err == nil {
		had, err = f.refersTo(ctx, domain)
	}
	var report *agentapi.Report
	var ready float64
	if err == nil {
		report, ready, err = carryOut()
	}
	if err == nil && spec.Running {
		err = f.configure(ctx, spec, progress)
	}
	if err == nil {
		err = await()
	}
	if err == nil && ready > 0 { // it was started
		err = f.awaitReady(ctx, spec, progress)
	}
	notCollected := f.collect(ctx, f.released(ctx, spec.Name, had), false, progress)
	if err != nil {
		f.logNotCollected(ctx, notCollected)
		return nil, report, err
	}
	updated, err := f.Read(ctx, spec.Name)
	if err != nil {
		return nil, report, err
	}
	updated.NotCollected = notCollected
	updated.Spec.Refresh = spec.Refresh
	updated.ReadySeconds = ready
	updated.OtherAgent = f.otherAgent(updated.Agent)
	return updated, report, nil
}

// update carries an update out. connected gets the interfaces that it has connected to a network while the VM runs.
func (f *Fleet) update(ctx context.Context, spec Spec, connected *[]string,
	progress Progress) (*agentapi.Report, float64, error) {
	domain, state, err := f.find(ctx, spec.Name, spec.UUID)
	if err != nil {
		return nil, 0, err
	}
	if domain.Name != spec.Name {
		return nil, 0, fmt.Errorf("it is named %q now: %w; rename it back (virsh domrename %[1]s %[3]s)",
			domain.Name, ErrOther, spec.Name)
	}
	// This comes first, so that a VM that cannot be changed in other ways can still be protected or deleted.
	if domain, err = f.setLifeCycle(ctx, domain, spec.LifeCycle); err != nil {
		return nil, 0, err
	}
	if domain, err = f.protectDisks(ctx, domain, spec); err != nil {
		return nil, 0, err
	}
	if state == hypervisor.Paused {
		return nil, 0, fmt.Errorf("the domain is paused; resume it with virsh resume %s, then apply again", spec.Name)
	}
	known, err := f.describe(ctx, domain, state)
	if err != nil {
		return nil, 0, err
	}
	if known.diskGone {
		volume, err := f.diskOf(ctx, domain)
		return nil, 0, errors.Join(err, diskGone(volume, f.Pool))
	}
	if spec.Refresh.ByRollout && !spec.Refresh.moving {
		spec.setStackOf(domain)
	}
	move, err := f.plan(domain, known.Spec, &spec)
	if err != nil {
		return nil, 0, err
	}
	if move.PowerCycle() && move.Level > spec.Refresh.MaxImpact {
		return nil, 0, fmt.Errorf("%w: %s; set refresh.max_impact to \"reboot\" to allow a power-off",
			ErrImpact, joined(move.Reasons))
	}
	if domain.Metadata.Creating != nil { // who updates a VM has it in state
		domain.Metadata.Creating = nil
		if err := f.Recorded(ctx, domain.UUID); err != nil {
			return nil, 0, err
		}
	}
	if state == hypervisor.Running {
		spec = f.withAttached(ctx, domain, spec, progress)
	}
	if move.Guest == GuestNone {
		return f.updateDefinition(ctx, domain, spec, move, progress)
	}
	if err := f.updateInterfaces(ctx, spec, move.Interfaces.Update, progress); err != nil {
		return nil, 0, err
	}
	if err := f.awaitBoot(ctx, domain, progress); err != nil {
		return nil, 0, err
	}
	if err := f.replaceAgent(ctx, domain, progress); err != nil {
		f.Log.WarnContext(ctx, "the agent stays as it is", "vm", spec.Name, "error", err)
	}
	if err := f.plugInterfaces(ctx, spec, move.Interfaces, progress); err != nil {
		return nil, 0, err
	}
	*connected = slices.Concat(move.Interfaces.Update, move.Interfaces.Again, move.Interfaces.Attach)
	if move.GrowDisk {
		if err := f.grow(ctx, domain, spec, progress); err != nil {
			return nil, 0, err
		}
	}
	if err := f.changeDisks(ctx, domain, spec, move.Disks, progress); err != nil {
		return nil, 0, err
	}
	if err := f.resize(ctx, domain, known.Spec, spec, move, progress); err != nil {
		return nil, 0, err
	}
	return f.updateGuest(ctx, domain, spec, move, progress)
}

// plan decides what changes a VM from what its definition says to spec. If spec does not know the
// further disks, it gets those that the VM has, and all of them are left as they are.
func (f *Fleet) plan(domain hypervisor.Domain, known Spec, spec *Spec) (Move, error) {
	if spec.Disks == nil {
		spec.Disks, spec.leaveDisks = known.Disks, true
	} else {
		known.Disks = f.definedDisks(domain)
	}
	if spec.leaveInterfaces {
		known.Interfaces = spec.Interfaces
	}
	return Plan(known, *spec, true)
}

func joined(reasons []Reason) string {
	texts := make([]string, len(reasons))
	for i, reason := range reasons {
		texts[i] = string(reason)
	}
	return strings.Join(texts, ", ")
}

// updateGuest updates a VM that keeps running: the guest first, then the definition.
func (f *Fleet) updateGuest(ctx context.Context, domain hypervisor.Domain, spec Spec, move Move,
	progress Progress) (*agentapi.Report, float64, error) {
	var report *agentapi.Report
	if move.Guest == GuestRefresh {
		var err error
		report, err = f.refresh(ctx, domain, spec, progress)
		var waits *needsPowerCycle
		var before *notAsked
		switch {
		case errors.As(err, &waits):
			return f.powerCycle(ctx, spec, waits.from, progress)
		case errors.Is(err, errDeferred):
			move.Guest = GuestDeferred
		case errors.As(err, &before) && errors.Is(err, ErrNoAnswer) && before.wanted.Same(domain.Metadata.Stack):
			// The stack stays the same: whether the guest runs it is for the next update.
			f.Log.WarnContext(ctx, "the definition changes without the agent, which does not answer",
				"vm", spec.Name, "error", err)
			move.Guest = GuestNone
		case err != nil:
			f.detachUnused(ctx, spec.Name)
			return report, 0, err
		}
	}
	if move.Identify {
		if err := f.identify(ctx, domain, spec, progress); err != nil {
			return report, 0, err
		}
	}
	defined := spec
	switch {
	case report == nil && move.Guest == GuestRefresh:
		defined = definedAs(domain, spec)
	case move.Guest == GuestDeferred:
		if err := f.detachAtStart(ctx, spec); err != nil {
			return report, 0, err
		}
	}
	if err := f.define(ctx, defined, progress); err != nil {
		if move.Identify {
			err = errors.Join(err, f.identifyAsBefore(ctx, domain, progress))
		}
		return report, 0, err
	}
	switch move.Guest {
	case GuestDeferred:
		f.recordDeferred(ctx, spec.Name)
	case GuestKept:
		if domain.Metadata.LeftWith != nil {
			f.recordDeferred(ctx, spec.Name)
		}
		return report, 0, f.tidyKept(ctx, spec.Name, progress)
	case GuestRefresh:
		// Detach first: layers that the VM no longer needs may occupy the ports for those that it lacks.
		if err := f.unplug(ctx, spec.Name, progress); err != nil {
			return report, 0, err
		}
		return report, 0, f.attachMissing(ctx, spec.Name, progress)
	}
	return report, 0, nil
}

// tidyKept detaches what a VM of rollouts does not need any more, and attaches what it lacks. An
// agent that does not answer is left to the next update.
func (f *Fleet) tidyKept(ctx context.Context, name string, progress Progress) error {
	err := f.unplug(ctx, name, progress)
	if errors.Is(err, ErrNoAnswer) {
		f.Log.WarnContext(ctx, "it is not known which layers the VM does not need", "vm", name, "error", err)
		return nil
	}
	if err != nil {
		return err
	}
	return f.attachMissing(ctx, name, progress)
}

// updateDefinition updates a VM that does not keep running.
func (f *Fleet) updateDefinition(ctx context.Context, domain hypervisor.Domain, spec Spec, move Move,
	progress Progress) (*agentapi.Report, float64, error) {
	if move.PowerCycle() {
		if err := f.checkDisks(ctx, domain, spec); err != nil {
			return nil, 0, err
		}
	}
	if move.PowerOff {
		if err := f.stop(ctx, spec.Name, progress); err != nil {
			return nil, 0, err
		}
	}
	err := f.detachAtStart(ctx, spec)
	if err == nil {
		err = f.define(ctx, spec, progress, f.fallback(ctx, domain)...)
	}
	switch {
	case err != nil && move.PowerCycle():
		return nil, 0, errors.Join(err, f.startAgain(ctx, spec.Name, progress))
	case err != nil || !move.Start:
		return nil, 0, err
	}
	report, ready, err := f.startTrial(ctx, spec, progress)
	if errors.Is(err, errNotStarted) && move.PowerCycle() {
		err = errors.Join(err, f.startAsBefore(ctx, domain, progress))
	}
	return report, ready, err
}

// startAsBefore defines a VM as it was and starts it, after libvirt has refused to start it as wanted. It does
// so after an interruption, too, and does not wait for the agent. A VM that runs nevertheless is left alone.
func (f *Fleet) startAsBefore(ctx context.Context, before hypervisor.Domain, progress Progress) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), 2*callLimit)
	defer cancel()
	_, state, err := f.Hypervisor.LookupUUID(ctx, before.UUID)
	if err == nil && state != hypervisor.Off {
		return nil
	}
	progress("starting it again as it was: it could not be started as wanted")
	if err == nil {
		err = f.Hypervisor.Define(ctx, before)
	}
	if err == nil {
		err = f.Hypervisor.Start(ctx, before.Name)
	}
	if err != nil {
		return fmt.Errorf("start it again as it was: %w", err)
	}
	return nil
}

// startAgain starts a VM that was powered off for a definition that failed. It does so after an
// interruption, too, and does not wait for the agent.
func (f *Fleet) startAgain(ctx context.Context, name string, progress Progress) error {
	progress("starting it again: it could not be defined as wanted")
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callLimit)
	defer cancel()
	if err := f.Hypervisor.Start(ctx, name); err != nil {
		return fmt.Errorf("start it again: %w", err)
	}
	return nil
}

// detachUnused detaches the layers that were attached for a refresh that has failed. If it fails, a later update or the
// next start detaches them. It reports no progress, since the user wants to see how far the refresh came.
func (f *Fleet) detachUnused(ctx context.Context, name string) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callLimit)
	defer cancel()
	if err := f.unplug(ctx, name, func(string) {}); err != nil {
		f.Log.WarnContext(ctx, "unable to detach the layers of a refresh that has failed", "vm", name, "error", err)
	}
}

// Assess implements Interface.
func (f *Fleet) Assess(ctx context.Context, spec Spec) (*agentapi.Impact, error) {
	impact, err := f.assess(ctx, spec)
	if err != nil {
		return nil, fmt.Errorf("assess VM %q: %w", spec.Name, err)
	}
	return impact, nil
}

func (f *Fleet) assess(ctx context.Context, spec Spec) (*agentapi.Impact, error) {
	domain, state, err := f.Hypervisor.Lookup(ctx, spec.Name)
	if err != nil {
		return nil, err
	}
	known, err := f.describe(ctx, domain, state)
	if err != nil {
		return nil, err
	}
	move, err := f.plan(domain, known.Spec, &spec)
	if err != nil {
		return nil, err
	}
	impact, err := f.assessMove(ctx, domain, spec, move)
	if err != nil || move.Guest == GuestNone || spec.Configuration.Empty() && domain.Metadata.Configuration == "" {
		return impact, err
	}
	return f.assessConfiguration(ctx, domain, spec, move, impact) // the guest may have another one than it was given
}

// assessMove assesses a move, except for the configuration of the guest.
func (f *Fleet) assessMove(ctx context.Context, domain hypervisor.Domain, spec Spec,
	move Move) (*agentapi.Impact, error) {
	switch {
	case move.Guest != GuestRefresh && (move.PowerCycle() || move.Guest == GuestDeferred):
		return move.Impact(), nil
	case move.Guest != GuestRefresh:
		return nil, nil //nolint:nilnil // the contract: nothing is interrupted
	}
	stack, err := f.wanted(ctx, f.withAttached(ctx, domain, spec, nil))
	if err != nil {
		return nil, err
	}
	agent, err := f.connect(ctx, domain)
	if err != nil {
		return nil, err
	}
	defer func() { _ = agent.Close() }() // only questions were asked on it
	status, err := statusOf(ctx, agent, &agentapi.StatusRequest{})
	if err != nil {
		return nil, err
	}
	current, err := agentapi.ParseStack(status.GetStack())
	if err != nil {
		return nil, fmt.Errorf("its agent names a stack that is none: %w", err)
	}
	if current.Same(stack.Stack) {
		return nil, nil //nolint:nilnil // the contract: nothing is interrupted
	}
	from, err := f.movable(ctx, domain, status, current, stack, spec.Refresh.back)
	if err != nil {
		return nil, err
	}
	target, err := f.uploadTarget(ctx, agent, from, stack, func(string) {})
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithTimeout(ctx, assessLimit)
	defer cancel()
	answer, err := agent.Assess(ctx, &agentapi.AssessRequest{
		Target: target, Policy: spec.Refresh.Units, Strategy: spec.Refresh.Strategy,
		HealthChecks: spec.Refresh.HealthChecks,
	})
	if err != nil {
		return nil, fmt.Errorf("ask its agent: %w", err)
	}
	return answer.GetImpact(), nil
}

// movable composes the stack that a VM runs, for its agent to compare the wanted one with. It fails with ErrNotLive if
// no live refresh leads from the one to the other. With back, the wanted one can be earlier.
func (f *Fleet) movable(ctx context.Context, domain hypervisor.Domain, status *agentapi.StatusResponse,
	current release.Stack, wanted *composed, back bool) (*composed, error) {
	if spoken := max(1, status.GetProtocol()); spoken < agentapi.Protocol {
		return nil, fmt.Errorf("%w: it speaks version %d of the protocol, and this provider version %d", ErrOldAgent,
			spoken, agentapi.Protocol)
	}
	of := recipeOf(current)
	of.cached = true // a guest names these releases: it must not make the host build
	from, err := f.stack(ctx, of)
	if errors.Is(err, store.ErrNotFound) && !errors.Is(err, store.ErrNoPool) {
		return nil, fmt.Errorf(
			"%w: a release that it runs is gone from the storage pool, so nobody knows what differs: %w", ErrNotLive,
			err)
	}
	if err != nil {
		return nil, fmt.Errorf("compose the stack that it runs: %w", err)
	}
	if !from.Same(current) {
		return nil, fmt.Errorf("%w: it runs stack %s, and its releases make stack %s here",
			ErrNotLive, current.ID, from.ID)
	}
	if was, is := from.manifest.Base.Name, wanted.manifest.Base.Name; was != is {
		return nil, fmt.Errorf("%w: it is of base %q, and the VM runs base %q", ErrNotLive, is, was)
	}
	if err := laterStack(from.manifest, wanted.manifest); err != nil && !back {
		return nil, err
	}
	if n := len(attachedTogether(domain.Metadata.Offer.LayerIDs(), current, wanted.Stack)); n > release.MaxStackLayers {
		return nil, fmt.Errorf(
			"%w: both stacks, with what the VM has on demand, have %d layers together, and a VM can have %d attached",
			ErrNotLive, n, release.MaxStackLayers)
	}
	return from, nil
}

// laterStack checks that nothing in one stack is earlier than in another.
func laterStack(from, wanted *release.StackManifest) error {
	if err := later("base", from.Base, wanted.Base); err != nil {
		return err
	}
	for _, now := range from.Components {
		for _, next := range wanted.Components {
			if now.Name != next.Name {
				continue
			}
			if err := later("component", now, next); err != nil {
				return err
			}
		}
	}
	return nil
}

// later checks that one release of a base or component is later than another.
func later(kind string, now, next release.Member) error {
	if now.ID != next.ID && next.Sequence <= now.Sequence {
		return fmt.Errorf("%w: it is release %d of %s %q, and the VM runs release %d", ErrNotLive, next.Sequence,
			kind, next.Name, now.Sequence)
	}
	return nil
}

// attachedTogether lists the layers of both stacks and those that are offered, each once.
func attachedTogether(offered []tree.Digest, a, b release.Stack) []tree.Digest {
	ids := slices.Clone(offered)
	for _, layer := range slices.Concat(a.Layers, b.Layers) {
		if !slices.Contains(ids, layer.ID) {
			ids = append(ids, layer.ID)
		}
	}
	return ids
}

// unplug detaches the layers that neither the guest nor the definition needs. A layer that is still in use in the guest
// stays attached until a later update or the next start.
func (f *Fleet) unplug(ctx context.Context, name string, progress Progress) error {
	domain, _, err := f.Hypervisor.Lookup(ctx, name)
	if err != nil {
		return err
	}
	agent, err := f.connect(ctx, domain)
	if err != nil {
		return fmt.Errorf("ask which layers are free: %w", err)
	}
	defer func() { _ = agent.Close() }() // its answers are read by then
	status, err := statusOf(ctx, agent, &agentapi.StatusRequest{})
	if err != nil {
		return err
	}
	if running, err := agentapi.ParseStack(status.GetStack()); err != nil || !running.Same(domain.Metadata.Stack) {
		return err // it runs another stack, after a rollback or a reboot: it is not known which layers are free
	}
	surplus, err := f.surplus(ctx, domain, status)
	if err != nil {
		return err
	}
	if len(surplus) == 0 {
		return nil
	}
	for _, id := range surplus { // one at a time: a guest may take seconds for each
		if err := f.unplugLayer(ctx, agent, name, id, progress); err != nil {
			return err
		}
	}
	return nil
}

// unplugLayer asks the guest to release a layer, and detaches it.
func (f *Fleet) unplugLayer(ctx context.Context, agent *transport.Agent, name, id string, progress Progress) error {
	ctx, cancel := context.WithTimeout(ctx, 2*callLimit)
	defer cancel()
	answer, err := agent.ReleaseLayers(ctx, &agentapi.ReleaseLayersRequest{Ids: []string{id}})
	if err != nil {
		return fmt.Errorf("ask it to release layer %s: %w", id, err)
	}
	for _, held := range answer.GetHeld() {
		f.Log.InfoContext(ctx, "a layer is still in use in the guest", "vm", name, "layer",
			held.GetId(), "by", held.GetBy())
	}
	if !slices.Contains(answer.GetFree(), id) {
		return nil
	}
	digest, err := parseLayer(id)
	if err != nil {
		return err
	}
	progress("detaching a layer that is no longer in use")
	if err := f.Hypervisor.DetachLayer(ctx, name, digest); err != nil {
		return fmt.Errorf("detach layer %s: %w", id, err)
	}
	return nil
}

// bootConfig reads the boot configuration in a definition.
func bootConfig(domain hypervisor.Domain) (agentapi.BootConfig, error) {
	var config agentapi.BootConfig
	if err := json.Unmarshal(domain.BootConfig, &config); err != nil {
		return config, fmt.Errorf("read the boot configuration in the definition of %q: %w", domain.Name, err)
	}
	return config, nil
}
