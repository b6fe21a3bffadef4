package store

import (
	"cmp"
	"context"
	"sync"
	"time"
)

// lockLinger is how long a Shared lock is kept after its last holder has released it.
const lockLinger = 500 * time.Millisecond

// joint is a lock that several callers in this process can hold together. Listing the locks of a
// pool takes longer the more volumes it has (65 ms for 2,000), and an apply that moves a thousand
// VMs takes several Shared locks for each. So a caller joins a Shared lock that exists. It cannot
// join one that is older than a beat, so that a waiting Exclusive lock gets its turn.
type joint struct {
	lock *heldLock
	// until is when callers can no longer join.
	until  time.Time
	linger time.Duration

	mu      sync.Mutex
	holders int
	// closed is true if callers can no longer join.
	closed bool
	// timer releases a lingering lock. releasing lets others wait until it is released.
	timer     *time.Timer
	releasing sync.WaitGroup
}

// join adds a holder. It returns false if the lock cannot be joined.
func (j *joint) join() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed || time.Now().After(j.until) || j.lock.live.Err() != nil {
		return false
	}
	if j.timer != nil {
		j.timer.Stop()
	}
	j.holders++
	return true
}

// leave removes a holder, and releases the lock after the last one. It returns ErrLockLost if the lock was lost.
func (j *joint) leave(ctx context.Context) error {
	j.mu.Lock()
	j.holders--
	lost := context.Cause(j.lock.live)
	shared := j.holders > 0
	lingers := !shared && lost == nil && !j.closed && j.linger > 0 && time.Now().Before(j.until)
	switch {
	case lingers:
		j.timer = time.AfterFunc(j.linger, func() {
			// Nobody can handle a failure. Callers in this process ignore what is left (undeleted),
			// and other processes delete it when this one has ended.
			_ = j.close(ctx)
		})
	case !shared:
		j.closed = true
	}
	j.mu.Unlock()
	if shared || lingers {
		return lost
	}
	return j.lock.release(ctx)
}

// close keeps callers from joining the lock. It releases the lock if nobody holds it, and returns when it is released.
func (j *joint) close(ctx context.Context) error {
	j.mu.Lock()
	if j.timer != nil {
		j.timer.Stop()
	}
	ours := j.holders == 0 && !j.closed
	j.closed = true
	if ours {
		j.releasing.Add(1)
	}
	j.mu.Unlock()
	if !ours {
		j.releasing.Wait()
		return nil
	}
	defer j.releasing.Done()
	return j.lock.release(ctx)
}

// take joins a lock of this process, or acquires one.
func (l *Locker) take(ctx context.Context, mode LockMode, onWait func()) (*joint, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	switch mode {
	case Shared:
		if j := l.joinable(); j != nil && j.join() {
			return j, nil
		}
	case Exclusive:
		// It waits for the present holders in this process, and not for later ones.
		if err := l.Close(ctx); err != nil {
			return nil, err
		}
	}
	held, err := l.acquire(ctx, mode, onWait)
	if err != nil {
		return nil, err
	}
	j := &joint{lock: held, holders: 1}
	if mode == Shared {
		j.until, j.linger = time.Now().Add(cmp.Or(l.Beat, lockBeat)), cmp.Or(l.Linger, lockLinger)
		l.mu.Lock()
		defer l.mu.Unlock()
		l.shared = j
	}
	return j, nil
}

func (l *Locker) joinable() *joint {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.shared
}

// Close releases a lock that lingers.
func (l *Locker) Close(ctx context.Context) error {
	j := l.joinable()
	if j == nil {
		return nil
	}
	return j.close(ctx)
}
