package host

import (
	"context"
	"errors"
	"fmt"
	"os/exec"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/machine"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
)

// Facts are what a host is, and what it has room for.
type Facts struct {
	hypervisor.Facts
	// URI of libvirt, and the name of the storage pool.
	URI, Pool string
	// Room is that of the storage pool. HasPool is false if the pool does not exist yet, which the
	// first upload makes: of its room, only the directory is known then.
	Room    store.Room
	HasPool bool
	// Missing is what a feature needs and the host, or this machine, does not have.
	Missing []Missing
}

// Missing is something that is not there.
type Missing struct {
	// Name of a program, device or file.
	Name string
	// NeededFor says what does not work without it, and Install how to get it.
	NeededFor, Install string
}

// Facts returns what the host is. It changes nothing.
func (h *Host) Facts(ctx context.Context) (Facts, error) {
	found, err := h.Fleet.Hypervisor.Facts(ctx)
	if err != nil {
		return Facts{}, err
	}
	facts := Facts{Facts: found, URI: h.client.URI(), Pool: h.config.Pool, HasPool: true}
	facts.Room, err = h.Store.Room(ctx)
	switch {
	case errors.Is(err, store.ErrNotFound):
		facts.HasPool = false
	case err != nil:
		return Facts{}, err
	}
	if facts.Missing, err = Lacking(ctx, h.on, found, exec.LookPath); err != nil {
		return Facts{}, err
	}
	return facts, nil
}

// Lacking lists what a host lacks. lookPath looks for a program on the machine that builds, which
// is the one of this process.
func Lacking(ctx context.Context, on machine.Machine, facts hypervisor.Facts,
	lookPath func(string) (string, error)) ([]Missing, error) {
	missing := []Missing{}
	lack := func(name, neededFor, install string) { missing = append(missing, Missing{name, neededFor, install}) }
	if !facts.KVM {
		device, err := on.Exists(ctx, "/dev/kvm")
		switch {
		case err != nil:
			return nil, fmt.Errorf("look for /dev/kvm: %w", err)
		case device:
			lack("KVM in libvirt", "guests at the speed of the host: QEMU emulates them",
				"The host has /dev/kvm, and libvirt does not offer it. See why with: virt-host-validate qemu. Then restart libvirt.")
		default:
			lack("/dev/kvm", "guests at the speed of the host: QEMU emulates them",
				"Turn on virtualization in the firmware, or nested virtualization if the host is a VM, and load the "+
					"module: modprobe kvm_intel, or modprobe kvm_amd.")
		}
	}
	if facts.VSock == "" {
		lack("vhost-vsock", "starting VMs: the agent in a VM is reached through its vsock",
			"Load the module: modprobe vhost_vsock. In a container, pass /dev/vhost-vsock. Where neither is "+
				"possible, install vhost-device-vsock (on Debian, it is in sid: apt-get install vhost-device-vsock).")
	}
	if !facts.StartsAlone {
		lack("a hook of libvirt that starts vsock daemons", "autostart of VMs",
			"Copy examples/host/libvirt-hook-vsock of this provider to /etc/libvirt/hooks/qemu.d/, make it "+
				"executable, and restart libvirt. A host with /dev/vhost-vsock needs none.")
	}
	for _, program := range []struct{ name, neededFor, install string }{
		{"mmdebstrap", "sources of the kind debian", "On Debian: apt-get install mmdebstrap."},
	} {
		if _, err := lookPath(program.name); errors.Is(err, exec.ErrNotFound) {
			lack(program.name, program.neededFor, program.install)
		} else if err != nil {
			return nil, fmt.Errorf("look for %s: %w", program.name, err)
		}
	}
	return missing, nil
}
