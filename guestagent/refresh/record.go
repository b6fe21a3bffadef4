package refresh

import (
	"encoding/json"
	"fmt"

	"google.golang.org/protobuf/proto"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/impact"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
)

// State is a state of the journal.
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

// message is the state as the host gets it.
func (s State) message() agentapi.State {
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

// Record is the journal.
type Record struct {
	State State `json:"state"`
	// BootID of the boot in which it was written, and Root, which is another one after a soft-reboot, too.
	BootID string `json:"boot_id"`
	Root   string `json:"root"`
	// Starts counts how often an agent took the refresh up.
	Starts int `json:"starts"`
	// From and To are the stacks; in an idle record those of the last refresh.
	From release.Stack `json:"from"`
	To   release.Stack `json:"to"`
	// Running is what runs in this boot once the record is idle.
	Running    release.Stack `json:"running"`
	Generation uint64        `json:"generation"`
	// Strategy is the rung that it climbs to, from Verified on.
	Strategy Rung `json:"strategy,omitempty"`
	// Began is when the new stack began to be started, in milliseconds of the clock.
	Began int64 `json:"began,omitempty"`
	// Started is true once the new stack runs because it was started.
	Started bool `json:"started,omitempty"`
	// LoaderCache is true when the loader's cache is to be made again once the new stack runs.
	LoaderCache bool `json:"loader_cache,omitempty"`
	// Left are the units that the policy leaves as they are, as the assessment before the swap found them.
	Left []impact.Left `json:"left,omitempty"`
	// Failed names the units that had failed before.
	Failed []string `json:"failed,omitempty"`
	// Planned are the units that were to be restarted or reloaded, written before the first one is.
	Planned []Planned `json:"planned,omitempty"`
	// Renewed is true once units may have been restarted.
	Renewed bool `json:"renewed,omitempty"`
	// RenewedFrom is the moment, in microseconds of the monotonic clock of this boot, from which on a unit that was started
	// runs with all that is new; 0 if it has not come.
	RenewedFrom uint64 `json:"renewed_from,omitempty"`
	// Baseline names the health checks that were good before.
	Baseline []string `json:"baseline,omitempty"`
	// Cause says why it rolls back.
	Cause string `json:"cause,omitempty"`
	// Damaged says why the journal before this one could not be used; it holds for the boot of BootID.
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
}

// MarshalJSON implements json.Marshaler.
func (p Planned) MarshalJSON() ([]byte, error) {
	return json.Marshal(plannedJSON{
		Unit: p.Unit, Reload: p.Outcome == impact.Reloaded, Gone: p.Outcome.Stops(), With: p.Outcome.Along(),
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
	default:
		p.Outcome = impact.Restarted
	}
	return nil
}

// startsStack reports whether the new stack takes effect by being started, not by a swap.
func (r *Record) startsStack() bool { return r.Strategy != "" && r.Strategy != Live }

// damage is why no refresh starts in this boot.
func (r *Record) damage() error { return fmt.Errorf("%w: %s", ErrDamaged, r.Damaged) }

// report reads the report of a record. If it cannot be decoded, it is made of what the record itself tells: a refresh
// goes on, or back, by the record alone.
func (r *Record) report() *agentapi.Report {
	report := &agentapi.Report{}
	err := proto.Unmarshal(r.Report, report)
	if err == nil {
		return report
	}
	report = &agentapi.Report{From: agentapi.NewStack(r.From), To: agentapi.NewStack(r.To), State: r.State.message()}
	if r.State == Idle {
		report.Done, report.Committed = true, r.Running.Same(r.To)
		report.Error = "the report of the refresh is damaged: " + err.Error()
	}
	return report
}

// Message is the state of the status as the host gets it.
func (s Status) Message() agentapi.State { return s.State.message() }
