package provider_test

import (
	"encoding/json"
	"regexp"
	"strings"
	"testing"

	"github.com/hashicorp/terraform-plugin-testing/helper/resource"
	"github.com/hashicorp/terraform-plugin-testing/plancheck"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/guestconfig"
)

const twoCards = "interfaces = { lan = { bridge = \"br0\", mac = \"52:54:00:00:00:01\" }, wan = { network = \"default\" } }\n"

func TestNetworksThatNoGuestCanHaveAreRefused(t *testing.T) {
	world := newWorld(t)
	refused := func(body, want string) resource.TestStep {
		return resource.TestStep{Config: debian(patched) + web(twoCards+body), PlanOnly: true,
			ExpectError: regexp.MustCompile(want)}
	}
	const at, other = `networks = { lan = { addresses = ["192.0.2.10/24"], `,
		`}, wan = { addresses = ["203.0.113.2/24"], `
	check(t, world,
		refused(`networks = { dmz = { dhcp4 = true } }`,
			`(?s)networks\["dmz"\].*no\s+interface\s+of\s+this\s+name.*lan,\s+wan`),
		refused(`networks = { lan = { addresses = ["192.0.2.10"] } }`,
			`(?s)networks\["lan"\]\.addresses.*length\s+of\s+its\s+network`),
		refused(`networks = { lan = { addresses = ["192.0.2.256/24"] } }`, `(?s)networks\["lan"\]\.addresses`),
		refused(`networks = { lan = { addresses = ["192.0.2.255/24"] } }`, `broadcast`),
		refused(at+`gateways = ["203.0.113.1"] } }`,
			`(?s)networks\["lan"\]\.gateways.*in\s+no\s+network\s+of\s+the\s+interface`),
		refused(at+`gateways = ["192.0.2.1"]`+other+`gateways = ["203.0.113.1"] } }`,
			`(?s)networks\["wan"\]\.gateways.*metric\s+100`),
		refused(at+`routes = [{ to = "10.0.0.1/8" }] } }`, `(?s)networks\["lan"\]\.routes.*10\.0\.0\.0/8`),
		refused(`networks = { lan = { mtu = 1 } }`, `mtu`),
		resource.TestStep{
			Config: strings.Replace(debian(patched), `packages = [`, `packages = ["ifupdown", `, 1) +
				web(twoCards+`networks = { lan = { dhcp4 = true } }`),
			PlanOnly: true, ExpectError: regexp.MustCompile(`(?s)neither\s+systemd-networkd\s+nor\s+NetworkManager`),
		},
	)
}

// The guest knows an interface by its MAC address, and its first boot begins with the networks.
func TestANetworkFollowsTheMACAddressOfItsInterface(t *testing.T) {
	world := newWorld(t)
	config := func(mac string) string {
		return debian(patched) +
			web(strings.Replace(twoCards, "52:54:00:00:00:01", mac, 1)+
				`networks = { lan = { addresses = ["192.0.2.10/24"] }, wan = { dhcp4 = true } }
			refresh = { max_impact = "reboot" }`)
	}
	given := func(want string) func() {
		return func() {
			domain, _, err := world.VM(t.Context(), "web")
			must(t, err)
			all := guest(t, world, "web").Configured()
			document, err := guestconfig.Decode(all[len(all)-1].GetDocument())
			must(t, err)
			var boot agentapi.BootConfig
			must(t, json.Unmarshal(domain.BootConfig, &boot))
			for _, networks := range []map[string]guestconfig.Network{document.Networks, boot.Networks} {
				if networks["lan"].MAC != want || networks["wan"].MAC == "" ||
					networks["lan"].Addresses[0] != "192.0.2.10/24" {
					t.Errorf("it has %+v", networks)
				}
			}
		}
	}
	check(t, world,
		resource.TestStep{Config: config("52:54:00:00:00:01")},
		resource.TestStep{
			PreConfig: given("52:54:00:00:00:01"), Config: config("52:54:00:00:00:02"),
			ConfigPlanChecks: plans(action(webAddress, plancheck.ResourceActionUpdate)),
		},
		resource.TestStep{
			PreConfig: given("52:54:00:00:00:02"), Config: config("52:54:00:00:00:02"),
			ConfigPlanChecks: plans(action(webAddress, plancheck.ResourceActionNoop)),
		},
	)
}

// Values that are known only when they are applied are checked then.
func TestANetworkWithAnAddressThatIsNotKnownYet(t *testing.T) {
	world := newWorld(t)
	config := func(address string) string {
		return debian(patched) + `resource "terraform_data" "ip" { input = "` + address + "\" }\n" +
			web(twoCards+`networks = { lan = { addresses = ["${terraform_data.ip.output}/24"], gateways = ["192.0.2.1"] } }`)
	}
	check(t, world,
		resource.TestStep{Config: config("192.0.2.10")},
		resource.TestStep{Config: config("192.0.2.11"),
			ConfigPlanChecks: plans(action(webAddress, plancheck.ResourceActionUpdate))},
		resource.TestStep{Config: config("203.0.113.10"),
			ExpectError: regexp.MustCompile(`(?s)networks\["lan"\]\.gateways`)},
	)
}
