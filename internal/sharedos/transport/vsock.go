package transport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/mdlayher/vsock"
)

// VSock dials through the host kernel's AF_VSOCK, when the host has /dev/vhost-vsock.
type VSock struct {
	// CID is the guest's context id, 3 or more.
	CID uint32
}

// DialContext implements Dialer.
//
// connect(2) on AF_VSOCK takes no context; the kernel itself gives up after two seconds
// (net/vmw_vsock/af_vsock.c, VSOCK_DEFAULT_CONNECT_TIMEOUT), so a dial that ctx cuts off ends soon after.
func (v VSock) DialContext(ctx context.Context, port uint32) (net.Conn, error) {
	type dialed struct {
		conn *vsock.Conn
		err  error
	}
	done := make(chan dialed, 1)
	go func() {
		conn, err := vsock.Dial(v.CID, port, nil)
		done <- dialed{conn, err}
	}()
	select {
	case d := <-done:
		if d.err != nil {
			return nil, fmt.Errorf("dial vsock %d:%d: %w", v.CID, port, d.err)
		}
		return d.conn, nil
	case <-ctx.Done():
		go func() { // the dial's owner is gone: close what it may still open
			if d := <-done; d.err == nil {
				_ = d.conn.Close() // nothing was sent on it
			}
		}()
		return nil, fmt.Errorf("dial vsock %d:%d: %w", v.CID, port, ctx.Err())
	}
}

// HybridVSock dials through a unix socket that takes "CONNECT <port>\n" and answers "OK <port>\n", the
// convention of vhost-device-vsock, Firecracker and Cloud Hypervisor.
type HybridVSock struct {
	// Path of the unix socket on the host.
	Path string
	// Connect connects to the socket. Nil connects to a socket of this machine.
	Connect func(ctx context.Context, path string) (net.Conn, error)
}

// maxAnswer bounds the answer line: "OK " and a 32-bit number fit many times over.
const maxAnswer = 64

// ErrRefused means that the unix socket answered, but nothing in the guest listens on the port (yet).
var ErrRefused = errors.New("the guest does not listen on the port")

// DialContext implements Dialer.
func (h HybridVSock) DialContext(ctx context.Context, port uint32) (net.Conn, error) {
	fail := func(err error) (net.Conn, error) {
		return nil, fmt.Errorf("dial port %d through %s: %w", port, h.Path, err)
	}
	connect := h.Connect
	if connect == nil {
		connect = connectUnix
	}
	conn, err := connect(ctx, h.Path)
	if err != nil {
		return fail(err)
	}
	// The exchange is cut off when ctx ends, by making every read and write fail.
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	err = greet(conn, port)
	if !stop() {
		err = errors.Join(ctx.Err(), err)
	}
	if err != nil {
		return fail(errors.Join(err, conn.Close()))
	}
	return conn, nil
}

func connectUnix(ctx context.Context, path string) (net.Conn, error) {
	var dialer net.Dialer
	return dialer.DialContext(ctx, "unix", path)
}

// greet asks for the port and reads the answer line byte by byte: what follows it belongs to the caller.
func greet(conn net.Conn, port uint32) error {
	if _, err := fmt.Fprintf(conn, "CONNECT %d\n", port); err != nil {
		return err
	}
	line := make([]byte, 0, maxAnswer)
	for one := make([]byte, 1); len(line) < maxAnswer; {
		if _, err := conn.Read(one); err != nil {
			// The daemon closes the connection when the guest refuses it.
			return fmt.Errorf("%w: %w", ErrRefused, err)
		}
		if one[0] == '\n' {
			break
		}
		line = append(line, one[0])
	}
	if len(line) < 2 || string(line[:2]) != "OK" {
		return fmt.Errorf("unexpected answer %q", line)
	}
	return nil
}

// hostListener takes connections from the host alone.
type hostListener struct {
	*vsock.Listener
}

// ListenVSock listens on a port of this guest's vsock and takes connections from the host (CID 2) alone:
// others, guests of the same host among them, are closed unread.
func ListenVSock(port uint32) (net.Listener, error) {
	listener, err := vsock.Listen(port, nil)
	if err != nil {
		return nil, fmt.Errorf("listen on vsock port %d: %w", port, err)
	}
	return hostListener{listener}, nil
}

// Accept implements net.Listener.
func (l hostListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if addr, ok := conn.RemoteAddr().(*vsock.Addr); ok && addr.ContextID == vsock.Host {
			return conn, nil
		}
		if err := conn.Close(); err != nil {
			return nil, fmt.Errorf("close a connection that is not the host's: %w", err)
		}
	}
}
