package agenttest_test

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi/agenttest"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/compose"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

func TestFakeKeepsTheContract(t *testing.T) {
	public, operator, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	blob := func(text string) release.Blob {
		return release.Blob{Digest: tree.Sum([]byte(text)), Size: int64(len(text))}
	}
	layer := func(text string, delta bool) release.Layer {
		return release.Layer{ID: tree.Sum([]byte(text)), DataSize: 4096, Size: 8192, Delta: delta}
	}
	lists := []string{"the first contents list", "the second"}
	sign := func(m *release.Manifest) ([]byte, release.Stack) {
		encoded, err := m.Encode()
		if err != nil {
			t.Fatal(err)
		}
		stack, _, err := compose.Compose(compose.Parts{Base: release.Identified{ID: release.ID(encoded), Manifest: m}},
			nil)
		if err != nil {
			t.Fatal(err)
		}
		note, id, err := release.SignStack(stack, operator)
		if err != nil {
			t.Fatal(err)
		}
		return note, stack.Record(id)
	}
	first := release.Manifest{
		Schema: release.Schema, Kind: release.Base, Name: "debian-13", Architecture: "amd64", OS: "Debian", Sequence: 1,
		Layers: []release.Layer{layer("full", false)}, Contents: blob(lists[0]),
		Kernel: &release.Kernel{Release: "6.12.1", Image: blob("kernel"), Modules: blob("modules")},
		Users:  map[string]uint32{"root": 0}, Groups: map[string]uint32{"root": 0},
	}
	current, booted := sign(&first)
	second := first
	second.Sequence, second.Previous, second.Contents = 2, booted.Base, blob(lists[1])
	second.Kernel = &release.Kernel{Release: "6.12.2", Image: blob("kernel 2"), Modules: blob("modules 2")}
	second.Layers = append(second.Layers[:1:1], layer("delta", true))
	next, _ := sign(&second)

	agent, err := agenttest.New()
	if err != nil {
		t.Fatal(err)
	}
	agent.Polls = 2
	config, err := json.Marshal(agentapi.BootConfig{
		Stack: booted, Operators: []string{base64.StdEncoding.EncodeToString(public)}, Hostname: "web",
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := agent.Boot(config, []tree.Digest{second.Layers[0].ID, second.Layers[1].ID}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(agent.Off)
	agenttest.Contract(t, agenttest.Subject{
		Dialer: agent, Operator: operator, Current: current, Next: next,
		Contents: [][]byte{[]byte(lists[0]), []byte(lists[1])},
	})
}
