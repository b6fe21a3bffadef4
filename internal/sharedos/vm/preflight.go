package vm

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
)

// Problem is why a VM cannot be as a Spec wants it, found before anything changes.
type Problem struct {
	// Attribute is the path of an attribute of sharedos_vm, such as interfaces, lan, bridge.
	Attribute []string
	Err       error
	// Next is what to do.
	Next string
	// Possible is true if the VM can be made all the same.
	Possible bool
}

// Question is what Preflight is asked. Fields of Want that have no value yet are not checked.
type Question struct {
	Want Spec
	// Have is the VM as it is; nil for a new one. What Want has in common with it is not checked, but for the
	// interfaces of a VM that is off and is to run.
	Have *Spec
	// Known reports whether the caller manages the VM of a UUID, so that it may change or destroy it in the same run.
	Known func(uuid string) bool
}

// Preflight implements Interface.
func (f *Fleet) Preflight(ctx context.Context, q Question) ([]Problem, error) {
	if q.Known == nil {
		q.Known = func(string) bool { return false }
	}
	check := preflight{fleet: f, Question: q}
	for _, rule := range []func(context.Context) error{
		check.name, check.compute, check.hardware, check.disk, check.disks, check.directory, check.interfaces,
		check.ports, check.keys, check.autostart,
		check.networks,
	} {
		if err := rule(ctx); err != nil {
			return check.found, fmt.Errorf("check what VM %q needs of the host: %w", q.Want.Name, err)
		}
	}
	return check.found, nil
}

// preflight collects problems.
type preflight struct {
	fleet *Fleet
	Question
	found []Problem
}

// refuse records why the VM cannot be made.
func (p *preflight) refuse(next string, err error, attribute ...string) {
	p.found = append(p.found, Problem{Attribute: attribute, Err: err, Next: next})
}

// differs reports whether a value is checked: it is set, and the VM does not have it already.
func differs[T comparable](want T, have *Spec, of func(*Spec) T) bool {
	var none T
	return want != none && (have == nil || of(have) != want)
}

// name checks that a new VM's name is free.
func (p *preflight) name(ctx context.Context) error {
	if p.Have != nil || p.Want.Name == "" {
		return nil
	}
	domain, _, err := p.fleet.Hypervisor.Lookup(ctx, p.Want.Name)
	switch {
	case errors.Is(err, hypervisor.ErrNotFound):
		return nil
	case errors.Is(err, hypervisor.ErrForeign), errors.Is(err, hypervisor.ErrDamaged):
		p.refuse("Choose another name, or remove that domain. Nothing of it is touched.", err, "name")
		return nil
	case err != nil:
		return err
	case p.Known(domain.UUID) || domain.UUID == p.Want.UUID:
		return nil
	}
	interrupted, err := p.fleet.Interrupted(ctx, p.Want.Name)
	switch {
	case errors.Is(err, ErrCreating):
		p.refuse("Wait until it has ended. If no other apply runs, import the VM: run terraform import with "+
			itsAddress+" and "+p.Want.Name, err, "name")
		return nil
	case err != nil:
		return err
	case interrupted == domain.UUID:
		p.Want.UUID = interrupted // Create continues it
		p.found = append(p.found, Problem{
			Attribute: []string{"name"}, Possible: true,
			Err: fmt.Errorf("a VM of this name, with UUID %s, was made by an apply that was cut off", interrupted),
			Next: "The apply continues it, with its private disk. If it is changed and runs, it is shut down and " +
				"started. If the VM is another one, choose another name.",
		})
		return nil
	}
	p.refuse("Choose another name, or import that VM: run terraform import with "+itsAddress+" and "+p.Want.Name,
		fmt.Errorf("%w: it has UUID %s, and this state does not manage it", ErrExists, domain.UUID), "name")
	return nil
}

// compute checks processors and memory.
func (p *preflight) compute(ctx context.Context) error {
	processors := func(s *Spec) int { return max(s.VCPUs, s.MaxVCPUs) }
	bytes := func(s *Spec) int64 { return max(s.Memory, s.MaxMemory) }
	cpus := differs(processors(&p.Want), p.Have, processors)
	memory := differs(bytes(&p.Want), p.Have, bytes)
	if !cpus && !memory {
		return nil
	}
	limits, err := p.fleet.Hypervisor.Limits(ctx)
	if err != nil {
		return err
	}
	attribute := func(name string, most bool) string {
		if most {
			return "max_" + name
		}
		return name
	}
	want := processors(&p.Want)
	vcpus := attribute("vcpus", want > p.Want.VCPUs)
	if cpus && want > limits.VCPUs {
		p.refuse(fmt.Sprintf("Set %s to %d or less.", vcpus, limits.VCPUs),
			fmt.Errorf("it is to have %d processors, and QEMU can give a VM on this host at most %d",
				want, limits.VCPUs), vcpus)
	} else if cpus && limits.Processors > 0 && want > limits.Processors {
		p.found = append(p.found, Problem{Attribute: []string{vcpus}, Possible: true,
			Err:  fmt.Errorf("it is to have %d processors, and the host has %d", want, limits.Processors),
			Next: "The VM can be made, and is slower than with as many processors as the host has."})
	}
	if most := func(s *Spec) int { return s.MaxVCPUs }; limits.Emulated && p.Want.MaxVCPUs > 0 &&
		differs(p.Want.MaxVCPUs, p.Have, most) {
		p.found = append(p.found, Problem{Attribute: []string{"max_vcpus"}, Possible: true,
			Err:  errors.New("the host has no KVM, and QEMU cannot give an emulated VM processors while it runs"),
			Next: "The VM can lose processors while it runs. More of them take a power-off."})
	}
	if want := bytes(&p.Want); memory && limits.Memory > 0 && want > limits.Memory {
		attribute := attribute("memory", want > p.Want.Memory)
		p.refuse(fmt.Sprintf("Set %s to less than %dMiB.", attribute, limits.Memory>>20),
			fmt.Errorf("it is to have %d MiB of memory, and the host has %d MiB", want>>20, limits.Memory>>20),
			attribute)
	}
	return nil
}

// disk checks that the pool can hold the private disk.
func (p *preflight) disk(ctx context.Context) error {
	if !differs(p.Want.DiskSize, p.Have, func(s *Spec) int64 { return s.DiskSize }) {
		return nil
	}
	room, err := p.fleet.Store.Room(ctx)
	if errors.Is(err, store.ErrNotFound) {
		return nil // the pool is created with the first base
	}
	if err != nil {
		return err
	}
	had := int64(0)
	if p.Have != nil {
		had = p.Have.DiskSize
	}
	switch grows := p.Want.DiskSize - had; {
	case room.Thin && p.Want.DiskSize > room.Capacity:
		p.refuse(fmt.Sprintf("Set disk.size to less than %dMiB, or use a larger pool.", room.Capacity>>20),
			fmt.Errorf("its private disk is to have %d MiB, and all of storage pool %q has %d MiB", p.Want.DiskSize>>20,
				p.fleet.Pool, room.Capacity>>20),
			"disk", "size")
	case !room.Thin && grows > room.Available:
		p.refuse(
			"Choose a smaller disk.size, or add room to the pool: a disk in this pool takes all of its size at once.",
			fmt.Errorf("its private disk is to take %d MiB more, and storage pool %q has %d MiB free", grows>>20,
				p.fleet.Pool, room.Available>>20),
			"disk", "size")
	}
	return nil
}

// directory checks that QEMU can enter the directory with the private disks and layers. libvirt
// gives QEMU the files, and not the directories above them.
func (p *preflight) directory(ctx context.Context) error {
	if p.Have != nil && !p.starts() {
		return nil
	}
	limits, err := p.fleet.Hypervisor.Limits(ctx)
	if err != nil {
		return err
	}
	room, err := p.fleet.Store.Room(ctx)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return err
	}
	if limits.User == 0 || !filepath.IsAbs(room.Directory) {
		return nil
	}
	directories := []string{filepath.Clean(room.Directory)}
	for at := directories[0]; at != "/"; at = filepath.Dir(at) {
		directories = append(directories, filepath.Dir(at))
	}
	for _, at := range slices.Backward(directories) {
		owner, mode, err := p.fleet.Machine.Owner(ctx, at)
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, fs.ErrPermission) {
			return nil // libvirt makes it so that QEMU can enter it, or it is not for this process to see
		}
		if err != nil {
			return err
		}
		// Whether QEMU is in the directory's group is not known, nor what a list of access control
		// says: both give nothing without a bit for the group, which is the list's mask.
		enters := mode&0o011 != 0
		if owner == limits.User {
			enters = mode&0o100 != 0
		}
		if mode.IsDir() && !enters {
			p.refuse(
				fmt.Sprintf(
					"Let that user through, with: setfacl -m u:%d:x %s, or chmod o+x %[2]s. Or use a pool in another "+
						"directory (pool_path of the provider).", limits.User, at),
				fmt.Errorf(
					"QEMU runs as the user with number %d, who cannot enter %s (mode %04o), and storage pool %q is in %s",
					limits.User, at, mode.Perm(), p.fleet.Pool, room.Directory), "disk")
			return nil
		}
	}
	return nil
}

// keys checks that the boot configuration, which holds the SSH keys, is not too long.
func (p *preflight) keys(context.Context) error {
	if p.Have != nil && slices.Equal(p.Have.AuthorizedKeys, p.Want.AuthorizedKeys) {
		return nil
	}
	config, err := json.Marshal(agentapi.BootConfig{
		Operators: []string{base64.StdEncoding.EncodeToString(p.fleet.publicKey())},
		Hostname:  p.Want.Hostname, AuthorizedKeys: p.Want.AuthorizedKeys,
	})
	if err != nil {
		return fmt.Errorf("encode the boot configuration: %w", err)
	}
	if len(config) > hypervisor.MaxBootConfig {
		p.refuse("Use fewer or shorter keys, or put a key of a certificate authority (cert-authority) in their place.",
			fmt.Errorf("its boot configuration, with the SSH keys, would have %d bytes, and at most %d fit",
				len(config), hypervisor.MaxBootConfig),
			"ssh_authorized_keys")
	}
	return nil
}

// autostart checks that the host can start the VM without this provider.
func (p *preflight) autostart(ctx context.Context) error {
	if !differs(p.Want.LifeCycle.Autostart, p.Have, func(s *Spec) bool { return s.LifeCycle.Autostart }) {
		return nil
	}
	alone, err := p.fleet.Hypervisor.StartsAlone(ctx)
	if err == nil && !alone {
		p.found = append(p.found, Problem{Attribute: []string{"autostart"}, Possible: true,
			Err: errors.New(
				"the VM does not come up with this host, which has no vhost-vsock, and no hook of libvirt that starts the VM's vsock daemon"),
			Next: "Autostart is set nevertheless. After a restart of the host the VM stays off until the next apply, " +
				"unless the hook examples/host/libvirt-hook-vsock of this provider is installed on the host: as " +
				"root, run install -D -m 0755 libvirt-hook-vsock /etc/libvirt/hooks/qemu.d/sharedos-vsock, and " +
				"restart libvirtd."})
	}
	return err
}

// starts reports whether a VM that is off is to run, so that it needs all of its interfaces now.
func (p *preflight) starts() bool { return p.Want.Running && p.Have != nil && !p.Have.Running }

// interfaces checks bridges, networks and forwarded ports.
func (p *preflight) interfaces(ctx context.Context) error {
	for _, name := range slices.Sorted(maps.Keys(p.Want.Interfaces)) {
		want := p.Want.Interfaces[name]
		if err := want.CheckQueues(max(p.Want.VCPUs, p.Want.MaxVCPUs)); err != nil && p.Want.VCPUs > 0 {
			p.refuse("Set queues to the number of processors or less.", fmt.Errorf("interface %q: %w", name, err),
				"interfaces", name, "queues")
		}
		if p.Have != nil && reflect.DeepEqual(p.Have.Interfaces[name], want) && !p.starts() {
			continue
		}
		var err error
		switch {
		case want.User != nil:
			err = p.forwards(ctx, name, want.User)
		case want.Bridge != "":
			err = p.bridge(ctx, name, want)
		case want.Network != "":
			err = p.network(ctx, name, want.Network)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

func (p *preflight) bridge(ctx context.Context, name string, want hypervisor.Interface) error {
	found, err := p.fleet.Hypervisor.IsBridge(ctx, want.Bridge)
	if err != nil {
		return err
	}
	if !found {
		p.refuse(fmt.Sprintf("Create it on the host, such as with: ip link add %s type bridge", want.Bridge),
			fmt.Errorf("the host has no bridge %q", want.Bridge), "interfaces", name, "bridge")
		return nil
	}
	if want.VLAN == 0 {
		return nil
	}
	err = p.fleet.Hypervisor.CheckVLAN(ctx, want.Bridge)
	if errors.Is(err, hypervisor.ErrNoVLAN) {
		p.refuse(
			fmt.Sprintf(
				"Have the bridge filter VLANs: ip link set %s type bridge vlan_filtering 1. Or make a bridge for "+
					"this VLAN on the host, and leave vlan out.", want.Bridge),
			fmt.Errorf("interface %q is to be in VLAN %d: %w", name, want.VLAN, err),
			"interfaces", name, "vlan")
		return nil
	}
	return err
}

func (p *preflight) network(ctx context.Context, name, network string) error {
	active, err := p.fleet.Hypervisor.NetworkActive(ctx, network)
	switch {
	case errors.Is(err, hypervisor.ErrNoNetwork):
		p.refuse("Define and start it, or choose one of: virsh net-list --all",
			fmt.Errorf("libvirt has no network %q", network), "interfaces", name, "network")
		return nil
	case err == nil && !active && p.Want.Running:
		p.refuse("Start it, with: virsh net-start "+network,
			fmt.Errorf("the libvirt network %q is not active", network), "interfaces", name, "network")
	}
	return err
}

// ports checks that a running domain can have further disks and interfaces attached. Interfaces go before others come.
func (p *preflight) ports(ctx context.Context) error {
	if p.Have == nil || !p.Have.Running || !p.Want.Running {
		return nil
	}
	want := p.Want
	if want.Interfaces == nil {
		want.Interfaces = p.Have.Interfaces // they are not known yet
	}
	move, err := Plan(*p.Have, want, false)
	if err != nil || move.PowerCycle() {
		return nil //nolint:nilerr // the plan says it
	}
	disks, interfaces := len(move.Disks.Attach), max(0, len(move.Interfaces.Attach)-len(move.Interfaces.Detach))
	if disks+interfaces == 0 {
		return nil
	}
	room, err := p.fleet.Hypervisor.RoomForDisks(ctx, p.Want.Name)
	if errors.Is(err, hypervisor.ErrNotRunning) || errors.Is(err, hypervisor.ErrNotFound) {
		return nil
	}
	if err == nil && disks+interfaces > room {
		attribute := "disks"
		if interfaces > 0 {
			attribute = "interfaces"
		}
		p.refuse(
			"Apply with running = false first, and with running = true then: a VM that starts has ports for all of its disks and interfaces.",
			fmt.Errorf("%d disks and %d interfaces are to be attached, and the running VM has PCIe ports for %d more",
				disks, interfaces, room), attribute)
	}
	return err
}

// forwards checks that the ports on the host's 127.0.0.1 are free.
func (p *preflight) forwards(ctx context.Context, name string, user *hypervisor.UserNetwork) error {
	for _, port := range slices.Sorted(maps.Keys(user.Forwards)) {
		if p.Have != nil && holds(p.Have.Interfaces, port) && !p.starts() {
			continue
		}
		free, err := p.fleet.Machine.PortFree(ctx, port)
		if err != nil {
			return err
		}
		if free {
			continue
		}
		holder, known, err := p.holder(ctx, port)
		if err != nil {
			return err
		}
		if known {
			continue // the same run may free it, and if it does not, its plan has the port, too
		}
		why := fmt.Errorf("port %d of the host's 127.0.0.1 is in use", port)
		if holder != "" {
			why = fmt.Errorf("%w by VM %q", why, holder)
		}
		p.refuse("Choose another port, or end what listens on it: ss -ltnp 'sport = :"+strconv.Itoa(int(port))+"'", why,
			"interfaces", name, "user", "forwards")
	}
	return nil
}

// holder returns the VM whose definition forwards a port, and whether the caller manages it; "" if there is none.
func (p *preflight) holder(ctx context.Context, port uint16) (name string, known bool, err error) {
	domains, err := p.fleet.Hypervisor.List(ctx)
	if err != nil {
		return "", false, err
	}
	for _, domain := range domains {
		if holds(domain.Interfaces, port) {
			return domain.Name, domain.UUID == p.Want.UUID || p.Known(domain.UUID), nil
		}
	}
	return "", false, nil
}

// holds reports whether interfaces forward a port of the host.
func holds(interfaces map[string]hypervisor.Interface, port uint16) bool {
	for _, one := range interfaces {
		if one.User == nil {
			continue
		}
		if _, ok := one.User.Forwards[port]; ok {
			return true
		}
	}
	return false
}

// itsAddress stands for the address of the resource that a diagnostic is about, which Terraform
// does not tell a provider.
const itsAddress = "the address of this resource, which Terraform shows here after \"with\","
