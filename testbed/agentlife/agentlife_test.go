package agentlife_test

import (
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/testbed/guest"
)

// TestTheAgentsLife goes through all of it in one guest: a boot takes longer than most of it.
func TestTheAgentsLife(t *testing.T) {
	w := guest.New(t)
	releases, err := w.Releases(t.Context(), "debian", guest.Plain,
		[]guest.Edit{guest.Write("usr/share/mark", 0o644, "one")},
		[]guest.Edit{guest.Write("usr/share/mark", 0o644, "two")})
	must(t, err)
	v, err := w.Create(t.Context(), "life", releases[0], nil)
	must(t, err)
	for _, part := range []struct {
		name string
		test func(*testing.T, *guest.VM)
	}{
		{"another agent takes over", testTakeover},
		{"an agent that does not come up hands back", testTakeoverThatFails},
		{"the private disk grows", testGrowth},
	} {
		t.Run(part.name, func(t *testing.T) { part.test(t, v) })
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func run(t *testing.T, v *guest.VM, command string) string {
	t.Helper()
	text, err := v.Run(t.Context(), command)
	must(t, err)
	return text
}

func status(t *testing.T, v *guest.VM) *agentapi.StatusResponse {
	t.Helper()
	now, err := v.Status(t.Context())
	must(t, err)
	return now
}

func await(t *testing.T, v *guest.VM, what string, done func(*agentapi.StatusResponse) bool) *agentapi.StatusResponse {
	t.Helper()
	now, err := v.Await(t.Context(), what, done)
	must(t, err)
	return now
}
