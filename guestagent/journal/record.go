package journal

import (
	"encoding/json"
	"slices"

	"google.golang.org/protobuf/proto"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/impact"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
)

// State is a state of a refresh.
type State string

// The states. The journal names a state before anything of it is done.
const (
	Idle        State = "idle"
	Staged      State = "staged"
	Verified    State = "verified"
	Carried     State = "carried"
	Starting    State = "starting"
	Swapped     State = "swapped"
	Restarted   State = "restarted"
	Checking    State = "checking"
	Committed   State = "committed"
	RollingBack State = "rolling_back"
)

// Message is the state in the form of the agent's API.
func (s State) Message() agentapi.State {
	switch s {
	case Idle, "":
		return agentapi.State_IDLE
	case Staged:
		return agentapi.State_STAGED
	case Verified:
		return agentapi.State_VERIFIED
	case Carried:
		return agentapi.State_CARRIED
	case Starting:
		return agentapi.State_STARTING
	case Swapped:
		return agentapi.State_SWAPPED
	case Restarted:
		return agentapi.State_RESTARTED
	case Checking:
		return agentapi.State_CHECKING
	case Committed:
		return agentapi.State_COMMITTED
	case RollingBack:
		return agentapi.State_ROLLING_BACK
	}
	return agentapi.State_STATE_UNSPECIFIED
}

// Strategy is how a stack takes effect.
type Strategy string

// The strategies, in the words of RefreshRequest.strategy.
const (
	// Live swaps /usr and restarts what uses what changed.
	Live Strategy = "live"
	// SoftReboot starts the whole userland again, under the running kernel.
	SoftReboot Strategy = "soft_reboot"
	// Kexec starts another kernel from the running one.
	Kexec Strategy = "kexec"
	// Reboot has the host power the VM off and start it from its new definition.
	Reboot Strategy = "reboot"
	// NextBoot leaves everything to the next time that the VM is powered off and started.
	NextBoot Strategy = "next_boot"
)

// Record is what the journal records of a refresh.
type Record struct {
	State State `json:"state"`
	// BootID of the boot in which it was written, and Root, which is another one after a soft-reboot, too.
	BootID string `json:"boot_id"`
	Root   string `json:"root"`
	// Starts is how many agents have worked on the refresh.
	Starts int `json:"starts"`
	// From and To are the stacks; in an idle record those of the last refresh.
	From release.Stack `json:"from"`
	To   release.Stack `json:"to"`
	// Running is the running stack of this boot, if the record is idle.
	Running    release.Stack `json:"running"`
	Generation uint64        `json:"generation"`
	// Strategy is how the new stack takes effect, from Verified on.
	Strategy Strategy `json:"strategy,omitempty"`
	// Began is when the start of the new stack was requested, in milliseconds of the clock.
	Began int64 `json:"began,omitempty"`
	// Started is true once the new stack runs because it was started.
	Started bool `json:"started,omitempty"`
	// Generate names the etcmerge.Generators that have to run once the new stack runs.
	Generate []string `json:"generate,omitempty"`
	// LoaderCache is what the first version wrote instead of Generate: the loader's cache has to be generated again.
	LoaderCache bool `json:"loader_cache,omitempty"`
	// Left are the units that the policy leaves as they are, as the assessment before the swap found them.
	Left []impact.Left `json:"left,omitempty"`
	// Interpreted is code of earlier stacks of this boot that processes have read and keep no file of.
	Interpreted []impact.Interpreted `json:"interpreted,omitempty"`
	// Boot are the files that the running system has loaded at boot and that are others by now.
	// NextBoot are those once the refresh is committed.
	Boot     []impact.BootFile `json:"boot,omitempty"`
	NextBoot []impact.BootFile `json:"next_boot,omitempty"`
	// Kept are the lines of the report's pending that say what was left as it was. They may be true no more.
	Kept []string `json:"kept,omitempty"`
	// NewlyEnabled are the units that the new stack enables, as the assessment before the swap found them.
	NewlyEnabled []impact.Start `json:"newly_enabled,omitempty"`
	// Enabled are the units that the refresh starts because the new stack enables them. They are
	// journaled before the first of them is started, so that a rollback stops them.
	Enabled []string `json:"enabled,omitempty"`
	// Idle are the units that the new stack brings and that did not run before. A rollback stops
	// those that something has started meanwhile.
	Idle []string `json:"idle,omitempty"`
	// Ran are the units that had been active before, if everything is started again; nil if that is unknown.
	Ran []string `json:"ran,omitempty"`
	// Failed are the units that had failed before.
	Failed []string `json:"failed,omitempty"`
	// Revive are the units that are started again if they have failed, because the refresh takes
	// back an earlier one. From Verified on they are those that have failed.
	Revive []string `json:"revive,omitempty"`
	// Planned are the units to be restarted or reloaded. They are journaled before the first of them is.
	Planned []Planned `json:"planned,omitempty"`
	// Renewed is true once units may have been restarted.
	Renewed bool `json:"renewed,omitempty"`
	// RenewedFrom is the moment, in microseconds of the monotonic clock of this boot, from which on a unit that is
	// started runs entirely on the new stack; 0 if it has not come.
	RenewedFrom uint64 `json:"renewed_from,omitempty"`
	// Baseline are the health checks that were good before.
	Baseline []string `json:"baseline,omitempty"`
	// Cause says why the refresh is rolled back.
	Cause string `json:"cause,omitempty"`
	// Damaged says why the previous journal could not be used. It is valid in the boot of BootID.
	Damaged string `json:"damaged,omitempty"`
	// Report is the agentapi.Report as a message.
	Report []byte `json:"report,omitempty"`
}

// Planned is a unit that a refresh renews, and how: its outcome is one that does not keep the unit as it is.
type Planned struct {
	Unit    string
	Outcome impact.Outcome
}

// plannedJSON is the form of Planned in the journal, which agents of other versions read, too.
type plannedJSON struct {
	Unit   string `json:"unit"`
	Reload bool   `json:"reload,omitempty"`
	// Gone is true for a unit that is stopped, With for one that systemd restarts or stops together with another unit.
	Gone bool `json:"gone,omitempty"`
	With bool `json:"with,omitempty"`
	// Standing is true for a stand-in that the unit itself takes over from.
	Standing bool `json:"standing,omitempty"`
}

// MarshalJSON implements json.Marshaler.
func (p Planned) MarshalJSON() ([]byte, error) {
	return json.Marshal(plannedJSON{
		Unit: p.Unit, Reload: p.Outcome == impact.Reloaded, Gone: p.Outcome.Stops(), With: p.Outcome.Along(),
		Standing: p.Outcome == impact.TakenOver,
	})
}

// UnmarshalJSON implements json.Unmarshaler.
func (p *Planned) UnmarshalJSON(data []byte) error {
	var form plannedJSON
	if err := json.Unmarshal(data, &form); err != nil {
		return err
	}
	p.Unit = form.Unit
	switch {
	case form.Reload:
		p.Outcome = impact.Reloaded
	case form.Gone && form.With:
		p.Outcome = impact.StoppedAlong
	case form.Gone:
		p.Outcome = impact.Stopped
	case form.With:
		p.Outcome = impact.RestartedAlong
	case form.Standing:
		p.Outcome = impact.TakenOver
	default:
		p.Outcome = impact.Restarted
	}
	return nil
}

// InFlight reports whether a refresh is in flight.
func (r *Record) InFlight() bool { return r != nil && r.State != Idle && r.State != "" }

// StartsBy reports whether the refresh has its stack started by one of these strategies, or by any of them if none is
// named.
func (r *Record) StartsBy(strategies ...Strategy) bool {
	if !r.InFlight() {
		return false
	}
	if len(strategies) == 0 {
		strategies = []Strategy{SoftReboot, Kexec, Reboot}
	}
	return slices.Contains(strategies, r.Strategy)
}

// SoftRebootTo returns the stack that a soft-reboot has to start; nil if the refresh asks for none.
func (r *Record) SoftRebootTo() *release.Stack {
	switch {
	case !r.StartsBy(SoftReboot):
		return nil
	case r.State == Starting:
		return &r.To
	case r.State == RollingBack:
		return &r.From
	}
	return nil
}

// Tries reports whether the refresh starts or has started this stack, so that the agent judges it. /etc was carried for
// it before.
func (r *Record) Tries(stack release.Stack) bool {
	return r.StartsBy() && r.To.Same(stack) && slices.Contains([]State{Starting, Checking, RollingBack}, r.State)
}

// ReadReport decodes the report. If it is damaged, a report is made from the record: a refresh goes on, or is rolled
// back, by the record alone.
func (r *Record) ReadReport() *agentapi.Report {
	report := &agentapi.Report{}
	err := proto.Unmarshal(r.Report, report)
	if err == nil {
		return report
	}
	report = &agentapi.Report{From: agentapi.NewStack(r.From), To: agentapi.NewStack(r.To), State: r.State.Message()}
	if r.State == Idle {
		report.Done, report.Committed = true, r.Running.Same(r.To)
		report.Error = "the report of the refresh is damaged: " + err.Error()
	}
	return report
}
