package store

import (
	"cmp"
	"context"
	"errors"
	"sync"
	"time"
)

// lockReleaseTimeout bounds how long releasing a lock may take. Others delete a lock that is left.
const lockReleaseTimeout = 20 * time.Second

// heldLock is a lock that is being renewed.
type heldLock struct {
	volumes LockVolumes
	// live ends when the lock is released, or with the cause ErrLockLost when it is lost.
	live     context.Context
	end      context.CancelCauseFunc
	renewing sync.WaitGroup

	mu   sync.Mutex
	name lockName
	// left are volumes with earlier numbers that could not be deleted.
	left []string
}

// hold creates a lock volume and renews the lock until it is released.
func (l *Locker) hold(ctx context.Context, name lockName) (*heldLock, error) {
	h := &heldLock{volumes: l.Volumes, name: name}
	h.live, h.end = context.WithCancelCause(context.WithoutCancel(ctx))
	if err := l.Volumes.CreateLock(ctx, name.String()); err != nil {
		// The volume may have been created although the answer was lost.
		return nil, errors.Join(err, h.release(ctx))
	}
	h.renewing.Go(func() { h.renew(cmp.Or(l.Beat, lockBeat), cmp.Or(l.Lease, lockLease)) })
	return h, nil
}

func (h *heldLock) current() lockName {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.name
}

// renew renews the lock until it is released. It gives up the lock well before others may take it for abandoned.
func (h *heldLock) renew(every, lease time.Duration) {
	last := time.Now()
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-h.live.Done():
			return
		case <-ticker.C:
		}
		bounded, cancel := context.WithTimeout(h.live, every)
		err := h.next(bounded)
		cancel()
		switch {
		case err == nil:
			last = time.Now()
		case errors.Is(err, ErrNotFound) || time.Since(last) > lease/2:
			h.end(ErrLockLost)
			return
		}
	}
}

// next replaces the volume by one with the next number; ErrNotFound if another process deleted the volume.
func (h *heldLock) next(ctx context.Context) error {
	now := h.current()
	next := now
	next.beat++
	if err := h.volumes.CreateLock(ctx, next.String()); err != nil {
		return err
	}
	err := h.volumes.DeleteLock(ctx, now.String())
	h.mu.Lock()
	defer h.mu.Unlock()
	h.name = next
	if err != nil && !errors.Is(err, ErrNotFound) {
		h.left = append(h.left, now.String())
		return nil // the lock is renewed all the same
	}
	return err
}

// release deletes all volumes of the lock. It returns ErrLockLost if the lock was lost.
func (h *heldLock) release(ctx context.Context) error {
	lost := context.Cause(h.live)
	h.end(nil)
	h.renewing.Wait()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lockReleaseTimeout)
	defer cancel()
	// The next volume may have been created although the answer was lost.
	next := h.name
	next.beat++
	failed := []error{lost}
	for _, name := range append(h.left, h.name.String(), next.String()) {
		if err := h.volumes.DeleteLock(ctx, name); err != nil && !errors.Is(err, ErrNotFound) {
			failed = append(failed, err)
			undeleted.Store(h.name.nonce, true)
		}
	}
	return errors.Join(failed...)
}

// undeleted are the nonces of locks that this process released but could not delete, because
// libvirt did not answer. Other callers in this process need not wait until they expire.
var undeleted sync.Map
