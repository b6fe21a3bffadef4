package live

import (
	"os"
	"path/filepath"
	"testing"
)

func TestGeneratorsOfOtherProgramsAreSeen(t *testing.T) {
	dir := t.TempDir()
	directories := []string{filepath.Join(dir, "absent"), dir}
	add := func(name string) {
		t.Helper()
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o755); err != nil {
			t.Fatal(err)
		}
	}
	add("systemd-fstab-generator")
	if foreign, err := foreignGenerators(directories); err != nil || foreign {
		t.Errorf("of systemd alone: %v, %v", foreign, err)
	}
	add("netplan")
	if foreign, err := foreignGenerators(directories); err != nil || !foreign {
		t.Errorf("with netplan's: %v, %v", foreign, err)
	}
}
