// Package units asks systemd about the units of this VM and has it restart, reload and stop them. It also measures for
// how long a restart interrupted a unit, and reads what a unit logged last.
//
// It uses systemd's private socket, so it works before the message bus runs and while the bus is reloaded.
//
// It speaks D-Bus itself rather than with a library (wire.go, design/0022). systemd sends every connected client
// signals about every unit and job that appears, changes or disappears: hundreds while a guest boots and while systemd
// reloads, each of which a library decodes by reflection before it is dropped. And an assessment reads about a hundred
// properties, each of which cost the library a goroutine.
package units

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"syscall"
	"time"
)

const (
	callLimit = 30 * time.Second
	// reloadLimit is long: a reload runs every generator and reads every unit.
	reloadLimit = 2 * time.Minute
	// JobLimit is longer than systemd's default times to stop and to start together (90 s each). maxJob bounds a unit
	// that sets longer times.
	JobLimit = 4 * time.Minute
	maxJob   = 20 * time.Minute

	reconnectPause = 50 * time.Millisecond
)

// Manager is systemd as PID 1. Each call has a connection of its own. An idle connection is kept for a second: a new
// one costs systemd 36 ms under emulation, and an idle one costs it the signals that it sends.
type Manager struct {
	mutex sync.Mutex
	idle  *connection
	ends  *time.Timer
}

// State is the state of the whole system: "starting", "running", "degraded" and so on, as systemctl is-system-running
// prints it.
func (m *Manager) State(ctx context.Context) (string, error) { return m.own(ctx, "SystemState") }

// own reads a property of the manager itself, which is a text.
func (m *Manager) own(ctx context.Context, name string) (string, error) {
	values, err := m.get(ctx, property{"", managerInterface, name})
	if err != nil {
		return "", err
	}
	return values[0].text(), nil
}

// get reads properties. It returns one value for each.
func (m *Manager) get(ctx context.Context, properties ...property) (values []value, err error) {
	err = m.connected(ctx, callLimit, func(c *connection) (err error) {
		values, err = c.get(properties)
		return err
	})
	return values, err
}

// call calls a method of systemd whose result does not matter. what describes it in an error.
func (m *Manager) call(ctx context.Context, limit time.Duration, what, method string, args ...string) error {
	return m.connected(ctx, limit, func(c *connection) error {
		if _, err := c.call(nil, method, texts(args...)); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		return nil
	})
}

// ActiveState returns the state of a unit: "active", "failed" and so on. A unit that is not loaded is "inactive".
func (m *Manager) ActiveState(ctx context.Context, name string) (string, error) {
	values, err := m.get(ctx, property{name, unitInterface, "ActiveState"})
	if err != nil {
		return "", err
	}
	return values[0].text(), nil
}

// Reload has systemd read its configuration and all units again (daemon-reload).
func (m *Manager) Reload(ctx context.Context) error {
	return m.call(ctx, reloadLimit, "reload systemd", "Reload")
}

// Reexecute has PID 1 execute the current binary of systemd (daemon-reexec), which keeps all state, and waits until it
// answers.
func (m *Manager) Reexecute(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, reloadLimit)
	defer cancel()
	err := m.connected(ctx, reloadLimit, func(c *connection) error {
		// There is no reply: the connection ends when the new binary is executed.
		_, err := c.call(nil, "Reexecute", texts())
		if errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) {
			return nil
		}
		return fmt.Errorf("re-execute systemd: it did not close the connection: %w", err)
	})
	if err != nil {
		return err
	}
	return m.awaitAnswer(ctx)
}

func (m *Manager) awaitAnswer(ctx context.Context) error {
	for {
		_, err := m.State(ctx)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("re-execute systemd: it does not answer again: %w", errors.Join(ctx.Err(), err))
		case <-time.After(reconnectPause):
		}
	}
}
