package vm

import (
	"context"
	"errors"
	"sync"
	"sync/atomic"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// A stack of several components is composed once at a time, and nobody who waits for that outlives his context.
func TestAStackIsComposedByOneOfThoseThatNeedIt(t *testing.T) {
	var s stacks
	two := []tree.Digest{tree.Sum([]byte("a")), tree.Sum([]byte("b"))}
	var composing atomic.Int32
	begun, release := make(chan struct{}), make(chan error)
	compose := func() (*composed, error) {
		composing.Add(1)
		begun <- struct{}{}
		if err := <-release; err != nil {
			return nil, err
		}
		return &composed{}, nil
	}
	var all sync.WaitGroup
	results := make(chan error, 2)
	for range 2 {
		all.Go(func() {
			_, err := s.get(t.Context(), recipe{components: two}, compose)
			results <- err
		})
	}
	<-begun
	ended, cancel := context.WithCancelCause(t.Context())
	cause := errors.New("out of time")
	cancel(cause)
	if _, err := s.get(ended, recipe{components: two}, compose); !errors.Is(err, cause) {
		t.Errorf("who cannot wait: %v", err)
	}
	// Another combination does not wait for this one.
	other := []tree.Digest{two[1], two[0]}
	if _, err := s.get(t.Context(), recipe{components: other},
		func() (*composed, error) { return &composed{}, nil }); err != nil {
		t.Error(err)
	}
	failed := errors.New("failed")
	release <- failed
	<-begun // the other one tries it itself
	release <- nil
	all.Wait()
	if first, second := <-results,
		<-results; !errors.Is(errors.Join(first, second), failed) || first != nil && second != nil {
		t.Errorf("%v, %v: one is to fail, and the other to succeed", first, second)
	}
	if _, err := s.get(t.Context(), recipe{components: two}, nil); err != nil || composing.Load() != 2 {
		t.Errorf("composed %d times, %v", composing.Load(), err)
	}
}
