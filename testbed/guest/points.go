package guest

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// AgentWithPoints builds the agent with its points (package failpoint) and returns the path of the binary, which is
// removed at the end of the test. Only packages in testbed/ can call it, since it finds the agent by a relative
// path.
//
// The flags are those of the provider, so most of the packages are in Go's build cache.
func AgentWithPoints(t testing.TB) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "agent")
	build := exec.CommandContext(t.Context(), "go", "build", "-tags=faults", "-trimpath", "-ldflags=-s -w", "-o",
		binary, "../../guestagent")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the agent: %v: %s", err, out)
	}
	return binary
}
