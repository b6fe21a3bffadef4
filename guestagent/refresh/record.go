package refresh

import (
	"fmt"

	"google.golang.org/protobuf/proto"

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
	// BootID of the boot in which it was written.
	BootID string `json:"boot_id"`
	// Starts counts how often an agent took the refresh up.
	Starts int `json:"starts"`
	// From and To are the stacks; in an idle record those of the last refresh.
	From release.Stack `json:"from"`
	To   release.Stack `json:"to"`
	// Running is what runs in this boot once the record is idle.
	Running    release.Stack `json:"running"`
	Generation uint64        `json:"generation"`
	// Planned are the units that were to be restarted or reloaded, written before the first one is.
	Planned []Planned `json:"planned,omitempty"`
	// Renewed is true once units may have been restarted.
	Renewed bool `json:"renewed,omitempty"`
	// Baseline names the health checks that were good before.
	Baseline []string `json:"baseline,omitempty"`
	// Cause says why it rolls back.
	Cause string `json:"cause,omitempty"`
	// Report is the agentapi.Report as a message.
	Report []byte `json:"report,omitempty"`
}

// Planned is a unit that a refresh interrupts.
type Planned struct {
	Unit   string `json:"unit"`
	Reload bool   `json:"reload,omitempty"`
}

// report reads the report of a record.
func (r *Record) report() (*agentapi.Report, error) {
	report := &agentapi.Report{}
	if err := proto.Unmarshal(r.Report, report); err != nil {
		return nil, fmt.Errorf("decode the journal's report: %w", err)
	}
	return report, nil
}

// Message is the state of the status as the host gets it.
func (s Status) Message() agentapi.State { return s.State.message() }
