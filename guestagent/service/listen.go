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

// callerLimits bound what callers may take.
type callerLimits struct {
	// connections is how many may be connected at once; further ones wait to be accepted.
	connections int
	// silence ends a connection on which nothing was heard: its other end may be gone without a word.
	silence time.Duration
	// life ends a connection however busy it is: one on which a byte comes now and then would never be silent.
	life time.Duration
}

var usualLimits = callerLimits{connections: 32, silence: 10 * time.Minute, life: 2 * time.Hour}

const (
	// firstPause and lastPause are between attempts to listen.
	firstPause = 100 * time.Millisecond
	lastPause  = 10 * time.Second
)

// serve answers on listeners that listen makes, until ctx ends. A listener that fails is made anew: the CID of a VM
// changes, and the vsock device can be reset. ready is called once the first one listens, passed when a caller came
// and when one went.
func serve(ctx context.Context, limits callerLimits, listen func() (net.Listener, error), answers agentapi.AgentService, ready func() error, passed func(), say func(error)) error {
	wait := firstPause
	for ctx.Err() == nil {
		began := time.Now()
		err := serveOnce(ctx, limits, listen, answers, &ready, passed)
		if ctx.Err() != nil {
			return nil
		}
		if time.Since(began) > lastPause {
			wait = firstPause // it worked for a while
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

func serveOnce(ctx context.Context, limits callerLimits, listen func() (net.Listener, error), answers agentapi.AgentService, ready *func() error, passed func()) (err error) {
	listener, err := listen()
	if err != nil {
		return err
	}
	limited := &limitedListener{Listener: listener, limits: limits, slots: make(chan struct{}, limits.connections), closed: make(chan struct{}), passed: passed}
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
		_ = server.Close() // ends Serve and every connection; what it says is of no use any more
		_ = limited.Close()
	})
	defer stop()
	err = server.Serve(ctx, limited)
	// Connections of a listener that failed are of a device that is gone.
	return errors.Join(err, server.Close(), limited.Close())
}

// limitedListener takes a bounded number of connections, each with a bound on silence.
type limitedListener struct {
	net.Listener
	limits callerLimits
	slots  chan struct{}
	// passed is called when a caller came, and when one went.
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
	return &limitedConn{Conn: conn, silence: l.limits.silence, end: time.Now().Add(l.limits.life), release: sync.OnceFunc(func() {
		<-l.slots
		l.passed()
	})}, nil
}

// Close closes the listener once; ttrpc closes it, too.
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
	// end of its life; a monotonic reading, which no change of the clock moves.
	end     time.Time
	release func()
}

// deadline of a read or a write that begins now.
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
		// Whatever keeps a connection from being read, nothing more will come: ttrpc closes one at its end alone, and
		// would keep one that was silent for too long, and its place, for ever.
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
