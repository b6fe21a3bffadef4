package vm

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/transport"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// ErrNoPart means that a VM does not take part in rollouts.
var ErrNoPart = errors.New("the VM does not take part in rollouts")

// Target is what makes a stack that a rollout moves VMs to.
type Target struct {
	Base                 tree.Digest
	Components, OnDemand []tree.Digest
	// Prefer is sorted by path.
	Prefer []release.Preference
}

// Equal reports whether both make the same stack.
func (t Target) Equal(other Target) bool {
	return t.Base == other.Base && slices.Equal(t.Components, other.Components) &&
		slices.Equal(t.OnDemand, other.OnDemand) &&
		slices.Equal(t.Prefer, other.Prefer)
}

// Makes reports whether stack is the target's, whatever of its components on demand the VM has attached.
func (t Target) Makes(stack release.Stack) bool {
	var fixed []tree.Digest
	attached := 0
	for _, id := range stack.Components {
		if slices.Contains(t.OnDemand, id) && !slices.Contains(t.Components, id) {
			attached++
		} else {
			fixed = append(fixed, id)
		}
	}
	return stack.Base == t.Base && slices.Equal(fixed, t.Components) &&
		attached+len(stack.Offered) == len(t.OnDemand) &&
		slices.Equal(stack.Prefer, t.Prefer)
}

// Target is what makes the stack of spec.
func (s Spec) Target() Target { return Target{s.Base, s.Components, s.OnDemand, s.Prefer} }

// Participation is how a VM takes part in rollouts.
type Participation struct {
	Policy RefreshPolicy
	// Moved is the last move by a rollout that is not final yet: the stack from before, and when it
	// was; nil if there is none.
	Moved *Moved
}

// Moved is a move of a VM. If Off is true, the VM was off, and only its definition was moved.
type Moved struct {
	From Target
	At   time.Time
	Off  bool
}

// recordOf is what a definition records of a policy; nil if the VM does not take part in rollouts.
func recordOf(policy RefreshPolicy) (*hypervisor.Rollout, error) {
	if policy.recorded != nil {
		policy = *policy.recorded
	}
	if !policy.ByRollout {
		return nil, nil //nolint:nilnil // the contract: there is none
	}
	policy.back = false
	text, err := protojson.Marshal(policy.request())
	if err != nil {
		return nil, fmt.Errorf("encode its refresh policy: %w", err)
	}
	var compact bytes.Buffer // protojson varies its spaces
	if err := json.Compact(&compact, text); err != nil {
		return nil, fmt.Errorf("encode its refresh policy: %w", err)
	}
	return &hypervisor.Rollout{Policy: compact.Bytes()}, nil
}

// participation reads the record. A policy that cannot be read is one that allows nothing.
func participation(domain hypervisor.Domain) *Participation {
	record := domain.Metadata.Rollout
	if record == nil {
		return nil
	}
	var request agentapi.RefreshRequest
	if err := protojson.Unmarshal(record.Policy, &request); err != nil {
		request.MaxImpact = agentapi.Level_NONE
	}
	part := &Participation{Policy: RefreshPolicy{
		Strategy: request.GetStrategy(), MaxImpact: request.GetMaxImpact(), HealthChecks: request.GetHealthChecks(),
		RequireChecks: request.GetRequireChecks(), Settle: time.Duration(request.GetSettleMs()) * time.Millisecond,
		RestartTimeout: time.Duration(request.GetRestartTimeoutMs()) * time.Millisecond,
		KeepFiles:      request.GetKeepFiles(), Purge: request.GetPurge(), Units: request.GetPolicy(), ByRollout: true,
	}}
	if moved := record.Moved; moved != nil {
		part.Moved = &Moved{Target{moved.Base, moved.Components, moved.OnDemand, moved.Prefer}, moved.At, moved.Off}
	}
	return part
}

// keepMove gives a new definition the record of the last move by a rollout. If the target is another one than
// before, that is a move. A move that is not final keeps what the VM ran before it, however often the VM is moved
// on, and ends when the VM has that again. off says that the VM was off before the new definition was asked for.
func keepMove(domain *hypervisor.Domain, before hypervisor.Domain, off bool) {
	record := domain.Metadata.Rollout
	if record == nil {
		return
	}
	if had := before.Metadata.Rollout; had != nil {
		record.Failing, record.Moved = had.Failing, had.Moved
	}
	now, from := specOf(*domain).target(), specOf(before).target()
	if now.Equal(from) {
		return
	}
	if last := record.Moved; last != nil {
		from = Target{last.Base, last.Components, last.OnDemand, last.Prefer}
	}
	if now.Equal(from) {
		record.Failing, record.Moved = nil, nil
		return
	}
	record.Moved = &hypervisor.Moved{
		At: time.Now().UTC(), Off: off, Base: from.Base, Components: from.Components,
		OnDemand: from.OnDemand, Prefer: from.Prefer,
	}
}

// setStackOf has the spec keep the stack of a definition.
func (s *Spec) setStackOf(domain hypervisor.Domain) {
	was := specOf(domain)
	s.Base, s.Components, s.Prefer, s.OnDemand, s.Attached = was.Base, was.Components, was.Prefer,
		was.OnDemand, was.Attached
}

// moveSpec is a VM as it is, but for the stack.
func (f *Fleet) moveSpec(ctx context.Context, name string, to Target) (Spec, error) {
	domain, state, err := f.Hypervisor.Lookup(ctx, name)
	if err != nil {
		return Spec{}, err
	}
	found, err := f.describe(ctx, domain, state)
	if err != nil {
		return Spec{}, err
	}
	spec := found.Spec
	spec.Base, spec.Components, spec.OnDemand, spec.Prefer = to.Base, to.Components, to.OnDemand, to.Prefer
	spec.Refresh.moving = true
	spec.Disks = nil // they stay as they are, and so do the interfaces
	spec.Interfaces, spec.leaveInterfaces = domain.Interfaces, true
	return spec, nil
}

// Move implements Interface.
func (f *Fleet) Move(ctx context.Context, name string, to Target, back bool,
	progress Progress) (*VM, *agentapi.Report, error) {
	spec, err := f.moveSpec(ctx, name, to)
	if err == nil && !spec.Refresh.ByRollout {
		err = ErrNoPart
	}
	if err != nil {
		return nil, nil, fmt.Errorf("move VM %q: %w", name, err)
	}
	if back {
		spec.Refresh.back = true
	} else if err := f.noteFailing(ctx, name, to); err != nil {
		return nil, nil, fmt.Errorf("move VM %q: %w", name, err)
	}
	moved, report, err := f.Update(ctx, spec, progress)
	if err != nil || !back {
		return moved, report, err
	}
	return moved, report, f.Passed(ctx, name) // there is nothing to take back any more
}

// noteFailing records which health checks fail before a move to another stack than that in the
// definition. If an earlier move is not final, what was recorded before that counts. An agent that
// does not answer, or that cannot say it, is left to the move.
func (f *Fleet) noteFailing(ctx context.Context, name string, to Target) error {
	domain, state, err := f.Hypervisor.Lookup(ctx, name)
	record := domain.Metadata.Rollout
	if err != nil || state != hypervisor.Running || record == nil {
		return err
	}
	if record.Moved != nil || to.Equal(specOf(domain).target()) {
		return nil
	}
	failed, err := f.healthOf(ctx, domain)
	if err != nil {
		return nil //nolint:nilerr // see above
	}
	var names []string
	for _, check := range failed {
		if check.GetName() == stackCheck {
			return nil // an earlier move was cut off after the guest had made it: what was recorded before it counts
		}
		names = append(names, check.GetName())
	}
	if slices.Equal(names, record.Failing) {
		return nil
	}
	return f.setMetadata(ctx, name, func(m *hypervisor.Metadata) {
		if m.Rollout != nil {
			noted := *m.Rollout
			noted.Failing, m.Rollout = names, &noted
		}
	})
}

// AssessMove implements Interface.
func (f *Fleet) AssessMove(ctx context.Context, name string, to Target,
	policy *RefreshPolicy) (*agentapi.Impact, error) {
	spec, err := f.moveSpec(ctx, name, to)
	if err != nil {
		return nil, fmt.Errorf("assess VM %q: %w", name, err)
	}
	if policy != nil {
		spec.Refresh = *policy
		spec.Refresh.moving = true
	}
	return f.Assess(ctx, spec)
}

// Passed implements Interface.
func (f *Fleet) Passed(ctx context.Context, name string) error {
	f.garbage.begin()
	domain, _, err := f.Hypervisor.Lookup(ctx, name)
	var released []tree.Digest
	if err == nil && domain.Metadata.Rollout != nil && domain.Metadata.Rollout.Moved != nil {
		had := uses(domain)
		domain.Metadata.Rollout = &hypervisor.Rollout{Policy: domain.Metadata.Rollout.Policy}
		if err = f.Hypervisor.SetMetadata(ctx, name, domain.Metadata); err == nil {
			released = f.released(ctx, name, had)
		}
	}
	f.logNotCollected(ctx, f.collect(ctx, released, false, func(string) {}))
	if err != nil {
		return fmt.Errorf("record that the move of VM %q is final: %w", name, err)
	}
	return nil
}

// Health implements Interface.
func (f *Fleet) Health(ctx context.Context, name string) ([]*agentapi.FailedCheck, error) {
	failed, err := f.health(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("check VM %q: %w", name, err)
	}
	return failed, nil
}

func (f *Fleet) health(ctx context.Context, name string) ([]*agentapi.FailedCheck, error) {
	domain, state, err := f.Hypervisor.Lookup(ctx, name)
	switch {
	case err != nil:
		return nil, err
	case domain.Metadata.Rollout == nil:
		return nil, ErrNoPart
	case state != hypervisor.Running:
		return nil, fmt.Errorf("%w: it does not run", ErrNoAnswer)
	}
	return f.healthOf(ctx, domain)
}

// stackCheck is the name of the health check that a VM runs the stack in its definition.
const stackCheck = "stack"

// healthOf makes the health checks of a running VM. Those that failed before its last move are left out.
func (f *Fleet) healthOf(ctx context.Context, domain hypervisor.Domain) ([]*agentapi.FailedCheck, error) {
	checks := participation(domain).Policy.HealthChecks
	if record := domain.Metadata.Rollout; record.Moved != nil {
		checks = slices.DeleteFunc(checks,
			func(c *agentapi.HealthCheck) bool { return slices.Contains(record.Failing, c.GetName()) })
	}
	agent, err := f.connect(ctx, domain)
	if errors.Is(err, hypervisor.ErrVSockEnded) || errors.Is(err, hypervisor.ErrNotRunning) ||
		errors.Is(err, transport.ErrPeerKey) {
		err = fmt.Errorf("%w: %w", ErrNoAnswer, err)
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = agent.Close() }() // only questions are asked on it
	// This event has the answer lack what takes the guest long to find out.
	now, err := statusOf(ctx, agent, &agentapi.StatusRequest{Event: agentapi.Event_ADDRESS})
	if err != nil {
		return nil, err
	}
	running, err := agentapi.ParseStack(now.GetStack())
	if err != nil {
		return nil, fmt.Errorf("%w: its agent names a stack that is none: %w", ErrNoAnswer, err)
	}
	var failed []*agentapi.FailedCheck
	_, byUse := movedByUse(domain, running)
	if !running.Same(domain.Metadata.Stack) && !byUse && !awaitsPowerCycle(domain, running) {
		failed = append(failed,
			&agentapi.FailedCheck{Name: stackCheck,
				Reason: fmt.Sprintf("it runs base %s, and its definition has base %s",
					running.Base, domain.Metadata.Stack.Base)})
	}
	if len(checks) == 0 {
		return failed, nil
	}
	ctx, cancel := context.WithTimeout(ctx, healthLimit)
	defer cancel()
	answer, err := agent.Check(ctx, &agentapi.CheckRequest{HealthChecks: checks})
	switch {
	case status.Code(err) == codes.Unimplemented:
		return nil, fmt.Errorf("%w: it cannot make health checks without a refresh", ErrOldAgent)
	case err != nil:
		return nil, fmt.Errorf("%w: %w", ErrNoAnswer, err)
	}
	return append(failed, answer.GetFailed()...), nil
}

// healthLimit bounds one round of health checks, for which the agent itself takes 30 seconds at most.
const healthLimit = 45 * time.Second
