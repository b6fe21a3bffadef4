package store

import (
	"cmp"
	"context"
	"sync"
	"time"
)

// joint is a Shared lock that several in this process hold at once. To look at the locks of a pool takes as long as the pool
// has volumes, and an apply that moves a thousand VMs wants a lock for each: so whoever comes while one is held joins it.
type joint struct {
	held *heldLock
	// until is when it takes in nobody more: whoever comes then gives way to an Exclusive lock that waits.
	until time.Time

	mu      sync.Mutex
	holders int
}

// join is true if the lock is held and takes in another holder.
func (j *joint) join() bool {
	if j == nil || time.Now().After(j.until) || j.held.live.Err() != nil {
		return false
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.holders == 0 {
		return false // it is being released
	}
	j.holders++
	return true
}

// release gives the lock back for one of its holders. It returns ErrLockLost if it was lost.
func (j *joint) release(ctx context.Context) error {
	j.mu.Lock()
	j.holders--
	last := j.holders == 0
	j.mu.Unlock()
	if !last {
		return context.Cause(j.held.live)
	}
	return j.held.release(ctx)
}

// take takes a lock, or joins one.
func (l *Locker) take(ctx context.Context, mode LockMode, waits func()) (*joint, error) {
	if mode == Shared {
		if j := l.joinable(); j.join() {
			return j, nil
		}
	}
	if mode == Exclusive {
		l.share(nil) // it waits for those who hold the lock, and for nobody who comes after it
	}
	held, err := l.acquire(ctx, mode, waits)
	if err != nil {
		return nil, err
	}
	j := &joint{held: held, until: time.Now().Add(cmp.Or(l.Beat, lockBeat)), holders: 1}
	if mode == Shared {
		l.share(j)
	}
	return j, nil
}

func (l *Locker) joinable() *joint {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.shared
}

// share has those who come join a lock, or none.
func (l *Locker) share(j *joint) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.shared = j
}
