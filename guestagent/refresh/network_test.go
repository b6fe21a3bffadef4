package refresh

import (
	"slices"
	"strings"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/network"
)

// What was added to the network by hand is there after a refresh and after one that is rolled back, unless the release
// changes the configuration of the network: then it is reported.
func TestTheNetworkIsKeptOverARestartOfItsManager(t *testing.T) {
	for _, test := range []struct {
		name, link, unit string
		sick             bool
		sure             network.Sure
		kept             bool
	}{
		{"committed", "", networkd, false, network.SureOfAll, true},
		{"rolled back", "", networkd, true, network.SureOfAll, true},
		{"another configuration", "usr/lib/systemd/network/10-x.network", networkd, false, network.SureOfUnmarked, false},
		{"another one of ifupdown", "usr/lib/netplan/x.yaml", "networking.service", false, network.SureOfNothing, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			links := map[string][]string{}
			if test.link != "" {
				links["two"] = []string{test.link}
			}
			w := newWorldWith(t, links)
			w.services[test.unit], w.network = w.usr, true
			if test.sick {
				w.unhealthy = w.releases["two"].stack.Base
			}
			e, stop := w.engine()
			defer stop()
			w.give("one", "two")
			status := w.refresh(e, w.ask("one", "two"))
			if status.Report.GetCommitted() == test.sick || w.sure != test.sure || w.network != test.kept {
				t.Errorf("kept %v, sure %v; %v", w.network, w.sure, status.Report)
			}
			keep, restart, release := slices.Index(w.log, "keep network"), slices.Index(w.log, "restart "+test.unit),
				slices.Index(w.log, "release network")
			if !test.sick && (keep < slices.Index(w.log, "restart a.service") ||
				keep > restart || release != restart+1) {
				t.Errorf("it is kept for too long: %v", w.log)
			}
			lost := func(line string) bool {
				return strings.Contains(line, "the network has lost address 10.0.0.1/24") &&
					strings.Contains(line, "add it again")
			}
			if slices.ContainsFunc(status.Pending, lost) == test.kept {
				t.Errorf("pending is %q", status.Pending)
			}
		})
	}
}

func TestANetworkThatNothingRestartsIsNotKept(t *testing.T) {
	w := newWorld(t)
	e, stop := w.engine()
	defer stop()
	w.give("one", "two")
	if w.refresh(e, w.ask("one", "two")); slices.Contains(w.log, "keep network") {
		t.Errorf("%v", w.log)
	}
}

// A soft-reboot restarts the managers of the network. What was added by hand is there after it, and after the way back,
// unless the release may have removed it: then it is reported. The kernel that a kexec or a reboot starts has none of
// it.
func TestTheNetworkIsKeptOverASoftReboot(t *testing.T) {
	for _, test := range []struct {
		name string
		rung Rung
		link string
		sick bool
		sure network.Sure
		kept bool
	}{
		{"committed", SoftReboot, "", false, network.SureOfAll, true},
		{"rolled back", SoftReboot, "", true, network.SureOfAll, true},
		{"another configuration", SoftReboot, "usr/lib/systemd/network/10-x.network", false, network.SureOfUnmarked, false},
		{"another one, rolled back", SoftReboot, "usr/lib/systemd/network/10-x.network", true, network.SureOfUnmarked, false},
		{"kexec", Kexec, "", false, network.SureOfAll, false},
		{"reboot", Reboot, "", false, network.SureOfAll, false},
	} {
		t.Run(test.name, func(t *testing.T) {
			links := map[string][]string{}
			if test.link != "" {
				links["two"] = []string{test.link}
			}
			w := newWorldWith(t, links)
			w.network = true
			if test.sick {
				w.unhealthy = w.releases["two"].stack.Base
			}
			d := w.refreshBy(test.rung)
			defer d.stop()
			if d.status.Report.GetCommitted() == test.sick || w.network != test.kept ||
				w.sure != test.sure || w.keptNetwork != nil {
				t.Errorf("kept %v, sure %v, record %v; %v; %v", w.network, w.sure,
					w.keptNetwork, d.status.Report, w.log)
			}
			told := slices.ContainsFunc(d.status.Pending,
				func(line string) bool { return strings.Contains(line, "the network has lost") })
			if told != (test.rung == SoftReboot && !test.kept && !test.sick) {
				t.Errorf("pending is %q", d.status.Pending)
			}
			if err := w.whole(d.status); err != nil {
				t.Error(err)
			}
		})
	}
}

// A commit that fails after a soft-reboot leads back by another one. What is known of the network
// from before the first is needed until then.
func TestTheNetworkIsKeptUntilTheCommitIsDone(t *testing.T) {
	w := newWorldWith(t, map[string][]string{"two": {"usr/lib/systemd/network/10-x.network"}})
	w.network, w.broke = true, "commit"
	d := w.refreshBy(SoftReboot)
	defer d.stop()
	if d.status.Report.GetCommitted() || w.keptNetwork != nil {
		t.Errorf("record %v; %v", w.keptNetwork, d.status.Report)
	}
	back := len(w.log) - 1
	for ; back >= 0 && w.log[back] != "soft-reboot"; back-- {
		continue
	}
	if released := slices.Index(w.log, "release network"); slices.Index(w.log, "soft-reboot") == back ||
		released < back {
		t.Errorf("it was released at %d, and the way back began at %d: %v", released, back, w.log)
	}
}
