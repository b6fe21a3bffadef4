package service

import (
	"context"
	"errors"
	"fmt"
	"time"
)

const (
	// upLimit is how long a boot may take to come up, upPause how often it is asked whether it did.
	upLimit = 10 * time.Minute
	upPause = 2 * time.Second
)

// errNotUp means that a boot did not come up within its window.
var errNotUp = errors.New("the system did not come up")

// window watches over a boot until it has come up. Every boot is counted before it is tried, and one that comes up is
// not counted any more: a stack that does not comes to its limit, and then init takes another one.
type window struct {
	// alone is true when there is no other stack to boot: then the system is left as it is, for somebody to repair.
	alone bool
	// limit and pause are upLimit and upPause.
	limit, pause time.Duration
	// state of the manager.
	state func(ctx context.Context) (string, error)
	// judged reports whether a refresh watches over this boot, and judges it by more than this.
	judged func() bool
	// good tells that the stack comes up, restart has the machine start again.
	good    func() error
	restart func(ctx context.Context) error
}

// watch returns when the boot has come up, when it restarts the machine, or when ctx ends.
func (w window) watch(ctx context.Context) error {
	end := time.Now().Add(w.limit)
	for {
		state, err := w.state(ctx)
		switch {
		case w.judged():
			end = time.Now().Add(w.limit)
		case err == nil && (state == "running" || state == "degraded"):
			return w.good()
		case err == nil && state == "maintenance" || time.Now().After(end):
			down := fmt.Errorf("%w: it is %q", errNotUp, state)
			if w.alone {
				return errors.Join(down, err)
			}
			return errors.Join(down, err, w.restart(ctx))
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the system to come up, it is %q: %w", state, errors.Join(ctx.Err(), err))
		case <-time.After(w.pause):
		}
	}
}
