package boot

import (
	"encoding/json"
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

func layerOf(name string) release.Layer {
	return release.Layer{ID: tree.Sum([]byte(name)), DataSize: 8192, Size: 16384}
}

// stackOf is a stack whose layers are named by their bytes.
func stackOf(names ...string) release.Stack {
	stack := release.Stack{ID: tree.Sum([]byte("stack " + strings.Join(names, " "))),
		Base: tree.Sum([]byte("base " + strings.Join(names, " ")))}
	for _, name := range names {
		stack.Layers = append(stack.Layers, layerOf(name))
	}
	return stack
}

func validConfig() agentapi.BootConfig {
	return agentapi.BootConfig{
		Stack:          stackOf("base"),
		Operators:      []string{"3q2+796tvu/erb7v3q2+796tvu/erb7v3q2+796tvu8="},
		Hostname:       "web-a.example.org",
		AuthorizedKeys: []string{"ssh-ed25519 AAAA me@here"},
	}
}

func encodeConfig(t *testing.T, config agentapi.BootConfig) string {
	t.Helper()
	data, err := json.Marshal(config)
	if err != nil {
		t.Fatal(err)
	}
	return agentapi.BootConfigPrefix + string(data)
}

func TestBootConfigIsTheOneStringOfItsPrefix(t *testing.T) {
	want := validConfig()
	got, err := bootConfig([]string{"io.systemd.credential:x=y", encodeConfig(t, want), "other"})
	if err != nil {
		t.Fatal(err)
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("-want +got\n%s", diff)
	}
}

func TestBootConfigToleratesFieldsOfANewerHost(t *testing.T) {
	text := strings.Replace(encodeConfig(t, validConfig()), "{", `{"later":1,`, 1)
	if _, err := bootConfig([]string{text}); err != nil {
		t.Error(err)
	}
}

func TestBootConfigMissing(t *testing.T) {
	if _, err := bootConfig([]string{"other"}); !errors.Is(err, errNoConfig) {
		t.Errorf("got %v, want errNoConfig", err)
	}
}

func TestBootConfigRefused(t *testing.T) {
	for name, test := range map[string]struct {
		change func(*agentapi.BootConfig)
		reason string
	}{
		"no layers":          {func(c *agentapi.BootConfig) { c.Stack.Layers = nil }, "0 layers"},
		"layer twice":        {func(c *agentapi.BootConfig) { c.Stack = stackOf("a", "a") }, "twice"},
		"layer without id":   {func(c *agentapi.BootConfig) { c.Stack.Layers[0].ID = tree.Digest{} }, "no id"},
		"odd data size":      {func(c *agentapi.BootConfig) { c.Stack.Layers[0].DataSize = 4097 }, "data size"},
		"negative data size": {func(c *agentapi.BootConfig) { c.Stack.Layers[0].DataSize = -4096 }, "data size"},
		"host name":          {func(c *agentapi.BootConfig) { c.Hostname = "../etc" }, "host name"},
		"empty host name":    {func(c *agentapi.BootConfig) { c.Hostname = "" }, "host name"},
		"host name too long": {func(c *agentapi.BootConfig) { c.Hostname = strings.Repeat("a", 65) }, "host name"},
		"operator":           {func(c *agentapi.BootConfig) { c.Operators = []string{"AAAA"} }, "operator key 1"},
		"two-line key": {func(c *agentapi.BootConfig) { c.AuthorizedKeys = []string{"a\nb"} },
			"authorized key 1"},
	} {
		t.Run(name, func(t *testing.T) {
			config := validConfig()
			test.change(&config)
			_, err := bootConfig([]string{encodeConfig(t, config)})
			if err == nil || !strings.Contains(err.Error(), test.reason) {
				t.Errorf("got %v, want an error about %q", err, test.reason)
			}
		})
	}
	config := encodeConfig(t, validConfig())
	if _, err := bootConfig([]string{config, config}); err == nil {
		t.Error("two boot configurations were accepted")
	}
}
