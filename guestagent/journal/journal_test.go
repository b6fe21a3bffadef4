package journal

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/slots"
)

func TestAJournalIsAbsentOrDamagedOrRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	if _, err := Read(path); !errors.Is(err, ErrNone) {
		t.Errorf("absent: %v", err)
	}
	if err := os.WriteFile(path, []byte("half of a journal"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(path); !errors.Is(err, ErrDamaged) {
		t.Errorf("damaged: %v", err)
	}
	if err := slots.Write(path, []byte(`{"state":7}`)); err != nil {
		t.Fatal(err)
	}
	if _, err := Read(path); !errors.Is(err, ErrDamaged) {
		t.Errorf("a record that is no journal: %v", err)
	}
	if err := Write(path, Record{State: Swapped}); err != nil {
		t.Fatal(err)
	}
	if record, err := Read(path); err != nil || record.State != Swapped {
		t.Errorf("%+v, %v", record, err)
	}
}
