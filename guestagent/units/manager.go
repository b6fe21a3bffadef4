// Package units talks to systemd about the units of this VM: what they read, restart and reload with the time they
// were interrupted, and what they logged last.
//
// It uses systemd's own socket, so it works before the message bus is up and while the bus is being reloaded.
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
	// reloadLimit is long: a reload parses every unit and runs every generator.
	reloadLimit = 2 * time.Minute
	// JobLimit is longer than systemd's own default time to stop and to start together (90 s each), maxJob what a unit may
	// ask for.
	JobLimit = 4 * time.Minute
	maxJob   = 20 * time.Minute

	reconnectPause = 50 * time.Millisecond
)

// Manager is systemd as PID 1. A call takes a connection for itself. One that is free is kept for a second: to begin one costs
// systemd 36 ms under emulation, and to tell one that stays of all that happens costs it, too.
type Manager struct {
	mutex sync.Mutex
	idle  *conversation
	ends  *time.Timer
}

// State is the manager's own: "starting", "running", "degraded" and so on, as systemctl is-system-running prints.
func (m *Manager) State(ctx context.Context) (string, error) { return m.own(ctx, "SystemState") }

// own returns a text that is a property of the manager itself.
func (m *Manager) own(ctx context.Context, property string) (string, error) {
	answers, err := m.ask(ctx, question{"", managerFace, property})
	if err != nil {
		return "", err
	}
	return answers[0].text(), nil
}

// ask returns as many answers as there are questions.
func (m *Manager) ask(ctx context.Context, questions ...question) (answers []answer, err error) {
	err = m.converse(ctx, callLimit, func(c *conversation) (err error) {
		answers, err = c.ask(questions)
		return err
	})
	return answers, err
}

// call calls a method of systemd that answers nothing which is of interest.
func (m *Manager) call(ctx context.Context, limit time.Duration, what, method string, args ...string) error {
	return m.converse(ctx, limit, func(c *conversation) error {
		if _, err := c.call(nil, method, texts(args...)); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
		return nil
	})
}

// ActiveState of a unit: "active", "failed" and so on. A unit that is not loaded is "inactive".
func (m *Manager) ActiveState(ctx context.Context, name string) (string, error) {
	answers, err := m.ask(ctx, question{name, unitFace, "ActiveState"})
	if err != nil {
		return "", err
	}
	return answers[0].text(), nil
}

// Reload has systemd read its configuration and all units again.
func (m *Manager) Reload(ctx context.Context) error {
	return m.call(ctx, reloadLimit, "reload systemd", "Reload")
}

// Reexecute has PID 1 run its present binary, keeping all state, and waits until the new one answers.
func (m *Manager) Reexecute(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, reloadLimit)
	defer cancel()
	err := m.converse(ctx, reloadLimit, func(c *conversation) error {
		// There is no answer: the connection ends when the new binary takes over.
		_, err := c.call(nil, "Reexecute", texts())
		if errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET) {
			return nil
		}
		return fmt.Errorf("re-execute systemd: it did not let go of the connection: %w", err)
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
