package cache_test

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/cache"
)

// The files that were used least recently go until the rest fits; a file that is no part of the cache stays.
func TestSweepBytesKeepsTheLastUsed(t *testing.T) {
	dir := t.TempDir()
	for name, used := range map[string]int{"a.deb": 1, "b.deb": 4, "c.deb": 2, "d.deb": 3, "other": 9} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, make([]byte, 10), 0o600); err != nil {
			t.Fatal(err)
		}
		at := time.Now().Add(-time.Duration(used) * time.Hour)
		if err := os.Chtimes(path, at, at.Add(-time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	left := func(limit int64) string {
		if err := cache.SweepBytes(dir, limit,
			func(name string) bool { return strings.HasSuffix(name, ".deb") }); err != nil {
			t.Fatal(err)
		}
		entries, err := os.ReadDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, e := range entries {
			names = append(names, e.Name())
		}
		slices.Sort(names)
		return strings.Join(names, " ")
	}
	for _, c := range []struct {
		limit int64
		want  string
	}{{40, "a.deb b.deb c.deb d.deb other"}, {39, "a.deb c.deb d.deb other"}, {20, "a.deb c.deb other"}, {9, "other"}} {
		if got := left(c.limit); got != c.want {
			t.Errorf("with a limit of %d bytes %q are left, want %q", c.limit, got, c.want)
		}
	}
}
