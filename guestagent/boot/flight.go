package boot

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/mounts"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/slots"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
)

// flight is the refresh of the journal as far as a boot, or a soft-reboot, has to know it. The journal is package
// refresh's, which states there what each of its words means.
type flight struct {
	State    string        `json:"state"`
	Strategy string        `json:"strategy"`
	From     release.Stack `json:"from"`
	To       release.Stack `json:"to"`
}

// The words of the journal that matter here.
const (
	stateIdle        = "idle"
	stateStarting    = "starting"
	stateChecking    = "checking"
	stateRollingBack = "rolling_back"
	softReboot       = "soft_reboot"
	kexec            = "kexec"
	reboot           = "reboot"
)

// readFlight reads the refresh of the journal; nil if none is in flight.
func readFlight() (*flight, error) {
	data, err := slots.Read(mounts.Journal)
	if errors.Is(err, slots.ErrAbsent) {
		return nil, nil //nolint:nilnil // no journal, no refresh
	}
	if err != nil {
		return nil, err
	}
	var record flight
	if err := json.Unmarshal(data, &record); err != nil {
		return nil, fmt.Errorf("decode %s: %w", mounts.Journal, err)
	}
	if record.State == stateIdle || record.State == "" {
		return nil, nil //nolint:nilnil // it is over
	}
	return &record, nil
}

// starts reports whether the refresh starts its stack by one of these strategies.
func (f *flight) starts(strategies ...string) bool {
	return f != nil && slices.Contains(strategies, f.Strategy)
}

// next is the stack that a soft-reboot is to start; nil if the refresh asks for none.
func (f *flight) next() *release.Stack {
	switch {
	case !f.starts(softReboot):
		return nil
	case f.State == stateStarting:
		return &f.To
	case f.State == stateRollingBack:
		return &f.From
	}
	return nil
}

// tries reports whether the refresh has this stack started, or has, and the agent is to judge it. What it carries to /etc
// was carried before.
func (f *flight) tries(stack release.Stack) bool {
	return f.starts(softReboot, kexec, reboot) && f.To.Same(stack) &&
		slices.Contains([]string{stateStarting, stateChecking, stateRollingBack}, f.State)
}

// TrialArgument is the kernel argument that names, by the first 16 digits of its key, the one uncommitted stack that
// this kernel may boot. Only a kexec sets it: a reset of the machine is back at the kernel without it.
const TrialArgument = "sharedos.trial="

// TrialKey is what follows TrialArgument for a stack.
func TrialKey(stack release.Stack) string { return stack.Key()[:16] }

// trialOf reads the argument from a kernel's command line, "" if it has none.
func trialOf(commandLine string) string {
	for field := range strings.FieldsSeq(commandLine) {
		if key, is := strings.CutPrefix(field, TrialArgument); is {
			return key
		}
	}
	return ""
}

// readCommandLine reads the kernel's command line.
func readCommandLine() string {
	text, err := os.ReadFile("/proc/cmdline")
	if err != nil {
		say("the kernel's command line is not used: %v", err)
	}
	return string(text)
}
