package service

import (
	"context"
	"os"
	"path/filepath"
	"testing"
	"time"
)

func TestProcessorsAreBroughtOnlineAsTheyAppear(t *testing.T) {
	root := t.TempDir()
	put := func(name, text string) {
		t.Helper()
		path := filepath.Join(root, name)
		must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		must(t, os.WriteFile(path, []byte(text), 0o600))
	}
	put("proc/meminfo", "MemTotal:         498292 kB\nMemFree:           1 kB\nMemAvailable:     385580 kB\n")
	put("sys/devices/system/cpu/cpu0/topology/core_id", "0") // the first one cannot go offline
	put("sys/devices/system/cpu/cpu1/online", "0\n")
	put("sys/devices/system/cpu/cpufreq/boost", "1")
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	answer, err := resources(ctx, root, 0)
	if err != nil || answer.GetProcessors() != 1 || answer.GetMemory() != 498292<<10 ||
		answer.GetMemoryAvailable() != 385580<<10 {
		t.Fatalf("asked only: %v, %v", answer, err)
	}
	if answer, err = resources(ctx, root, 2); err != nil || answer.GetProcessors() != 2 {
		t.Fatalf("one is offline: %v, %v", answer, err)
	}
	if text, err := os.ReadFile(filepath.Join(root, "sys/devices/system/cpu/cpu1/online")); err != nil ||
		string(text) != "1" {
		t.Errorf("its file has %q, %v", text, err)
	}
	go func() {
		time.Sleep(100 * time.Millisecond)
		put("sys/devices/system/cpu/cpu2/online", "0\n")
	}()
	if answer, err = resources(ctx, root, 3); err != nil || answer.GetProcessors() != 3 {
		t.Errorf("one appears: %v, %v", answer, err)
	}
	short, cancel := context.WithTimeout(t.Context(), 100*time.Millisecond)
	defer cancel()
	if answer, err = resources(short, root, 2); err != nil || answer.GetProcessors() != 3 {
		t.Errorf("none goes: %v, %v", answer, err)
	}
}

func TestEntriesOfMeminfoAreRead(t *testing.T) {
	for text, want := range map[string]int64{"A: 12 kB\n": 12 << 10, "A: x kB\n": -1, "A: -1 kB\n": -1,
		"AB: 12 kB\n": -1, "": -1} {
		if got, err := meminfo(text, "A"); (err != nil) != (want < 0) || err == nil && got != want {
			t.Errorf("%q: %d, %v", text, got, err)
		}
	}
}
