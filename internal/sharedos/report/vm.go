package report

import (
	"fmt"
	"math"
	"slices"
	"strings"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/plain"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
)

// Limits on what one VM says: bytes of a text, and entries of a list.
const (
	maxText = 300
	maxList = 50
)

// text makes any text fit to be shown.
func text(from string) string { return plain.Cut(plain.Hide(plain.Line(from)), maxText) }

// texts does the same to a list, and says how many entries it leaves out.
func texts(from []string) []string {
	fit := make([]string, 0, min(len(from), maxList+1))
	for i, one := range from {
		if i == maxList {
			fit = append(fit, fmt.Sprintf("… and %d more", len(from)-i))
			break
		}
		fit = append(fit, text(one))
	}
	return fit
}

func limited[T any](from []T) []T { return from[:min(len(from), maxList)] }

// describe describes a VM. found is nil if it could not be read, and failure says why.
func (p *pool) describe(domain hypervisor.Domain, found *vm.VM, failure error) VM {
	described := VM{
		Name: text(domain.Name), Title: text(domain.Title), UUID: domain.UUID, State: "unknown", Agent: Silent,
		VCPUs: domain.VCPUs, Memory: domain.Memory, DiskSize: domain.Metadata.DiskSize,
		Components: []Ref{}, Layers: []string{}, Waits: []Wait{}, Held: []Hold{}, Faults: []string{},
	}
	stack, configured := domain.Metadata.Stack, domain.Metadata.Stack
	if found == nil {
		described.Silence = text(failure.Error())
	} else {
		stack, configured = found.Stack, found.Configured
		described.State, described.DiskSize, described.DiskBytes = found.State.String(),
			found.Spec.DiskSize, found.DiskAllocated
		p.fromGuest(&described, found)
	}
	described.Base = p.ref(stack.Base)
	for _, id := range stack.Components {
		described.Components = append(described.Components, p.ref(id))
	}
	for _, layer := range stack.Layers {
		described.Layers = append(described.Layers, layer.ID.String())
	}
	described.Waits = append(described.Waits, p.behind(configured)...)
	return described
}

// fromGuest adds what a read has found out beyond the definition.
func (p *pool) fromGuest(to *VM, found *vm.VM) {
	for _, fault := range limited(found.Faults) {
		to.Faults = append(to.Faults, text(fault.Object+": "+fault.Problem))
	}
	switch {
	case found.State != hypervisor.Running:
		to.Agent = NotAsked
		return
	case !found.Answered:
		to.Silence = "its agent does not answer"
		if found.NoAnswer != nil {
			to.Silence = text(found.NoAnswer.Error())
		}
		return
	}
	status := found.Agent
	to.Agent, to.Kernel, to.System = Answers, text(status.GetKernel()), text(status.GetSystemState())
	for _, one := range limited(found.Surplus) {
		to.Held = append(to.Held, Hold{VM: to.Name, Layer: one.ID.String(), By: texts(one.InUseBy)})
	}
	to.Faults = append(to.Faults, texts(slices.Concat(status.GetUnreadable(), status.GetRefused()))...)
	if last := status.GetLast(); last != nil {
		to.LastRefresh = p.refresh(last)
		if !last.GetDone() {
			to.Waits = append(to.Waits,
				Wait{ForRefresh, p.reported(last.GetTo()).Text(),
					"the agent is at work: " + stateName(status.GetState())})
		}
	}
	for _, one := range texts(status.GetPending()) {
		to.Waits = append(to.Waits, Wait{ForStart, one, "a running system cannot take it on"})
	}
	switch {
	case found.AwaitsPowerCycle:
		to.Waits = append(to.Waits,
			Wait{ForStart, p.stackText(found.Configured), "its last update left it to the next power-off and start"})
	case !found.Stack.SameReleases(found.Configured):
		to.Waits = append(to.Waits,
			Wait{ForApply, p.stackText(found.Configured),
				"an update was interrupted, or the VM returned to the stack that it ran before"})
	}
	for _, one := range texts(status.GetRemaining()) {
		to.Waits = append(to.Waits, Wait{ForRestart, one, "it runs code from before a refresh"})
	}
}

// behind lists the releases of a definition of which the pool has a newer one.
func (p *pool) behind(configured release.Stack) []Wait {
	var waits []Wait
	for _, id := range slices.Concat([]tree.Digest{configured.Base}, configured.Components) {
		has := p.ref(id)
		if has.Kind == "" {
			continue
		}
		newest := p.newest[store.Named{Kind: release.Kind(has.Kind), Name: has.Name}]
		if newest.Sequence > has.Sequence {
			waits = append(waits,
				Wait{ForApply, newest.Text(),
					fmt.Sprintf("the VM is defined with release %d, and the pool has a newer one", has.Sequence)})
		}
	}
	return waits
}

// stackText names a base and its components.
func (p *pool) stackText(stack release.Stack) string {
	names := []string{p.ref(stack.Base).Text()}
	for _, id := range stack.Components {
		names = append(names, p.ref(id).Text())
	}
	return text(strings.Join(names, " with "))
}

// Text names a release for people: "debian-13, release 3".
func (r Ref) Text() string {
	if r.Kind == "" {
		return Short(r.Release)
	}
	return fmt.Sprintf("%s, release %d", r.Name, r.Sequence)
}

// Short shortens an id to its first 12 digits. Anything else stays.
func Short(id string) string {
	if _, err := tree.ParseDigest(id); err != nil {
		return id
	}
	return strings.TrimPrefix(id, "sha256:")[:12]
}

// reported refers to the base of a stack that an agent names. Its text is not to be trusted.
func (p *pool) reported(stack *agentapi.Stack) Ref {
	id, err := tree.ParseDigest(stack.GetBase())
	if err != nil {
		return Ref{Release: text(stack.GetBase())}
	}
	return p.ref(id)
}

// refresh describes a refresh.
func (p *pool) refresh(from *agentapi.Report) *Refresh {
	to := &Refresh{
		From: p.reported(from.GetFrom()), To: p.reported(from.GetTo()), Result: result(from),
		Error: text(from.GetError()),
		Level: levelName(from.GetImpact().GetLevel()), Strategy: text(from.GetStrategy()),
		Interrupted: []Interruption{}, Timings: []Timing{}, Conflicts: []Conflict{},
		Pinned: texts(from.GetPinned()), Left: texts(from.GetLeft()), Unchecked: texts(from.GetUnchecked()),
	}
	for _, one := range limited(from.GetRestarts()) {
		gap := milliseconds(one.GetInterruptionUs())
		to.Interrupted = append(to.Interrupted,
			Interruption{text(one.GetUnit()), levelName(one.GetLevel()), gap, text(one.GetError())})
		to.Longest = max(to.Longest, gap)
	}
	for _, one := range limited(from.GetTimings()) {
		to.Timings = append(to.Timings, Timing{text(one.GetStep()), milliseconds(one.GetMicros())})
	}
	for _, one := range limited(from.Timeline()) {
		to.Milliseconds += milliseconds(one.GetMicros())
	}
	for _, one := range limited(from.GetConflictDetails()) {
		to.Conflicts = append(to.Conflicts, Conflict{text(one.GetPath()), text(one.GetReason()), text(one.GetAdvice())})
	}
	return to
}

func result(from *agentapi.Report) string {
	switch {
	case !from.GetDone():
		return "in flight"
	case from.GetCommitted():
		return "committed"
	case from.GetRefused():
		return "refused"
	default:
		return "rolled back"
	}
}

// milliseconds converts microseconds that a guest has measured. A negative time is none.
func milliseconds(micros int64) float64 { return math.Round(float64(max(micros, 0))/10) / 100 }

func levelName(level agentapi.Level) string {
	name, ok := agentapi.Level_name[int32(level)]
	if !ok || level == agentapi.Level_LEVEL_UNSPECIFIED {
		return "unknown"
	}
	return strings.ToLower(name)
}

func stateName(state agentapi.State) string {
	name, ok := agentapi.State_name[int32(state)]
	if !ok {
		return "unknown state"
	}
	return strings.ReplaceAll(strings.ToLower(name), "_", " ")
}
