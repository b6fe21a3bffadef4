package source

import (
	"cmp"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// orphaned is how old a file must be that is not complete for its writer to be taken for dead.
const orphaned = 24 * time.Hour

// sweepOldest removes from a directory all files of a suffix but the ones that were used last, and what writers that
// were cut off have left. The empty suffix is that of names without one.
func sweepOldest(dir, suffix string, keep int) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("sweep the cache: %w", err)
	}
	type file struct {
		path string
		used time.Time
	}
	var all []file
	for _, e := range entries {
		info, err := e.Info()
		if os.IsNotExist(err) {
			continue // another process sweeps too
		}
		if err != nil {
			return fmt.Errorf("sweep the cache: %w", err)
		}
		path := filepath.Join(dir, e.Name())
		switch {
		case filepath.Ext(e.Name()) == suffix:
			all = append(all, file{path, lastUsed(info)})
		case (strings.HasSuffix(e.Name(), ".tmp") || strings.HasSuffix(e.Name(), partSuffix)) && time.Since(info.ModTime()) > orphaned:
			if err := os.Remove(path); err != nil && !os.IsNotExist(err) {
				return fmt.Errorf("sweep the cache: %w", err)
			}
		}
	}
	slices.SortFunc(all, func(a, b file) int { return cmp.Compare(b.used.UnixNano(), a.used.UnixNano()) })
	for _, f := range all[min(keep, len(all)):] {
		if err := os.Remove(f.path); err != nil && !os.IsNotExist(err) {
			return fmt.Errorf("sweep the cache: %w", err)
		}
	}
	return nil
}

// lastUsed is when a file was written or marked as used, whichever is later.
func lastUsed(info os.FileInfo) time.Time {
	used := info.ModTime()
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		if accessed := time.Unix(stat.Atim.Unix()); accessed.After(used) {
			used = accessed
		}
	}
	return used
}
