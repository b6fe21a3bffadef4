package storetest

import (
	"context"
	"errors"
	"slices"
	"sync"
	"testing"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
)

// locks checks which locks exclude each other, and that many callers at once get them in turn.
func locks(t *testing.T, ctx context.Context, s store.Locks) {
	take := func(mode store.LockMode, limit time.Duration) (told bool, unlock func() error, err error) {
		bounded, cancel := context.WithTimeout(ctx, limit)
		defer cancel()
		_, unlock, err = s.Lock(bounded, mode, func(string) { told = true })
		return told, unlock, err
	}
	for _, held := range []store.LockMode{store.Shared, store.Exclusive} {
		for _, wanted := range []store.LockMode{store.Shared, store.Exclusive} {
			_, unlock, err := take(held, 10*time.Second)
			must(t, err)
			if held == store.Shared && wanted == store.Shared {
				_, again, err := take(wanted, 10*time.Second)
				must(t, err)
				must(t, again())
			} else if told, _, err := take(wanted, 1500*time.Millisecond); !errors.Is(err, context.DeadlineExceeded) ||
				!told {
				t.Errorf("%s while %s is held: got error %v, waiting was told: %v", wanted, held, err, told)
			}
			must(t, unlock())
			_, unlock, err = take(wanted, 10*time.Second)
			must(t, err)
			must(t, unlock())
		}
	}
	crowd(t, ctx, s)
}

// locksAreNotListed takes a lock and looks for it in the list of volumes.
func locksAreNotListed(t *testing.T, ctx context.Context, s store.Store) {
	_, unlock, err := s.Lock(ctx, store.Exclusive, func(string) {})
	must(t, err)
	volumes, err := s.Volumes(ctx)
	must(t, err)
	if len(volumes) != 0 {
		t.Errorf("a lock is listed: %v", names(volumes))
	}
	must(t, unlock())
	volumes, err = s.Volumes(ctx)
	must(t, err)
	if len(volumes) != 0 {
		t.Errorf("a lock is left: %v", names(volumes))
	}
}

// crowd takes many locks at once, and checks which of them are held together.
func crowd(t *testing.T, ctx context.Context, s store.Locks) {
	modes := []store.LockMode{store.Shared, store.Exclusive, store.Shared, store.Record, store.Exclusive,
		store.Record, store.Shared}
	var mu sync.Mutex
	var in []store.LockMode
	enter := func(mode store.LockMode) {
		mu.Lock()
		defer mu.Unlock()
		if mode == store.Exclusive && len(in) > 0 || slices.Contains(in, store.Exclusive) ||
			mode == store.Record && slices.Contains(in, mode) {
			t.Errorf("%s comes in, where %v are", mode, in)
		}
		in = append(in, mode)
	}
	leave := func(mode store.LockMode) {
		mu.Lock()
		defer mu.Unlock()
		i := slices.Index(in, mode)
		in = slices.Delete(in, i, i+1)
	}
	lock := func(mode store.LockMode, then func()) {
		locked, unlock, err := s.Lock(ctx, mode, func(string) {})
		if err != nil {
			t.Error(err)
			return
		}
		enter(mode)
		then()
		leave(mode)
		if err := errors.Join(locked.Err(), unlock()); err != nil {
			t.Error(err)
		}
	}
	var wait sync.WaitGroup
	for _, mode := range modes {
		wait.Go(func() {
			for range 3 {
				if mode != store.Record {
					lock(mode, func() { time.Sleep(2 * time.Millisecond) })
					continue
				}
				lock(store.Shared, func() { lock(mode, func() { time.Sleep(2 * time.Millisecond) }) })
			}
		})
	}
	wait.Wait()
}
