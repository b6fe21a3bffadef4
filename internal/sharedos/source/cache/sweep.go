package cache

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// Abandoned is the age from which on an incomplete file is taken to have no writer any more, where writers share no
// lock.
const Abandoned = 24 * time.Hour

// PartSuffix marks a file that is being downloaded.
const PartSuffix = ".part"

// Sweep removes from a directory all files that complete accepts, except for those used most recently. It also removes
// incomplete files that were last written before the given age: drafts of renameio, whose names begin with a dot, and
// those with PartSuffix.
func Sweep(dir string, keep int, age time.Duration, complete func(name string) bool) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("sweep the cache: %w", err)
	}
	type file struct {
		path string
		used time.Time
	}
	var kept []file
	var unwanted []string
	for _, e := range entries {
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue // another process sweeps, too
		}
		if err != nil {
			return fmt.Errorf("sweep the cache: %w", err)
		}
		path := filepath.Join(dir, e.Name())
		switch {
		case strings.HasPrefix(e.Name(), "."), strings.HasSuffix(e.Name(), PartSuffix):
			if time.Since(info.ModTime()) >= age {
				unwanted = append(unwanted, path)
			}
		case complete(e.Name()):
			kept = append(kept, file{path, lastUsed(info)})
		}
	}
	slices.SortFunc(kept, func(a, b file) int { return cmp.Compare(b.used.UnixNano(), a.used.UnixNano()) })
	for _, f := range kept[min(keep, len(kept)):] {
		unwanted = append(unwanted, f.path)
	}
	for _, path := range unwanted {
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("sweep the cache: %w", err)
		}
	}
	return nil
}

// SweepBytes removes from a directory those files that complete accepts and that were used least recently, until the
// rest has no more than limit bytes.
func SweepBytes(dir string, limit int64, complete func(name string) bool) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("sweep the cache: %w", err)
	}
	var kept []fs.FileInfo
	for _, e := range entries {
		if !complete(e.Name()) {
			continue
		}
		info, err := e.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue // another process sweeps, too
		}
		if err != nil {
			return fmt.Errorf("sweep the cache: %w", err)
		}
		kept = append(kept, info)
	}
	slices.SortFunc(kept, func(a, b fs.FileInfo) int { return lastUsed(b).Compare(lastUsed(a)) })
	size := int64(0)
	for _, info := range kept {
		if size += info.Size(); size <= limit {
			continue
		}
		if err := os.Remove(filepath.Join(dir, info.Name())); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("sweep the cache: %w", err)
		}
	}
	return nil
}

// MarkUsed makes a file the most recently used one. It sets the access time only: a new modification time would look
// like a change of the file.
func MarkUsed(path string) error { return os.Chtimes(path, time.Now(), time.Time{}) }

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
