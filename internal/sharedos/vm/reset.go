package vm

import (
	"context"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
)

// resetLimit bounds how long a guest that starts another kernel is not dialled because its devices
// have not been reset. Linux 6.12 resets them before it starts the other kernel. A kernel that
// leaves it to the other one may be so quick that the reset is not seen.
const resetLimit = 30 * time.Second

// resetWait says when a guest that starts another kernel by kexec may be dialled again: when the
// reset of its vsock was seen. Somebody who dials every quarter of a second would otherwise sooner
// or later do so in the very moment of the reset, which a vsock daemon does not survive.
type resetWait struct {
	// since is when the connection to the guest was lost; zero if no reset is due.
	since time.Time
}

// lost notes that the connection to a guest was lost, whose last status is given.
func (w *resetWait) lost(last *agentapi.StatusResponse, now time.Time) {
	if inFlight(last) && last.GetLast().GetStrategy() == Kexec {
		w.since = now
	}
}

// over reports whether the guest may be dialled.
func (w *resetWait) over(ctx context.Context,
	vsock func(context.Context) (hypervisor.VSockState, error), now time.Time) bool {
	if w.since.IsZero() {
		return true
	}
	state, err := vsock(ctx)
	if err == nil && state == hypervisor.VSockUp && now.Sub(w.since) < resetLimit {
		return false
	}
	w.since = time.Time{}
	return true
}
