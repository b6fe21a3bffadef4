package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
)

// maxForwarded is how many connections a Forward serves at the same time. Further ones wait.
const maxForwarded = 64

// Forward listens on a TCP port of 127.0.0.1, and connects each connection to a guest. Every user
// of the machine can connect, so what listens in the guest has to authenticate its clients.
type Forward struct {
	listener net.Listener
	ctx      context.Context
	end      context.CancelFunc
	work     sync.WaitGroup
}

// NewForward listens on a free port of 127.0.0.1. dial connects to the guest, once for each connection.
// failed is called with the error of a connection that could not be made. Close ends it all.
func NewForward(dial func(context.Context) (net.Conn, error), failed func(error)) (*Forward, error) {
	var config net.ListenConfig
	ctx, end := context.WithCancel(context.Background())
	listener, err := config.Listen(ctx, "tcp4", "127.0.0.1:0")
	if err != nil {
		end()
		return nil, fmt.Errorf("listen on 127.0.0.1: %w", err)
	}
	f := &Forward{listener: listener, ctx: ctx, end: end}
	f.work.Go(func() { f.accept(dial, failed) })
	return f, nil
}

// Port is the TCP port on 127.0.0.1.
func (f *Forward) Port() int {
	if address, ok := f.listener.Addr().(*net.TCPAddr); ok {
		return address.Port
	}
	return 0
}

// Close stops listening, ends the connections and waits until they have ended.
func (f *Forward) Close() error {
	f.end()
	err := f.listener.Close()
	f.work.Wait()
	return err
}

func (f *Forward) accept(dial func(context.Context) (net.Conn, error), failed func(error)) {
	turns := make(chan struct{}, maxForwarded)
	for {
		select {
		case turns <- struct{}{}:
		case <-f.ctx.Done():
			return
		}
		client, err := f.listener.Accept()
		if err != nil {
			if f.ctx.Err() == nil {
				failed(fmt.Errorf("accept a connection: %w", err))
			}
			return
		}
		f.work.Go(func() {
			defer func() { <-turns }()
			guest, err := dial(f.ctx)
			if err != nil {
				if f.ctx.Err() == nil {
					failed(err)
				}
				_ = client.Close() // nothing was written to it
				return
			}
			f.join(client, guest)
		})
	}
}

// join copies between two connections until both directions have ended, or the Forward ends.
func (f *Forward) join(client, guest net.Conn) {
	closeBoth := sync.OnceFunc(
		func() { _, _ = client.Close(), guest.Close() }) // what both sides wrote has been copied, or is given up
	defer closeBoth()
	stop := context.AfterFunc(f.ctx, closeBoth)
	defer stop()
	var copies sync.WaitGroup
	for _, way := range [][2]net.Conn{{client, guest}, {guest, client}} {
		copies.Go(func() {
			_, err := io.Copy(way[0], way[1])
			if half, ok := way[0].(interface{ CloseWrite() error }); err == nil && ok {
				err = half.CloseWrite()
			} else if err == nil {
				err = errors.ErrUnsupported
			}
			if err != nil {
				closeBoth()
			}
		})
	}
	copies.Wait()
}
