package main

import (
	"os"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"
)

func TestAReaderCountsTheOpensThatFail(t *testing.T) {
	there, gone := filepath.Join(t.TempDir(), "there"), filepath.Join(t.TempDir(), "gone")
	if err := os.WriteFile(there, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var stopped atomic.Bool
	seen := make(chan Opens, 1)
	go func() { seen <- open([]string{there, gone}, &stopped) }()
	time.Sleep(20 * time.Millisecond)
	stopped.Store(true)
	got := <-seen
	if got.Failed == 0 || got.Opens < 2*got.Failed-1 || got.Opens > 2*got.Failed+1 {
		t.Errorf("of two files one is gone, so every second open fails; the reader saw %+v", got)
	}
	if want := gone + ": no such file or directory"; got.First != want {
		t.Errorf("the first failure is %q, want %q", got.First, want)
	}
}

func TestAListWithoutFilesIsRefused(t *testing.T) {
	list := filepath.Join(t.TempDir(), "list")
	if err := os.WriteFile(list, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if paths, err := readList(list); err == nil {
		t.Errorf("an empty list was read as %q", paths)
	}
}
