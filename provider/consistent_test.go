package provider_test

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/hashicorp/terraform-plugin-go/tftypes"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
	"github.com/sharedos/terraform-provider-sharedos/provider/providertest"
)

// applied plans and applies a change, which must work, with a provider of its own, as Terraform does.
func applied(t *testing.T, c *client, name string, state instance, config values) instance {
	t.Helper()
	c = newClient(t, c.world)
	p, text := c.plan(name, state, valueOf(t, c.typeOf(name), config))
	if text == "" {
		state, text = c.apply(name, p)
	}
	if text != "" {
		t.Fatal(text)
	}
	return state
}

// consistent plans a change, has something happen, and applies the plan as Terraform does: a new provider plans the
// change again, and applies it. Each step ends in an error of the provider, or with what was planned. With again set,
// the second planning is left out: what happened came after it.
func consistent(t *testing.T, world *providertest.World, name string, state instance, config tftypes.Value,
	happen func(), again bool) (instance, string) {
	t.Helper()
	planning := newClient(t, world)
	if !state.value.IsNull() {
		read, text := planning.read(name, state)
		if text != "" {
			t.Fatal(text)
		}
		state = read
	}
	p, text := planning.plan(name, state, config)
	if text != "" {
		return state, text
	}
	happen()
	applying := newClient(t, world)
	final := p
	if again {
		if final, text = applying.plan(name, state, config); text != "" {
			return state, text
		}
		if bad := inconsistent(name, p.after, final.after); len(bad) > 0 {
			t.Errorf("Provider produced inconsistent final plan:\n  %s", strings.Join(bad, "\n  "))
		}
	}
	result, text := applying.apply(name, final)
	if text != "" {
		return result, text
	}
	if bad := inconsistent(name, final.after, result.value); len(bad) > 0 {
		t.Errorf("Provider produced inconsistent result after apply:\n  %s", strings.Join(bad, "\n  "))
	}
	if !result.value.IsFullyKnown() {
		t.Error("Provider returned unknown values after apply")
	}
	return result, ""
}

// twice runs a test without the second planning, and with it unless it is known only from the command of
// Terraform, which these clients do not have. Such cases are in TestASavedPlanIsAppliedAsPlannedOrNotAtAll.
func twice(t *testing.T, name string, known bool, run func(t *testing.T, again bool)) {
	t.Helper()
	t.Run(name, func(t *testing.T) {
		t.Parallel()
		if known {
			t.Run("before the second planning", func(t *testing.T) { t.Parallel(); run(t, true) })
		}
		t.Run("after it", func(t *testing.T) { t.Parallel(); run(t, false) })
	})
}

// sourceKind is a source of a base whose content a test can change.
type sourceKind struct {
	// value is the configuration of the base, and set gives the source its n-th content.
	value values
	set   func(n int)
	gone  func()
	// state is the base before the plan.
	state instance
}

// kinds are sources on a world, in their first version.
func kinds(t *testing.T, world *providertest.World) map[string]sourceKind {
	t.Helper()
	archive, tree := newImage(t), filepath.Join(t.TempDir(), "tree")
	unpack := func(n int) {
		archive := newImage(t)
		archive.set(fmt.Sprint(n))()
		must(t, os.RemoveAll(tree))
		must(t, archive.unpack(tree))
	}
	unpack(1)
	return map[string]sourceKind{
		"archive": {
			value: values{"archive": values{"path": archive.path}},
			set:   func(n int) { archive.set(fmt.Sprint(n))() }, gone: func() { must(t, os.Remove(archive.path)) },
		},
		"directory": {
			value: values{"directory": values{"path": tree, "owner": "root"}}, set: unpack,
			gone: func() { must(t, os.RemoveAll(tree)) },
		},
		"debian": {
			value: values{"debian": values{"suite": "trixie",
				"packages": []any{"systemd-sysv", "linux-image-cloud-amd64"}}},
			set: func(n int) { world.SetDebianArchive(fmt.Sprint(n)) }, gone: func() {},
		},
	}
}

// baseChanges are changes of the attributes of a base besides its source.
var baseChanges = map[string]values{
	"source":         {},
	"retain":         {"retain": 1},
	"pin_accounts":   {"pin_accounts": true},
	"shared_secrets": {"shared_secrets": []any{"/etc/secret"}},
	"limits":         {"limits": values{"entries": 100000}},
	"timeouts":       {"timeouts": values{"update": "2h"}},
}

func merged(all ...values) values {
	result := values{}
	for _, one := range all {
		for name, value := range one {
			result[name] = value
		}
	}
	return result
}

// Whatever happens between plan and apply of a base ends in an error of this provider, or as planned.
func TestAnApplyOfABaseDoesWhatThePlanSaid(t *testing.T) {
	happenings := map[string]func(t *testing.T, w *providertest.World, s sourceKind){
		"nothing":                 func(*testing.T, *providertest.World, sourceKind) {},
		"the source changes":      func(_ *testing.T, _ *providertest.World, s sourceKind) { s.set(3) },
		"the source is as before": func(_ *testing.T, _ *providertest.World, s sourceKind) { s.set(1) },
		"the source is gone":      func(_ *testing.T, _ *providertest.World, s sourceKind) { s.gone() },
		"the cache is gone": func(t *testing.T, w *providertest.World,
			_ sourceKind) {
			must(t, w.ForgetCache())
		},
		"the host does not answer": func(_ *testing.T, w *providertest.World,
			_ sourceKind) {
			w.SetFailure(store.ErrUnreachable)
		},
		"the base is gone": func(t *testing.T, w *providertest.World,
			_ sourceKind) {
			_ = w.DropBase(t.Context(), "own")
		},
		"another release is published": func(t *testing.T, w *providertest.World,
			s sourceKind) {
			publishOther(t, w, s.state)
		},
	}
	for _, kind := range []string{"archive", "directory", "debian"} {
		for change, config := range baseChanges {
			for happening, happen := range happenings {
				if kind != "archive" && change != "source" && change != "retain" {
					continue
				}
				for _, new := range []bool{true, false} {
					if new && change != "source" {
						continue
					}
					// Nothing in a new base's own data says that it was planned before.
					known := !new || happening != "the source changes" && happening != "the source is as before" &&
						happening != "another release is published"
					twice(t, fmt.Sprintf("%s/%s/new %v/%s", kind, change, new, happening), known,
						func(t *testing.T, again bool) {
							world := newWorld(t)
							source := kinds(t, world)[kind]
							own := merged(values{"name": "own"}, source.value)
							c := newClient(t, world)
							state := c.none("sharedos_base")
							if !new {
								state = applied(t, c, "sharedos_base", state, own)
							}
							source.state = state
							source.set(2)
							if kind == "debian" && change == "source" && !new {
								source.value["debian"].(values)["triggers"] = values{"month": "2"}
							}
							consistent(t, world, "sharedos_base", state,
								valueOf(t, c.typeOf("sharedos_base"), merged(own, config)),
								func() { happen(t, world, source) }, again)
						})
				}
			}
		}
	}
}

// publishOther publishes a release of the base from a copy of its state.
func publishOther(t *testing.T, world *providertest.World, state instance) {
	t.Helper()
	elsewhere := newImage(t)
	elsewhere.set("9")()
	applied(t, newClient(t, world), "sharedos_base", state,
		values{"name": "own", "archive": values{"path": elsewhere.path}})
}

// A saved plan whose source has changed is refused with what changed and what to do.
func TestAPlanWhoseSourceChangedSinceIsRefused(t *testing.T) {
	for _, again := range []bool{true, false} {
		for _, kind := range []string{"archive", "directory", "debian"} {
			t.Run(fmt.Sprintf("%s, second planning %v", kind, again), func(t *testing.T) {
				world := newWorld(t)
				source := kinds(t, world)[kind]
				config := merged(values{"name": "own"}, source.value)
				c := newClient(t, world)
				state := applied(t, c, "sharedos_base", c.none("sharedos_base"), config)
				source.set(2)
				if kind == "debian" {
					config["debian"].(values)["triggers"] = values{"month": "2"}
				}
				_, text := consistent(t, world, "sharedos_base", state, valueOf(t, c.typeOf("sharedos_base"), config),
					func() { source.set(3) }, again)
				if !says(`base "own"`, "this is not what the plan said", "Nothing was",
					"Plan again").MatchString(text) {
					t.Errorf("it says: %s", text)
				}
			})
		}
	}
}

// vmChanges has a change for each attribute of a VM, from a VM without any of them.
var vmChanges = map[string]values{
	"base":                  {},
	"hostname":              {"hostname": "web.example"},
	"ssh_authorized_keys":   {"ssh_authorized_keys": []any{"ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIM/HSNBZ58CJGJOtPdqLOrTGKe+HWpA5fRGvDgjq7I0y one"}},
	"vcpus":                 {"vcpus": 2, "refresh": values{"max_impact": "reboot"}},
	"memory":                {"memory": "1GiB", "refresh": values{"max_impact": "reboot"}},
	"memory in other words": {"memory": "524288KiB"},
	"maxima":                {"max_vcpus": 4, "max_memory": "1GiB", "refresh": values{"max_impact": "reboot"}},
	"maximum as it is":      {"max_memory": "512MiB"},
	"disk":                  {"disk": values{"size": "8GiB"}},
	"interfaces": {"interfaces": values{"lan": values{"user": values{}}},
		"refresh": values{"max_impact": "reboot"}},
	"running":   {"running": false},
	"strategy":  {"refresh": values{"strategy": "soft_reboot", "max_impact": "soft_reboot"}},
	"next_boot": {"refresh": values{"strategy": "next_boot"}},
	"policy": {"refresh": values{"policy": "reload",
		"units": values{"nginx.service": values{"policy": "report"}}}},
	"health_checks": {"refresh": values{"health_checks": values{"web": values{"unit": "nginx.service"}}}},
	"keep_files":    {"refresh": values{"keep_files": []any{"/etc/motd"}}},
	"ready": {"ready": values{"units": []any{"nginx.service"}, "address": true,
		"health_checks": values{"web": values{"tcp": "127.0.0.1:80"}}}},
	"timeouts": {"timeouts": values{"create": "20s", "update": "21s"}},
	"life cycle": {"autostart": true, "deletion_protection": true, "title": "web",
		"description": "a server"},
	"further disk": {"disks": values{"data": values{"size": "1GiB", "file_system": "ext4",
		"mount_point": "/srv/data"}}},
	"files": {"files": values{"/etc/motd": values{"content": "hello\n", "mode": "0640"}}},
	"units": {"units": values{"acme.service": values{"content": "[Service]\nExecStart=/usr/bin/true\n",
		"enabled": true}}},
	"users":             {"users": values{"alice": values{"groups": []any{"adm"}, "sudo": true}}},
	"kernel parameters": {"sysctl": values{"net.ipv4.ip_forward": "1"}},
	"networks": {
		"interfaces": values{"lan": values{"bridge": "br0"}},
		"networks": values{"lan": values{"addresses": []any{"192.0.2.10/24"},
			"routes": []any{values{"to": "10.0.0.0/8"}}}},
	},
	"swap":             {"swap": "64MiB"},
	"kernel arguments": {"kernel_arguments": []any{"nosmt"}},
	"place":            {"time_zone": "Europe/Berlin", "locale": "C.UTF-8"},
	"on_demand":        {"on_demand": []any{}, "components": []any{}, "prefer": values{}, "detach_on_demand": true},
	"hardware": {
		"machine": "pc-q35-9.2", "cpu": values{"model": "host-model", "shares": 200},
		"memory_backing": values{"numa_nodes": "0"}, "tpm": "tpm-crb",
		"graphics": values{"socket": "/run/web.sock"}, "watchdog": "pause", "rng": values{"bytes_per_second": 1024},
		"host_directories": values{"etc": values{"path": "/etc", "read_only": true}}, "host_devices": values{},
		"xml_patch": []any{values{"op": "add", "path": "/domain/devices", "xml": "<sound model=\"ich9\"/>"}},
		"refresh":   values{"max_impact": "reboot"},
	},
	"network cards": {
		"interfaces": values{"lan": values{"bridge": "br0", "mac": "52:54:00:00:00:01", "mtu": 1400, "link": "down"},
			"own": values{"user": values{}, "model": "e1000e"}},
		"refresh": values{"max_impact": "reboot"},
	},
}

// The changes above are of all attributes that a configuration can set.
func TestEachAttributeOfAVMIsChanged(t *testing.T) {
	changed := map[string]bool{"name": true, "base": true} // no VM has another name, and each change is to another base
	for _, change := range vmChanges {
		for name := range change {
			changed[name] = true
		}
	}
	for _, attribute := range newClient(t, newWorld(t)).schema["sharedos_vm"].Block.Attributes {
		if (attribute.Optional || attribute.Required) && !changed[attribute.Name] {
			t.Errorf("nothing changes %s", attribute.Name)
		}
	}
}

// Whatever happens between plan and apply of a VM ends in an error of this provider, or as planned.
func TestAnApplyOfAVMDoesWhatThePlanSaid(t *testing.T) {
	level := func(level agentapi.Level, unit string) func(*testing.T, *providertest.World) {
		return func(t *testing.T, w *providertest.World) {
			if agent, err := w.Guests.Agent("web"); err == nil {
				agent.Impact = &agentapi.Impact{Level: level,
					Units: []*agentapi.UnitImpact{{Unit: unit, Level: agentapi.Level_RESTART,
						Reason: "it runs code that changes"}}}
			}
		}
	}
	happenings := map[string]func(t *testing.T, w *providertest.World){
		"nothing":        func(*testing.T, *providertest.World) {},
		"the VM is gone": func(t *testing.T, w *providertest.World) { _ = w.DropVM(t.Context(), "web") },
		"the VM is another one": func(t *testing.T, w *providertest.World) {
			_ = w.Reidentify(t.Context(), "web", "11111111-2222-4333-8444-555555555555")
		},
		"the VM is off": func(t *testing.T,
			w *providertest.World) {
			_ = w.Domains.PowerOff(t.Context(), "web")
		},
		"the VM is on": func(t *testing.T,
			w *providertest.World) {
			_ = w.Domains.Start(t.Context(), "web")
		},
		"the agent is silent":      func(_ *testing.T, w *providertest.World) { w.Guests.Silence("web", true) },
		"the impact is larger":     level(agentapi.Level_SOFT_REBOOT, "dbus.service"),
		"other units are affected": level(agentapi.Level_RESTART, "sshd.service"),
		"the refresh fails": func(_ *testing.T,
			w *providertest.World) {
			refuse(w, "a health check failed")
		},
		"the cache is gone": func(t *testing.T, w *providertest.World) { must(t, w.ForgetCache()) },
		"the host does not answer": func(_ *testing.T,
			w *providertest.World) {
			w.SetFailure(store.ErrUnreachable)
		},
		"libvirt does not know a layer": func(t *testing.T, w *providertest.World) { must(t, w.DropLayers()) },
	}
	for change, config := range vmChanges {
		for happening, happen := range happenings {
			for _, from := range []string{"nothing", "running", "off"} {
				// Each attribute, and each thing that can happen; all of them together for those that move a VM.
				moves := change == "base" || change == "memory" || change == "running" || change == "next_boot"
				if from != "running" && change != "base" || happening != "nothing" && !moves ||
					from == "nothing" && happening == "the agent is silent" {
					continue
				}
				// Without the cache, what the agent answered is in a saved plan alone.
				known := happening != "the cache is gone"
				twice(t, fmt.Sprintf("%s/from %s/%s", change, from, happening), known, func(t *testing.T, again bool) {
					world, own := newWorld(t), newImage(t)
					c := newClient(t, world)
					source := values{"name": "own", "archive": values{"path": own.path}}
					base := applied(t, c, "sharedos_base", c.none("sharedos_base"), source)
					web := values{"name": "web", "base": releaseOf(t, base), "memory": "512MiB",
						"disk": values{"size": "4GiB"}, "timeouts": values{"create": "20s", "update": "20s"}}
					state := c.none("sharedos_vm")
					switch from {
					case "running":
						state = applied(t, c, "sharedos_vm", state, web)
					case "off":
						state = applied(t, c, "sharedos_vm", state, merged(web, values{"running": false}))
					}
					own.set("2")()
					next := applied(t, c, "sharedos_base", base, source)
					for _, release := range []string{releaseOf(t, base), releaseOf(t, next)} {
						if change == "base" && release == web["base"] {
							continue
						}
						web["base"] = release
						after := valueOf(t, c.typeOf("sharedos_vm"), merged(web, config))
						result, text := consistent(t, world, "sharedos_vm", state, after,
							func() { happen(t, world) }, again)
						if happening == "nothing" && text != "" && !strings.Contains(text, "Nothing was changed") {
							t.Errorf("%s", text)
						}
						if happening != "nothing" || text != "" || result.value.IsNull() {
							return
						}
						state = result
					}
				})
			}
		}
	}
}

func refuse(w *providertest.World, why string) {
	if agent, err := w.Guests.Agent("web"); err == nil {
		agent.RefreshError = why
	}
}

func releaseOf(t *testing.T, base instance) (id string) {
	t.Helper()
	var attributes map[string]tftypes.Value
	must(t, base.value.As(&attributes))
	must(t, attributes["release"].As(&id))
	return id
}

// What was unknown when a plan was made becomes known during the apply. Nothing else may change.
func TestWhatIsKnownBeforeTheReleaseIsStaysAsItIs(t *testing.T) {
	for _, from := range []string{"nothing", "running", "off"} {
		for name, config := range vmChanges {
			t.Run(name+"/from "+from, func(t *testing.T) {
				t.Parallel()
				world, own := newWorld(t), newImage(t)
				c := newClient(t, world)
				source := values{"name": "own", "archive": values{"path": own.path}}
				base := applied(t, c, "sharedos_base", c.none("sharedos_base"), source)
				web := values{"name": "web", "base": releaseOf(t, base), "memory": "512MiB",
					"disk": values{"size": "4GiB"}, "timeouts": values{"create": "20s", "update": "20s"}}
				state := c.none("sharedos_vm")
				if from != "nothing" {
					state = applied(t, c, "sharedos_vm", state, merged(web, values{"running": from == "running"}))
				}
				own.set("2")()
				before, text := newClient(t, world).plan("sharedos_vm", state,
					valueOf(t, c.typeOf("sharedos_vm"), merged(web, config, values{"base": unknown{}})))
				if text != "" {
					t.Fatal(text)
				}
				web["base"] = releaseOf(t, applied(t, c, "sharedos_base", base, source))
				applying := newClient(t, world)
				after, text := applying.plan("sharedos_vm", state,
					valueOf(t, c.typeOf("sharedos_vm"), merged(web, config)))
				if text != "" {
					if !strings.Contains(text, "Nothing was changed") {
						t.Error(text)
					}
					return
				}
				if bad := inconsistent("sharedos_vm", before.after, after.after); len(bad) > 0 {
					t.Errorf("Provider produced inconsistent final plan:\n  %s", strings.Join(bad, "\n  "))
				}
				result, text := applying.apply("sharedos_vm", after)
				if bad := inconsistent("sharedos_vm", after.after, result.value); text != "" || len(bad) > 0 {
					t.Errorf("Provider produced inconsistent result after apply: %s\n  %s", text,
						strings.Join(bad, "\n  "))
				}
			})
		}
	}
}
