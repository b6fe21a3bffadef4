package refresh

import (
	"fmt"
	"slices"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/impact"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
)

// rungs are the rungs from the lowest to the highest. NextBoot is none of them: it does nothing.
var rungs = []Rung{Live, SoftReboot, Kexec, Reboot}

// strategyOf reads the highest rung that a request allows.
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

// kernels are the releases of the running kernel and of the target's.
type kernels struct{ running, target string }

func (k kernels) differ() bool { return k.target != "" && k.running != k.target }

// obstacles say, by rung, why it is not possible in this system.
type obstacles map[Rung]string

// climb chooses the rung of a refresh, for the plan and for the refresh alike. The assessment that it returns says what
// that rung interrupts, why, and what takes effect only later.
//
// Two things can need more than Live. Changes that a swap cannot apply completely have a level above RESTART: they need
// a higher rung, or the refresh is left to the next boot. Another kernel takes effect at the next power-off and start,
// unless the strategy allows a rung that changes the kernel.
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
			rung = Reboot // the host uploads a kernel only if another one is to run
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
		// The rung renews everything that a live refresh would leave as it is.
		waiting := impact.KernelPending(kernel.running, kernel.target)
		a.Level, a.Left, a.Remaining = levelOf(rung), nil, nil
		outlasting := impact.BootTexts(impact.Outlasting(live.Boot, a.Level))
		a.Pending = slices.DeleteFunc(a.Pending, func(p string) bool {
			return !slices.Contains(outlasting, p) &&
				(height(rung) >= height(Kexec) || slices.Contains(live.Pending, p) && p != waiting)
		})
	}
	if height(rung) > height(strategy) {
		a.Pending = append(a.Pending, fmt.Sprintf(
			"the new stack at the next power-off and start: it takes %s, and the strategy is %s", rung, strategy))
		rung = NextBoot
	}
	return rung, &a
}

// dropsOf says what of this VM a rung drops that is in no file, so that nothing brings it back by itself; "" for
// nothing. A live refresh says so of each unit (package impact).
func dropsOf(rung Rung, networkChanges bool) string {
	const firewall = "; rules of the packet filter that were added by hand go if a unit replaces them, and are not added again"
	switch rung {
	case SoftReboot:
		if networkChanges {
			return "a soft-reboot restarts the network manager, and the release changes its configuration: of the " +
				"addresses, routes, rules and neighbours that were added by hand only those are added again that " +
				"cannot be its own" + firewall
		}
		return "a soft-reboot restarts the network manager: addresses, routes, rules and neighbours that were added " +
			"by hand are added again" + firewall
	case Kexec, Reboot:
		return fmt.Sprintf(
			"a %s starts another kernel: addresses, routes, rules of the network and of the packet filter, mounts "+
				"and kernel settings that were made by hand are gone", rung)
	}
	return ""
}
