package hypervisor

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"time"

	"github.com/digitalocean/go-libvirt"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/libvirtconn"
)

const (
	// shutdownTimeout bounds Shutdown if its context does not.
	shutdownTimeout = 10 * time.Minute
	// pressAgain is how long a guest may take to react to the power button before it is pressed
	// again. A guest that is still booting ignores it.
	pressAgain = 15 * time.Second
	// pollEvery is how often libvirt is asked whether a change has happened.
	pollEvery = 50 * time.Millisecond
)

// Start implements Hypervisor.
func (h *Libvirt) Start(ctx context.Context, name string) error {
	what := fmt.Sprintf("start domain %q", name)
	var found ours
	err := h.call(ctx, what, func(l *libvirt.Libvirt) error {
		var err error
		found, err = find(l, name)
		return err
	})
	if err != nil || found.state == Running {
		return err
	}
	if found.state == Paused {
		return fmt.Errorf("%s: it is paused; resume it (virsh resume) or power it off", what)
	}
	if err := h.checkDefinedVLANs(ctx, found.defined); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	withDaemon := usesDaemon(found.defined)
	files := h.vsockOf(found.defined)
	if withDaemon {
		if files.directory == "" {
			// A definition of an earlier version: its socket would be open to every user of the
			// host while the domain starts.
			if found, err = h.redefine(ctx, found); err != nil {
				return fmt.Errorf("%s: %w", what, err)
			}
			if err := h.endVSock(ctx, files); err != nil {
				return fmt.Errorf("%s: %w", what, err)
			}
			files = h.vsockOf(found.defined)
		}
		var on platform
		if err := h.call(ctx, what, func(l *libvirt.Libvirt) error {
			on, err = h.platform(ctx, l)
			return err
		}); err != nil {
			return err
		}
		if err := h.startVSock(ctx, files, on.qemuUser); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
	}
	err = h.call(ctx, what, func(l *libvirt.Libvirt) error {
		err := l.DomainCreate(found.Domain)
		if libvirtconn.Is(err, libvirt.ErrOperationInvalid) { // another process started it first
			if state, asked := stateOf(l, found.Domain); asked == nil && state == Running {
				return nil
			}
		}
		return err
	})
	switch {
	case err == nil && withDaemon:
		if err := h.closeVSock(ctx, files); err != nil {
			return fmt.Errorf("%s: %w", what, err)
		}
	case err != nil && withDaemon && !errors.Is(err, ErrUnreachable) && ctx.Err() == nil:
		// libvirt answered, so there is no QEMU. Otherwise there may be one, which needs the daemon.
		return errors.Join(err, h.endVSock(context.WithoutCancel(ctx), files))
	}
	return err
}

// redefine writes the definition of a domain that is off again, as this version does.
func (h *Libvirt) redefine(ctx context.Context, found ours) (ours, error) {
	domain, err := decode(found.defined)
	if err != nil {
		return found, err
	}
	if err := h.Define(ctx, domain); err != nil {
		return found, err
	}
	err = h.call(ctx, fmt.Sprintf("look up domain %q", domain.Name), func(l *libvirt.Libvirt) error {
		found, err = find(l, domain.Name)
		return err
	})
	return found, err
}

// Shutdown implements Hypervisor.
func (h *Libvirt) Shutdown(ctx context.Context, name string) error {
	what := fmt.Sprintf("shut down domain %q", name)
	bounded, cancel := context.WithTimeout(ctx, shutdownTimeout)
	defer cancel()
	var pressed time.Time
	for {
		var found ours
		err := h.call(bounded, what, func(l *libvirt.Libvirt) error {
			var err error
			if found, err = find(l, name); err != nil || !found.state.alive() {
				return err
			}
			if time.Since(pressed) < pressAgain {
				return nil
			}
			pressed = time.Now()
			err = l.DomainShutdownFlags(found.Domain, 0)
			if libvirtconn.Is(err, libvirt.ErrOperationInvalid) { // it has stopped meanwhile
				return nil
			}
			return err
		})
		if err != nil {
			return err
		}
		if !found.state.alive() {
			return h.cleanUp(bounded, what, found)
		}
		select {
		case <-bounded.Done():
			return fmt.Errorf("%s: the guest has not powered off: %w", what, bounded.Err())
		case <-time.After(pollEvery):
		}
	}
}

// cleanUp ends the vsock daemon of a domain that has stopped.
func (h *Libvirt) cleanUp(ctx context.Context, what string, found ours) error {
	if !usesDaemon(found.defined) {
		return nil
	}
	if err := h.endVSock(ctx, h.vsockOf(found.defined)); err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}

// PowerOff implements Hypervisor.
func (h *Libvirt) PowerOff(ctx context.Context, name string) error {
	what := fmt.Sprintf("power off domain %q", name)
	var found ours
	err := h.call(ctx, what, func(l *libvirt.Libvirt) error {
		var err error
		if found, err = find(l, name); err != nil || found.state == Off {
			return err
		}
		err = l.DomainDestroyFlags(found.Domain, 0)
		if libvirtconn.Is(err, libvirt.ErrOperationInvalid) { // it has stopped meanwhile
			return nil
		}
		return err
	})
	if err != nil {
		return err
	}
	return h.cleanUp(ctx, what, found)
}

// Undefine implements Hypervisor.
func (h *Libvirt) Undefine(ctx context.Context, name string) error {
	what := fmt.Sprintf("undefine domain %q", name)
	var found ours
	err := h.call(ctx, what, func(l *libvirt.Libvirt) error {
		var err error
		if found, err = find(l, name); err != nil {
			return err
		}
		if found.state.alive() {
			return errors.New("it is running; power it off first")
		}
		return l.DomainUndefineFlags(found.Domain,
			libvirt.DomainUndefineManagedSave|libvirt.DomainUndefineSnapshotsMetadata|libvirt.DomainUndefineCheckpointsMetadata|libvirt.DomainUndefineNvram)
	})
	if err != nil {
		return err
	}
	if err := h.cleanUp(ctx, what, found); err != nil || !usesDaemon(found.defined) {
		return err
	}
	if err := h.machine.Remove(ctx, h.vsock(found.defined.UUID).directory); err != nil &&
		!errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("%s: %w", what, err)
	}
	return nil
}
