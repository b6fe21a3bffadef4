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

// privateSocket is the socket on which systemd itself listens, for root only. Tests use another one.
var privateSocket = "/run/systemd/private"

// connection is a connection to systemd. systemd also sends signals of all that happens, which have to be read.
type connection struct {
	out io.Writer
	in  messages
	// sent is the number of messages that were sent.
	sent   uint32
	socket *net.UnixConn
}

// connected calls use with a connection to systemd that no other call uses meanwhile. It ends after limit.
func (m *Manager) connected(ctx context.Context, limit time.Duration, use func(c *connection) error) error {
	ctx, cancel := context.WithTimeout(ctx, limit)
	defer cancel()
	c := m.takeIdle()
	fresh := c == nil
	if fresh {
		socket, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: privateSocket, Net: "unix"})
		if err != nil {
			return fmt.Errorf("connect to systemd: %w", err)
		}
		c = &connection{out: socket, in: messages{from: socket}, socket: socket}
	}
	stop := context.AfterFunc(ctx, func() { _ = c.socket.SetDeadline(time.Unix(1, 0)) })
	var err error
	if fresh {
		err = c.authenticate()
	}
	if err == nil {
		err = use(c)
	}
	if stop() && err == nil {
		m.keepIdle(c)
		return nil
	}
	if err != nil && ctx.Err() != nil {
		err = fmt.Errorf("%w: %w", ctx.Err(), err)
	}
	return errors.Join(err, c.socket.Close()) // replies may still be missing
}

// keepFor is how long an idle connection is kept. Tests use other times.
var keepFor = time.Second

// keepIdle keeps a connection for the next call.
func (m *Manager) keepIdle(c *connection) {
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

// takeIdle returns the idle connection, nil if there is none or systemd has closed it.
func (m *Manager) takeIdle() *connection {
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

// close closes a connection on which no reply is missing.
func (c *connection) close() {
	if c != nil {
		_ = c.socket.Close()
	}
}

// alive reports whether systemd has not closed the connection, which it does when it re-executes itself.
func (c *connection) alive() bool {
	raw, err := c.socket.SyscallConn()
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

// authenticate opens the D-Bus session (D-Bus Specification, "Authentication Protocol").
func (c *connection) authenticate() error {
	// No call may be sent before systemd has read BEGIN: a call that arrives in the same read is not looked at until
	// more arrives (sd-bus/bus-socket.c). Once systemd has sent OK it has read BEGIN.
	user := hex.EncodeToString([]byte(strconv.Itoa(os.Getuid())))
	if _, err := io.WriteString(c.out, "\x00AUTH EXTERNAL "+user+"\r\nBEGIN\r\n"); err != nil {
		return fmt.Errorf("ask systemd: %w", err)
	}
	if line, err := c.in.line(); err != nil || !strings.HasPrefix(string(line), "OK ") {
		return errors.Join(err, fmt.Errorf("ask systemd: it refuses this process: %q", line))
	}
	return nil
}
