package live

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/mounts"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

const (
	// refreshSample and StatusSample are how many blocks of each layer are read, of 4 KiB.
	refreshSample = 256
	StatusSample  = 16
	// checkLimit bounds the check of one layer: a read from a disk whose host does not answer never ends.
	checkLimit = 5 * time.Second
)

// ErrNoRead means that a check of a layer does not end in time. Either a read from its disk hangs, or the whole layer is
// being read again because dm-verity once found a bad block in it.
var ErrNoRead = errors.New("no end of the check: a read from its disk hangs, or all of it is being read again after a bad block")

// checks are the checks that have not ended, by layer: a second one is not started.
var checks = struct {
	sync.Mutex
	running map[tree.Digest]chan error
}{running: map[tree.Digest]chan error{}}

// CheckLayer is mounts.CheckLayer with a bound: ErrNoRead if it does not end.
func CheckLayer(ctx context.Context, layer release.Layer, blocks int) error {
	return bounded(ctx, layer.ID, checkLimit, func() error { return mounts.CheckLayer(ctx, layer, blocks) })
}

// bounded waits for a check until a limit. A check that does not end by then is still in the kernel, where nothing can
// end it. The next call waits for it instead of starting another one.
func bounded(ctx context.Context, id tree.Digest, limit time.Duration, check func() error) error {
	checks.Lock()
	ended, running := checks.running[id]
	if !running {
		ended = make(chan error, 1)
		checks.running[id] = ended
		go func() {
			err := check()
			checks.Lock()
			delete(checks.running, id)
			checks.Unlock()
			ended <- err
		}()
	}
	checks.Unlock()
	timer := time.NewTimer(limit)
	defer timer.Stop()
	select {
	case err := <-ended:
		ended <- err // for others that wait
		return err
	case <-timer.C:
		return fmt.Errorf("check layer %s: %w within %v", id, ErrNoRead, limit)
	case <-ctx.Done():
		return fmt.Errorf("check layer %s: %w", id, ctx.Err())
	}
}
