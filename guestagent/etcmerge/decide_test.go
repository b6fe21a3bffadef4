package etcmerge

import (
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

func TestTheResolverFileOfAReleaseIsCarriedLikeAnyOther(t *testing.T) {
	file := func(content string) *tree.Entry {
		return &tree.Entry{Path: resolverPath, Type: tree.Regular, Mode: 0o644, Size: int64(len(content)),
			Digest: tree.Sum([]byte(content))}
	}
	link := func(target string) *tree.Entry {
		return &tree.Entry{Path: resolverPath, Type: tree.Symlink, Mode: 0o777, Link: target}
	}
	const stub = "../run/systemd/resolve/stub-resolv.conf"
	for name, c := range map[string]struct {
		old, new, ours *tree.Entry
		want           Action
		kind           Kind
	}{
		"given for the first time, with the agent's link": {new: file("a"), ours: link(".." + ResolverFile), want: Write},
		"with an absolute link to the agent's file":       {new: file("a"), ours: link(ResolverFile), want: Write},
		"with the link of a former release": {old: link(stub), new: file("a"),
			ours: link(stub), want: Write},
		"with somebody's own link": {new: file("a"), ours: link("own.conf"),
			want: Conflicting, kind: OtherType},
		"changed": {old: file("a"), new: file("b"),
			ours: file("a"), want: Blend},
		"changed, and there already": {old: file("a"), new: file("b"),
			ours: file("b"), want: Keep},
		"a resolver comes": {new: link(stub),
			ours: link(".." + ResolverFile), want: Write},
		"taken away": {old: file("a"), ours: file("a"),
			want: Conflicting, kind: Kept},
		"taken away, where somebody changed it": {old: file("a"), ours: file("b"),
			want: Conflicting, kind: Changed},
	} {
		if got := Decide(Difference{Path: resolverPath, Old: c.old, New: c.new}, c.ours); got.Action != c.want ||
			got.Kind != c.kind {
			t.Errorf("%s: %+v, want action %d, kind %q", name, got, c.want, c.kind)
		}
	}
}
