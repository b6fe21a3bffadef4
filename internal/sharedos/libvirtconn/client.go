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
	// callTimeout bounds a call whose context does not end earlier. Starting a domain on a busy host takes long.
	callTimeout = 2 * time.Minute
	// connectTimeout bounds getting a connection into working order.
	connectTimeout = 20 * time.Second
	// closeTimeout bounds how long a call may take to notice that its connection is closed.
	closeTimeout = 10 * time.Second
	// maxIdle is how many connections are kept for later.
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

// session is one connection. One call has it at a time.
type session struct {
	*libvirt.Libvirt
	conn net.Conn
}

// Open checks that libvirt answers at the URI, and starts it if the URI is that of the local system and no
// libvirt runs. It returns ErrUnreachable if there is none to be had.
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

// nobodyListens tells a libvirt that does not run from one that refuses or does not answer.
func nobodyListens(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, syscall.ECONNREFUSED)
}

// URI is what the client was opened with, or the default.
func (c *Client) URI() string { return c.address.URI }

// Call runs fn with a connection that nobody else uses. It returns within ctx, and within two minutes: the
// connection is closed then, and calls on it fail. An answer of libvirt itself is a libvirt.Error and matched
// with Is; no answer is ErrUnreachable. fn must not keep the connection.
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

// explain tells the end of the caller's context from a libvirt that does not answer.
func (c *Client) explain(ctx context.Context, what string, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("%s: %w", what, ctx.Err())
	}
	var answer libvirt.Error
	if errors.As(err, &answer) {
		return fmt.Errorf("%s: libvirt at %s refuses the connection: %w", what, c.address.URI, err)
	}
	next := "see that it runs (systemctl status libvirtd) and that the URI is right"
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
	_ = s.conn.Close() // its only purpose now is to make fn return
	timer := time.NewTimer(closeTimeout)
	defer timer.Stop()
	select {
	case err := <-done:
		// What came in the last moment counts.
		return err
	case <-timer.C:
		return ctx.Err()
	}
}

// lost reports whether err says more about the connection than about what was asked.
func (s *session) lost(err error) bool { return ofConnection(err) || !s.IsConnected() }

// ofConnection reports whether err came from a connection that does not work.
func ofConnection(err error) bool {
	var network net.Error
	var number syscall.Errno
	return errors.Is(err, libvirt.ErrInterrupted) || errors.As(err, &network) || errors.As(err, &number)
}

func (s *session) abandon() {
	_ = s.conn.Close() // nothing more is sent on it
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

// Close closes what idles. Calls under way go on.
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

// opened is a dialer of a connection that is there already: dialing has a context, and libvirt's own has none.
type opened struct{ net.Conn }

func (o opened) Dial() (net.Conn, error) { return o.Conn, nil }

// connecting is a connection that the library is still making itself at home on.
type connecting struct {
	net.Conn
	// known is closed once the library knows how that ended.
	known chan struct{}
}

// lossHeld is how long the loss of a connection is held back while connecting may just have succeeded.
const lossHeld = 100 * time.Millisecond

// Read implements net.Conn. The library's ConnectToURI makes the channel that tells a loss when all else is done, and its
// watcher looks at that channel as soon as the connection is lost: whoever is cut off in between races with himself. So a
// loss is told only when connecting has ended; or a little later, since it may be what ends it.
func (c connecting) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n == 0 && err != nil {
		timer := time.NewTimer(lossHeld)
		defer timer.Stop()
		select {
		case <-c.known:
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
	known := make(chan struct{})
	s := &session{Libvirt: libvirt.NewWithDialer(opened{connecting{conn, known}}), conn: conn}
	err = s.bound(ctx, func() error {
		defer close(known)
		return s.ConnectToURI(libvirt.ConnectURI(c.address.Driver))
	})
	if err != nil {
		s.abandon()
		return nil, err
	}
	return s, nil
}

// dial connects to the first socket that somebody listens on. If there is none, the error is that of the socket that exists.
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
