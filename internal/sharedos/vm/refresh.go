package vm

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/plain"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/transport"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// Bounds of a refresh.
const (
	assessLimit = 2 * time.Minute
	// putSize is how much of a blob one message carries; a message is at most 4 MiB.
	putSize = 1 << 20
)

// refresh moves a running VM to the stack of spec and waits until that has ended. It returns nil if the VM runs that
// stack already.
func (f *Fleet) refresh(ctx context.Context, domain hypervisor.Domain, spec Spec,
	progress Progress) (*agentapi.Report, error) {
	stack, err := f.wanted(ctx, spec)
	if err != nil {
		return nil, err
	}
	agent, err := f.connectAndPin(ctx, domain)
	if err != nil {
		return nil, &notAsked{err, stack.Stack}
	}
	defer func() { _ = agent.Close() }() // its answers are read by then
	status, err := statusOf(ctx, agent, &agentapi.StatusRequest{})
	if err != nil {
		return nil, &notAsked{err, stack.Stack}
	}
	if inFlight(status) { // an earlier apply was cut off
		if status, err = f.settled(ctx, domain.Name, progress); err != nil {
			return nil, err
		}
	}
	current, err := agentapi.ParseStack(status.GetStack())
	if err != nil {
		return nil, fmt.Errorf("its agent names a stack that is none: %w", err)
	}
	if waitsForHost(status) {
		if to, err := agentapi.ParseStack(status.GetLast().GetTo()); err == nil && to.Same(stack.Stack) {
			return nil, &needsPowerCycle{current}
		}
		// It waits for a start with another stack. The agent ends that refresh by itself.
		if status, err = f.await(ctx, domain.Name, "waiting until an earlier refresh ends", progress,
			askForTurn, ended); err != nil {
			return nil, err
		}
	}
	if current.Same(stack.Stack) {
		return nil, nil //nolint:nilnil // the contract: nothing to report
	}
	from, err := f.movable(ctx, domain, status, current, stack, spec.Refresh.back)
	if err != nil {
		return nil, err
	}
	if err := f.pin(ctx, spec, current, stack, progress); err != nil {
		return nil, err
	}
	target, err := f.uploadTarget(ctx, agent, from, stack, progress)
	if err != nil {
		return nil, err
	}
	request := spec.Refresh.request()
	request.Target = target
	if spec.Refresh.Strategy == Kexec && status.GetKernel() != stack.Kernel {
		if err := f.uploadKernel(ctx, agent, domain, spec, request, progress); err != nil {
			return nil, err
		}
	}
	progress("refreshing")
	if err := startRefresh(ctx, agent, request); err != nil {
		return nil, err
	}
	status, err = f.settled(ctx, domain.Name, progress)
	if errors.Is(err, errSilent) && startsByKexec(status, spec) {
		status, err = f.reset(ctx, domain.Name, err, progress)
	}
	if err != nil {
		return nil, fmt.Errorf("the VM continues the refresh by itself; apply again to see the result: %w", err)
	}
	if waitsForHost(status) {
		return status.GetLast(), &needsPowerCycle{current}
	}
	return outcome(status, stack.Stack, spec)
}

// request is a request for a refresh by this policy, without a target. No health check prevents
// that a VM is taken back.
func (p RefreshPolicy) request() *agentapi.RefreshRequest {
	return &agentapi.RefreshRequest{
		MaxImpact: p.MaxImpact, HealthChecks: p.HealthChecks, SettleMs: p.Settle.Milliseconds(),
		RestartTimeoutMs: p.RestartTimeout.Milliseconds(),
		Strategy:         p.Strategy, Policy: p.Units, KeepFiles: p.KeepFiles,
		RequireChecks: p.RequireChecks && !p.back, Purge: p.Purge,
		AllowDowngrade: p.back,
	}
}

// notAsked is an error from before the agent was asked for anything. wanted is the stack that the VM was to be moved
// to.
type notAsked struct {
	cause  error
	wanted release.Stack
}

func (n *notAsked) Error() string { return n.cause.Error() }
func (n *notAsked) Unwrap() error { return n.cause }

// inFlight reports whether a refresh is in flight.
func inFlight(status *agentapi.StatusResponse) bool {
	if status.GetLast() != nil {
		return !status.GetLast().GetDone()
	}
	return status.GetState() > agentapi.State_IDLE
}

// ended reports whether no refresh is in flight.
func ended(status *agentapi.StatusResponse) bool { return !inFlight(status) }

// errSilent means that an agent has not answered for longer than a system takes to boot.
var errSilent = errors.New("its agent has not answered for too long")

// settled waits until no refresh is in flight, or one waits for the host. If the agent does not answer for longer than
// Fleet.Silence, it returns errSilent and the last status.
func (f *Fleet) settled(ctx context.Context, name string, progress Progress) (*agentapi.StatusResponse, error) {
	limit := f.Silence
	if limit <= 0 {
		limit = startLimit
	}
	waiting, give := context.WithCancelCause(ctx)
	defer give(nil)
	silence := time.AfterFunc(limit, func() { give(errSilent) })
	defer silence.Stop()
	var last *agentapi.StatusResponse
	seen := agentapi.State_STATE_UNSPECIFIED
	question := func() *agentapi.StatusRequest {
		return &agentapi.StatusRequest{Event: agentapi.Event_PROGRESS, Seen: seen,
			WaitMs: min(waitFor, limit/2).Milliseconds()}
	}
	status, err := f.await(waiting, name, "waiting for the refresh", progress, question,
		func(status *agentapi.StatusResponse) bool {
			silence.Reset(limit)
			last = status
			if now := status.GetState(); now != seen {
				seen = now
				if now != agentapi.State_IDLE && now != agentapi.State_STATE_UNSPECIFIED {
					progress("refresh: " + describeState(status))
				}
			}
			return ended(status) || waitsForHost(status)
		})
	if err != nil && ctx.Err() == nil && errors.Is(context.Cause(waiting), errSilent) {
		return last, fmt.Errorf("%w: %w", errSilent, err)
	}
	return status, err
}

// startsByKexec reports whether a guest may hang in a kernel that it has started by kexec. last is its last status. Any
// other guest whose agent is silent may still serve its users, so that it must not be reset.
func startsByKexec(last *agentapi.StatusResponse, spec Spec) bool {
	if rung := last.GetLast().GetStrategy(); rung != "" {
		return rung == Kexec
	}
	return spec.Refresh.Strategy == Kexec
}

// describeState describes the state of a refresh: "checking", "starting by soft_reboot".
func describeState(status *agentapi.StatusResponse) string {
	state := strings.ReplaceAll(strings.ToLower(status.GetState().String()), "_", " ")
	if status.GetState() == agentapi.State_STARTING {
		state += " by " + plain.Cut(status.GetLast().GetStrategy(), 20)
	}
	return state
}

// plug attaches the layers of the stack that the running domain lacks.
func (f *Fleet) plug(ctx context.Context, domain hypervisor.Domain, stack release.Stack, progress Progress) error {
	disks, err := f.layerDevices(ctx, stack.Layers)
	if err != nil {
		return err
	}
	return f.attach(ctx, domain.Name, disks, progress)
}

// attach attaches layers to a domain, unless it has them.
func (f *Fleet) attach(ctx context.Context, name string, disks []hypervisor.LayerDevice, progress Progress) error {
	for _, disk := range disks {
		progress(fmt.Sprintf("attaching layer %.12s", disk.ID.Hex()))
		if err := f.Hypervisor.AttachLayer(ctx, name, disk); err != nil {
			return fmt.Errorf("attach layer %s: %w", disk.ID, err)
		}
	}
	return nil
}

// uploadTarget uploads the contents lists of two stacks and returns their signed manifests: the agent needs both to
// compare the stacks.
func (f *Fleet) uploadTarget(ctx context.Context, agent *transport.Agent, from, to *composed,
	progress Progress) (*agentapi.Target, error) {
	progress("uploading the contents lists")
	for _, stack := range []*composed{to, from} {
		contents, err := f.stackContents(ctx, stack)
		if err != nil {
			return nil, err
		}
		if err := put(ctx, agent, stack.manifest.Contents, contents); err != nil {
			return nil, fmt.Errorf("upload the contents list of stack %s: %w", stack.ID, err)
		}
		if from.manifest.Contents == to.manifest.Contents {
			break
		}
	}
	return &agentapi.Target{To: to.note, From: from.note}, nil
}

func put(ctx context.Context, agent *transport.Agent, blob release.Blob, data []byte) error {
	for offset := 0; ; offset += putSize {
		part := data[offset:min(offset+putSize, len(data))]
		call, cancel := context.WithTimeout(ctx, callLimit)
		answer, err := agent.Put(call, &agentapi.PutRequest{
			Digest: blob.Digest.String(), Offset: int64(offset), Size: blob.Size, Data: part,
		})
		cancel()
		if err != nil {
			return err
		}
		if answer.GetComplete() {
			return nil
		}
		if offset+putSize >= len(data) {
			return errors.New("the agent received all parts and does not report the blob as complete")
		}
	}
}

func startRefresh(ctx context.Context, agent *transport.Agent, request *agentapi.RefreshRequest) error {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	if _, err := agent.Refresh(ctx, request); err != nil {
		return fmt.Errorf("start the refresh: %w", err)
	}
	return nil
}

// outcome judges how a refresh to the stack ended.
func outcome(status *agentapi.StatusResponse, stack release.Stack, spec Spec) (*agentapi.Report, error) {
	report := status.GetLast()
	running, err := agentapi.ParseStack(status.GetStack())
	if err != nil {
		return report, fmt.Errorf("its agent names a stack that is none: %w", err)
	}
	if running.Same(stack) {
		return report, nil
	}
	switch {
	case report == nil:
		return nil, fmt.Errorf("%w: the VM was restarted meanwhile and runs what it ran before; apply again",
			ErrRolledBack)
	case report.GetRefusal() == agentapi.Refusal_REFUSAL_IMPACT:
		return report, fmt.Errorf("%w:%s", ErrImpact, plain.Guest(report.GetError()))
	case report.GetRefusal() == agentapi.Refusal_REFUSAL_STRATEGY:
		return report, fmt.Errorf("%w:%s", errDeferred, plain.Guest(report.GetError()))
	case report.GetRefusal() == agentapi.Refusal_REFUSAL_CHECKS:
		return report, fmt.Errorf("%w:%s", ErrChecks, plain.Guest(strings.Join(report.GetUnchecked(), "\n")))
	case report.GetRefused():
		return report, fmt.Errorf("%w:%s", ErrRefused, plain.Guest(report.GetError()))
	default:
		return report, fmt.Errorf("%w:%s", ErrRolledBack, plain.Guest(report.GetError()))
	}
}

// parseLayer reads a layer id that a guest named.
func parseLayer(text string) (tree.Digest, error) {
	id, err := tree.ParseDigest(text)
	if err != nil {
		return id, fmt.Errorf("its agent names a layer that is none: %w", err)
	}
	return id, nil
}
