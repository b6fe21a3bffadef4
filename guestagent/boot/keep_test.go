package boot

import (
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/configure"
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

// No release changes what the configuration of the VM owns, neither by a refresh nor at a boot.
func TestFilesOfTheConfigurationAreKept(t *testing.T) {
	directory := t.TempDir()
	if err := writeKept(directory, []string{"/etc/ssh/*"}); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(filepath.Join(directory, configure.Directory), 0o700); err != nil {
		t.Fatal(err)
	}
	record := filepath.Join(directory, configure.Directory, "record.json")
	if err := os.WriteFile(record,
		[]byte(`{"entries":{"/etc/motd":{"is":{}},"/srv/x":{"is":{}}}}`), 0o600); err != nil {
		t.Fatal(err)
	}
	if all, err := kept(directory); err != nil || !slices.Equal(all, []string{"/etc/ssh/*", "/etc/motd"}) {
		t.Errorf("%v, %v", all, err)
	}
	if err := os.WriteFile(record, []byte("{"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := kept(directory); err == nil {
		t.Error("a damaged record was read")
	}
}
