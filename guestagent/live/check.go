package live

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/mounts"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

const (
	// stallLimit is how long a check of a layer may go on without a read that ends. A read from a
	// disk whose host does not answer never ends. A host under load only makes each of them slow.
	stallLimit = 15 * time.Second
)

// What a refresh and a status read of each layer.
var (
	RefreshCheck = mounts.Thoroughness{Blocks: 256}
	StatusCheck  = mounts.Thoroughness{Blocks: 16, Part: 8 << 20}
)

// ErrNoRead means that a read from the disk of a layer hangs.
var ErrNoRead = errors.New("a read from its disk does not end")

// layerCheck is a check that has not ended.
type layerCheck struct {
	ended chan error
	// progress is when the last of its reads ended, as nanoseconds since the Unix epoch.
	progress atomic.Int64
}

// checks are the checks that have not ended, by layer: a second one is not started.
var checks = struct {
	sync.Mutex
	running map[tree.Digest]*layerCheck
}{running: map[tree.Digest]*layerCheck{}}

// CheckLayer is mounts.CheckLayer with a bound: ErrNoRead if one of its reads hangs.
func CheckLayer(ctx context.Context, layer release.Layer, by mounts.Thoroughness) error {
	return bounded(ctx, layer.ID, stallLimit, func(progress func()) error {
		// Another caller may wait for the same check, and for longer.
		return mounts.CheckLayer(context.WithoutCancel(ctx), layer, by, progress)
	})
}

// bounded waits for a check as long as it makes progress at least once in each period of limit. A check that does
// not is in the kernel, where nothing can end it. The next call waits for it instead of starting another one.
func bounded(ctx context.Context, id tree.Digest, limit time.Duration, check func(progress func()) error) error {
	current := startCheck(id, check)
	timer := time.NewTimer(limit)
	defer timer.Stop()
	for {
		select {
		case err := <-current.ended:
			current.ended <- err // for others that wait
			return err
		case <-timer.C:
			left := limit - time.Since(time.Unix(0, current.progress.Load()))
			if left <= 0 {
				return fmt.Errorf("check layer %s: %w within %v", id, ErrNoRead, limit)
			}
			timer.Reset(left)
		case <-ctx.Done():
			return fmt.Errorf("check layer %s: %w", id, ctx.Err())
		}
	}
}

// startCheck starts a check of a layer, or returns the one that is running.
func startCheck(id tree.Digest, check func(progress func()) error) *layerCheck {
	checks.Lock()
	defer checks.Unlock()
	if running, ok := checks.running[id]; ok {
		return running
	}
	started := &layerCheck{ended: make(chan error, 1)}
	progress := func() { started.progress.Store(time.Now().UnixNano()) }
	progress()
	checks.running[id] = started
	go func() {
		err := check(progress)
		checks.Lock()
		delete(checks.running, id)
		checks.Unlock()
		started.ended <- err
	}()
	return started
}
