package hypervisor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/digitalocean/go-libvirt"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/daemon"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/machine"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/transport"
)

// vsockDaemon serves the vsock of one VM on a host whose kernel has no vhost-vsock.
const vsockDaemon = "vhost-device-vsock"

// vsockStart bounds how long the daemon may take until QEMU can connect to it.
const vsockStart = 20 * time.Second

// ErrVSockEnded means that a running domain cannot be reached any more until it was powered off and started.
var ErrVSockEnded = errors.New("its vsock daemon has ended")

// vhostVSock is the device of a host whose kernel serves the vsock of guests.
const vhostVSock = "/dev/vhost-vsock"

// vsockFiles are where the vsock daemon of one VM is.
type vsockFiles struct {
	// vhost is the socket that QEMU connects to, host the one that programs on the host connect to.
	vhost, host string
	// record of the process, and log of what it says.
	record, log string
}

func (h *Libvirt) vsock(uuid string) vsockFiles {
	base := filepath.Join(h.stateDir, "vsock-"+strings.ReplaceAll(uuid, "-", ""))
	return vsockFiles{vhost: base + ".vhost", host: base + ".sock", record: base + daemon.Suffix, log: base + ".log"}
}

// startVSock starts the daemon of a domain that is about to start, and waits until it listens.
func (h *Libvirt) startVSock(ctx context.Context, uuid string) error {
	files := h.vsock(uuid)
	// One that is left from before has served a QEMU that is gone.
	if err := h.endVSock(ctx, uuid); err != nil {
		return err
	}
	err := h.machine.StartDaemon(ctx, files.record, files.log, vsockDaemon, "--guest-cid", "3", "--socket", files.vhost, "--uds-path", files.host)
	if errors.Is(err, machine.ErrNotInstalled) {
		return fmt.Errorf("this host has no %s and no %s: load the kernel module vhost_vsock, or install %[2]s: %[3]w", vhostVSock, vsockDaemon, err)
	}
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(ctx, vsockStart)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		listens, err := h.machine.Exists(ctx, files.vhost)
		if listens {
			break
		}
		alive := false
		if err == nil {
			alive, err = h.machine.DaemonRuns(ctx, files.record)
		}
		if err == nil && !alive {
			err = fmt.Errorf("%s ended at once; its log is %s", vsockDaemon, files.log)
		}
		if err == nil {
			select {
			case <-ctx.Done():
				err = fmt.Errorf("wait for %s: %w", files.vhost, ctx.Err())
			case <-tick.C:
				continue
			}
		}
		return errors.Join(err, h.endVSock(context.WithoutCancel(ctx), uuid))
	}
	// QEMU may run as a user of its own. It connects once; closeVSock shuts the door after it.
	return h.machine.Chmod(ctx, files.vhost, 0o666)
}

// closeVSock leaves the daemon to the QEMU that has connected to it.
func (h *Libvirt) closeVSock(ctx context.Context, uuid string) error {
	return h.machine.Chmod(ctx, h.vsock(uuid).vhost, 0o600)
}

// endVSock ends the daemon of a domain that does not run, and removes what belongs to it.
func (h *Libvirt) endVSock(ctx context.Context, uuid string) error {
	files := h.vsock(uuid)
	if err := h.machine.EndDaemon(ctx, files.record); err != nil {
		return fmt.Errorf("end the vsock daemon: %w", err)
	}
	for _, path := range []string{files.vhost, files.host, files.log} {
		if err := h.machine.Remove(ctx, path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("end the vsock daemon: %w", err)
		}
	}
	return nil
}

// Dialer implements Hypervisor.
func (h *Libvirt) Dialer(ctx context.Context, name string) (transport.Dialer, error) {
	var dialer transport.Dialer
	err := h.call(ctx, fmt.Sprintf("reach domain %q", name), func(l *libvirt.Libvirt) error {
		found, err := find(l, name)
		if err != nil {
			return err
		}
		if !found.state.alive() {
			return ErrNotRunning
		}
		live, err := describe(l, found.Domain, 0)
		if err != nil {
			return err
		}
		if live.Devices != nil && live.Devices.VSock != nil {
			if live.Devices.VSock.CID == nil {
				return errors.New("its vsock has no context id")
			}
			cid, err := strconv.ParseUint(live.Devices.VSock.CID.Address, 10, 32)
			if err != nil {
				return fmt.Errorf("its vsock's context id: %w", err)
			}
			dialer = hostVSock{h.machine, uint32(cid)}
			return nil
		}
		files := h.vsock(found.defined.UUID)
		alive, err := h.machine.DaemonRuns(ctx, files.record)
		if err != nil {
			return err
		}
		if !alive {
			return fmt.Errorf("%w (%s): power the domain off and start it again", ErrVSockEnded, files.record)
		}
		dialer = readyVSock{h, name, files.host}
		return nil
	})
	return dialer, err
}

// hostVSock dials through the kernel of the machine.
type hostVSock struct {
	machine machine.Sockets
	cid     uint32
}

// DialContext implements transport.Dialer.
func (v hostVSock) DialContext(ctx context.Context, port uint32) (net.Conn, error) {
	return v.machine.DialVSock(ctx, v.cid, port)
}
