package provider

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/hashicorp/terraform-plugin-log/tflog"
)

// progress writes each step of an operation to Terraform's log, where TF_LOG_PROVIDER=INFO shows it. It remembers the
// last step, so that an error can name the step at which the operation failed.
type progress struct {
	ctx    context.Context
	object string

	mu    sync.Mutex
	last  string
	shown time.Time
}

// progressInterval is the minimum time between two log entries for the same step.
const progressInterval = 2 * time.Second

func newProgress(ctx context.Context, object string) *progress {
	return &progress{ctx: ctx, object: object}
}

// step records a new step. It is a vm.Progress.
func (p *progress) step(step string) { p.part(step, 0, 0) }

// part records a step and how far it is. It is a source.Progress, which may be called often.
func (p *progress) part(step string, done, total int64) {
	p.mu.Lock()
	now := time.Now()
	same := step == p.last && now.Sub(p.shown) < progressInterval
	p.last = step
	if !same {
		p.shown = now
	}
	p.mu.Unlock()
	if same {
		return
	}
	fields := map[string]any{"object": p.object}
	if total > 0 {
		fields["progress"] = fmt.Sprintf("%d%%", 100*done/total)
	}
	tflog.Info(p.ctx, showable(step), fields)
}

// at returns the last step.
func (p *progress) at() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	return showable(p.last)
}
