package daemon_test

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/daemon"
)

func start(t *testing.T, dir, name string, command ...string) (daemon.Process, string) {
	t.Helper()
	record := filepath.Join(dir, name+daemon.Suffix)
	p, err := daemon.Start(record, filepath.Join(dir, name+".log"), command...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := daemon.End(context.WithoutCancel(t.Context()), record); err != nil {
			t.Error(err)
		}
	})
	return p, record
}

func TestADaemonIsRecordedAndEnded(t *testing.T) {
	_, record := start(t, t.TempDir(), "sleeper", "sleep", "60")
	if alive, err := daemon.Alive(record); err != nil || !alive {
		t.Fatalf("alive %v, %v", alive, err)
	}
	for range 2 {
		if err := daemon.End(t.Context(), record); err != nil {
			t.Fatal(err)
		}
	}
	if alive, err := daemon.Alive(record); err != nil || alive {
		t.Fatalf("ended, and alive %v, %v", alive, err)
	}
}

func TestADaemonThatIgnoresSIGTERMIsKilled(t *testing.T) {
	dir := t.TempDir()
	ready := filepath.Join(dir, "ready")
	_, record := start(t, dir, "stubborn", "sh", "-c", `trap "" TERM; : >"$1"; while :; do sleep 1; done`, "sh", ready)
	for range 500 {
		if _, err := os.Stat(ready); err == nil {
			break
		}
		time.Sleep(10 * time.Millisecond)
	}
	short, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if err := daemon.End(short, record); !errors.Is(err, context.DeadlineExceeded) {
		t.Fatalf("got %v, want %v", err, context.DeadlineExceeded)
	}
	if err := daemon.End(t.Context(), record); err != nil {
		t.Fatal(err)
	}
}

func TestAnotherProcessWithTheSamePidIsLeftAlone(t *testing.T) {
	p, record := start(t, t.TempDir(), "sleeper", "sleep", "60")
	for name, other := range map[string]daemon.Process{
		"another start time": {PID: p.PID, Start: p.Start + 1, Boot: p.Boot},
		"another boot":       {PID: p.PID, Start: p.Start, Boot: "before"},
	} {
		stale := filepath.Join(t.TempDir(), "stale"+daemon.Suffix)
		if err := daemon.Write(stale, other); err != nil {
			t.Fatal(err)
		}
		if err := daemon.EndAll(t.Context(), filepath.Dir(stale)); err != nil {
			t.Fatal(err)
		}
		if alive, err := daemon.Alive(record); err != nil || !alive {
			t.Fatalf("%s: the process was ended", name)
		}
		if _, err := os.Stat(stale); err == nil {
			t.Errorf("%s: the stale record is still there", name)
		}
	}
}

// After a power cut a record may be empty. Its process has ended, too.
func TestAnEmptyRecordMeansThatTheProcessIsGone(t *testing.T) {
	record := filepath.Join(t.TempDir(), "x"+daemon.Suffix)
	if err := os.WriteFile(record, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if alive, err := daemon.Alive(record); alive || err != nil {
		t.Errorf("alive %v, %v", alive, err)
	}
	if err := daemon.End(t.Context(), record); err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(record); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the record is still there: %v", err)
	}
}

func TestARecordThatIdentifiesNoProcessIsAnError(t *testing.T) {
	for _, text := range []string{"{}", "nonsense", `{"pid":1,"start":5,"boot":"x"}`,
		`{"pid":-1,"start":5,"boot":"x"}`} {
		record := filepath.Join(t.TempDir(), "x"+daemon.Suffix)
		if err := os.WriteFile(record, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if err := daemon.End(t.Context(), record); err == nil {
			t.Errorf("the record %q was accepted", text)
		}
	}
}
