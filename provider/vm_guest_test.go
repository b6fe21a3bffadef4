package provider_test

import (
	"regexp"
	"strings"
	"testing"

	"github.com/hashicorp/terraform-plugin-testing/helper/resource"
	"github.com/hashicorp/terraform-plugin-testing/knownvalue"
	"github.com/hashicorp/terraform-plugin-testing/plancheck"
	"github.com/hashicorp/terraform-plugin-testing/statecheck"
)

// Every part of the configuration of a guest is created, read back, imported, changed live, and put
// back after a change in the guest. The VM is not started again.
func TestTheConfigurationOfAGuest(t *testing.T) {
	for _, test := range []struct {
		name, first, second string
		// drift is what somebody changes in the guest.
		drift string
		// always is in all configurations.
		always string
	}{
		{"files", `files = {
			"/etc/motd" = { content = "one" }, "/srv/x" = { content_base64 = "/w==" }, "/etc/b" = { content = "" }
		}`, `files = {
			"/etc/motd" = { content = "two", mode = "0600", restart = ["b.service", "a.service"] }
			"/srv/x"    = { content_base64 = "/v8=", owner = "www-data", group = "33", reload = ["a.service"] }
		}`, "/etc/motd", ""},
		{"a secret", `files = { "/etc/key" = { content_wo = "one", content_wo_version = 1 } }`,
			`files = { "/etc/key" = { content_wo = "two", content_wo_version = 2 } }`, "/etc/key", ""},
		{"units and settings", `units = { "a.service" = { content = "[Service]\nExecStart=/bin/a\n", enabled = true } }
			sysctl    = { "vm.swappiness" = "10" }
			time_zone = "Europe/Berlin"
			locale    = "C.UTF-8"`,
			`units = { "a.service" = { drop_ins = { "x.conf" = "[Service]\nNice=1\n" }, started = false } }
			sysctl    = { "vm.swappiness" = "20", "net.ipv4.ip_forward" = "1" }
			time_zone = "UTC"
			locale    = "en_US.UTF-8"`, "vm.swappiness", ""},
		{"users", `users = { alice = { sudo = true } }`, `users = { alice = {
			uid = 1234, home = "/srv/alice", shell = "/bin/sh", groups = ["staff", "adm"]
			ssh_authorized_keys = ["ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJ8eL7Xown0333MZLobOFmWbF+pv5+cDS15+BuJS+7Nf me\n"]
		} }`, "/srv/alice/.ssh/authorized_keys", ""},
		{"swap", `swap = "1GiB"`, `swap = "64MiB"`, "var-lib-sharedos-swapfile.swap", ""},
		{"networks", `networks = { lan = { dhcp4 = true }, wan = { accept_ra = false } }`, `networks = {
			lan = {
				addresses = ["192.0.2.10/24", "2001:db8::a/64"]
				gateways  = ["192.0.2.1", "fe80::1"]
				metric    = 50
				routes    = [{ to = "10.0.0.0/8", via = "192.0.2.2", metric = 7 }, { to = "198.51.100.0/24" }]
				dns       = ["192.0.2.3"]
				search    = ["example.org"]
				mtu       = 1400
			}
		}`, "/etc/systemd/network/05-sharedos-lan.network",
			`interfaces = { lan = { bridge = "br0" }, wan = { network = "default" } }`},
	} {
		t.Run(test.name, func(t *testing.T) {
			world := newWorld(t)
			config := func(body string) string { return debian(patched) + web(test.always+"\n"+body) }
			live := plans(
				action(webAddress, plancheck.ResourceActionUpdate),
				plancheck.ExpectKnownValue(webAddress, attribute("state"), knownvalue.StringExact("running")),
				plancheck.ExpectKnownValue(webAddress, attribute("impact").AtMapKey("level"),
					knownvalue.StringExact("none")),
				plancheck.ExpectKnownValue(webAddress, attribute("impact").AtMapKey("reasons"),
					knownvalue.ListExact([]knownvalue.Check{
						knownvalue.StringExact("the configuration of the guest changes while the VM runs"),
					})),
			)
			none := []statecheck.StateCheck{value(webAddress, attribute("configuration_drift"),
				knownvalue.MapSizeExact(0))}
			import_ := resource.TestStep{
				ResourceName: webAddress, ImportState: true, ImportStateId: "web", ImportStateVerify: true,
				ImportStateVerifyIdentifierAttribute: "name",
				ImportStateVerifyIgnore: []string{"refresh", "agent.ready_seconds", "impact", "last_refresh",
					"users.alice.ssh_authorized_keys", "users.alice.groups", "files./etc/motd.restart"},
			}
			given := func(want int) func() {
				return func() {
					if configured := guest(t, world, "web").Configured(); len(configured) != want {
						t.Errorf("the guest was configured %d times, want %d", len(configured), want)
					}
				}
			}
			steps := []resource.TestStep{
				{Config: config(test.first), ConfigStateChecks: none, ConfigPlanChecks: plans(action(webAddress, plancheck.ResourceActionCreate))},
				import_,
				{PreConfig: given(1), Config: config(test.second), ConfigPlanChecks: live, ConfigStateChecks: none},
				import_,
			}
			if test.drift != "" {
				steps = append(steps, resource.TestStep{
					PreConfig: func() {
						guest(t, world, "web").Change(
							map[string]string{test.drift: "its content was changed"})
					},
					Config: config(test.second), ConfigStateChecks: none,
					ConfigPlanChecks: resource.ConfigPlanChecks{
						PreApply: append(live.PreApply,
							plancheck.ExpectUnknownValue(webAddress, attribute("configuration_drift"))),
						PostApplyPostRefresh: live.PostApplyPostRefresh,
					},
				})
			}
			// Another configuration that somebody else gave the guest is a difference, too.
			steps = append(steps, resource.TestStep{
				PreConfig: func() { guest(t, world, "web").GiveDocument(nil) },
				Config:    config(test.second), ConfigPlanChecks: live,
			}, resource.TestStep{Config: config(""), ConfigPlanChecks: live}, resource.TestStep{
				PreConfig: func() {
					now := guest(t, world, "web").Configured()
					if last := string(now[len(now)-1].GetDocument()); last != `{"version":1}` {
						t.Errorf("the guest has %s", last)
					}
				},
				Config: config(""), ConfigPlanChecks: plans(action(webAddress, plancheck.ResourceActionNoop)),
			})
			check(t, world, steps...)
		})
	}
}

// The secret is in the guest alone.
func TestASecretOfAGuestIsNowhereElse(t *testing.T) {
	world := newWorld(t)
	const secret = "correct-horse-battery"
	s := newSession(t, world,
		debian(patched)+web(`files = { "/etc/key" = { content_wo = "`+secret+`", content_wo_version = 1 } }`))
	said := s.run("apply", "-auto-approve", "-no-color")
	said += s.run("show", "-json") + s.run("state", "pull")
	if strings.Contains(said, secret) {
		t.Errorf("it is in\n%s", said)
	}
	given := guest(t, world, "web").Configured()
	if len(given) != 1 || string(given[0].GetSecrets()["/etc/key"]) != secret ||
		strings.Contains(string(given[0].GetDocument()), secret) {
		t.Errorf("the guest was given %v", given)
	}
	domain, _, err := world.VM(t.Context(), "web")
	must(t, err)
	if strings.Contains(string(domain.BootConfig)+domain.Metadata.Configuration, secret) ||
		domain.Metadata.Configuration == "" {
		t.Errorf("the domain records %q", domain.Metadata.Configuration)
	}
}

// A change that would interrupt more than is allowed fails the plan, which names the units.
func TestAConfigurationThatInterruptsTooMuchFailsThePlan(t *testing.T) {
	world := newWorld(t)
	const strict = "refresh = { max_impact = \"reload\" }\n"
	config := func(content string) string {
		return debian(patched) + web(strict+`files = { "/etc/motd" = { content = "`+content+`" } }`)
	}
	check(t, world,
		resource.TestStep{Config: config("one")},
		resource.TestStep{
			PreConfig: func() { guest(t, world, "web").Uses = []string{"web.service"} },
			Config:    config("two"), ExpectError: regexp.MustCompile(`(?s)max_impact.*web\.service`),
		},
		resource.TestStep{PreConfig: func() { guest(t, world, "web").Uses = nil }, Config: config("two")},
	)
}

// What the guest takes back is not in state, and the next apply tries it again.
func TestAConfigurationThatIsTakenBackIsTriedAgain(t *testing.T) {
	world := newWorld(t)
	config := func(content string) string {
		return debian(patched) + web(`files = { "/etc/motd" = { content = "`+content+`" } }`)
	}
	check(t, world,
		resource.TestStep{Config: config("one")},
		resource.TestStep{
			PreConfig:   func() { guest(t, world, "web").ConfigureError = "a.service is failed" },
			Config:      config("two"),
			ExpectError: regexp.MustCompile(`(?s)taken\s+its\s+configuration\s+back.*a\.service is failed`),
		},
		resource.TestStep{
			PreConfig: func() { guest(t, world, "web").ConfigureError = "" }, Config: config("two"),
			ConfigPlanChecks: plans(action(webAddress, plancheck.ResourceActionUpdate)),
		},
	)
}

// A VM that is off gets its configuration when it is started.
func TestAVMThatIsOffIsConfiguredAtItsStart(t *testing.T) {
	world := newWorld(t)
	config := func(running, content string) string {
		return debian(patched) + web("running = "+running+"\n"+`files = { "/etc/motd" = { content = "`+content+`" } }`)
	}
	check(t, world,
		resource.TestStep{Config: config("false", "one")},
		resource.TestStep{Config: config("false", "two"),
			ConfigPlanChecks: plans(action(webAddress, plancheck.ResourceActionUpdate))},
		resource.TestStep{Config: config("true", "two"),
			ConfigPlanChecks: plans(action(webAddress, plancheck.ResourceActionUpdate))},
		resource.TestStep{
			PreConfig: func() {
				if given := guest(t, world, "web").Configured(); len(given) != 1 ||
					!strings.Contains(string(given[0].GetDocument()), "dHdv") {
					t.Errorf("the guest was given %v", given)
				}
			},
			Config: config("true", "two"), ConfigPlanChecks: plans(action(webAddress, plancheck.ResourceActionNoop)),
		},
	)
}

func TestAConfigurationThatNoGuestCanHaveIsRefused(t *testing.T) {
	world := newWorld(t)
	refused := func(body, want string) resource.TestStep {
		return resource.TestStep{Config: debian(patched) + web(body), PlanOnly: true,
			ExpectError: regexp.MustCompile(want)}
	}
	check(t, world,
		refused(`files = { "/usr/bin/x" = { content = "" } }`, `/usr/bin/x`),
		refused(`files = { "/etc/../usr/x" = { content = "" } }`, `absolute\s+path`),
		refused(`files = { "/run/sharedos/x" = { content = "" } }`, `can\s+be\s+configured\s+below`),
		refused(`files = { "/etc/passwd" = { content = "" } }`, `users`),
		refused(`files = { "/etc/a" = { content = "", mode = "4755" } }`, `octal`),
		refused(`files = { "/etc/a" = { content = "", content_base64 = "" } }`, `(?i)several\s+contents`),
		refused(`files = { "/etc/a" = {} }`, `(?i)no\s+content`),
		refused(`files = { "/etc/a" = { content_wo = "x" } }`, `content_wo_version`),
		refused(`files = { "/etc/a" = { content_wo = "x", content_wo_version = 1, mode = "0644" } }`,
			`accessible\s+for\s+everybody`),
		refused(`files = { "/etc/a" = { content = "" }, "/etc/a/b" = { content = "" } }`, `(?i)its\s+directory`),
		refused(`files = { "/etc/systemd/system/a.service" = { content = "" } }
			units = { "a.service" = { content = "[Unit]" } }`, `configures\s+the\s+file`),
		refused(`units = { "sharedos-agent.service" = { enabled = false } }`, `own`),
		refused(`units = { "a.service" = {} }`, `(?i)says\s+nothing`),
		refused(`units = { "a@.service" = { enabled = true } }`, `(?i)template`),
		refused(`users = { root = {} }`, `root`),
		refused(`users = { alice = { home = "/etc" } }`, `home`),
		refused(`sysctl = { "no" = "1" }`, `kernel\s+parameter`),
		refused(`swap = "1000000B"`, `swap`), refused(`swap = "1500000B"`, `whole\s+MiB`),
		refused(`swap = "2TiB"`, `swap`),
		refused(`time_zone = "../../etc"`, `time\s+zone`),
		refused(`locale = "; reboot"`, `locale`),
	)
}
