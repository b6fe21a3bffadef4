package source

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"
)

// lockPoll is how often a lock that another process holds is tried again.
const lockPoll = 200 * time.Millisecond

// lockDir makes a directory and takes its one lock, which ends with the process at the latest. It waits as long as
// ctx allows and says so once.
func lockDir(ctx context.Context, dir string, waiting func()) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the cache directory: %w", err)
	}
	path := filepath.Join(dir, "debian.lock")
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the cache: %w", err)
	}
	if err := flock(ctx, file, waiting); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	// Closing the only descriptor gives the lock back; there is nothing to lose in it.
	return func() { _ = file.Close() }, nil
}

// sweepBuilt removes what builds that were cut off have left, and all but the trees that were used last. The caller
// holds the lock: no build is under way. A tree that is being read goes when its reader is done.
func sweepBuilt(dir string, keep int) error {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return fmt.Errorf("sweep the cache: %w", err)
	}
	type built struct {
		path string
		used time.Time
	}
	var all []built
	for _, e := range entries {
		name := e.Name()
		path := filepath.Join(dir, name)
		switch {
		case !strings.HasPrefix(name, "debian-"):
		case strings.HasSuffix(name, ".tmp"):
			if err := os.Remove(path); err != nil {
				return fmt.Errorf("sweep the cache: %w", err)
			}
		case strings.HasSuffix(name, ".tar.zst"):
			info, err := e.Info()
			if err != nil {
				return fmt.Errorf("sweep the cache: %w", err)
			}
			used := info.ModTime()
			if stat, ok := info.Sys().(*syscall.Stat_t); ok {
				used = time.Unix(stat.Atim.Unix())
			}
			all = append(all, built{path, used})
		}
	}
	slices.SortFunc(all, func(a, b built) int { return cmp.Compare(b.used.UnixNano(), a.used.UnixNano()) })
	for _, b := range all[min(keep, len(all)):] {
		if err := os.Remove(b.path); err != nil {
			return fmt.Errorf("sweep the cache: %w", err)
		}
	}
	return nil
}
