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
			keep, restart, release := slices.Index(w.log, "keep network"), slices.Index(w.log, "restart "+test.unit), slices.Index(w.log, "release network")
			if !test.sick && (keep < slices.Index(w.log, "restart a.service") || keep > restart || release != restart+1) {
				t.Errorf("it is kept for too long: %v", w.log)
			}
			lost := func(line string) bool {
				return strings.Contains(line, "the network has lost address 10.0.0.1/24") && strings.Contains(line, "add it again")
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
