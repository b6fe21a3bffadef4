package store

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"
)

// LockMode says what a lock keeps others from.
type LockMode string

const (
	// Shared is for whoever puts into the pool what is not yet referred to, or is about to refer to what is there. It
	// keeps others from an Exclusive lock.
	Shared LockMode = "shared"
	// Record is for whoever reads a history and writes it again, under a Shared lock of its own. It keeps others from
	// another Record lock.
	Record LockMode = "record"
	// Exclusive is for whoever deletes what nothing refers to. It keeps others from every other lock.
	Exclusive LockMode = "exclusive"
)

// ErrLockLost is why the context of a lock ended: the pool could not be told in time that its holder is alive, so that
// others take it for dead.
var ErrLockLost = errors.New("the lock on the storage pool was lost")

const (
	// lockBeat is how often a holder says that it is alive.
	lockBeat = 5 * time.Second
	// lockLease is how long a holder that says nothing counts as alive.
	lockLease = 30 * time.Second
	// lockWait bounds how long one process waits for others.
	lockWait = 30 * time.Minute
	// lockPoll is how often one that waits looks again, at first and at most.
	lockPoll, lockPollMost = 20 * time.Millisecond, 500 * time.Millisecond
)

// LockVolumes are the volumes that locks are made of. A pool can make a volume of a name that nobody has, list volumes
// and delete one, and no more is needed: names are never used twice.
type LockVolumes interface {
	// CreateLock makes an empty volume.
	CreateLock(ctx context.Context, name string) error
	// Locks names the lock volumes of every process.
	Locks(ctx context.Context) ([]string, error)
	// DeleteLock deletes a volume; ErrNotFound if there is none.
	DeleteLock(ctx context.Context, name string) error
}

// Locker takes locks of a pool for this process.
//
// Whoever wants a lock makes a volume that names what it wants, and then looks at the volumes of others. So of two that
// exclude each other at least one sees the other. Shared gives way to Exclusive; of two of a kind the one whose name comes
// first stays and waits, and the other gives way. A holder proves that it is alive by going on to a volume of the next
// number; one whose process is gone, or that says nothing for the length of a lease, is removed by who waits for it.
//
// A Shared lock of this process is joined by others in it that want one, for the length of a beat after it was taken, and
// lingers when it was given back.
type Locker struct {
	Volumes LockVolumes
	// Beat and Lease are 5 and 30 seconds if they are 0.
	Beat, Lease time.Duration
	// Linger is half a second if it is 0; below, a lock goes at once.
	Linger time.Duration

	mu     sync.Mutex
	shared *joint
}

// Lock takes a lock. It waits until nobody holds one that excludes it, at most 30 minutes, and calls tell once if it has
// to. What is done under the lock is done with the returned context, which ends with ErrLockLost as its cause when the
// lock is lost; unlock gives it back and must be called.
func (l *Locker) Lock(ctx context.Context, mode LockMode, tell func(step string)) (_ context.Context, unlock func() error, err error) {
	limit := fmt.Errorf("another process has used the pool for %s: end that process", lockWait)
	waiting, cancel := context.WithTimeoutCause(ctx, lockWait, limit)
	defer cancel()
	var once sync.Once
	held, err := l.take(waiting, mode, func() {
		once.Do(func() { tell("waiting for another process that uses the storage pool") })
	})
	if err != nil {
		if ctx.Err() == nil && waiting.Err() != nil {
			err = errors.Join(limit, err)
		}
		return nil, nil, fmt.Errorf("lock the storage pool (%s): %w", mode, err)
	}
	locked, end := context.WithCancelCause(ctx)
	live := held.held.live
	watching := context.AfterFunc(live, func() { end(context.Cause(live)) })
	return locked, func() error {
		watching()
		end(nil)
		if err := held.leave(ctx); err != nil {
			return fmt.Errorf("unlock the storage pool (%s): %w", mode, err)
		}
		return nil
	}, nil
}

// acquire makes a lock volume and waits until nothing excludes it. Where it would have to give way, it makes none: a
// volume that comes and goes would be seen by those it gives way to.
func (l *Locker) acquire(ctx context.Context, mode LockMode, waits func()) (*heldLock, error) {
	self, err := thisProcess()
	if err != nil {
		return nil, err
	}
	w := &watch{self: self, lease: cmp.Or(l.Lease, lockLease), seen: map[string]sign{}}
	wanted := newLockName(mode, self)
	for wait := lockPoll; ; {
		verdict, err := l.look(ctx, wanted, w)
		if err != nil {
			return nil, err
		}
		if verdict != givesWay {
			held, err := l.hold(ctx, wanted)
			if err != nil {
				return nil, err
			}
			granted, err := l.settle(ctx, held, w, waits)
			if granted {
				return held, nil
			}
			if err := errors.Join(err, held.release(ctx)); err != nil {
				return nil, err
			}
			wanted = newLockName(mode, self)
		}
		waits()
		if err := pause(ctx, &wait); err != nil {
			return nil, err
		}
	}
}

// settle waits until nothing excludes the lock that is held for now. It is false if the lock has to give way.
func (l *Locker) settle(ctx context.Context, held *heldLock, w *watch, waits func()) (bool, error) {
	for wait := lockPoll; ; {
		verdict, err := l.look(ctx, held.current(), w)
		switch {
		case err != nil:
			return false, err
		case held.live.Err() != nil:
			return false, context.Cause(held.live)
		case verdict == noConflict:
			return true, nil
		case verdict == givesWay:
			return false, nil
		}
		waits()
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
	*wait = min(2**wait, lockPollMost)
	return nil
}

// look tells what the locks of others mean for one. What is dead goes, so that nobody has to judge it again, and what is
// left then is looked at once more.
func (l *Locker) look(ctx context.Context, name lockName, w *watch) (conflict, error) {
	for {
		names, err := l.Volumes.Locks(ctx)
		if err != nil {
			return noConflict, err
		}
		living, dead := w.judge(names)
		for _, gone := range dead {
			if err := l.Volumes.DeleteLock(ctx, gone); err != nil && !errors.Is(err, ErrNotFound) {
				return noConflict, fmt.Errorf("remove the lock of a process that is gone: %w", err)
			}
		}
		if len(dead) > 0 {
			continue
		}
		worst := noConflict
		for _, other := range living {
			worst = max(worst, name.against(other))
		}
		return worst, nil
	}
}
