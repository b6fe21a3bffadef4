package transport

import (
	"context"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/mdlayher/vsock"
)

// VSock dials through AF_VSOCK of this machine's kernel: vsock(7). It needs /dev/vhost-vsock.
type VSock struct {
	// CID is the guest's context id, 3 or more.
	CID uint32
}

// DialContext implements Dialer.
//
// connect(2) takes no context. The kernel gives up after two seconds (net/vmw_vsock/af_vsock.c,
// VSOCK_DEFAULT_CONNECT_TIMEOUT), so a dial whose ctx has ended ends soon after.
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
		go func() { // the caller has returned, so close the connection if it still opens
			if d := <-done; d.err == nil {
				_ = d.conn.Close() // nothing was sent on it
			}
		}()
		return nil, fmt.Errorf("dial vsock %d:%d: %w", v.CID, port, ctx.Err())
	}
}

// HybridVSock dials through a unix socket on which the client sends "CONNECT <port>\n" and the server answers "OK
// <port>\n". This is the convention of vhost-device-vsock, Firecracker and Cloud Hypervisor.
type HybridVSock struct {
	// Path of the unix socket on the host.
	Path string
	// Connect connects to the socket. Nil connects to a socket of this machine.
	Connect func(ctx context.Context, path string) (net.Conn, error)
}

// maxAnswer is the maximum length of the answer in bytes.
const maxAnswer = 64

// ErrRefused means that nothing in the guest listens on the port, or not yet.
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
	// When ctx ends, every read and write fails.
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

// greet requests the port and reads the answer byte by byte, because what follows the answer belongs to the caller.
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

// hostListener accepts connections from the host only.
type hostListener struct {
	*vsock.Listener
}

// ListenVSock listens on a port of this guest's vsock. It accepts connections from the host (CID 2) only, and closes
// those of others, such as guests of the same host.
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
