package vm

import (
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// A VM that has attached or detached components on demand by itself runs what its definition says. Any other difference
// is one that the next apply removes.
func TestWhatAVMHasAttachedByItself(t *testing.T) {
	id := func(name string) tree.Digest { return tree.Sum([]byte(name)) }
	offer := &hypervisor.Offer{Components: []release.Member{{ID: id("a"), Name: "a"}, {ID: id("b"), Name: "b"}}}
	defined := release.Stack{Base: id("base"), Components: []tree.Digest{id("fixed"), id("a")},
		Offered: []tree.Digest{id("b")}}
	domain := hypervisor.Domain{Metadata: hypervisor.Metadata{Stack: defined, Offer: offer}}
	stack := func(base string, components []string, offered ...string) release.Stack {
		s := release.Stack{Base: id(base)}
		for _, name := range components {
			s.Components = append(s.Components, id(name))
		}
		for _, name := range offered {
			s.Offered = append(s.Offered, id(name))
		}
		return s
	}
	preferring := stack("base", []string{"fixed", "b"}, "a")
	preferring.Prefer = []release.Preference{{Path: "/usr/share/x", Component: "fixed"}}
	for name, c := range map[string]struct {
		running release.Stack
		names   []string
		moved   bool
	}{
		"another preference":          {preferring, nil, false},
		"as defined":                  {defined, []string{"a"}, true},
		"it has attached one":         {stack("base", []string{"fixed", "a", "b"}), []string{"a", "b"}, true},
		"it has attached another one": {stack("base", []string{"fixed", "b"}, "a"), []string{"b"}, true},
		"root has detached all":       {stack("base", []string{"fixed"}, "a", "b"), nil, true},
		"another base":                {stack("old", []string{"fixed", "a"}, "b"), nil, false},
		"without what it always has":  {stack("base", []string{"a"}, "b"), []string{"a"}, false},
		"an earlier component":        {stack("base", []string{"fixed", "old a"}, "b"), nil, false},
		"before it was offered them":  {stack("base", []string{"fixed"}), nil, false},
	} {
		if names, moved := movedByUse(domain, c.running); moved != c.moved || moved && !cmp.Equal(names, c.names) {
			t.Errorf("%s: %q, %v", name, names, moved)
		}
	}
	want := stackSpec{Base: id("base"), Components: []tree.Digest{id("fixed")},
		OnDemand: []tree.Digest{id("a"), id("b")}, Attached: []string{"a"}}
	if diff := cmp.Diff(want, specOf(domain)); diff != "" {
		t.Errorf("the definition: want -, got +:\n%s", diff)
	}
}
