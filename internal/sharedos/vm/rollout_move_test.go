package vm

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

func digest(text string) tree.Digest { return tree.Sum([]byte(text)) }

// offering is the definition of a VM of rollouts on a base, with one component on demand, which may be attached.
func offering(base string, attached bool) hypervisor.Domain {
	tool := digest("tool")
	stack := release.Stack{ID: digest("stack of " + base), Base: digest(base), Components: []tree.Digest{digest("web")},
		Offered: []tree.Digest{tool}}
	if attached {
		stack.ID, stack.Components, stack.Offered = digest("stack with the tool of "+base),
			append(stack.Components, tool), nil
	}
	return hypervisor.Domain{Metadata: hypervisor.Metadata{
		Stack: stack, Offer: &hypervisor.Offer{Components: []release.Member{{ID: tool, Name: "tool"}}},
		Rollout: &hypervisor.Rollout{},
	}}
}

func TestKeepMove(t *testing.T) {
	moved := func(from string) *hypervisor.Moved { return &hypervisor.Moved{Base: digest(from)} }
	for name, c := range map[string]struct {
		before  string
		had     *hypervisor.Moved
		now     string
		used    bool
		want    *hypervisor.Moved
		forgets bool
	}{
		"nothing changes":                {"a", nil, "a", false, nil, false},
		"a component is attached by use": {"a", nil, "a", true, nil, false},
		"so after a move":                {"b", moved("a"), "b", true, moved("a"), false},
		"a move":                         {"a", nil, "b", false, moved("a"), false},
		"moved on":                       {"b", moved("a"), "c", false, moved("a"), false},
		"back":                           {"b", moved("a"), "a", true, nil, true},
	} {
		before, domain := offering(c.before, false), offering(c.now, c.used)
		before.Metadata.Rollout.Failing = []string{"web"}
		if before.Metadata.Rollout.Moved = c.had; c.had != nil {
			c.had.Components, c.had.OnDemand = []tree.Digest{digest("web")}, []tree.Digest{digest("tool")}
		}
		keepMove(&domain, before, true)
		got := domain.Metadata.Rollout
		if (got.Moved == nil) != (c.want == nil) || got.Moved != nil && got.Moved.Base != c.want.Base ||
			(got.Failing == nil) != c.forgets {
			t.Errorf("%s: %+v, failing %v", name, got.Moved, got.Failing)
		}
		if got.Moved != nil &&
			(!cmp.Equal(got.Moved.Components, []tree.Digest{digest("web")}) ||
				!cmp.Equal(got.Moved.OnDemand, []tree.Digest{digest("tool")})) {
			t.Errorf("%s: the way back is %+v", name, got.Moved)
		}
		if got.Moved != nil && got.Moved != c.had && (!got.Moved.Off || got.Moved.At.IsZero()) {
			t.Errorf("%s: %+v", name, got.Moved)
		}
	}
	taking, leaving := offering("a", false), offering("b", false)
	leaving.Metadata.Rollout = nil
	if keepMove(&leaving, taking, false); leaving.Metadata.Rollout != nil {
		t.Error("a VM that takes part no more has a record")
	}
}

func TestATargetMakesItsStackWhateverIsAttached(t *testing.T) {
	target := specOf(offering("a", false)).target()
	for _, attached := range []bool{false, true} {
		if !target.Makes(offering("a", attached).Metadata.Stack) {
			t.Errorf("attached %v: it is said not to make it", attached)
		}
		if target.Makes(offering("b", attached).Metadata.Stack) {
			t.Errorf("attached %v: it is said to make that of another base", attached)
		}
	}
	other := offering("a", false).Metadata.Stack
	for name, change := range map[string]func(s *release.Stack){
		"no component":      func(s *release.Stack) { s.Components = nil },
		"one more":          func(s *release.Stack) { s.Components = append(s.Components[:1:1], digest("more")) },
		"nothing on demand": func(s *release.Stack) { s.Offered = nil },
		"another preference": func(s *release.Stack) {
			s.Prefer = []release.Preference{{Path: "/etc/x",
				Component: "web"}}
		},
	} {
		stack := other
		if change(&stack); target.Makes(stack) {
			t.Errorf("%s: it is said to make it", name)
		}
	}
}
