package units

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"
)

// privateSocket is where systemd itself listens, for root only. Tests have another.
var privateSocket = "/run/systemd/private"

// conversation is a connection over which systemd is asked. It tells of all that happens there, too, which has to be heard.
type conversation struct {
	with io.Writer
	in   messages
	// sent is how many messages were sent.
	sent uint32
	conn *net.UnixConn
}

// converse has systemd asked for as long as ask takes, over a connection that nobody else uses meanwhile, but no longer than limit.
func (m *Manager) converse(ctx context.Context, limit time.Duration, ask func(c *conversation) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	c := m.kept()
	fresh := c == nil
	if fresh {
		conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: privateSocket, Net: "unix"})
		if err != nil {
			return fmt.Errorf("connect to systemd: %w", err)
		}
		c = &conversation{with: conn, in: messages{from: conn}, conn: conn}
	}
	cut := context.AfterFunc(ctx, func() { _ = c.conn.SetDeadline(time.Unix(1, 0)) })
	var err error
	if fresh {
		err = c.greet()
	}
	if err == nil {
		err = ask(c)
	}
	if cut() && err == nil {
		m.keep(c)
		return nil
	}
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("%w: %w", ctx.Err(), err)
	}
	return errors.Join(err, c.conn.Close()) // answers may be missing on it
}

// keepFor is how long a connection is kept that nobody uses. Tests have other times.
var keepFor = time.Second

// keep keeps a connection for whoever asks next.
func (m *Manager) keep(c *conversation) {
	m.mutex.Lock()
	before := m.idle
	m.idle = c
	if m.ends == nil {
		m.ends = time.AfterFunc(keepFor, m.drop)
	} else {
		m.ends.Reset(keepFor)
	}
	m.mutex.Unlock()
	before.close()
}

// kept returns the connection that was kept, if there is one that systemd has not closed.
func (m *Manager) kept() *conversation {
	m.mutex.Lock()
	c := m.idle
	m.idle = nil
	m.mutex.Unlock()
	if c == nil || c.alive() {
		return c
	}
	c.close()
	return nil
}

func (m *Manager) drop() {
	m.mutex.Lock()
	c := m.idle
	m.idle = nil
	m.mutex.Unlock()
	c.close()
}

// close ends a conversation in which all was answered.
func (c *conversation) close() {
	if c != nil {
		_ = c.conn.Close()
	}
}

// alive reports whether systemd has not closed the connection, as it does when it is re-executed.
func (c *conversation) alive() bool {
	raw, err := c.conn.SyscallConn()
	if err != nil {
		return false
	}
	alive := false
	err = raw.Control(func(fd uintptr) {
		poll := []unix.PollFd{{Fd: int32(fd), Events: unix.POLLRDHUP}}
		n, err := unix.Poll(poll, 0)
		alive = err == nil && n == 0
	})
	return err == nil && alive
}

// greet begins a conversation (D-Bus Specification, "Authentication Protocol").
func (c *conversation) greet() error {
	// systemd must have read BEGIN before a question comes: it takes what comes with it for read already, and hears it when
	// something else comes (sd-bus/bus-socket.c). It hears BEGIN when it has said OK.
	if _, err := io.WriteString(c.with, "\x00AUTH EXTERNAL "+hex.EncodeToString([]byte(strconv.Itoa(os.Getuid())))+"\r\nBEGIN\r\n"); err != nil {
		return fmt.Errorf("ask systemd: %w", err)
	}
	if line, err := c.in.line(); err != nil || !strings.HasPrefix(string(line), "OK ") {
		return errors.Join(err, fmt.Errorf("ask systemd: it does not let this process in: %q", line))
	}
	return nil
}
