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

// readyDialer dials through a vsock daemon, but only while the guest's driver has set up the device.
//
// vhost-device-vsock 0.3.0 has a single thread, which ends when it has to do something while a queue is not ready
// (VhostUserVsockBackend::handle_event returns the error, and the event loop of vhost-user-backend returns with it).
// The queues are not ready from a reset of the guest until its driver is up again. If somebody connects, writes or
// closes a connection meanwhile, the VM is unreachable until it is powered off. QEMU knows whether the driver is up.
type readyDialer struct {
	hypervisor *Libvirt
	domain     string
	// path of the daemon's socket.
	path string
}

// DialContext implements transport.Dialer. If the guest is not ready, it returns ErrStarting
// without touching the daemon.
func (d readyDialer) DialContext(ctx context.Context, port uint32) (net.Conn, error) {
	ready := func(ctx context.Context) error { return d.hypervisor.vsockReady(ctx, d.domain) }
	if err := ready(ctx); err != nil {
		return nil, fmt.Errorf("dial port %d of domain %q: %w", port, d.domain, err)
	}
	dialer := transport.HybridVSock{Path: d.path, Connect: func(ctx context.Context, path string) (net.Conn, error) {
		conn, err := d.hypervisor.machine.DialUnix(ctx, path)
		if err != nil {
			return nil, err
		}
		return &readyConn{Conn: conn, ready: ready, inBackground: d.hypervisor.inBackground, heard: time.Now()}, nil
	}}
	return dialer.DialContext(ctx, port)
}

const (
	// fresh is how long a guest counts as ready after it sent something.
	fresh = 500 * time.Millisecond
	// readyTimeout bounds asking QEMU whether the guest is ready.
	readyTimeout = 5 * time.Second
	// closeTimeout bounds how long a connection stays open because the guest is not ready, and
	// closePoll is how often QEMU is asked meanwhile. Linux 6.12 resets its devices before it
	// starts another kernel by kexec. If that one hangs, the guest is not ready until the watchdog
	// has reset the machine, which takes up to 15 minutes, and the first kernel has booted again.
	closeTimeout = 30 * time.Minute
	closePoll    = 250 * time.Millisecond
)

// readyConn is a connection through a vsock daemon that does not touch the daemon while the guest is not ready.
type readyConn struct {
	net.Conn
	// ready returns ErrStarting while the guest is not ready.
	ready func(context.Context) error
	// inBackground runs a function that may wait for the guest.
	inBackground func(func(context.Context))

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

// Write implements net.Conn. It returns ErrStarting if the guest was reset. It writes if QEMU cannot be asked.
func (c *readyConn) Write(p []byte) (int, error) {
	if !c.heardRecently() {
		ctx, cancel := context.WithTimeout(context.Background(), readyTimeout)
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

func (c *readyConn) heardRecently() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return time.Since(c.heard) < fresh
}

// Close implements net.Conn. The connection cannot be used any more at once. The daemon's end is
// closed in the background as soon as the guest is ready.
func (c *readyConn) Close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.closed {
		return net.ErrClosed
	}
	c.closed = true
	err := c.SetDeadline(time.Unix(1, 0)) // the daemon does not notice this
	c.inBackground(func(ctx context.Context) {
		c.awaitReady(ctx)
		_ = c.Conn.Close() // the caller has returned already
	})
	return err
}

// awaitReady waits while the guest is not ready.
func (c *readyConn) awaitReady(ctx context.Context) {
	ctx, cancel := context.WithTimeout(ctx, closeTimeout)
	defer cancel()
	for errors.Is(c.ready(ctx), ErrStarting) {
		select {
		case <-ctx.Done():
			return
		case <-time.After(closePoll):
		}
	}
}

// vsockReady returns ErrStarting if the driver in the guest of a domain has not set up its vsock.
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
	return `{"execute":"x-query-virtio-status","arguments":{"path":"/machine/peripheral/` +
		device + `/virtio-backend"}}`
}

// vsockServed reads QEMU's answer: whether the guest's driver has set up the queues, so that the daemon serves them.
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
		return true, nil // QEMU before 7.2 cannot be asked
	case status.Error != nil:
		return false, fmt.Errorf("ask QEMU for the state of a virtio device: %s: %s",
			status.Error.Class, status.Error.Desc)
	case status.Return == nil:
		return false, fmt.Errorf("decode the state of a virtio device: %.200q has neither return nor error", answer)
	}
	return status.Return.VhostStarted, nil
}
