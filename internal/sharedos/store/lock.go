package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// LockMode says which other locks a lock excludes.
type LockMode string

const (
	// Shared excludes Exclusive. Its holder may store objects before anything refers to them, and
	// may refer to objects that exist.
	Shared LockMode = "shared"
	// Record excludes Record. Its holder may read a history and replace it. It also holds a Shared lock.
	Record LockMode = "record"
	// Exclusive excludes every other lock. Its holder may delete objects that nothing refers to.
	Exclusive LockMode = "exclusive"
)

// ErrLockLost is the cause of the end of a lock's context: the holder could not renew the lock in
// time, so others may take it for abandoned.
var ErrLockLost = errors.New("the lock on the storage pool was lost")

const (
	// lockBeat is how often a holder renews its lock.
	lockBeat = 5 * time.Second
	// lockLease is how long a lock is valid without being renewed.
	lockLease = 30 * time.Second
	// lockTimeout bounds how long Lock waits.
	lockTimeout = 30 * time.Minute
	// lockPoll and lockPollMax are the shortest and the longest interval at which a waiting process
	// looks at the locks again.
	lockPoll, lockPollMax = 20 * time.Millisecond, 500 * time.Millisecond
)

// LockVolumes are the volumes that locks consist of. Locks need no more than to create a volume of
// a new name, to list volumes and to delete one. Names are never used twice.
type LockVolumes interface {
	// CreateLock creates an empty volume.
	CreateLock(ctx context.Context, name string) error
	// Locks lists the names of the lock volumes of all processes.
	Locks(ctx context.Context) ([]string, error)
	// DeleteLock deletes a volume; ErrNotFound if there is none.
	DeleteLock(ctx context.Context, name string) error
}

// Locker takes locks of a pool for this process.
//
// A process that wants a lock first creates a volume whose name has the mode, and then looks at the
// volumes of other processes. So of two processes that exclude each other, at least one sees the
// other. Shared yields to Exclusive: it deletes its volume and tries again later. Of two locks of
// the same mode, the one whose name sorts first waits, and the other yields.
//
// A holder renews its lock by replacing the volume by one with the next number. A waiting process deletes
// the locks of processes that have ended, and locks that were not renewed for the length of a lease.
//
// Callers in the same process share one Shared lock. They can join it for the length of a beat
// after it was taken, and it lingers after the last of them has released it.
type Locker struct {
	Volumes LockVolumes
	// Beat and Lease are 5 and 30 seconds if they are 0.
	Beat, Lease time.Duration
	// Linger is half a second if it is 0. If it is negative, locks do not linger.
	Linger time.Duration

	mu     sync.Mutex
	shared *joint
}

// Lock takes a lock. It waits until nobody holds a lock that excludes it, at most 30 minutes, and
// calls report once if it has to wait. Work under the lock uses the returned context, which ends
// with the cause ErrLockLost when the lock is lost. unlock must be called.
func (l *Locker) Lock(ctx context.Context, mode LockMode,
	report func(step string)) (_ context.Context, unlock func() error, err error) {
	limit := fmt.Errorf("another process has used the pool for %s: end that process", lockTimeout)
	waiting, cancel := context.WithTimeoutCause(ctx, lockTimeout, limit)
	defer cancel()
	var once sync.Once
	taken, err := l.take(waiting, mode, func() {
		once.Do(func() { report("waiting for another process that uses the storage pool") })
	})
	if err != nil {
		if ctx.Err() == nil && waiting.Err() != nil {
			err = errors.Join(limit, err)
		}
		return nil, nil, fmt.Errorf("lock the storage pool (%s): %w", mode, err)
	}
	locked, end := context.WithCancelCause(ctx)
	live := taken.lock.live
	stop := context.AfterFunc(live, func() { end(context.Cause(live)) })
	return locked, func() error {
		stop()
		end(nil)
		if err := taken.leave(ctx); err != nil {
			return fmt.Errorf("unlock the storage pool (%s): %w", mode, err)
		}
		return nil
	}, nil
}

// acquire creates a lock volume and waits until no other lock excludes it. While it would have to
// yield, it creates none: other processes would see a volume that comes and goes.
func (l *Locker) acquire(ctx context.Context, mode LockMode, onWait func()) (*heldLock, error) {
	self, err := thisProcess()
	if err != nil {
		return nil, err
	}
	w := &watch{self: self, lease: cmp.Or(l.Lease, lockLease), seen: map[string]renewal{}}
	wanted := newLockName(mode, self)
	for wait := lockPoll; ; {
		verdict, err := l.look(ctx, wanted, w)
		if err != nil {
			return nil, err
		}
		if verdict != yields {
			held, err := l.hold(ctx, wanted)
			if err != nil {
				return nil, err
			}
			granted, err := l.settle(ctx, held, w, onWait)
			if granted {
				return held, nil
			}
			if err := errors.Join(err, held.release(ctx)); err != nil {
				return nil, err
			}
			wanted = newLockName(mode, self)
		}
		onWait()
		if err := pause(ctx, &wait); err != nil {
			return nil, err
		}
	}
}

// settle waits until no other lock excludes one whose volume exists. It returns false if the lock has to yield.
func (l *Locker) settle(ctx context.Context, held *heldLock, w *watch, onWait func()) (bool, error) {
	for wait := lockPoll; ; {
		verdict, err := l.look(ctx, held.current(), w)
		switch {
		case err != nil:
			return false, err
		case held.live.Err() != nil:
			return false, context.Cause(held.live)
		case verdict == noConflict:
			return true, nil
		case verdict == yields:
			return false, nil
		}
		onWait()
		if err := pause(ctx, &wait); err != nil {
			return false, err
		}
	}
}

func pause(ctx context.Context, wait *time.Duration) error {
	select {
	case <-ctx.Done():
		return ctx.Err()
	case <-time.After(*wait):
	}
	*wait = min(2**wait, lockPollMax)
	return nil
}

// look returns the worst conflict of a lock with the locks of others. It deletes abandoned locks and then looks again.
func (l *Locker) look(ctx context.Context, name lockName, w *watch) (conflict, error) {
	for {
		names, err := l.Volumes.Locks(ctx)
		if err != nil {
			return noConflict, err
		}
		valid, abandoned := w.judge(names)
		for _, gone := range abandoned {
			if err := l.Volumes.DeleteLock(ctx, gone); err != nil && !errors.Is(err, ErrNotFound) {
				return noConflict, fmt.Errorf("remove the lock of a process that is gone: %w", err)
			}
		}
		if len(abandoned) > 0 {
			continue
		}
		worst := noConflict
		for _, other := range valid {
			worst = max(worst, name.against(other))
		}
		return worst, nil
	}
}
