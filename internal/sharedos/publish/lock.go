package publish

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

const (
	lockPoll = 100 * time.Millisecond
	// lockTimeout bounds how long one writer waits for another.
	lockTimeout = 30 * time.Minute
)

// lock takes an exclusive lock on a file, against other processes and other callers in this one. It waits until the
// lock is free, at most 30 minutes, and calls onWait once if it has to wait. The kernel releases the lock when the
// process ends.
func lock(ctx context.Context, path string, onWait func()) (unlock func() error, err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", path, err)
	}
	ctx, cancel := context.WithTimeoutCause(ctx, lockTimeout,
		fmt.Errorf("another process has held it for %s: end that process or use another cache directory", lockTimeout))
	defer cancel()
	poll := time.NewTicker(lockPoll)
	defer poll.Stop()
	for waiting := false; ; waiting = true {
		err := unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
		switch {
		case err == nil:
			return file.Close, nil
		case errors.Is(err, unix.EINTR):
			continue
		case !errors.Is(err, unix.EWOULDBLOCK):
			return nil, errors.Join(fmt.Errorf("lock %s: %w", path, err), file.Close())
		}
		if !waiting {
			onWait()
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("lock %s: %w: %w", path, ctx.Err(), context.Cause(ctx)), file.Close())
		case <-poll.C:
		}
	}
}
