package service

import (
	"context"
	"errors"
	"fmt"
	"time"
)

const (
	// upLimit bounds how long a boot may take until systemd has started everything, upPause is the time between two
	// checks.
	upLimit = 10 * time.Minute
	upPause = 2 * time.Second
)

// errNotUp means that systemd did not start everything in time.
var errNotUp = errors.New("the system did not come up")

// window watches a boot until systemd has started everything. Init counts every boot of a stack before it tries it, and
// the count is reset once the boot succeeds. When a stack reaches its limit, init boots another one.
type window struct {
	// alone is true when there is no other stack to boot. Then a system that fails stays as it is, for an admin to
	// repair.
	alone bool
	// limit and pause are upLimit and upPause.
	limit, pause time.Duration
	// state returns the state of systemd.
	state func(ctx context.Context) (string, error)
	// judged reports whether a refresh judges this boot, which then decides about it.
	judged func() bool
	// good resets the count of the stack, restart reboots the machine.
	good    func() error
	restart func(ctx context.Context) error
}

// watch returns when the boot has succeeded, when it reboots the machine, or when ctx ends.
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
