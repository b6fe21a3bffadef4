package libvirtconn

import (
	"context"
	"errors"
	"fmt"
	"time"
)

const (
	// startTimeout bounds how long libvirt may take until it listens.
	startTimeout = 45 * time.Second
	// startPoll is how often its sockets are tried meanwhile.
	startPoll = 50 * time.Millisecond
	// startGrace is how long its sockets are tried after the start command failed: another process
	// may have started libvirt at the same time and made this command fail.
	startGrace = time.Second
)

// start starts the system's libvirt and waits until it listens.
func (c *Client) start(ctx context.Context) error {
	root, err := c.machine.IsRoot(ctx)
	if err != nil {
		return err
	}
	if !root {
		return errors.New(
			`only root can start it: run "systemctl start libvirtd" as root, or "virtlogd -d; libvirtd -d" if the machine has no systemd`)
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	failed := c.runStartCommands(ctx)
	limit := startTimeout
	if failed != nil {
		limit = startGrace
	}
	waiting, cancelWaiting := context.WithTimeout(ctx, limit)
	defer cancelWaiting()
	tick := time.NewTicker(startPoll)
	defer tick.Stop()
	for {
		conn, err := c.dial(waiting)
		if err == nil {
			return conn.Close()
		}
		select {
		case <-waiting.Done():
		case <-tick.C:
			continue
		}
		if failed != nil && ctx.Err() == nil {
			return fmt.Errorf("%w; install libvirt (on Debian: apt-get install libvirt-daemon-system qemu-system-x86)",
				failed)
		}
		return errors.Join(waiting.Err(), failed, err)
	}
}

// bootedBySystemd is the directory that exists if systemd is the init system: sd_booted(3).
const bootedBySystemd = "/run/systemd/system"

func (c *Client) runStartCommands(ctx context.Context) error {
	run := c.machine.Run
	systemd, err := c.machine.Exists(ctx, bootedBySystemd)
	if err != nil {
		return err
	}
	if systemd {
		monolithic := run(ctx, "systemctl", "--no-ask-password", "start", "libvirtd.socket")
		if monolithic == nil {
			return nil
		}
		// Distributions with modular daemons have no libvirtd.
		modular := run(ctx, "systemctl", "--no-ask-password", "start", "virtlogd.socket", "virtqemud.socket",
			"virtstoraged.socket", "virtnetworkd.socket")
		if modular == nil {
			return nil
		}
		return errors.Join(monolithic, modular)
	}
	logger := run(ctx, "virtlogd", "-d") // it fails if one runs already
	if err := run(ctx, "libvirtd", "-d"); err != nil {
		return errors.Join(err, logger)
	}
	return nil
}
