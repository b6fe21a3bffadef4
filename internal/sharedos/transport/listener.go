package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"
	"time"
)

// Limits on clients that have not proved who they are: every user of the host can connect to the vsock of a guest.
// There is nothing to tell them apart by, since all of them have the host's CID, so the oldest client gives way to
// the newest. A client with an operator's key sends its first message at once and has finished a moment later.
const (
	// MaxSilent is how many clients may have sent nothing yet. They take hardly any memory.
	MaxSilent = 128
	// MaxHandshakes is how many TLS handshakes may be in progress.
	MaxHandshakes = 16
	// maxWaiting is how many clients with an operator's key may wait for Accept. None of them ever gives way.
	maxWaiting = 64
)

// silentTimeout bounds the wait for a client's first byte, and handshakeTimeout its handshake. An emulated guest needs
// about 100 ms for one.
const (
	silentTimeout    = 5 * time.Second
	handshakeTimeout = 10 * time.Second
)

// Listener accepts connections that have completed their TLS handshake. Handshakes run
// concurrently, each with limits on its time and on the number of others. No number of clients that
// send nothing, or only a part of a handshake, keeps out a client with an operator's key.
type Listener struct {
	inner             net.Listener
	config            *tls.Config
	silent, handshake line
	waiting           chan struct{}
	ready             chan net.Conn
	failed            chan error
	ctx               context.Context
	cancel            context.CancelFunc
	tasks             sync.WaitGroup
}

// NewListener starts to accept connections from inner. Close closes inner, too.
func NewListener(inner net.Listener, config *tls.Config) *Listener {
	ctx, cancel := context.WithCancel(context.Background())
	l := &Listener{
		inner: inner, config: config, silent: line{limit: MaxSilent}, handshake: line{limit: MaxHandshakes},
		waiting: make(chan struct{}, maxWaiting), ready: make(chan net.Conn), failed: make(chan error, 1),
		ctx: ctx, cancel: cancel,
	}
	l.tasks.Add(1)
	go l.acceptAll()
	return l
}

func (l *Listener) acceptAll() {
	defer l.tasks.Done()
	for {
		raw, err := l.inner.Accept()
		if err != nil {
			l.failed <- err
			return
		}
		l.silent.enter(raw)
		l.tasks.Add(1)
		go func() {
			defer l.tasks.Done()
			l.admit(raw)
		}()
	}
}

// admit passes a connection on if the client has the key of an operator. It closes others without an answer, so that
// they learn nothing.
func (l *Listener) admit(raw net.Conn) {
	conn, err := l.authenticate(raw)
	if err != nil {
		_ = raw.Close() // there is nobody to tell
		return
	}
	select {
	case l.waiting <- struct{}{}:
		defer func() { <-l.waiting }()
	default:
		_ = conn.Close() // one operator has more connections than anything needs
		return
	}
	select {
	case l.ready <- conn:
	case <-l.ctx.Done():
		_ = conn.Close() // the listener is closing
	}
}

// authenticate waits for the client's first byte, and then for its handshake.
func (l *Listener) authenticate(raw net.Conn) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(l.ctx, silentTimeout+handshakeTimeout)
	defer cancel()
	defer context.AfterFunc(ctx, func() { _ = raw.Close() })() // ends a read
	first := make([]byte, 1)
	err := raw.SetReadDeadline(time.Now().Add(silentTimeout))
	if err == nil {
		_, err = io.ReadFull(raw, first)
	}
	l.silent.leave(raw)
	if err == nil {
		err = raw.SetReadDeadline(time.Time{})
	}
	if err != nil {
		return nil, err
	}
	l.handshake.enter(raw)
	defer l.handshake.leave(raw)
	conn := tls.Server(&startedConn{Conn: raw, first: first}, l.config)
	limited, cancel := context.WithTimeout(ctx, handshakeTimeout)
	defer cancel()
	return conn, conn.HandshakeContext(limited)
}

// startedConn is a connection of which some bytes have been read.
type startedConn struct {
	net.Conn
	first []byte
}

func (c *startedConn) Read(into []byte) (int, error) {
	if len(c.first) == 0 {
		return c.Conn.Read(into)
	}
	n := copy(into, c.first)
	c.first = c.first[n:]
	return n, nil
}

// line holds a limited number of connections. When it is full, the one that entered first is closed.
type line struct {
	limit int
	mu    sync.Mutex
	conns []net.Conn
}

func (q *line) enter(conn net.Conn) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.conns) >= q.limit {
		_ = q.conns[0].Close() // its task ends then
		q.conns = slices.Delete(q.conns, 0, 1)
	}
	q.conns = append(q.conns, conn)
}

func (q *line) leave(conn net.Conn) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if i := slices.Index(q.conns, conn); i >= 0 {
		q.conns = slices.Delete(q.conns, i, i+1)
	}
}

// Accept implements net.Listener. It returns the error of the inner listener, or net.ErrClosed.
func (l *Listener) Accept() (net.Conn, error) {
	select {
	case conn := <-l.ready:
		return conn, nil
	case err := <-l.failed:
		l.failed <- err // for every later call
		return nil, fmt.Errorf("accept: %w", err)
	case <-l.ctx.Done():
		return nil, net.ErrClosed
	}
}

// Close implements net.Listener. It ends handshakes in progress and waits for them.
func (l *Listener) Close() error {
	l.cancel()
	err := l.inner.Close()
	l.tasks.Wait()
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// Addr implements net.Listener.
func (l *Listener) Addr() net.Addr { return l.inner.Addr() }
