package fileio

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

func TestAFileIsReadUpToItsLimitAndNotBeyond(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, []byte("12345678"), 0o600); err != nil {
		t.Fatal(err)
	}
	if data, err := Read(path, 8); err != nil || string(data) != "12345678" {
		t.Errorf("%q, %v", data, err)
	}
	if data, err := Read(path, 7); !errors.Is(err, ErrTooLong) || len(data) != 0 ||
		!strings.Contains(err.Error(), path) {
		t.Errorf("%q, %v", data, err)
	}
	if _, err := Read(path+".none", 8); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
	if _, err := Read(filepath.Dir(path), 8); err == nil || errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a directory is read: %v", err)
	}
}

func TestWhatIsReplacedHasTheNewContentAndTheModeAskedFor(t *testing.T) {
	defer unix.Umask(unix.Umask(0o077))
	directory := t.TempDir()
	path := filepath.Join(directory, "file")
	// One that was cut off left a longer draft, which only root could read.
	if err := os.WriteFile(draftOf(path), []byte(strings.Repeat("x", 100)), 0o400); err != nil {
		t.Fatal(err)
	}
	for _, text := range []string{"one", "two, which is longer", "3"} {
		if err := Replace(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		data, err := os.ReadFile(path)
		info, statErr := os.Stat(path)
		if err := errors.Join(err, statErr); err != nil || string(data) != text || info.Mode() != 0o644 {
			t.Errorf("%q of mode %v, %v", data, info.Mode(), err)
		}
	}
	only(t, directory, "file")
}

// The boot's window and a refresh both count boots, each when it likes.
func TestAFileThatManyReplaceIsWholeAllTheTime(t *testing.T) {
	directory := t.TempDir()
	path := filepath.Join(directory, "file")
	text := func(i int) string { return strings.Repeat(string(rune('a'+i)), 1+i*20_000) }
	if err := Replace(path, []byte(text(0)), 0o600); err != nil {
		t.Fatal(err)
	}
	var writers sync.WaitGroup
	for i := range 8 {
		writers.Go(func() {
			for range 20 {
				if err := Replace(path, []byte(text(i)), 0o600); err != nil {
					t.Error(err)
				}
				data, err := os.ReadFile(path)
				if err != nil || len(data) == 0 || string(data) != text(int(data[0]-'a')) {
					t.Errorf("%d bytes that nobody wrote, %v", len(data), err)
				}
			}
		})
	}
	writers.Wait()
	only(t, directory, "file")
}

func TestWhatCannotBeReplacedStaysAndLeavesNoDraft(t *testing.T) {
	directory := t.TempDir()
	path := filepath.Join(directory, "there")
	if err := os.MkdirAll(filepath.Join(path, "something"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := Replace(path, []byte("text"), 0o600); err == nil || !strings.Contains(err.Error(), path) {
		t.Errorf("a directory was replaced by a file: %v", err)
	}
	only(t, directory, "there")
	if err := Replace(filepath.Join(directory, "none", "file"), nil, 0o600); !errors.Is(err, fs.ErrNotExist) {
		t.Error(err)
	}
}

func TestWhatIsNotThereIsRemovedAlready(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := Write(path, []byte("text")); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(Remove(path), Remove(path)); err != nil {
		t.Error(err)
	}
	if err := os.MkdirAll(filepath.Join(path, "something"), 0o700); err != nil {
		t.Fatal(err)
	}
	if err := Remove(path); err == nil {
		t.Error("a directory with something in it was removed")
	}
}

// only fails the test unless the directory has these names.
func only(t *testing.T, directory string, want ...string) {
	t.Helper()
	entries, err := os.ReadDir(directory)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	if strings.Join(names, " ") != strings.Join(want, " ") {
		t.Errorf("the directory has %q, want %q", names, want)
	}
}
