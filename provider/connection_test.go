package provider

import (
	"os"
	"path/filepath"
	"testing"
)

func TestWhetherTerraformWritesItsStateAtEachChange(t *testing.T) {
	for name, test := range map[string]struct {
		text  string
		local bool
	}{
		"never initialised": {"", true},
		"no backend":        {`{"version":3}`, true},
		"local":             {`{"version":3,"backend":{"type":"local","config":{}}}`, true},
		"remote":            {`{"version":3,"backend":{"type":"s3"}}`, false},
		"unknown form":      {`x`, false},
	} {
		dir := t.TempDir()
		if test.text != "" {
			if err := os.WriteFile(filepath.Join(dir, "terraform.tfstate"), []byte(test.text), 0o600); err != nil {
				t.Fatal(err)
			}
		}
		if local := stateIsLocal(func(string) string { return dir }); local != test.local {
			t.Errorf("%s: local %t", name, local)
		}
	}
}
