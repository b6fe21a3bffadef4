package live

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

func TestACheckThatDoesNotEndIsGivenUpAndNotStartedTwice(t *testing.T) {
	id, other := tree.Sum([]byte("layer")), tree.Sum([]byte("other"))
	failure := errors.New("input/output error")
	started, release := make(chan bool, 8), make(chan bool)
	hanging := func(func()) error {
		started <- true
		<-release
		return failure
	}
	for range 3 {
		if err := bounded(t.Context(), id, time.Millisecond, hanging); !errors.Is(err, ErrNoRead) {
			t.Errorf("got %v", err)
		}
	}
	if err := bounded(t.Context(), other, time.Minute, func(func()) error { return nil }); err != nil {
		t.Errorf("another layer: %v", err)
	}
	ended, cancel := context.WithCancel(t.Context())
	cancel()
	if err := bounded(ended, id, time.Minute, hanging); !errors.Is(err, context.Canceled) {
		t.Errorf("got %v", err)
	}
	if len(started) != 1 {
		t.Errorf("it was started %d times", len(started))
	}
	close(release)
	<-started
	// It ends now. The next check is another one, with its own result.
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		if err := bounded(t.Context(), id, time.Minute, func(func()) error { return nil }); err == nil {
			break
		} else if !errors.Is(err, failure) || time.Now().After(end) {
			t.Fatal(err)
		}
	}
}

// A host under load answers slowly. That is not a disk that hangs.
func TestACheckThatGoesOnIsWaitedFor(t *testing.T) {
	const limit = 50 * time.Millisecond
	began := time.Now()
	err := bounded(t.Context(), tree.Sum([]byte("slow layer")), limit, func(progress func()) error {
		for time.Since(began) < 10*limit {
			progress()
			time.Sleep(time.Millisecond)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}
