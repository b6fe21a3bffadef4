package provider_test

import (
	"strings"
	"testing"

	"github.com/hashicorp/terraform-plugin-go/tftypes"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
)

// componentMoves are changes of what a VM stands on: from and to are what it has before and after, of the first and the
// second release of a base, and of the component on each.
var componentMoves = map[string]struct {
	from, to func(base, tool []string) values
}{
	"attach": {
		func(base, _ []string) values { return values{"base": base[0]} },
		func(base, tool []string) values { return values{"base": base[0], "components": []any{tool[0]}} },
	},
	"detach": {
		func(base, tool []string) values { return values{"base": base[0], "components": []any{tool[0]}} },
		func(base, _ []string) values { return values{"base": base[0], "components": []any{}} },
	},
	"base and component": {
		func(base, tool []string) values { return values{"base": base[0], "components": []any{tool[0]}} },
		func(base, tool []string) values { return values{"base": base[1], "components": []any{tool[1]}} },
	},
	"offer": {
		func(base, _ []string) values { return values{"base": base[0]} },
		func(base, tool []string) values { return values{"base": base[0], "on_demand": []any{tool[0]}} },
	},
	"attach what was offered": {
		func(base, tool []string) values { return values{"base": base[0], "on_demand": []any{tool[0]}} },
		func(base, tool []string) values { return values{"base": base[0], "components": []any{tool[0]}} },
	},
	"base and what is offered": {
		func(base, tool []string) values { return values{"base": base[0], "on_demand": []any{tool[0]}} },
		func(base, tool []string) values {
			return values{"base": base[1], "on_demand": []any{tool[1]}, "detach_on_demand": true}
		},
	},
	"create with an offer": {nil, func(base, tool []string) values { return values{"base": base[0], "on_demand": []any{tool[0]}} }},
	"create": {nil,
		func(base, tool []string) values { return values{"base": base[0], "components": []any{tool[0]}} }},
}

// staged is a VM that is about to move, with the releases that it moves between.
func staged(t *testing.T, move struct {
	from, to func(base, tool []string) values
}) (s *stage, state instance, after values) {
	t.Helper()
	s = newStage(t, "archive", false)
	tool := []string{releaseOf(t, s.state)}
	web := values{"name": "web", "memory": "512MiB", "disk": values{"size": "4GiB"},
		"timeouts": values{"create": "20s", "update": "20s"}}
	state = s.c.none("sharedos_vm")
	if move.from != nil {
		state = applied(t, s.c, "sharedos_vm", state, merged(web, move.from(s.releases, tool)))
	}
	s.state = applied(t, s.c, "sharedos_component", s.state, merged(s.config, values{"base": s.releases[1]}))
	return s, state, merged(web, move.to(s.releases, append(tool, releaseOf(t, s.state))))
}

// Whatever happens between plan and apply of a VM whose components change ends in an error of this provider, or as
// planned.
func TestAnApplyOfComponentsOfAVMDoesWhatThePlanSaid(t *testing.T) {
	happenings := map[string]func(s *stage){
		"nothing":                  func(*stage) {},
		"the component is gone":    func(s *stage) { _ = s.world.DropComponent(s.t.Context(), "tool") },
		"the layers are gone":      func(s *stage) { must(s.t, s.world.DropLayers()) },
		"the host does not answer": func(s *stage) { s.world.SetFailure(store.ErrUnreachable) },
		"the VM is off":            func(s *stage) { _ = s.world.Domains.PowerOff(s.t.Context(), "web") },
		"the agent is silent":      func(s *stage) { s.world.Guests.Silence("web", true) },
		"the refresh fails":        func(s *stage) { refuse(s.world, "a health check failed") },
		"the VM is gone":           func(s *stage) { _ = s.world.DropVM(s.t.Context(), "web") },
	}
	for name, move := range componentMoves {
		for happening, happen := range happenings {
			if move.from == nil && happening == "the agent is silent" {
				continue // a new VM has no agent yet
			}
			twice(t, name+"/"+happening, true, func(t *testing.T, again bool) {
				s, state, after := staged(t, move)
				_, text := consistent(t, s.world, "sharedos_vm", state, valueOf(t, s.c.typeOf("sharedos_vm"), after),
					func() { happen(s) }, again)
				if happening == "nothing" && text != "" {
					t.Error(text)
				}
			})
		}
	}
}

// A component whose release is unknown in the plan becomes known during the apply. Nothing else may change.
func TestWhatIsKnownBeforeTheComponentIsStaysAsItIs(t *testing.T) {
	for name, move := range componentMoves {
		if name == "detach" {
			continue
		}
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			s, state, after := staged(t, move)
			of := s.c.typeOf("sharedos_vm")
			later := "components"
			if _, offered := after["on_demand"]; offered {
				later = "on_demand"
			}
			before, text := newClient(t, s.world).plan("sharedos_vm", state,
				valueOf(t, of, merged(after, values{later: []any{unknown{}}})))
			if text != "" {
				t.Fatal(text)
			}
			var planned map[string]tftypes.Value
			must(t, before.after.As(&planned))
			if planned["stack"].IsKnown() {
				t.Errorf("the stack is %s", planned["stack"])
			}
			applying := newClient(t, s.world)
			final, text := applying.plan("sharedos_vm", state, valueOf(t, of, after))
			if text != "" {
				t.Fatal(text)
			}
			if bad := inconsistent("sharedos_vm", before.after, final.after); len(bad) > 0 {
				t.Errorf("Provider produced inconsistent final plan:\n  %s", strings.Join(bad, "\n  "))
			}
			result, text := applying.apply("sharedos_vm", final)
			if bad := inconsistent("sharedos_vm", final.after, result.value); text != "" || len(bad) > 0 {
				t.Errorf("Provider produced inconsistent result after apply: %s\n  %s", text, strings.Join(bad, "\n  "))
			}
		})
	}
}
