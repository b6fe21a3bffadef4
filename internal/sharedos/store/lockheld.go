package store

import (
	"cmp"
	"context"
	"errors"
	"sync"
	"time"
)

// lockReleaseTimeout bounds how long giving a lock back may take: others take what stays for dead soon enough.
const lockReleaseTimeout = 20 * time.Second

// heldLock is a lock volume that is kept alive.
type heldLock struct {
	volumes LockVolumes
	// live ends when the lock is released, or lost with ErrLockLost as its cause.
	live    context.Context
	end     context.CancelCauseFunc
	beating sync.WaitGroup

	mu   sync.Mutex
	name lockName
	// left are volumes of earlier numbers that could not be deleted yet.
	left []string
}

// hold makes a lock volume and keeps it alive until it is released.
func (l *Locker) hold(ctx context.Context, name lockName) (*heldLock, error) {
	h := &heldLock{volumes: l.Volumes, name: name}
	h.live, h.end = context.WithCancelCause(context.WithoutCancel(ctx))
	if err := l.Volumes.CreateLock(ctx, name.String()); err != nil {
		// It may have been made, and the answer lost.
		return nil, errors.Join(err, h.release(ctx))
	}
	h.beating.Go(func() { h.beat(cmp.Or(l.Beat, lockBeat), cmp.Or(l.Lease, lockLease)) })
	return h, nil
}

func (h *heldLock) current() lockName {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.name
}

// beat goes on to the next number again and again. It gives the lock up well before others may take its holder for dead.
func (h *heldLock) beat(every, lease time.Duration) {
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

// next goes on to the volume of the next number; ErrNotFound if somebody removed the one before.
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
		return nil // it says that its holder is alive all the same
	}
	return err
}

// release deletes what there is of the lock. It returns ErrLockLost if it was lost.
func (h *heldLock) release(ctx context.Context) error {
	lost := context.Cause(h.live)
	h.end(nil)
	h.beating.Wait()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), lockReleaseTimeout)
	defer cancel()
	// The next one may have been made without an answer.
	next := h.name
	next.beat++
	failed := []error{lost}
	for _, name := range append(h.left, h.name.String(), next.String()) {
		if err := h.volumes.DeleteLock(ctx, name); err != nil && !errors.Is(err, ErrNotFound) {
			failed = append(failed, err)
			abandoned.Store(h.name.nonce, true)
		}
	}
	return errors.Join(failed...)
}

// abandoned has the nonces of locks that this process gave back and could not delete: libvirtd was gone. Whoever in it waits
// for one need not wait for the length of a lease.
var abandoned sync.Map
