package boot

import (
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestKeptFilesAreRecordedForTheNextBoot(t *testing.T) {
	directory := t.TempDir()
	if kept, err := readKept(directory); err != nil || kept != nil {
		t.Errorf("before any refresh: %v, %v", kept, err)
	}
	for _, want := range [][]string{{"/etc/motd", "/etc/ssh/*"}, {"/etc/motd"}, nil} {
		if err := writeKept(directory, want); err != nil {
			t.Fatal(err)
		}
		if kept, err := readKept(directory); err != nil || !slices.Equal(kept, want) {
			t.Errorf("%v, %v, want %v", kept, err, want)
		}
	}
	if err := os.WriteFile(filepath.Join(directory, keptName), []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readKept(directory); err == nil {
		t.Error("a damaged record was read")
	}
	if err := writeKept(directory, nil); err != nil {
		t.Errorf("a damaged record cannot be replaced: %v", err)
	}
}
