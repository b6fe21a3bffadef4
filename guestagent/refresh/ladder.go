package refresh

import (
	"fmt"
	"slices"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/impact"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
)

// Rung is a way to bring a stack into effect. They are climbed from the lowest: each does what those below do.
type Rung string

// The rungs, in the words of RefreshRequest.strategy.
const (
	// Live swaps /usr and restarts what uses what changed.
	Live Rung = "live"
	// SoftReboot starts the whole userland anew, under the kernel that runs.
	SoftReboot Rung = "soft_reboot"
	// Kexec starts another kernel, from the one that runs.
	Kexec Rung = "kexec"
	// Reboot has the host power the VM off and start it from its new definition.
	Reboot Rung = "reboot"
	// NextBoot leaves everything to the next time that the VM is powered off and started.
	NextBoot Rung = "next_boot"
)

// rungs from the lowest. NextBoot is none of them: nothing is done.
var rungs = []Rung{Live, SoftReboot, Kexec, Reboot}

// strategyOf reads the highest rung that may be climbed. ErrStrategy if it is none.
func strategyOf(text string) (Rung, error) {
	if text == "" {
		return Live, nil
	}
	if !slices.Contains(rungs, Rung(text)) {
		return "", fmt.Errorf("%w: %q", ErrStrategy, text)
	}
	return Rung(text), nil
}

func (r Rung) height() int { return slices.Index(rungs, r) }

// level of what the rung interrupts, if that does not depend on what changes.
func (r Rung) level() agentapi.Level {
	switch r {
	case SoftReboot:
		return agentapi.Level_SOFT_REBOOT
	case Kexec:
		return agentapi.Level_KEXEC
	case Reboot:
		return agentapi.Level_REBOOT
	default:
		return agentapi.Level_NONE
	}
}

// kernels are the releases of the kernel that runs and of the target's.
type kernels struct{ running, target string }

func (k kernels) differ() bool { return k.target != "" && k.running != k.target }

// obstacles say, by rung, why it cannot be climbed in this system.
type obstacles map[Rung]string

// climb decides which rung a refresh climbs to. It is the one decision for the plan and for the refresh: the assessment
// that it returns says what that rung interrupts, why, and what waits afterwards.
//
// Two things can ask for more than Live: changes that a swap cannot make whole, which the assessment tells by a level
// above RESTART; they must have their rung, or the refresh is left to the next boot. And another kernel; that waits if the
// strategy does not reach to where kernels are changed.
func climb(strategy Rung, live *impact.Assessment, kernel kernels, in obstacles) (Rung, *impact.Assessment) {
	a := *live
	a.Reasons, a.Pending = slices.Clone(live.Reasons), slices.Clone(live.Pending)
	rung := Live
	if live.Level > agentapi.Level_RESTART {
		rung = SoftReboot
	}
	for rung != Live && rung != Reboot && in[rung] != "" {
		a.Reasons = append(a.Reasons, fmt.Sprintf("%s is not possible here: %s", rung, in[rung]))
		rung = rungs[rung.height()+1]
		if rung == Kexec && (strategy != Kexec || !kernel.differ()) {
			rung = Reboot // the host hands a kernel over for the sake of that kernel only
		}
	}
	if kernel.differ() && strategy.height() >= Kexec.height() {
		switch {
		case strategy == Kexec && in[Kexec] != "":
			a.Pending = append(a.Pending, fmt.Sprintf("kexec is not possible here: %s", in[Kexec]))
		case strategy.height() > rung.height():
			rung = strategy
			a.Reasons = append(a.Reasons, fmt.Sprintf("another kernel: %s → %s", kernel.running, kernel.target))
		}
	}
	if rung != Live {
		// What a live refresh would leave, or let wait, is renewed with all the rest.
		waiting := impact.KernelPending(kernel.running, kernel.target)
		a.Level, a.Left = rung.level(), nil
		a.Pending = slices.DeleteFunc(a.Pending, func(p string) bool {
			return rung.height() >= Kexec.height() || slices.Contains(live.Pending, p) && p != waiting
		})
	}
	if rung.height() > strategy.height() {
		a.Pending = append(a.Pending, fmt.Sprintf("the new stack at the next power-off and start: it takes %s, and the strategy is %s", rung, strategy))
		rung = NextBoot
	}
	return rung, &a
}
