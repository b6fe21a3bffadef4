package hypervisor

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"

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
// with it). From the reset of a guest until its driver is up again its queues are not ready: whoever connects then
// makes the VM unreachable until it is powered off. QEMU knows whether the driver is up.
type readyVSock struct {
	transport.HybridVSock
	host   *Libvirt
	domain string
}

// DialContext implements transport.Dialer. It returns ErrStarting, and leaves the daemon alone, if the guest is not
// ready.
func (r readyVSock) DialContext(ctx context.Context, port uint32) (net.Conn, error) {
	if err := r.host.vsockReady(ctx, r.domain); err != nil {
		return nil, fmt.Errorf("dial port %d of domain %q: %w", port, r.domain, err)
	}
	return r.HybridVSock.DialContext(ctx, port)
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
