package hypervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"sync"
	"time"

	"github.com/digitalocean/go-libvirt"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/transport"
)

// vsockDevice is the QEMU id of a domain's vhost-user vsock.
const vsockDevice = "sharedos-vsock0"

// ErrStarting means that the guest is starting, or was reset, and has not set its vsock up yet.
var ErrStarting = errors.New("the guest has not set its vsock up yet")

// readyVSock dials through a vsock daemon only while the guest drives the device.
//
// vhost-device-vsock 0.3.0 has one thread that serves all, and ends it when there is something to do while a queue is
// not ready (VhostUserVsockBackend::handle_event returns the error, and the event loop of vhost-user-backend returns
// with it). From the reset of a guest until its driver is up again its queues are not ready: whoever connects then,
// writes, or closes a connection from before, makes the VM unreachable until it is powered off. QEMU knows whether the
// driver is up.
type readyVSock struct {
	host   *Libvirt
	domain string
	// path of the daemon's socket.
	path string
}

// DialContext implements transport.Dialer. It returns ErrStarting, and leaves the daemon alone, if the guest is not
// ready.
func (r readyVSock) DialContext(ctx context.Context, port uint32) (net.Conn, error) {
	ready := func(ctx context.Context) error { return r.host.vsockReady(ctx, r.domain) }
	if err := ready(ctx); err != nil {
		return nil, fmt.Errorf("dial port %d of domain %q: %w", port, r.domain, err)
	}
	dialer := transport.HybridVSock{Path: r.path, Connect: func(ctx context.Context, path string) (net.Conn, error) {
		conn, err := r.host.machine.DialUnix(ctx, path)
		if err != nil {
			return nil, err
		}
		return &readyConn{Conn: conn, ready: ready, letGo: r.host.letGo, heard: time.Now()}, nil
	}}
	return dialer.DialContext(ctx, port)
}

const (
	// fresh is how long a guest that was heard is taken to be ready.
	fresh = 500 * time.Millisecond
	// readyLimit bounds the question whether it is, closeLimit the wait for that to close a connection: an emulated guest
	// takes seconds from a reset to its driver.
	readyLimit = 5 * time.Second
	closeLimit = time.Minute
	closePause = 250 * time.Millisecond
)

// readyConn is a connection through a vsock daemon that leaves it alone while the guest is not ready.
type readyConn struct {
	net.Conn
	// ready fails with ErrStarting while the guest is not.
	ready func(context.Context) error
	// letGo runs what waits until it is, beside.
	letGo func(func(context.Context))

	mu     sync.Mutex
	heard  time.Time
	closed bool
}

// Read implements net.Conn.
func (c *readyConn) Read(p []byte) (int, error) {
	n, err := c.Conn.Read(p)
	if n > 0 {
		c.hear()
	}
	return n, err
}

// Write implements net.Conn. It returns ErrStarting if the guest was reset. Who cannot be asked whether it was, does not
// keep it from being written to.
func (c *readyConn) Write(p []byte) (int, error) {
	if !c.heardOfLate() {
		ctx, cancel := context.WithTimeout(context.Background(), readyLimit)
		defer cancel()
		if err := c.ready(ctx); errors.Is(err, ErrStarting) {
			return 0, err
		}
		c.hear()
	}
	return c.Conn.Write(p)
}

func (c *readyConn) hear() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.heard = time.Now()
}

func (c *readyConn) heardOfLate() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Since(c.heard) < fresh
}

// Close implements net.Conn. The connection is of no use at once; it is let go as soon as the guest is ready.
func (c *readyConn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	c.closed = true
	err := c.SetDeadline(time.Unix(1, 0)) // which the daemon does not notice
	c.letGo(func(ctx context.Context) {
		c.awaitReady(ctx)
		_ = c.Conn.Close() // nobody is there any more to be told
	})
	return err
}

// awaitReady waits while the guest is not ready.
func (c *readyConn) awaitReady(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, closeLimit)
	defer cancel()
	for errors.Is(c.ready(ctx), ErrStarting) {
		select {
		case <-ctx.Done():
			return
		case <-time.After(closePause):
		}
	}
}

// vsockReady fails with ErrStarting if the guest of a domain does not drive its vsock.
func (h *Libvirt) vsockReady(ctx context.Context, name string) error {
	var answer string
	err := h.call(ctx, fmt.Sprintf("ask QEMU for the vsock of domain %q", name), func(l *libvirt.Libvirt) error {
		found, err := find(l, name)
		if err != nil {
			return err
		}
		answer, err = l.QEMUDomainMonitorCommand(found.Domain, virtioStatusQuery(vsockDevice), 0)
		return err
	})
	if err != nil {
		return err
	}
	served, err := vsockServed([]byte(answer))
	if err == nil && !served {
		err = ErrStarting
	}
	return err
}

// virtioStatusQuery asks QEMU for the state of a virtio device (qapi/virtio.json, since 7.2).
func virtioStatusQuery(device string) string {
	return `{"execute":"x-query-virtio-status","arguments":{"path":"/machine/peripheral/` + device + `/virtio-backend"}}`
}

// vsockServed reads QEMU's answer: whether the daemon serves the queues that a driver in the guest has set up.
func vsockServed(answer []byte) (bool, error) {
	var status struct {
		Error *struct {
			Class string `json:"class"`
			Desc  string `json:"desc"`
		} `json:"error"`
		Return *struct {
			VhostStarted bool `json:"vhost-started"`
		} `json:"return"`
	}
	if err := json.Unmarshal(answer, &status); err != nil {
		return false, fmt.Errorf("decode the state of a virtio device: %w", err)
	}
	switch {
	case status.Error != nil && status.Error.Class == "CommandNotFound":
		return true, nil // a QEMU that cannot tell
	case status.Error != nil:
		return false, fmt.Errorf("ask QEMU for the state of a virtio device: %s: %s", status.Error.Class, status.Error.Desc)
	case status.Return == nil:
		return false, fmt.Errorf("decode the state of a virtio device: %.200q has neither return nor error", answer)
	}
	return status.Return.VhostStarted, nil
}
