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

// Systemd is talked to here and not with a library (design/0022). To whoever is connected systemd tells of every unit and job
// that comes, changes and goes: while a guest boots and while systemd reloads, hundreds of things, of which a library makes values
// by reflection before it drops them. And what is known of units is, for an assessment, a hundred properties, each of which
// cost the library a goroutine.
const (
	managerPath  = "/org/freedesktop/systemd1"
	managerFace  = "org.freedesktop.systemd1.Manager"
	unitFace     = "org.freedesktop.systemd1.Unit"
	serviceFace  = "org.freedesktop.systemd1.Service"
	propertyFace = "org.freedesktop.DBus.Properties"

	// askAtOnce bounds what waits in systemd for being read.
	askAtOnce = 256
	// maxAnswer bounds a message, in bytes.
	maxAnswer = 16 << 20
)

// errAnswer means that what systemd says is not what D-Bus has it say.
var errAnswer = errors.New("not a D-Bus message as systemd sends them")

// question is a property of a unit, or of the manager where the unit is "".
type question struct{ unit, face, property string }

// answer is a property's value: texts of those of type s, o, as, and the first of each struct of a(sb), set of b, number of u
// and t, and the first of (uo).
type answer struct {
	texts  []string
	set    bool
	number uint64
}

func (a answer) text() string {
	if len(a.texts) == 0 {
		return ""
	}
	return a.texts[0]
}

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

// keepFor is how long a connection is kept that nobody uses.
const keepFor = time.Second

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

// ask has systemd answer questions, in their order (D-Bus Specification, "Message Protocol").
func (c *conversation) ask(questions []question) ([]answer, error) {
	answers := make([]answer, len(questions))
	var out []byte
	for first := 0; first < len(questions); first += askAtOnce {
		some := questions[first:min(first+askAtOnce, len(questions))]
		for i, q := range some {
			out = appendCall(out, c.sent+uint32(i)+1, objectOf(q.unit), propertyFace, "Get", texts(q.face, q.property))
		}
		if _, err := c.with.Write(out); err != nil {
			return nil, fmt.Errorf("ask systemd: %w", err)
		}
		out = out[:0]
		for left := len(some); left > 0; {
			said, err := c.in.next()
			if err == nil {
				err = said.failure()
			}
			if err != nil {
				return nil, fmt.Errorf("ask systemd: %d answers of %d are missing: %w", left, len(questions), err)
			}
			if said.kind != reply {
				continue // it tells of something
			}
			at := said.to - c.sent - 1 // wraps around for what was answered before
			if at >= uint32(len(some)) {
				return nil, fmt.Errorf("ask systemd: %w: an answer to message %d", errAnswer, said.to)
			}
			if answers[first+int(at)], err = valueOf(said.body); err != nil {
				return nil, fmt.Errorf("ask systemd for %s of %s: %w", some[at].property, some[at].unit, err)
			}
			left--
		}
		c.sent += uint32(len(some))
	}
	return answers, nil
}

// call calls a method of the manager and returns the body of what it answers, which is overwritten by the next message. What
// systemd tells of meanwhile is passed to heard, if that is not nil.
func (c *conversation) call(heard func(message), method string, args arguments) ([]byte, error) {
	c.sent++
	if _, err := c.with.Write(appendCall(nil, c.sent, managerPath, managerFace, method, args)); err != nil {
		return nil, err
	}
	for {
		said, err := c.in.next()
		if err == nil {
			err = said.failure()
		}
		switch {
		case err != nil:
			return nil, err
		case said.kind == reply && said.to == c.sent:
			return said.body, nil
		case said.kind == signal && heard != nil:
			heard(said)
		}
	}
}
