package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"
)

// MaxHandshakes is how many TLS handshakes can be in progress at once. Further connections wait to be accepted.
const MaxHandshakes = 16

// handshakeTimeout bounds a handshake. An emulated guest needs about 100 ms for one.
const handshakeTimeout = 10 * time.Second

// Listener accepts connections that have completed their TLS handshake. Handshakes run concurrently, each for at most
// ten seconds, so that a client that sends nothing does not keep others out.
type Listener struct {
	inner  net.Listener
	config *tls.Config
	ready  chan net.Conn
	failed chan error
	ctx    context.Context
	cancel context.CancelFunc
	tasks  sync.WaitGroup
}

// NewListener starts to accept connections from inner. Close closes inner, too.
func NewListener(inner net.Listener, config *tls.Config) *Listener {
	ctx, cancel := context.WithCancel(context.Background())
	l := &Listener{inner: inner, config: config, ready: make(chan net.Conn), failed: make(chan error, 1), ctx: ctx, cancel: cancel}
	l.tasks.Add(1)
	go l.acceptAll()
	return l
}

func (l *Listener) acceptAll() {
	defer l.tasks.Done()
	slots := make(chan struct{}, MaxHandshakes)
	for {
		select {
		case slots <- struct{}{}:
		case <-l.ctx.Done():
			return
		}
		raw, err := l.inner.Accept()
		if err != nil {
			l.failed <- err
			return
		}
		l.tasks.Add(1)
		go func() {
			defer l.tasks.Done()
			defer func() { <-slots }()
			l.handshake(raw)
		}()
	}
}

// handshake passes a connection on if the client has the key of an operator. It closes others without an answer, so
// that they learn nothing.
func (l *Listener) handshake(raw net.Conn) {
	ctx, cancel := context.WithTimeout(l.ctx, handshakeTimeout)
	defer cancel()
	conn := tls.Server(raw, l.config)
	if err := conn.HandshakeContext(ctx); err != nil {
		_ = raw.Close() // the handshake failed already
		return
	}
	select {
	case l.ready <- conn:
	case <-l.ctx.Done():
		_ = conn.Close() // the listener is closing
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
