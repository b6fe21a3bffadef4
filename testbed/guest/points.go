package guest

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"
)

// AgentWithPoints builds the agent with its points (package failpoint), and returns its file, which ends with the test. It
// is for tests of the packages in testbed/.
//
// It is compiled with the flags of the provider, so that most of it is in Go's cache.
func AgentWithPoints(t testing.TB) string {
	t.Helper()
	binary := filepath.Join(t.TempDir(), "agent")
	build := exec.CommandContext(t.Context(), "go", "build", "-tags=faults", "-trimpath", "-ldflags=-s -w", "-o", binary, "../../guestagent")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the agent: %v: %s", err, out)
	}
	return binary
}
