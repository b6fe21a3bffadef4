package service

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"github.com/containerd/ttrpc"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
)

// callerLimits bound what callers may use.
type callerLimits struct {
	// connections is the maximum number of connections. Further callers wait to be accepted.
	connections int
	// silence ends a connection on which nothing arrives: its other end may have disappeared.
	silence time.Duration
	// life ends a connection however busy it is: with a byte now and then it would never be silent.
	life time.Duration
}

var usualLimits = callerLimits{connections: 32, silence: 10 * time.Minute, life: 2 * time.Hour}

const (
	// firstPause and lastPause are the shortest and the longest pause between attempts to listen.
	firstPause = 100 * time.Millisecond
	lastPause  = 10 * time.Second
)

// serve answers callers on a listener until ctx ends. A listener that fails is replaced by a new one: the CID of a VM
// can change, and the vsock device can be reset. ready is called once, when the first one listens. passed is called
// when a caller connects and when one disconnects.
func serve(ctx context.Context, limits callerLimits, listen func() (net.Listener, error), answers agentapi.AgentService,
	ready func() error, passed func(), say func(error)) error {
	wait := firstPause
	for ctx.Err() == nil {
		began := time.Now()
		err := serveOnce(ctx, limits, listen, answers, &ready, passed)
		if ctx.Err() != nil {
			return nil
		}
		if time.Since(began) > lastPause {
			wait = firstPause // the listener worked for a while
		}
		say(fmt.Errorf("listening again in %v: %w", wait, err))
		timer := time.NewTimer(wait)
		select {
		case <-ctx.Done():
		case <-timer.C:
		}
		timer.Stop()
		wait = min(2*wait, lastPause)
	}
	return nil
}

func serveOnce(ctx context.Context, limits callerLimits, listen func() (net.Listener, error),
	answers agentapi.AgentService, ready *func() error, passed func()) (err error) {
	listener, err := listen()
	if err != nil {
		return err
	}
	limited := &limitedListener{Listener: listener, limits: limits, slots: make(chan struct{}, limits.connections),
		closed: make(chan struct{}), passed: passed}
	server, err := ttrpc.NewServer()
	if err != nil {
		return errors.Join(fmt.Errorf("make the server: %w", err), limited.Close())
	}
	agentapi.RegisterAgentService(server, answers)
	if *ready != nil {
		if err := (*ready)(); err != nil {
			return errors.Join(err, limited.Close())
		}
		*ready = nil
	}
	stop := context.AfterFunc(ctx, func() {
		_ = server.Close() // ends Serve and every connection, whose errors do not matter any more
		_ = limited.Close()
	})
	defer stop()
	err = server.Serve(ctx, limited)
	// The connections of a failed listener belong to a device that is gone.
	return errors.Join(err, server.Close(), limited.Close())
}

// limitedListener accepts a bounded number of connections, each with bounds on its silence and its life.
type limitedListener struct {
	net.Listener
	limits callerLimits
	slots  chan struct{}
	// passed is called when a caller connects, and when one disconnects.
	passed func()
	once   sync.Once
	closed chan struct{}
	err    error
}

func (l *limitedListener) Accept() (net.Conn, error) {
	select {
	case l.slots <- struct{}{}:
	case <-l.closed:
		return nil, net.ErrClosed
	}
	conn, err := l.Listener.Accept()
	if err != nil {
		<-l.slots
		return nil, err
	}
	l.passed()
	return &limitedConn{Conn: conn, silence: l.limits.silence, end: time.Now().Add(l.limits.life),
		release: sync.OnceFunc(func() {
			<-l.slots
			l.passed()
		})}, nil
}

// Close closes the listener. It can be called twice, since ttrpc closes it, too.
func (l *limitedListener) Close() error {
	l.once.Do(func() {
		close(l.closed)
		if err := l.Listener.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			l.err = err
		}
	})
	return l.err
}

type limitedConn struct {
	net.Conn
	silence time.Duration
	// end is the end of its life, by the monotonic clock.
	end     time.Time
	release func()
}

// deadline is the deadline of a read or a write that starts now.
func (c *limitedConn) deadline() time.Time {
	if next := time.Now().Add(c.silence); next.Before(c.end) {
		return next
	}
	return c.end
}

func (c *limitedConn) Read(data []byte) (int, error) {
	if err := c.SetReadDeadline(c.deadline()); err != nil {
		return 0, err
	}
	n, err := c.Conn.Read(data)
	if err != nil {
		// ttrpc closes a connection only at its end. After any other error, such as a deadline, it would keep the
		// connection and its slot for ever.
		err = io.EOF
	}
	return n, err
}

func (c *limitedConn) Write(data []byte) (int, error) {
	if err := c.SetWriteDeadline(c.deadline()); err != nil {
		return 0, err
	}
	return c.Conn.Write(data)
}

func (c *limitedConn) Close() error {
	defer c.release()
	return c.Conn.Close()
}
