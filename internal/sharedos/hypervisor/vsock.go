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
	"libvirt.org/go/libvirtxml"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/daemon"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/machine"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/transport"
)

const (
	// vhostVSock is the device of a kernel that has vhost-vsock.
	vhostVSock = "/dev/vhost-vsock"
	// vsockDaemon serves the vsock of one VM on a host without vhost-vsock.
	vsockDaemon = "vhost-device-vsock"
	// vsockDevice is the QEMU id of the device that the daemon serves.
	vsockDevice = "sharedos-vsock0"
	// vsockTimeout bounds how long the daemon may take until it listens.
	vsockTimeout = 20 * time.Second
)

// commandline has the devices that libvirt cannot describe: the vhost-user vsock, and interfaces on user-mode networks.
func (p platform) commandline(d Domain) (*libvirtxml.DomainQEMUCommandline, error) {
	var args []string
	if !p.hostVSock {
		args = append(args,
			"-chardev", vsockChardev+escapeOption(p.vsockSocket(d.UUID).vhost),
			"-device", fmt.Sprintf("vhost-user-vsock-pci,id="+vsockDevice+
				",chardev=sharedos-vsock,disable-legacy=on,bus=pcie.0,addr=0x%x", firstSlot))
	}
	networks, err := userNetworks(d, firstSlot+1)
	if err != nil {
		return nil, err
	}
	args = append(args, networks...)
	if len(args) == 0 {
		return nil, nil
	}
	commandline := &libvirtxml.DomainQEMUCommandline{}
	for _, arg := range args {
		commandline.Args = append(commandline.Args, libvirtxml.DomainQEMUCommandlineArg{Value: arg})
	}
	return commandline, nil
}

// escapeOption escapes the value of a QEMU option: a comma ends it unless it is doubled.
func escapeOption(value string) string { return strings.ReplaceAll(value, ",", ",,") }

// vsockFiles are the files of the vsock daemon of one VM.
type vsockFiles struct {
	// directory is reachable for the user that QEMU runs as, and for no other. Whoever connects to
	// vhost first serves the guest, or keeps QEMU from starting.
	directory string
	// vhost is the socket that QEMU connects to, and host the one that programs on the host connect to.
	vhost, host string
	// record names the process, and log has its output.
	record, log string
}

func (h *Libvirt) vsock(uuid string) vsockFiles {
	base := filepath.Join(h.stateDir, "vsock-"+strings.ReplaceAll(uuid, "-", ""))
	return vsockFiles{
		directory: base, vhost: filepath.Join(base, "vhost"), host: filepath.Join(base, "sock"),
		record: base + daemon.Suffix, log: base + ".log",
	}
}

// vsockOf returns the files of the daemon that serves a domain, which its definition names. A
// definition of an earlier version names sockets that have no directory of their own.
func (h *Libvirt) vsockOf(domain *libvirtxml.Domain) vsockFiles {
	files := h.vsock(domain.UUID)
	if earlier := files.directory + ".vhost"; domain.QEMUCommandline != nil &&
		socketPath(domain.QEMUCommandline) == earlier {
		files.vhost, files.host, files.directory = earlier, files.directory+".sock", ""
	}
	return files
}

// socketPath is the path that a definition has QEMU connect to for its vsock.
func socketPath(commandline *libvirtxml.DomainQEMUCommandline) string {
	for _, arg := range commandline.Args {
		if path, found := strings.CutPrefix(arg.Value, vsockChardev); found {
			return strings.ReplaceAll(path, ",,", ",")
		}
	}
	return ""
}

// vsockChardev begins the option of QEMU that has the path of the daemon's socket.
const vsockChardev = "socket,id=sharedos-vsock,path="

// usesDaemon reports whether a vsock daemon serves the domain.
func usesDaemon(domain *libvirtxml.Domain) bool {
	return domain.Devices == nil || domain.Devices.VSock == nil
}

// startVSock starts the daemon of a domain that is about to start, and waits until it listens.
func (h *Libvirt) startVSock(ctx context.Context, files vsockFiles, qemuUser int) error {
	// A daemon of an earlier run of the domain serves no other QEMU.
	if err := h.endVSock(ctx, files); err != nil {
		return err
	}
	if err := h.machine.MakePrivateDir(ctx, files.directory, qemuUser); err != nil {
		return err
	}
	err := h.machine.StartDaemon(ctx, files.record, files.log, vsockDaemon, "--guest-cid", "3", "--socket", files.vhost,
		"--uds-path", files.host)
	if errors.Is(err, machine.ErrNotInstalled) {
		return fmt.Errorf("this host has no %s and no %s: load the kernel module vhost_vsock, or install %[2]s: %[3]w",
			vhostVSock, vsockDaemon, err)
	}
	if err != nil {
		return err
	}
	if err := h.awaitVSock(ctx, files); err != nil {
		return errors.Join(err, h.endVSock(context.WithoutCancel(ctx), files))
	}
	// QEMU may run as another user. The directory keeps everybody else out.
	return h.machine.Chmod(ctx, files.vhost, 0o666)
}

// awaitVSock waits until the daemon listens. It fails if the daemon ends.
func (h *Libvirt) awaitVSock(ctx context.Context, files vsockFiles) error {
	ctx, cancel := context.WithTimeout(ctx, vsockTimeout)
	defer cancel()
	tick := time.NewTicker(5 * time.Millisecond)
	defer tick.Stop()
	for {
		if listens, err := h.machine.Exists(ctx, files.vhost); err != nil || listens {
			return err
		}
		runs, err := h.machine.DaemonRuns(ctx, files.record)
		if err != nil {
			return err
		}
		if !runs {
			return fmt.Errorf("%s ended at once; its log is %s", vsockDaemon, files.log)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for %s: %w", files.vhost, ctx.Err())
		case <-tick.C:
		}
	}
}

// closeVSock keeps others from connecting to the daemon after QEMU has.
func (h *Libvirt) closeVSock(ctx context.Context, files vsockFiles) error {
	return h.machine.Chmod(ctx, files.vhost, 0o600)
}

// endVSock ends the daemon of a domain that does not run, and removes its files. The directory
// stays as long as the domain does: a libvirt hook may start the daemon (examples/host).
func (h *Libvirt) endVSock(ctx context.Context, files vsockFiles) error {
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

// VSock implements Hypervisor.
func (h *Libvirt) VSock(ctx context.Context, name string) (VSockState, error) {
	live, err := h.alive(ctx, name)
	if err != nil || !usesDaemon(live) {
		return VSockKernel, err
	}
	switch err := h.vsockReady(ctx, name); {
	case errors.Is(err, ErrStarting):
		return VSockDown, nil
	case err != nil:
		return VSockKernel, err
	}
	return VSockUp, nil
}

// alive returns the definition of a domain that runs; ErrNotRunning if it does not.
func (h *Libvirt) alive(ctx context.Context, name string) (live *libvirtxml.Domain, err error) {
	err = h.call(ctx, fmt.Sprintf("reach domain %q", name), func(l *libvirt.Libvirt) error {
		found, err := find(l, name)
		if err != nil {
			return err
		}
		if !found.state.alive() {
			return ErrNotRunning
		}
		live, err = describe(l, found.Domain, 0)
		return err
	})
	return live, err
}

// Dialer implements Hypervisor.
func (h *Libvirt) Dialer(ctx context.Context, name string) (transport.Dialer, error) {
	live, err := h.alive(ctx, name)
	switch {
	case err != nil:
		return nil, err
	case usesDaemon(live):
		dialer, err := h.daemonDialer(ctx, name, h.vsockOf(live))
		if err != nil {
			return nil, fmt.Errorf("reach domain %q: %w", name, err)
		}
		return dialer, nil
	case live.Devices.VSock.CID == nil:
		return nil, fmt.Errorf("reach domain %q: its vsock has no context id", name)
	}
	cid, err := strconv.ParseUint(live.Devices.VSock.CID.Address, 10, 32)
	if err != nil {
		return nil, fmt.Errorf("reach domain %q: its vsock's context id: %w", name, err)
	}
	return kernelDialer{h.machine, uint32(cid)}, nil
}

func (h *Libvirt) daemonDialer(ctx context.Context, name string, files vsockFiles) (transport.Dialer, error) {
	runs, err := h.machine.DaemonRuns(ctx, files.record)
	if err != nil {
		return nil, err
	}
	if !runs {
		return nil, fmt.Errorf("%w (%s): power the domain off and start it again", ErrVSockEnded, files.record)
	}
	return readyDialer{h, name, files.host}, nil
}

// kernelDialer dials through vhost-vsock of the machine.
type kernelDialer struct {
	machine machine.Sockets
	cid     uint32
}

// DialContext implements transport.Dialer.
func (d kernelDialer) DialContext(ctx context.Context, port uint32) (net.Conn, error) {
	return d.machine.DialVSock(ctx, d.cid, port)
}
