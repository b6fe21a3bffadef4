package main

import (
	"context"
	"fmt"
	"maps"
	"net"
	"slices"
	"strconv"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
	"github.com/sharedos/terraform-provider-sharedos/testbed"
	"github.com/sharedos/terraform-provider-sharedos/testbed/probe"
)

// Ports that the guests of the example serve.
const (
	guestHTTP = 80
	guestSSH  = 22
)

// create makes the base from Debian's main archive alone, and the VMs on it.
func (d *demo) create(ctx context.Context) error {
	d.out.title("Apply 1: one Debian from the main archive alone, VMs that share it")
	d.work.Variables["additional_suites"] = []string{}
	d.work.Variables["ssh_authorized_keys"] = []string{d.key.Authorized}
	if err := d.choosePorts(); err != nil {
		return err
	}
	p, err := d.plan(ctx, "create")
	if err != nil {
		return err
	}
	if err := d.work.Apply(ctx, p); err != nil {
		return err
	}
	base, vms, err := d.resources(ctx)
	if err != nil {
		return err
	}
	d.out.title("What apply 1 made")
	d.out.fact("base", "%s, kernel %s", base.OS, base.Kernel)
	if err := d.bytes(ctx); err != nil {
		return err
	}
	for _, name := range d.vms {
		d.out.fact(name+", agent ready after", "%.1f s", vms[name].Agent.ReadySeconds)
	}
	for _, name := range d.vms {
		if err := d.reachable(ctx, name); err != nil {
			return err
		}
	}
	return nil
}

// choosePorts names the VMs, and gives them ports that are free here.
func (d *demo) choosePorts() error {
	ports := map[string]map[string]uint16{}
	for i := range d.count {
		key := string(rune('a' + i))
		ports[key] = map[string]uint16{}
		for _, service := range []string{"http", "ssh"} {
			port, err := testbed.FreePort()
			if err != nil {
				return err
			}
			ports[key][service] = port
		}
	}
	d.work.Variables["ports"] = ports
	return nil
}

// bytes prints what the store takes on disk: the shared part once, and each VM's own.
func (d *demo) bytes(ctx context.Context) error {
	volumes, err := d.host.Store.Volumes(ctx)
	if err != nil {
		return err
	}
	layers, rest := 0, int64(0)
	var layerBytes int64
	private := map[string]int64{}
	for _, volume := range volumes {
		name, ok := store.ParseVolumeName(volume.Name)
		switch {
		case !ok:
			return fmt.Errorf("the store has a volume of the name %q, which is none of this project's", volume.Name)
		case name.Kind == store.DiskVolume:
			private[name.VM] = volume.Allocation
		case name.Kind == store.LayerVolume:
			layers++
			layerBytes += volume.Allocation
		default:
			rest += volume.Allocation
		}
	}
	d.out.fact("the OS on disk, once for all", "%s in %d layer(s), and %s of kernels, boot images and lists",
		size(layerBytes), layers, size(rest))
	for _, name := range slices.Sorted(maps.Keys(private)) {
		d.out.fact(name+" on disk, its own", "%s", size(private[name]))
	}
	return nil
}

// forwards returns where on 127.0.0.1 the ports of a guest are reached.
func (d *demo) forwards(ctx context.Context, name string) (map[uint16]string, error) {
	domain, _, err := d.host.Fleet.Hypervisor.Lookup(ctx, name)
	if err != nil {
		return nil, err
	}
	reached := map[uint16]string{}
	for _, nic := range domain.Interfaces {
		if nic.User == nil {
			continue
		}
		for at, guest := range nic.User.Forwards {
			reached[guest] = net.JoinHostPort("127.0.0.1", strconv.Itoa(int(at)))
		}
	}
	for _, port := range []uint16{guestHTTP, guestSSH} {
		if reached[port] == "" {
			return nil, fmt.Errorf("VM %q forwards nothing to its port %d; the example has to", name, port)
		}
	}
	return reached, nil
}

// reachable claims that nginx and sshd of a VM answer.
func (d *demo) reachable(ctx context.Context, name string) error {
	at, err := d.forwards(ctx, name)
	if err != nil {
		return err
	}
	for _, service := range []struct {
		name, address string
		start         func(context.Context, string, time.Duration) (*probe.Probe, error)
	}{
		{"nginx", "http://" + at[guestHTTP] + "/", probe.HTTP},
		{"sshd", at[guestSSH], probe.TCP},
	} {
		p, err := service.start(ctx, service.address, time.Second)
		if err != nil {
			d.out.claim(false, name+" serves "+service.name, "%v", err)
			continue
		}
		p.Stop()
		d.out.claim(true, name+" serves "+service.name, "%s", service.address)
	}
	return nil
}
