package boot

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"
)

func TestRecordReadsBack(t *testing.T) {
	path := filepath.Join(t.TempDir(), "record.json")
	for generation := range uint64(3) {
		want := CommittedRecord{Stack: stackOf("a", "b"), Generation: generation, Configured: stackOf("a")}
		if err := WriteRecord(path, want); err != nil {
			t.Fatal(err)
		}
		got, err := readRecord[CommittedRecord](path)
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("-want +got\n%s", diff)
		}
	}
	entries, err := os.ReadDir(filepath.Dir(path))
	if err != nil {
		t.Fatal(err)
	}
	if len(entries) != 1 {
		t.Errorf("temporary files were left: %v", entries)
	}
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v, want 0600", info.Mode())
	}
}

func TestAnAbsentRecordIsTold(t *testing.T) {
	_, err := readRecord[CommittedRecord](filepath.Join(t.TempDir(), "none"))
	if !errors.Is(err, ErrNoRecord) {
		t.Errorf("got %v, want ErrNoRecord", err)
	}
}

func TestADamagedRecordIsNotAnAbsentOne(t *testing.T) {
	for name, content := range map[string]string{
		"torn":      `{"stack": {"base": "sha256:`,
		"empty":     "",
		"too large": strings.Repeat(" ", maxRecord+1),
	} {
		t.Run(name, func(t *testing.T) {
			path := filepath.Join(t.TempDir(), "record")
			if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			_, err := readRecord[CommittedRecord](path)
			if err == nil || errors.Is(err, ErrNoRecord) {
				t.Errorf("got %v, want an error that is not ErrNoRecord", err)
			}
		})
	}
}
