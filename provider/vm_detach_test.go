package provider_test

import (
	"testing"

	"github.com/hashicorp/terraform-plugin-go/tftypes"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
)

// One apply with detach_on_demand detaches what a VM has attached by use, whether it runs or not.
// Then nothing is planned.
func TestOneApplyDetachesWhatWasAttachedByUse(t *testing.T) {
	type step struct {
		set values
		// runs is whether the VM runs the component afterwards, says what attached_on_demand has.
		runs, says bool
	}
	off, detach := values{"running": false}, values{"detach_on_demand": true}
	next := values{"refresh": values{"strategy": "next_boot"}}
	for name, steps := range map[string][]step{
		"a VM that runs":       {{detach, false, false}},
		"a VM that is started": {{off, true, true}, {detach, false, false}},
		"a VM that stays off":  {{off, true, true}, {merged(off, detach), true, false}, {detach, false, false}},
		"a VM that is stopped": {{merged(off, detach), true, false}, {values{}, false, false}},
		"a VM with other hardware": {{merged(detach, values{"vcpus": 2, "refresh": values{"max_impact": "reboot"}}),
			false, false}},
		"at the next boot": {{merged(next, detach), true, true},
			{merged(next, detach, off), true, false}, {next, false, false}},
		"a VM that keeps it":        {{off, true, true}, {values{}, true, true}},
		"a VM that is offered less": {{off, true, true}, {values{"on_demand": []any{}}, false, false}},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s := newStage(t, "archive", false)
			base, tool := s.releases[0], releaseOf(t, s.state)
			config := values{
				"name": "web", "memory": "512MiB", "disk": values{"size": "4GiB"}, "base": base,
				"on_demand": []any{tool},
				"timeouts":  values{"create": "20s", "update": "20s"},
			}
			state := applied(t, s.c, "sharedos_vm", s.c.none("sharedos_vm"), config)
			backend, err := s.world.Open(t.Context(), s.world.Opened()[0])
			must(t, err)
			spec := vm.Spec{Name: "web", Base: digest(t, base), Components: []tree.Digest{digest(t, tool)}}
			used, err := backend.VMs().Check(t.Context(), spec, true)
			must(t, err)
			agent, err := s.world.Guests.Agent("web")
			must(t, err)
			agent.FallBack(used.Stack)
			for i, one := range steps {
				read, text := newClient(t, s.world).read("sharedos_vm", state)
				if text != "" {
					t.Fatal(text)
				}
				next := merged(config, one.set)
				state = applied(t, s.c, "sharedos_vm", read, next)
				if runs := agent.Stack().Same(used.Stack); runs != one.runs {
					t.Errorf("step %d: the guest has the component: %v", i+1, runs)
				}
				if read, text = newClient(t, s.world).read("sharedos_vm", state); text != "" {
					t.Fatal(text)
				}
				var is map[string]tftypes.Value
				var attached []tftypes.Value
				must(t, read.value.As(&is))
				must(t, is["attached_on_demand"].As(&attached))
				if len(attached) > 0 != one.says {
					t.Errorf("step %d: attached_on_demand is %v", i+1, attached)
				}
				again, text := newClient(t, s.world).plan("sharedos_vm", read,
					valueOf(t, s.c.typeOf("sharedos_vm"), next))
				if text != "" || !again.after.Equal(read.value) {
					t.Errorf("step %d: the next plan is not empty: %s", i+1, text)
				}
			}
		})
	}
}

func digest(t *testing.T, text string) tree.Digest {
	t.Helper()
	id, err := tree.ParseDigest(text)
	must(t, err)
	return id
}
