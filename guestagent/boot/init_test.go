package boot

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
)

func TestAJournalThatIsNoneIsSetAside(t *testing.T) {
	path := filepath.Join(t.TempDir(), "journal.json")
	if err := setAsideJournal(path); err != nil {
		t.Errorf("no journal: %v", err)
	}
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(`{"state":"idle"}`)
	if err := setAsideJournal(path); err != nil {
		t.Errorf("a good journal: %v", err)
	}
	write(`{"state":"swa`)
	if err := setAsideJournal(path); err == nil {
		t.Error("nothing is said of a journal that was cut off")
	}
	if _, err := os.Stat(path); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("it is still in its place: %v", err)
	}
	if kept, err := os.ReadFile(path + ".damaged"); err != nil || string(kept) != `{"state":"swa` {
		t.Errorf("kept %q, %v", kept, err)
	}
}
