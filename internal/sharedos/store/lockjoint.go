package store

import (
	"cmp"
	"context"
	"sync"
	"time"
)

// lockLinger is how long a Shared lock stays that its last holder gave back.
const lockLinger = 500 * time.Millisecond

// joint is a Shared lock that several in this process hold at once, or one soon after another. To look at the locks of a pool
// takes as long as the pool has volumes (65 ms for 2,000 of them), and an apply that moves a thousand VMs wants some for each:
// so whoever comes while one is there joins it. Who comes a beat after it was taken does not, and gives way to an Exclusive
// lock that waits.
type joint struct {
	held   *heldLock
	until  time.Time
	linger time.Duration

	mu      sync.Mutex
	holders int
	// closed is true when it takes in nobody more.
	closed bool
	// timer gives it back if nobody came; releasing is waited for by who wants it gone.
	timer     *time.Timer
	releasing sync.WaitGroup
}

// join is true if the lock is there and takes in another holder.
func (j *joint) join() bool {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.closed || time.Now().After(j.until) || j.held.live.Err() != nil {
		return false
	}
	if j.timer != nil {
		j.timer.Stop()
	}
	j.holders++
	return true
}

// leave gives the lock back for one of its holders. It returns ErrLockLost if it was lost.
func (j *joint) leave(ctx context.Context) error {
	j.mu.Lock()
	j.holders--
	lost := context.Cause(j.held.live)
	stays := j.holders > 0
	lingers := !stays && lost == nil && !j.closed && j.linger > 0 && time.Now().Before(j.until)
	switch {
	case lingers:
		j.timer = time.AfterFunc(j.linger, func() {
			// Nobody is told of a failure: whoever in this process waits for what is left takes it over (abandoned), and
			// others when the process is gone.
			_ = j.giveBack(ctx)
		})
	case !stays:
		j.closed = true
	}
	j.mu.Unlock()
	if stays || lingers {
		return lost
	}
	return j.held.release(ctx)
}

// giveBack has the lock take in nobody more, and releases it if nobody holds it. It returns when that is done.
func (j *joint) giveBack(ctx context.Context) error {
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
	return j.held.release(ctx)
}

// take takes a lock, or joins one.
func (l *Locker) take(ctx context.Context, mode LockMode, waits func()) (*joint, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	switch mode {
	case Shared:
		if j := l.joinable(); j != nil && j.join() {
			return j, nil
		}
	case Exclusive:
		// It waits for those who hold a lock here, and for nobody who comes after it.
		if err := l.Close(ctx); err != nil {
			return nil, err
		}
	}
	held, err := l.acquire(ctx, mode, waits)
	if err != nil {
		return nil, err
	}
	j := &joint{held: held, holders: 1}
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

// Close gives back a lock that nobody holds any more.
func (l *Locker) Close(ctx context.Context) error {
	j := l.joinable()
	if j == nil {
		return nil
	}
	return j.giveBack(ctx)
}
