package hypervisor

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"

	"github.com/digitalocean/go-libvirt"
)

// SetAutostart implements Hypervisor.
func (h *Libvirt) SetAutostart(ctx context.Context, name string, on bool) error {
	value := int32(0)
	if on {
		value = 1
	}
	return h.call(ctx, fmt.Sprintf("set the autostart of domain %q", name), func(l *libvirt.Libvirt) error {
		found, err := find(l, name)
		if err != nil {
			return err
		}
		return l.DomainSetAutostart(found.Domain, value)
	})
}

// Autostarted implements Hypervisor.
func (h *Libvirt) Autostarted(ctx context.Context) (map[string]bool, error) {
	var found map[string]bool
	err := h.call(ctx, "list the domains that start with libvirt", func(l *libvirt.Libvirt) error {
		handles, _, err := l.ConnectListAllDomains(1, libvirt.ConnectListDomainsAutostart)
		found = make(map[string]bool, len(handles))
		for _, handle := range handles {
			u := handle.UUID
			found[fmt.Sprintf("%x-%x-%x-%x-%x", u[:4], u[4:6], u[6:8], u[8:10], u[10:])] = true
		}
		return err
	})
	return found, err
}

// hookDir has the hooks of libvirt: the program qemu, and all programs in qemu.d (https://libvirt.org/hooks.html).
const hookDir = "/etc/libvirt/hooks"

// maxHook is how many bytes of a hook are read at most.
const maxHook = 1 << 20

// StartsAlone implements Hypervisor. Where a daemon serves vsock, QEMU ends at once unless the daemon listens. libvirt
// can start the daemon by a hook alone (examples/host). Hooks that this process may not see are taken to be right.
func (h *Libvirt) StartsAlone(ctx context.Context) (bool, error) {
	alone, err := h.machine.Exists(ctx, vhostVSock)
	if err == nil && !alone {
		alone, err = h.hooked(ctx)
	}
	if errors.Is(err, fs.ErrPermission) {
		return true, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for what starts vsock daemons: %w", err)
	}
	return alone, nil
}

// hooked reports whether a hook of libvirt starts vsock daemons.
func (h *Libvirt) hooked(ctx context.Context) (bool, error) {
	names, err := h.machine.ListDir(ctx, filepath.Join(hookDir, "qemu.d"))
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return false, err
	}
	hooks := []string{filepath.Join(hookDir, "qemu")}
	for _, name := range names {
		hooks = append(hooks, filepath.Join(hookDir, "qemu.d", name))
	}
	for _, hook := range hooks {
		starts, err := h.startsDaemon(ctx, hook)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return false, err
		}
		if starts {
			return true, nil
		}
	}
	return false, nil
}

// startsDaemon reports whether a program looks in definitions for the socket of the vsock daemon.
func (h *Libvirt) startsDaemon(ctx context.Context, path string) (bool, error) {
	_, mode, err := h.machine.Owner(ctx, path)
	if err != nil || mode&0o111 == 0 || !mode.IsRegular() && mode.Type() != fs.ModeSymlink {
		return false, err // libvirt does not run it
	}
	text, err := h.machine.ReadTail(ctx, path, maxHook)
	return bytes.Contains(text, []byte(vsockChardev)), err
}
