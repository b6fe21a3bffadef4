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

// MaxHandshakes is how many callers may be proving themselves at once; further ones wait to be accepted.
const MaxHandshakes = 16

// handshakeLimit is generous: under emulation a handshake takes a guest some 100 ms.
const handshakeLimit = 10 * time.Second

// Listener takes connections that have completed their TLS handshake. Handshakes run beside each other, so that
// a caller who says nothing keeps nobody out, and each has ten seconds.
type Listener struct {
	inner  net.Listener
	config *tls.Config
	ready  chan net.Conn
	failed chan error
	ctx    context.Context
	cancel context.CancelFunc
	tasks  sync.WaitGroup
}

// NewListener starts taking connections from inner. Close it to end that, and inner with it.
func NewListener(inner net.Listener, config *tls.Config) *Listener {
	ctx, cancel := context.WithCancel(context.Background())
	l := &Listener{inner: inner, config: config, ready: make(chan net.Conn), failed: make(chan error, 1), ctx: ctx, cancel: cancel}
	l.tasks.Add(1)
	go l.take()
	return l
}

func (l *Listener) take() {
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
			l.prove(raw)
		}()
	}
}

// prove hands on a connection whose caller holds an operator's key. Others are closed without a word: whoever
// dials the port learns nothing.
func (l *Listener) prove(raw net.Conn) {
	ctx, cancel := context.WithTimeout(l.ctx, handshakeLimit)
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

// Accept implements net.Listener. It fails with what the inner listener failed with, or net.ErrClosed.
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

// Close implements net.Listener. It ends handshakes in flight and waits for them.
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
