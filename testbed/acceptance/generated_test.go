package acceptance

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/sourcetest"
)

// What one configuration has made, another one imports: Terraform generates a configuration that plans empty.
func TestGeneratedConfigurationPlansEmpty(t *testing.T) {
	w := newWorldOf(t, "made")
	write := func(name string, system sourcetest.System) string {
		stream, err := system.Tar()
		if err != nil {
			t.Fatal(err)
		}
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, stream, 0o600); err != nil {
			t.Fatal(err)
		}
		return path
	}
	vm := w.bed.Name("web")
	w.work.Variables = map[string]any{
		"vm":      vm,
		"archive": write("rootfs.tar", sourcetest.NewSystem("6.12.1-cloud-amd64").With("usr/bin/server", "1")),
		"parts":   write("parts.tar", sourcetest.System{"usr/bin/tool": "tool"}),
	}
	if err := w.apply(t); err != nil {
		t.Fatal(err)
	}
	second := w.workspaceOf(t, "imports")
	second.Variables = map[string]any{"vm": vm}
	plan, err := second.Plan(t.Context(), "-generate-config-out=generated.tf")
	if err != nil {
		t.Fatal(err)
	}
	imported := 0
	for _, change := range plan.Changes {
		if !change.Is("no-op") && !change.Is("read") {
			t.Errorf("the import plans %v for %s", change.Change.Actions, change.Address)
		}
		imported++
	}
	if imported < 3 {
		t.Errorf("%d resources are planned", imported)
	}
	if err := second.Apply(t.Context(), plan); err != nil {
		t.Fatal(err)
	}
	again, err := second.Plan(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, change := range again.Changes {
		if !change.Is("no-op") {
			t.Errorf("the next plan has %v for %s", change.Change.Actions, change.Address)
		}
	}
	// The configuration has ids instead of references, so Terraform does not know that the VM goes
	// first, then the component.
	for range 3 {
		if err = second.Destroy(t.Context()); err == nil {
			break
		}
	}
	if err != nil {
		t.Fatal(err)
	}
	w.mustBeEmpty(t)
}
