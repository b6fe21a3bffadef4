package refresh

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/slots"
)

func TestARecordIsAbsentOrUnreadableOrNone(t *testing.T) {
	dir := t.TempDir()
	var record Record
	if err := readJSON(filepath.Join(dir, "absent"), &record); !errors.Is(err, errAbsent) {
		t.Errorf("absent: %v", err)
	}
	// It may be readable the next time: nothing is to be begun in its place.
	if err := readJSON(dir, &record); err == nil || errors.Is(err, errAbsent) || errors.Is(err, errNotRecord) {
		t.Errorf("unreadable: %v", err)
	}
	path := filepath.Join(dir, "journal")
	for _, text := range []string{"", `{"state":"swa`, `{"state":7}`, `"text"`} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := readJSON(path, &record); !errors.Is(err, errNotRecord) {
			t.Errorf("%q: %v", text, err)
		}
	}
	if err := writeJSON(path, Record{State: Swapped}); err != nil {
		t.Fatal(err)
	}
	if err := readJSON(path, &record); err != nil || record.State != Swapped {
		t.Errorf("%+v, %v", record, err)
	}
}

func TestAJournalIsAbsentOrDamagedOrRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal")
	if _, err := readJournal(path); !errors.Is(err, ErrNoJournal) {
		t.Errorf("absent: %v", err)
	}
	if err := os.WriteFile(path, []byte("half of a journal"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := readJournal(path); !errors.Is(err, ErrDamaged) {
		t.Errorf("damaged: %v", err)
	}
	if err := slots.Write(path, []byte(`{"state":7}`)); err != nil {
		t.Fatal(err)
	}
	if _, err := readJournal(path); !errors.Is(err, ErrDamaged) {
		t.Errorf("a record that is no journal: %v", err)
	}
	if err := writeJournal(path, Record{State: Swapped}); err != nil {
		t.Fatal(err)
	}
	if record, err := readJournal(path); err != nil || record.State != Swapped {
		t.Errorf("%+v, %v", record, err)
	}
}
