package cache

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"time"
)

// lockPoll is how often Lock tries again while another process holds the lock.
const lockPoll = 200 * time.Millisecond

// Lock makes a directory and takes its lock, which the kernel releases with the process at the latest. If another
// process holds the lock, it calls waiting once and waits as long as ctx allows.
func Lock(ctx context.Context, dir, name string, waiting func()) (unlock func(), err error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make the cache directory: %w", err)
	}
	file, err := os.OpenFile(filepath.Join(dir, name), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the cache: %w", err)
	}
	if err := LockFile(ctx, file, waiting); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	// Closing the only descriptor releases the lock. No data can get lost in an empty file.
	return func() { _ = file.Close() }, nil
}

// LockFile takes the lock of an open file, which is released when the file is closed. Otherwise it is like Lock.
func LockFile(ctx context.Context, file *os.File, waiting func()) error {
	for first := true; ; first = false {
		err := syscall.Flock(int(file.Fd()), syscall.LOCK_EX|syscall.LOCK_NB)
		if err == nil {
			return nil
		}
		if !errors.Is(err, syscall.EWOULDBLOCK) {
			return fmt.Errorf("lock %s: %w", file.Name(), err)
		}
		if first {
			waiting()
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the lock %s: %w", file.Name(), context.Cause(ctx))
		case <-time.After(lockPoll):
		}
	}
}
