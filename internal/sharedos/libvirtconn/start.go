package libvirtconn

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"time"
)

// startTimeout bounds how long libvirt may take until it listens.
const startTimeout = 45 * time.Second

// system is this machine, as far as starting a libvirt on it goes.
type system interface {
	// root reports whether this process may start daemons.
	root() bool
	// systemd reports whether systemd is the init system: sd_booted(3).
	systemd() bool
	run(ctx context.Context, command ...string) error
}

type local struct{}

func (local) root() bool { return os.Geteuid() == 0 }

func (local) systemd() bool {
	info, err := os.Stat("/run/systemd/system")
	return err == nil && info.IsDir()
}

func (local) run(ctx context.Context, command ...string) error {
	cmd := exec.CommandContext(ctx, command[0], command[1:]...)
	cmd.Dir = "/"
	cmd.WaitDelay = time.Second // a daemon may keep the pipe of its complaints
	complaint := &strings.Builder{}
	cmd.Stderr = complaint
	if err := cmd.Run(); err != nil && !errors.Is(err, exec.ErrWaitDelay) {
		return fmt.Errorf("%s: %w: %s", strings.Join(command, " "), err, strings.TrimSpace(complaint.String()))
	}
	return nil
}

// startSystem starts the local system's libvirt and waits until it listens.
func startSystem(ctx context.Context, address Address, on system) error {
	if !on.root() {
		return errors.New("only root can start it: run \"systemctl start libvirtd\" as root, or \"virtlogd -d; libvirtd -d\" where systemd does not run")
	}
	ctx, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	// Another process may start it at the same time and make ours fail: what counts is that somebody listens.
	started := startCommands(ctx, on)
	for {
		conn, err := address.dial(ctx)
		if err == nil {
			return conn.Close()
		}
		wait := 50 * time.Millisecond
		if started != nil {
			wait = time.Second
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), started)
		case <-time.After(wait):
		}
		if started != nil {
			if conn, err := address.dial(ctx); err == nil {
				return conn.Close()
			}
			return fmt.Errorf("%w; install libvirt (on Debian: apt-get install libvirt-daemon-system qemu-system-x86)", started)
		}
	}
}

func startCommands(ctx context.Context, on system) error {
	if on.systemd() {
		one := on.run(ctx, "systemctl", "--no-ask-password", "start", "libvirtd.socket")
		if one == nil {
			return nil
		}
		// Distributions with modular daemons have no libvirtd.
		modular := on.run(ctx, "systemctl", "--no-ask-password", "start", "virtlogd.socket", "virtqemud.socket", "virtstoraged.socket", "virtnetworkd.socket")
		if modular == nil {
			return nil
		}
		return errors.Join(one, modular)
	}
	// One that runs already says so by failing.
	logger := on.run(ctx, "virtlogd", "-d")
	if err := on.run(ctx, "libvirtd", "-d"); err != nil {
		return errors.Join(err, logger)
	}
	return nil
}
