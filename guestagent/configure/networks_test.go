package configure_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/configure"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/guestconfig"
)

func static(mac string, addresses ...string) guestconfig.Network {
	return guestconfig.Network{MAC: mac, Addresses: addresses}
}

func networks(all map[string]guestconfig.Network) func(*guestconfig.Document) {
	return func(d *guestconfig.Document) { d.Networks = all }
}

// Interfaces take their networks on live. One that does not change loses nothing, and one whose
// network is removed is as before.
func TestNetworksAreTakenOnChangedAndRemoved(t *testing.T) {
	for _, manager := range []guestconfig.Manager{guestconfig.Networkd, guestconfig.NetworkManager} {
		t.Run(string(manager), func(t *testing.T) {
			s := newSystem(t)
			s.manager = manager
			before := s.all()
			both := map[string]guestconfig.Network{"lan": static(lan, "192.0.2.10/24", "2001:db8::a/64"),
				"wan": static(wan, "203.0.113.2/24")}
			s.mustGive(networks(both))
			if s.has(link(lan)) != "192.0.2.10/24\n2001:db8::a/64\n" || s.has(link(wan)) != "203.0.113.2/24\n" {
				t.Fatalf("it has\n%s", s.all())
			}
			mode := os.FileMode(0o644)
			if manager == guestconfig.NetworkManager { // it ignores files that others can read
				mode = 0o600
			}
			if info, err := os.Stat(filepath.Join(s.root, manager.NetworkFile("lan"))); err != nil ||
				info.Mode().Perm() != mode {
				t.Errorf("the mode of the file is %v, %v", info, err)
			}
			s.mustGive(networks(both))
			s.mustHaveDone()
			s.write(link(wan), "203.0.113.2/24\n203.0.113.99/24\n") // by hand
			s.write(link(lan), "192.0.2.10/24\n192.0.2.99/24\n")
			both["lan"] = static(lan, "192.0.2.11/24")
			impact := s.mustGive(networks(both)).GetImpact()
			s.mustHaveDone("renew " + string(manager))
			if s.has(link(lan)) != "192.0.2.11/24\n" || !strings.Contains(s.has(link(wan)), "203.0.113.99") {
				t.Errorf("it has\n%s", s.all())
			}
			units := impact.GetUnits()
			if impact.GetLevel() != agentapi.Level_RELOAD || len(units) != 1 ||
				units[0].GetUnit() != manager.Service() ||
				!strings.Contains(units[0].GetReason(), "of lan changes") {
				t.Errorf("the impact is %v", impact)
			}
			delete(both, "wan")
			s.mustGive(networks(both))
			if s.has(link(lan)) != "192.0.2.11/24\n" || s.has(link(wan)) != byDHCP {
				t.Errorf("it has\n%s", s.all())
			}
			s.mustGive(nothing)
			if after := s.all(); after != before {
				t.Errorf("it has\n%s\nand before\n%s", after, before)
			}
		})
	}
}

func TestANetworkThatDoesNotComeUpIsTakenBack(t *testing.T) {
	for name, test := range map[string]struct {
		prepare func(s *system)
		want    string
	}{
		"an address that another host has": {func(s *system) { s.lost = []string{"192.0.2.10/24"} }, "192.0.2.10/24"},
		"a health check that fails": {func(s *system) {
			s.before = func(action string) { s.sick["web"] = strings.HasPrefix(action, "renew") }
		}, `"web"`},
	} {
		t.Run(name, func(t *testing.T) {
			s := newSystem(t)
			s.mustGive(networks(map[string]guestconfig.Network{"lan": static(lan, "192.0.2.1/24")}))
			before, id := s.all(), s.id()
			s.configurator.ReadyLimit = 1
			test.prepare(s)
			checks := func(r *agentapi.ConfigureRequest) {
				r.HealthChecks = []*agentapi.HealthCheck{{Name: "web",
					Kind: &agentapi.HealthCheck_Unit{Unit: "a.service"}}}
			}
			_, err := s.give(networks(map[string]guestconfig.Network{"lan": static(lan, "192.0.2.10/24"),
				"wan": {MAC: wan}}), checks)
			if !errors.Is(err, configure.ErrTakenBack) || !strings.Contains(err.Error(), test.want) {
				t.Errorf("it is %v", err)
			}
			if after := s.all(); after != before || s.id() != id {
				t.Errorf("it has\n%s\nand before\n%s", after, before)
			}
		})
	}
}

// A link without a cable gets no addresses, and neither does an interface that the VM does not have yet.
func TestNothingIsAwaitedOfALinkThatIsDown(t *testing.T) {
	s := newSystem(t)
	s.unlinked, s.lost = []string{lan}, []string{"192.0.2.10/24"}
	s.mustGive(networks(map[string]guestconfig.Network{"lan": static(lan, "192.0.2.10/24"),
		"x": static("52:54:00:00:00:09", "203.0.113.9/24")}))
}

func TestABaseWithoutANetworkManagerIsRefused(t *testing.T) {
	s := newSystem(t)
	s.manager, s.instead = guestconfig.NoManager, "ifupdown"
	before := s.all()
	_, err := s.give(networks(map[string]guestconfig.Network{"lan": static(lan)}))
	if !errors.Is(err, configure.ErrRefused) || !strings.Contains(err.Error(), "ifupdown") || s.all() != before {
		t.Errorf("it is %v", err)
	}
	s.mustGive(files(map[string]guestconfig.File{motd: file("x")}))
}

func TestMoreThanIsAllowedIsNotDoneToTheNetwork(t *testing.T) {
	s := newSystem(t)
	before := s.all()
	strict := func(r *agentapi.ConfigureRequest) { r.MaxImpact = agentapi.Level_NONE }
	if _, err := s.give(networks(map[string]guestconfig.Network{"lan": static(lan)}), strict); !errors.Is(err,
		configure.ErrImpact) || s.all() != before {
		t.Errorf("it is %v, and it has\n%s", err, s.all())
	}
}

// The first boot begins with the networks. When the guest takes its configuration on, that
// interrupts nothing, and later they are removed with the configuration.
func TestTheNetworksOfTheFirstBootAreTakenOver(t *testing.T) {
	s := newSystem(t)
	before := s.all()
	given := &guestconfig.Document{Networks: map[string]guestconfig.Network{"lan": static(lan, "192.0.2.10/24"),
		"wan": static(wan, "203.0.113.2/24")}}
	for _, item := range given.NetworkItems(s.manager) {
		s.write(s.manager.BootNetworkFile(item.Network), string(item.Content))
	}
	s.boot()
	if s.has(link(lan)) != "192.0.2.10/24\n" {
		t.Fatalf("it has\n%s", s.all())
	}
	// The configuration of wan was changed meanwhile.
	strict := func(r *agentapi.ConfigureRequest) { r.MaxImpact = agentapi.Level_NONE }
	s.mustGive(networks(map[string]guestconfig.Network{"lan": given.Networks["lan"]}), strict)
	if s.has(link(lan)) != "192.0.2.10/24\n" || s.has(link(wan)) != byDHCP ||
		s.has(s.manager.BootNetworkFile("lan")) != "" {
		t.Errorf("it has\n%s", s.all())
	}
	s.mustGive(nothing)
	must(t, os.RemoveAll(filepath.Join(s.root, "run")))
	if after := s.all(); after != before {
		t.Errorf("it has\n%s\nand before\n%s", after, before)
	}
}

func TestWhatSomebodyChangedOfANetworkIsTold(t *testing.T) {
	s := newSystem(t)
	name := s.manager.NetworkFile("lan")
	want := networks(map[string]guestconfig.Network{"lan": static(lan, "192.0.2.10/24")})
	s.mustGive(want)
	s.write(name, "mine")
	if drift := s.drift(); len(drift) != 1 || drift[name] == "" {
		t.Errorf("it tells %v", drift)
	}
	if _, err := s.give(want); !errors.Is(err, configure.ErrRefused) || s.has(name) != "mine" {
		t.Errorf("it is %v", err)
	}
	s.mustGive(want, overwriting(name))
	if s.has(link(lan)) != "192.0.2.10/24\n" || len(s.drift()) != 0 {
		t.Errorf("it has\n%s", s.all())
	}
}
