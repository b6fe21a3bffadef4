package boot

import (
	"errors"
	"os"
	"strings"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/journal"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/mounts"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
)

// readFlight returns the refresh in flight; nil if there is none.
func readFlight() (*journal.Record, error) {
	record, err := journal.Read(mounts.Journal)
	if errors.Is(err, journal.ErrNone) {
		return nil, nil //nolint:nilnil // without a journal there is no refresh
	}
	if err != nil || !record.InFlight() {
		return nil, err
	}
	return &record, nil
}

// TrialArgument is the kernel argument that names the one uncommitted stack that this kernel may boot, by the first 16
// digits of its key. Only a kexec sets it: after a reset the machine boots without it.
const TrialArgument = "sharedos.trial="

// TrialKey is the value of TrialArgument for a stack.
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
