//go:build race

package source_test

import (
	"os/exec"
	"strings"
	"testing"
)

// withoutRaceDetector has a test run by itself, built without the race detector, and reports that it did: what looks at
// gigabytes takes six times as long with it and several times the memory, of which such a test is to tell.
func withoutRaceDetector(t *testing.T) bool {
	t.Helper()
	said, err := exec.CommandContext(t.Context(), "go", "test", "-count=1", "-vet=off", "-v", "-run", "^"+t.Name()+"$", ".").CombinedOutput()
	t.Logf("%s", said)
	if err != nil || !strings.Contains(string(said), "--- PASS: "+t.Name()+" ") {
		t.Errorf("without the race detector it did not pass: %v", err)
	}
	return true
}
