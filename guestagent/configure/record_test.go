package configure_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/guestconfig"
)

// A stack's file that the VM owns from its first boot on is saved as long as the configuration overrides it: no release
// brings it back.
func TestAnOverriddenFileOfTheVMsOwnIsSavedUntilItIsBack(t *testing.T) {
	const name = "/var/lib/app/settings"
	s := newSystem(t)
	s.stack["var/lib/app/settings"] = "seeded"
	s.write(name, "seeded")
	saved := func() int {
		t.Helper()
		files, err := filepath.Glob(filepath.Join(s.configurator.StateDirectory, "*", "saved", "*"))
		must(t, err)
		return len(files)
	}
	s.mustGive(files(map[string]guestconfig.File{name: file("ours"), motd: file("one")}))
	s.mustGive(files(map[string]guestconfig.File{name: file("ours"), motd: file("two")}))
	if s.has(name) != "ours" || saved() != 1 {
		t.Fatalf("it has %q, and %d files are saved", s.has(name), saved())
	}
	s.mustGive(nothing)
	if _, err := os.Lstat(filepath.Join(s.root, motd)); s.has(name) != "seeded" || !os.IsNotExist(err) || saved() != 0 {
		t.Errorf("it has %q, %d files are saved, %v", s.has(name), saved(), err)
	}
}
