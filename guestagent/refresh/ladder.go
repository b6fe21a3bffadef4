package refresh

import (
	"fmt"
	"slices"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/impact"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
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

// height is the position of a rung on the ladder.
func height(r Rung) int { return slices.Index(rungs, r) }

// levelOf is the impact of a rung, if that does not depend on what changes.
func levelOf(r Rung) agentapi.Level {
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
		rung = rungs[height(rung)+1]
		if rung == Kexec && (strategy != Kexec || !kernel.differ()) {
			rung = Reboot // the host hands a kernel over for the sake of that kernel only
		}
	}
	if kernel.differ() && height(strategy) >= height(Kexec) {
		switch {
		case strategy == Kexec && in[Kexec] != "":
			a.Pending = append(a.Pending, fmt.Sprintf("kexec is not possible here: %s", in[Kexec]))
		case height(strategy) > height(rung):
			rung = strategy
			a.Reasons = append(a.Reasons, fmt.Sprintf("another kernel: %s → %s", kernel.running, kernel.target))
		}
	}
	if rung != Live {
		// What a live refresh would leave, or let wait, is renewed with all the rest.
		waiting := impact.KernelPending(kernel.running, kernel.target)
		a.Level, a.Left = levelOf(rung), nil
		a.Pending = slices.DeleteFunc(a.Pending, func(p string) bool {
			return height(rung) >= height(Kexec) || slices.Contains(live.Pending, p) && p != waiting
		})
	}
	if height(rung) > height(strategy) {
		a.Pending = append(a.Pending, fmt.Sprintf("the new stack at the next power-off and start: it takes %s, and the strategy is %s", rung, strategy))
		rung = NextBoot
	}
	return rung, &a
}
