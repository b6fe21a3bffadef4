package live

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/journal"
)

func TestARecordIsAbsentOrUnreadableOrNone(t *testing.T) {
	dir := t.TempDir()
	var record journal.Record
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
	if err := writeJSON(path, journal.Record{State: journal.Swapped}); err != nil {
		t.Fatal(err)
	}
	if err := readJSON(path, &record); err != nil || record.State != journal.Swapped {
		t.Errorf("%+v, %v", record, err)
	}
}
