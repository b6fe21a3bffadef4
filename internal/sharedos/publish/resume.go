package publish

import (
	"context"
	"fmt"
	"time"
)

// resumeLimit bounds how long Resume waits for others that use the store.
const resumeLimit = 10 * time.Second

// Resume finishes the deletion of the last base if its process was killed: the record of the base
// is gone, and its objects, a lock and the pool are left. It does nothing if the store has a base
// or a private disk, whose collections delete what is left. inUse is as in Delete.
func (p *Publisher) Resume(ctx context.Context, inUse InUse) error {
	left, err := p.Store.Unfinished(ctx)
	if err != nil || !left {
		return err
	}
	// A process that publishes the first release holds a lock.
	ctx, cancel := context.WithTimeout(ctx, resumeLimit)
	defer cancel()
	if err := p.Collect(ctx, inUse); err != nil {
		return fmt.Errorf("finish a deletion: %w", err)
	}
	return nil
}
