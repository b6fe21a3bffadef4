package libvirtconn

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"sync"
	"syscall"
	"time"

	"github.com/digitalocean/go-libvirt"
)

const (
	// callTimeout bounds a call if its context does not. Starting a domain on a busy host takes long.
	callTimeout = 2 * time.Minute
	// connectTimeout bounds opening a connection.
	connectTimeout = 20 * time.Second
	// closeTimeout bounds how long a call may take to notice that its connection is closed.
	closeTimeout = 10 * time.Second
	// maxIdle is how many idle connections are kept.
	maxIdle = 4
)

// Machine is what a Client uses of the machine that libvirt runs on (package machine).
type Machine interface {
	Exists(ctx context.Context, path string) (bool, error)
	IsRoot(ctx context.Context) (bool, error)
	Run(ctx context.Context, command ...string) error
	DialUnix(ctx context.Context, path string) (net.Conn, error)
}

// Client makes calls to one libvirt. It is safe for concurrent use.
type Client struct {
	address Address
	machine Machine

	mu     sync.Mutex
	idle   []*session
	closed bool
}

// session is one connection. One call uses it at a time.
type session struct {
	*libvirt.Libvirt
	conn net.Conn
}

// Open connects to the libvirt of a machine. It starts libvirt if the URI is that of the system's
// libvirt and none runs. ErrUnreachable if that fails.
func Open(ctx context.Context, uri string, machine Machine) (*Client, error) {
	address, err := ParseAddress(uri, environment)
	if err != nil {
		return nil, err
	}
	c := &Client{address: address, machine: machine}
	err = c.Call(ctx, "connect", func(*libvirt.Libvirt) error { return nil })
	if err != nil && address.System && nobodyListens(err) {
		if startErr := c.start(ctx); startErr != nil {
			return nil, fmt.Errorf("%w; starting it failed: %w", err, startErr)
		}
		err = c.Call(ctx, "connect", func(*libvirt.Libvirt) error { return nil })
	}
	if err != nil {
		return nil, err
	}
	return c, nil
}

// nobodyListens reports whether a connection failed because libvirt does not run.
func nobodyListens(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED)
}

// URI is the URI that the client was opened with, or the default.
func (c *Client) URI() string { return c.address.URI }

// Call runs fn with a connection that nobody else uses meanwhile. When ctx ends, and after two
// minutes, it closes the connection, so that fn fails. An answer of libvirt is a libvirt.Error,
// which Is matches. No answer is ErrUnreachable. fn must not keep the connection.
func (c *Client) Call(ctx context.Context, what string, fn func(*libvirt.Libvirt) error) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	bounded, cancel := context.WithTimeout(ctx, callTimeout)
	defer cancel()
	s, err := c.lease(bounded)
	if err != nil {
		return c.explain(ctx, what, err)
	}
	err = s.bound(bounded, func() error { return fn(s.Libvirt) })
	switch {
	case bounded.Err() != nil && err != nil:
		s.abandon()
		return c.explain(ctx, what, errors.Join(bounded.Err(), err))
	case err != nil && s.lost(err):
		s.abandon()
		return c.explain(ctx, what, err)
	}
	c.giveBack(s)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// explain returns the end of the caller's context, libvirt's answer, or ErrUnreachable with the next step.
func (c *Client) explain(ctx context.Context, what string, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%s: %w", what, ctx.Err())
	}
	var answer libvirt.Error
	if errors.As(err, &answer) {
		return fmt.Errorf("%s: libvirt at %s refuses the connection: %w", what, c.address.URI, err)
	}
	next := "check that it runs (systemctl status libvirtd) and that the URI is right"
	if errors.Is(err, fs.ErrPermission) {
		next = "run as root, or add this user to the group libvirt and log in again"
	}
	return fmt.Errorf("%s: %w at %s: %w; %s", what, ErrUnreachable, c.address.URI, err, next)
}

// bound runs fn, and closes the connection under it when ctx ends.
func (s *session) bound(ctx context.Context, fn func() error) error {
	done := make(chan error, 1)
	go func() { done <- fn() }()
	select {
	case err := <-done:
		return err
	case <-ctx.Done():
	}
	_ = s.conn.Close() // this makes fn return
	timer := time.NewTimer(closeTimeout)
	defer timer.Stop()
	select {
	case err := <-done:
		// fn may have succeeded in the last moment.
		return err
	case <-timer.C:
		return ctx.Err()
	}
}

// lost reports whether the connection cannot be used any more.
func (s *session) lost(err error) bool { return ofConnection(err) || !s.IsConnected() }

// ofConnection reports whether err is a failure of the connection and not an answer of libvirt.
func ofConnection(err error) bool {
	var network net.Error
	var number syscall.Errno
	return errors.Is(err, libvirt.ErrInterrupted) || errors.As(err, &network) || errors.As(err, &number)
}

func (s *session) abandon() {
	_ = s.conn.Close() // nothing is sent on it any more
}

func (c *Client) lease(ctx context.Context) (*session, error) {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return nil, net.ErrClosed
	}
	for len(c.idle) > 0 {
		s := c.idle[len(c.idle)-1]
		c.idle = c.idle[:len(c.idle)-1]
		if s.IsConnected() {
			c.mu.Unlock()
			return s, nil
		}
		s.abandon()
	}
	c.mu.Unlock()
	return c.connect(ctx)
}

func (c *Client) giveBack(s *session) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed || len(c.idle) >= maxIdle || !s.IsConnected() {
		s.abandon()
		return
	}
	c.idle = append(c.idle, s)
}

// Close closes idle connections. Calls in progress continue.
func (c *Client) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for _, s := range c.idle {
		s.abandon()
	}
	c.idle = nil
	return nil
}

// opened is a dialer for go-libvirt, whose dialers take no context. It returns a connection that is open already.
type opened struct{ net.Conn }

func (o opened) Dial() (net.Conn, error) { return o.Conn, nil }

// connecting is a connection on which go-libvirt is executing ConnectToURI.
type connecting struct {
	net.Conn
	// connected is closed when ConnectToURI has returned.
	connected chan struct{}
}

// lossDelay is how long the loss of a connection is withheld from ConnectToURI.
const lossDelay = 100 * time.Millisecond

// Read implements net.Conn. At its end, ConnectToURI creates a channel, and another goroutine of
// go-libvirt reads that channel as soon as the connection is lost. If the connection is lost in
// between, the two race. So a loss is reported only after ConnectToURI has returned, or after a
// short delay, because ConnectToURI itself may be waiting for the loss.
func (c connecting) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n == 0 && err != nil {
		timer := time.NewTimer(lossDelay)
		defer timer.Stop()
		select {
		case <-c.connected:
		case <-timer.C:
		}
	}
	return n, err
}

func (c *Client) connect(ctx context.Context) (*session, error) {
	ctx, cancel := context.WithTimeout(ctx, connectTimeout)
	defer cancel()
	conn, err := c.dial(ctx)
	if err != nil {
		return nil, err
	}
	connected := make(chan struct{})
	s := &session{Libvirt: libvirt.NewWithDialer(opened{connecting{conn, connected}}), conn: conn}
	err = s.bound(ctx, func() error {
		defer close(connected)
		return s.ConnectToURI(libvirt.ConnectURI(c.address.Driver))
	})
	if err != nil {
		s.abandon()
		return nil, err
	}
	return s, nil
}

// dial connects to the first socket that somebody listens on. If there is none, the error is that
// of the socket that exists.
func (c *Client) dial(ctx context.Context) (net.Conn, error) {
	var failed error
	for _, socket := range c.address.Sockets {
		conn, err := c.machine.DialUnix(ctx, socket)
		if err == nil {
			return conn, nil
		}
		if failed == nil || errors.Is(failed, fs.ErrNotExist) && !errors.Is(err, fs.ErrNotExist) {
			failed = err
		}
	}
	return nil, failed
}
