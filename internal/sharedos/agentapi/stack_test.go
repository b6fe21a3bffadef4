package agentapi

import (
	"errors"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

func TestAStackInAMessageReadsBack(t *testing.T) {
	stack := release.Stack{
		ID: tree.Sum([]byte("id")), Base: tree.Sum([]byte("base")),
		Components: []tree.Digest{tree.Sum([]byte("a")), tree.Sum([]byte("b"))},
		Layers:     []release.Layer{{ID: tree.Sum([]byte("layer")), DataSize: 4096}}, Kernel: "6.12",
		Prefer: []release.Preference{{Path: "/etc/a", Component: "a"}, {Path: "/usr", Component: "b"}},
	}
	read, err := ParseStack(NewStack(stack))
	if diff := cmp.Diff(stack, read); err != nil || diff != "" {
		t.Errorf("%v (-want +got):\n%s", err, diff)
	}
	message := NewStack(stack)
	message.Prefer[0].Path = "../a"
	if _, err := ParseStack(message); !errors.Is(err, ErrStack) {
		t.Errorf("a preference that is none: %v", err)
	}
}
