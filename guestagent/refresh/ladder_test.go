package refresh

import (
	"slices"
	"strings"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/impact"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
)

func TestTheLowestRungThatDoesWhatIsNeededIsClimbed(t *testing.T) {
	const restart, soft, kexecs, reboot = agentapi.Level_RESTART, agentapi.Level_SOFT_REBOOT,
		agentapi.Level_KEXEC, agentapi.Level_REBOOT
	same, other := kernels{"6.1", "6.1"}, kernels{"6.1", "6.2"}
	old := obstacles{SoftReboot: "systemd 252 has no soft-reboot"}
	for name, test := range map[string]struct {
		strategy Rung
		level    agentapi.Level
		kernel   kernels
		in       obstacles
		want     Rung
		impact   agentapi.Level
		// reason and pending are parts of what is reported; pending "-" means that nothing is.
		reason, pending string
	}{
		"units alone": {strategy: Live, level: restart, kernel: same, want: Live,
			impact: restart, pending: "-"},
		"units alone, whatever would be allowed": {strategy: Reboot, level: restart, kernel: same, want: Live,
			impact: restart, pending: "-"},
		"nothing that runs": {strategy: Kexec, level: agentapi.Level_NONE, kernel: same,
			want: Live, impact: agentapi.Level_NONE, pending: "-"},
		"a new kernel waits under live": {strategy: Live, level: restart, kernel: other, want: Live,
			impact: restart, pending: "kernel 6.1 → 6.2"},
		"it waits after a soft-reboot": {strategy: SoftReboot, level: soft, kernel: other,
			want: SoftReboot, impact: soft, pending: "kernel 6.1 → 6.2"},
		"under soft_reboot it is no reason for one": {strategy: SoftReboot, level: restart, kernel: other,
			want: Live, impact: restart, pending: "kernel 6.1 → 6.2"},
		"it is started by kexec": {strategy: Kexec, level: restart, kernel: other, want: Kexec,
			impact: kexecs, reason: "another kernel: 6.1 → 6.2", pending: "-"},
		"it is started by the host": {strategy: Reboot, level: restart, kernel: other, want: Reboot,
			impact: reboot, reason: "another kernel", pending: "-"},
		"the loader is renewed by a soft-reboot": {strategy: SoftReboot, level: soft, kernel: same,
			want: SoftReboot, impact: soft, reason: "the loader", pending: "-"},
		"and by no more than that": {strategy: Reboot, level: soft, kernel: same, want: SoftReboot,
			impact: soft, pending: "-"},
		"a kexec renews it, too": {strategy: Kexec, level: soft, kernel: other, want: Kexec,
			impact: kexecs, reason: "the loader", pending: "-"},
		"what the strategy does not reach waits": {strategy: Live, level: soft, kernel: same, want: NextBoot,
			impact: soft, pending: "it takes soft_reboot, and the strategy is live"},
		"an old systemd: the next rung": {strategy: Reboot, level: soft, kernel: same, in: old,
			want: Reboot, impact: reboot, reason: "systemd 252", pending: "-"},
		"an old systemd under kexec": {strategy: Kexec, level: soft, kernel: other, in: old,
			want: Kexec, impact: kexecs, reason: "systemd 252", pending: "-"},
		"an old systemd under kexec, and no new kernel": {strategy: Kexec, level: soft, kernel: same, in: old,
			want: NextBoot, impact: reboot, reason: "systemd 252", pending: "it takes reboot"},
		"an old systemd under soft_reboot: it waits": {strategy: SoftReboot, level: soft, kernel: same, in: old,
			want: NextBoot, impact: reboot, reason: "systemd 252", pending: "it takes reboot"},
		"no kexec here: the kernel waits, with the reason": {strategy: Kexec, level: restart, kernel: other,
			in: obstacles{Kexec: "it is locked"}, want: Live, impact: restart, pending: "it is locked"},
		"no kexec here, and more than the kernel: both wait": {strategy: Kexec, level: soft, kernel: other,
			in: obstacles{SoftReboot: "old", Kexec: "it is locked"}, want: NextBoot,
			impact: reboot, reason: "it is locked",
			pending: "it takes reboot"},
		"an obstacle that concerns nothing is not even named": {strategy: Live, level: restart, kernel: same, in: old,
			want: Live, impact: restart, pending: "-"},
	} {
		t.Run(name, func(t *testing.T) {
			live := &impact.Assessment{Level: test.level}
			if test.level > restart {
				live.Reasons, live.Pending = []string{"the loader differs"},
					[]string{"dbus.service: a soft-reboot renews it"}
			}
			if test.kernel.differ() {
				live.Pending = append(live.Pending, impact.KernelPending(test.kernel.running, test.kernel.target))
			}
			rung, a := climb(test.strategy, live, test.kernel, test.in)
			if rung != test.want || a.Level != test.impact {
				t.Errorf("it climbs to %s with %s, want %s with %s", rung, a.Level, test.want, test.impact)
			}
			if got := strings.Join(a.Reasons, "; "); !strings.Contains(got, test.reason) || test.in[SoftReboot] != "" &&
				test.level == restart && got != "" {
				t.Errorf("reasons %q do not say %q", got, test.reason)
			}
			got := strings.Join(a.Pending, "; ")
			if test.pending == "-" && got != "" || test.pending != "-" && !strings.Contains(got, test.pending) {
				t.Errorf("pending is %q, want %q", got, test.pending)
			}
		})
	}
}

func TestAStrategyIsARung(t *testing.T) {
	for text, want := range map[string]Rung{"": Live, "live": Live, "soft_reboot": SoftReboot,
		"kexec": Kexec, "reboot": Reboot} {
		if got, err := strategyOf(text); err != nil || got != want {
			t.Errorf("%q: %s, %v", text, got, err)
		}
	}
	for _, text := range []string{"next_boot", "Live", "power_off"} {
		if got, err := strategyOf(text); err == nil {
			t.Errorf("%q: %s", text, got)
		}
	}
}

// A plan says what a start drops that was made by hand.
func TestWhatARungDropsIsSaid(t *testing.T) {
	for _, test := range []struct {
		rung    Rung
		changes bool
		want    string
	}{
		{Live, false, ""}, {Live, true, ""}, {NextBoot, true, ""},
		{SoftReboot, false, "are added again; rules of the packet filter"},
		{SoftReboot, true, "only those are added again that cannot be its own; rules of the packet filter"},
		{Kexec, false, "a kexec starts another kernel"}, {Reboot, true, "a reboot starts another kernel"},
	} {
		if got := dropsOf(test.rung, test.changes); !strings.Contains(got, test.want) ||
			(got == "") != (test.want == "") {
			t.Errorf("%s, %v: %q", test.rung, test.changes, got)
		}
	}
	w := newWorld(t)
	e, stop := w.engine()
	defer stop()
	w.give("one", "two")
	request := w.askFor(SoftReboot)
	planned, err := e.Assess(t.Context(),
		&agentapi.AssessRequest{Target: request.GetTarget(), Strategy: request.GetStrategy()})
	if err != nil || !slices.Contains(planned.GetReasons(), dropsOf(SoftReboot, false)) {
		t.Errorf("%v, %v", planned, err)
	}
}

// The more a strategy allows, the more of a release takes effect at once, whatever the system cannot do.
func TestAllowingMoreNeverInterruptsLess(t *testing.T) {
	for _, level := range []agentapi.Level{agentapi.Level_NONE, agentapi.Level_RESTART, agentapi.Level_SOFT_REBOOT} {
		for _, kernel := range []kernels{{"6.1", "6.1"}, {"6.1", "6.2"}} {
			for _, in := range []obstacles{{}, {SoftReboot: "no"}, {Kexec: "no"}, {SoftReboot: "no", Kexec: "no"}} {
				before := -1
				for _, strategy := range rungs {
					rung, _ := climb(strategy, &impact.Assessment{Level: level}, kernel, in)
					if at := height(rung); at < before {
						t.Errorf("%s, %v, %v: %s interrupts less than what allows less: %s", level,
							kernel, in, strategy, rung)
					} else {
						before = at
					}
				}
			}
		}
	}
}
