// Package units talks to systemd about the units of this VM: what they read, restart and reload with the time they
// were interrupted, and what they logged last.
//
// It uses systemd's own socket, so it works before the message bus is up and while the bus is being reloaded.
package units

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strconv"
	"sync"
	"time"

	systemd "github.com/coreos/go-systemd/v22/dbus"
	"github.com/godbus/dbus/v5"
)

const (
	// privateSocket is where systemd itself listens, for root only.
	privateSocket = "/run/systemd/private"
	managerObject = dbus.ObjectPath("/org/freedesktop/systemd1")
	busName       = "org.freedesktop.systemd1"
	managerFace   = "org.freedesktop.systemd1.Manager"

	callLimit = 30 * time.Second
	// reloadLimit is long: a reload parses every unit and runs every generator.
	reloadLimit = 2 * time.Minute
	// JobLimit is longer than systemd's own default time to stop and to start together (90 s each), maxJob what a unit may
	// ask for.
	JobLimit = 4 * time.Minute
	maxJob   = 20 * time.Minute

	reconnectPause = 50 * time.Millisecond
)

// Manager is systemd as PID 1. It connects when it is first asked, and again after a connection was lost.
type Manager struct {
	mutex sync.Mutex
	conn  *systemd.Conn
	raw   *dbus.Conn
}

// Close gives the connection up.
func (m *Manager) Close() {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	m.drop()
}

func (m *Manager) drop() {
	if m.conn != nil {
		m.conn.Close()
	}
	m.conn, m.raw = nil, nil
}

// connected returns a connection that worked a moment ago.
func (m *Manager) connected(ctx context.Context) (*systemd.Conn, error) {
	m.mutex.Lock()
	defer m.mutex.Unlock()
	if m.conn != nil && m.conn.Connected() {
		return m.conn, nil
	}
	m.drop()
	type dialed struct {
		conn *systemd.Conn
		raw  *dbus.Conn
		err  error
	}
	done := make(chan dialed, 1)
	go func() { // authentication takes no context
		var first *dbus.Conn
		conn, err := systemd.NewConnection(func() (*dbus.Conn, error) {
			raw, err := dial()
			if first == nil {
				first = raw
			}
			return raw, err
		})
		done <- dialed{conn, first, err}
	}()
	select {
	case d := <-done:
		if d.err != nil {
			return nil, fmt.Errorf("connect to systemd: %w", d.err)
		}
		m.conn, m.raw = d.conn, d.raw
		return m.conn, nil
	case <-ctx.Done():
		go func() { // whoever asked is gone: close what may still open
			if d := <-done; d.err == nil {
				d.conn.Close()
			}
		}()
		return nil, fmt.Errorf("connect to systemd: %w", ctx.Err())
	}
}

func dial() (*dbus.Conn, error) {
	conn, err := dbus.Dial("unix:path=" + privateSocket)
	if err != nil {
		return nil, err
	}
	// No Hello: on its own socket systemd is the only peer.
	if err := conn.Auth([]dbus.Auth{dbus.AuthExternal(strconv.Itoa(os.Getuid()))}); err != nil {
		return nil, errors.Join(err, conn.Close())
	}
	return conn, nil
}

// State is the manager's own: "starting", "running", "degraded" and so on, as systemctl is-system-running prints.
func (m *Manager) State(ctx context.Context) (string, error) { return m.own(ctx, "SystemState") }

// own returns a text that is a property of the manager itself.
func (m *Manager) own(ctx context.Context, property string) (text string, err error) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	if _, err := m.connected(ctx); err != nil {
		return "", err
	}
	m.mutex.Lock()
	raw := m.raw
	m.mutex.Unlock()
	if raw == nil {
		return "", fmt.Errorf("ask systemd for its %s: the connection was lost", property)
	}
	call := raw.Object(busName, managerObject).CallWithContext(ctx, "org.freedesktop.DBus.Properties.Get", 0, managerFace, property)
	if err := call.Store(&text); err != nil {
		return "", fmt.Errorf("ask systemd for its %s: %w", property, err)
	}
	return text, nil
}

// unit returns a property of a unit.
func (m *Manager) unit(ctx context.Context, name, property string) (any, error) {
	ctx, cancel := context.WithTimeout(ctx, callLimit)
	defer cancel()
	conn, err := m.connected(ctx)
	if err != nil {
		return nil, err
	}
	answer, err := conn.GetUnitPropertyContext(ctx, name, property)
	if err != nil {
		return nil, fmt.Errorf("ask systemd for %s of %s: %w", property, name, err)
	}
	return answer.Value.Value(), nil
}

// ActiveState of a unit: "active", "failed" and so on. A unit that is not loaded is "inactive".
func (m *Manager) ActiveState(ctx context.Context, name string) (string, error) {
	answer, err := m.unit(ctx, name, "ActiveState")
	if err != nil {
		return "", err
	}
	state, ok := answer.(string)
	if !ok {
		return "", fmt.Errorf("ask systemd for ActiveState of %s: answer %v", name, answer)
	}
	return state, nil
}

// Reload has systemd read its configuration and all units again.
func (m *Manager) Reload(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, reloadLimit)
	defer cancel()
	conn, err := m.connected(ctx)
	if err != nil {
		return err
	}
	if err := conn.ReloadContext(ctx); err != nil {
		return fmt.Errorf("reload systemd: %w", err)
	}
	return nil
}

// Reexecute has PID 1 run its present binary, keeping all state, and waits until the new one answers.
func (m *Manager) Reexecute(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, reloadLimit)
	defer cancel()
	if _, err := m.connected(ctx); err != nil {
		return err
	}
	m.mutex.Lock()
	raw := m.raw
	m.mutex.Unlock()
	// There is no answer: the connection ends when the new binary takes over.
	call := raw.Object(busName, managerObject).CallWithContext(ctx, managerFace+".Reexecute", dbus.FlagNoReplyExpected)
	if call.Err != nil {
		return fmt.Errorf("re-execute systemd: %w", call.Err)
	}
	select {
	case <-raw.Context().Done():
	case <-ctx.Done():
		return fmt.Errorf("re-execute systemd: it did not let go of the connection: %w", ctx.Err())
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
