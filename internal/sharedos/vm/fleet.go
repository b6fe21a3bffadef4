package vm

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"maps"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/compose"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/machine"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// Store is what a Fleet uses of a store.
type Store interface {
	store.Objects
	store.Disks
	store.Locks
}

// Fleet creates, updates and deletes the VMs of one host.
type Fleet struct {
	Hypervisor hypervisor.Hypervisor
	// Machine has the console logs, the files that VMs boot, and the ports that are forwarded to them.
	Machine interface {
		machine.Files
		machine.Sockets
	}
	Store Store
	// Key is the operator's. It signed the releases, it signs stacks, and agents accept connections with it.
	Key ed25519.PrivateKey
	// Pool is the name of the store's pool, for the record in the domain.
	Pool string
	// Cache is a directory on this machine for boot images that were made.
	Cache string
	// ConsoleDir is a directory on the host that gets one console log per VM.
	ConsoleDir string
	// BootDir is a directory on the host, of this pool alone, that lasts as long as definitions do. It gets the kernels
	// and initramfs of a pool whose volumes are devices.
	BootDir string
	// AgentBinary yields the guest's agent.
	AgentBinary func() ([]byte, error)
	// Initramfs packs the agent and a kernel's modules (package bootimage).
	Initramfs func(agent, modules []byte) ([]byte, error)
	// Offer returns the signed manifest and the contents list of a release that is prepared but perhaps not in
	// the store, and store.ErrNotFound for any other. Assess needs such releases during a plan. It may be nil.
	Offer func(ctx context.Context, id tree.Digest) (signed, contents []byte, err error)
	// Deriver makes layers out of releases. It may be nil if no VM has several components, or some on demand.
	Deriver Deriver
	// Collect deletes the volumes in the store that nothing refers to. It is called after a VM has stopped referring to
	// some. If it is nil, nothing is deleted.
	Collect func(ctx context.Context) error
	// CollectLimit is how much longer an update or a deletion may take for Collect; 0 is 45
	// seconds. The upload of a layer locks the pool for as long as it takes.
	CollectLimit time.Duration
	// Silence is how long an agent may not answer during a refresh; 0 is ten minutes.
	Silence time.Duration
	// BootLimit is how long an update waits for a VM whose agent does not answer, because it may be
	// booting; 0 is one minute.
	BootLimit time.Duration
	// AddressLimit is how long a VM that was started is waited for until it has an address; 0 is one minute.
	AddressLimit time.Duration
	// PausedLimit is how long a VM may be paused while the fleet waits for its agent; 0 is one
	// minute. A snapshot or a migration pauses a VM for seconds. A fault of its disk or of the
	// hypervisor pauses it until an operator resumes it.
	PausedLimit time.Duration
	// ListedFor is how long a list of what the pool has, and of what starts with the host, is used
	// for further reads of VMs; 0 is five seconds.
	ListedFor time.Duration
	Log       *slog.Logger

	garbage     garbage
	images      sync.Mutex // one boot image is made at a time
	managed     sync.Map   // whether a release has a network manager, by its id
	stacks      stacks
	offers      offers
	pooled      listed[int64]
	autostarted listed[bool]
}

// Deriver makes releases out of those of bases and components. It changes nothing in the store: Offer has the release
// until PublishDerived has stored it. The methods whose names end in Cached build nothing: their errors match
// publish.ErrNotCached if there is no such release yet.
type Deriver interface {
	// Join returns the id of the joining layer's release for components on a base, zero if they
	// need none. prefer are the preferences that settle something.
	Join(ctx context.Context, base tree.Digest, components []tree.Digest,
		prefer []release.Preference) (tree.Digest, error)
	JoinCached(ctx context.Context, base tree.Digest, components []tree.Digest,
		prefer []release.Preference) (tree.Digest, error)
	// StandIn returns the id of the release of a component's stand-in layer.
	StandIn(ctx context.Context, component tree.Digest) (tree.Digest, error)
	StandInCached(ctx context.Context, component tree.Digest) (tree.Digest, error)
	// MakeOffer returns the id of the release of an offer of stacks on a base.
	MakeOffer(ctx context.Context, base tree.Digest, stacks []compose.OfferedStack) (tree.Digest, error)
	MakeOfferCached(ctx context.Context, base tree.Digest, stacks []compose.OfferedStack) (tree.Digest, error)
	// PublishDerived stores what the other methods have made, unless it is stored. The caller holds
	// a lock of the store.
	PublishDerived(ctx context.Context, id tree.Digest) error
}

var _ Interface = (*Fleet)(nil)

func (f *Fleet) publicKey() ed25519.PublicKey { return f.Key.Public().(ed25519.PublicKey) }

// Create implements Interface.
func (f *Fleet) Create(ctx context.Context, spec Spec, progress Progress) (_ *VM, err error) {
	existing, state, err := f.find(ctx, spec.Name, spec.UUID)
	switch {
	case errors.Is(err, hypervisor.ErrNotFound):
	case errors.Is(err, hypervisor.ErrForeign), errors.Is(err, hypervisor.ErrDamaged):
		return nil, fmt.Errorf("create VM %q: %w", spec.Name, err)
	case errors.Is(err, ErrOther):
		return nil, fmt.Errorf("create VM %q: %w, with UUID %s", spec.Name, ErrExists, existing.UUID)
	case err != nil:
		return nil, fmt.Errorf("create VM %q: %w", spec.Name, err)
	case existing.Name != spec.Name:
		return nil, fmt.Errorf("create VM %q: %w under the name %q, with UUID %s", spec.Name, ErrExists,
			existing.Name, spec.UUID)
	}
	defer func() { err = errors.Join(err, f.finished(ctx, spec)) }()
	if err == nil && (state == hypervisor.Running || state == hypervisor.Paused) {
		if err := f.stopUnlike(ctx, existing, spec, progress); err != nil {
			return nil, fmt.Errorf("create VM %q: %w", spec.Name, err)
		}
	}
	making := spec
	making.Disks = unprotected(spec.Disks)
	if err := f.define(ctx, making, progress); err != nil {
		return nil, fmt.Errorf("create VM %q: %w", spec.Name, err)
	}
	var ready float64
	if spec.Running {
		if ready, err = f.start(ctx, spec.Name, progress); err != nil {
			return nil, fmt.Errorf("create VM %q: %w", spec.Name, err)
		}
		if err := f.configure(ctx, spec, progress); err != nil {
			return nil, fmt.Errorf("create VM %q: %w", spec.Name, err)
		}
		if err := f.awaitReady(ctx, spec, progress); err != nil {
			return nil, fmt.Errorf("create VM %q: %w", spec.Name, err)
		}
	}
	// This comes last: a VM whose creation failed can be deleted, and does not start with the host.
	domain, _, err := f.find(ctx, spec.Name, spec.UUID)
	if err == nil {
		_, err = f.protectDisks(ctx, domain, spec)
	}
	if err != nil {
		return nil, fmt.Errorf("create VM %q: %w", spec.Name, err)
	}
	if err := f.SetLifeCycle(ctx, spec.Name, spec.UUID, spec.LifeCycle); err != nil {
		return nil, err
	}
	made, err := f.Read(ctx, spec.Name)
	if err != nil {
		return nil, err
	}
	made.Spec.Refresh = spec.Refresh
	made.ReadySeconds = ready
	return made, nil
}

// stopUnlike powers off a VM whose creation is continued, if it runs something else than spec says.
func (f *Fleet) stopUnlike(ctx context.Context, domain hypervisor.Domain, spec Spec, progress Progress) error {
	have := Spec{
		UUID: domain.UUID, VCPUs: domain.VCPUs, MaxVCPUs: domain.MaxVCPUs, Memory: domain.Memory,
		MaxMemory:  domain.MaxMemory,
		Interfaces: domain.Interfaces, Disks: f.disksOf(domain), Hardware: domain.Hardware,
	}
	disks, powerOff, err := planDisks(have.Disks, spec.Disks)
	known := specOf(domain)
	interfaces, atStart := PlanInterfaces(spec.UUID, have.Interfaces, spec.Interfaces)
	same := known.Base == spec.Base && slices.Equal(known.Components, spec.Components) &&
		slices.Equal(known.OnDemand, spec.OnDemand) &&
		slices.Equal(known.Prefer, spec.Prefer) && have.VCPUs == spec.VCPUs && have.Memory == spec.Memory
	if same && err == nil && !powerOff && !disks.Any() && len(compute(have, spec)) == 0 &&
		len(HardwareChanges(have.Hardware, spec.Hardware)) == 0 &&
		have.Hardware.CPU.Shares == spec.Hardware.CPU.Shares &&
		!atStart && !interfaces.Any() && sameAtBoot(domain, spec) {
		return nil
	}
	if !domain.Metadata.BeingMade() { // it may serve somebody already
		return f.stop(ctx, domain.Name, progress)
	}
	progress("powering off: the creation was begun with another configuration")
	return f.Hypervisor.PowerOff(ctx, domain.Name)
}

// sameAtBoot reports whether a definition has the host name, the keys and the size of the disk that spec says.
// A guest that runs gets them at its next start, or from an update, which compares with the definition alone.
func sameAtBoot(domain hypervisor.Domain, spec Spec) bool {
	config, err := bootConfig(domain)
	return err == nil && config.Hostname == spec.Hostname && slices.Equal(config.AuthorizedKeys, spec.AuthorizedKeys) &&
		domain.Metadata.DiskSize == spec.DiskSize
}

// define makes the private disk and the definition as spec says. Either may exist already. The
// agent's key is kept in the definition. It also attaches the layers of fallbacks: the guest boots
// one of these stacks if its own does not come up.
func (f *Fleet) define(ctx context.Context, spec Spec, progress Progress, fallbacks ...release.Stack) (err error) {
	// Until the definition names what the VM needs, a collection would delete it.
	ctx, unlock, err := f.Store.Lock(ctx, store.Shared, progress)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	of, err := f.recipe(ctx, spec)
	if err != nil {
		return err
	}
	stack, offer, err := f.stored(ctx, spec, of)
	if err != nil {
		return err
	}
	has, _, err := f.find(ctx, spec.Name, spec.UUID)
	if err != nil && !errors.Is(err, hypervisor.ErrNotFound) {
		return err
	}
	if err := f.verify(ctx, stack, has.Layers, progress); err != nil {
		return err
	}
	domain, err := f.domain(ctx, spec, stack, offer, has.Metadata.Detaches, progress)
	if err != nil {
		return err
	}
	if err := f.attachFallback(ctx, &domain, fallbacks); err != nil {
		return err
	}
	known, state, err := f.find(ctx, spec.Name, spec.UUID)
	switch {
	case errors.Is(err, hypervisor.ErrNotFound):
		return f.defineFirst(ctx, spec, domain, progress)
	case err != nil:
		return err
	case known.Name != spec.Name:
		return fmt.Errorf("it is named %q now: %w; rename it back (virsh domrename %[1]s %[3]s)",
			known.Name, ErrOther, spec.Name)
	}
	volume, err := f.diskOf(ctx, known)
	if err != nil {
		return err
	}
	if domain, err = kept(domain, known); err != nil {
		return err
	}
	keepMove(&domain, known, !spec.Running)
	domain.Metadata.PrivateVolume = volume
	size := spec.DiskSize
	disk, diskErr := f.Store.PrivateDisk(ctx, volume)
	switch {
	case errors.Is(diskErr, store.ErrNotFound) && known.Metadata.BeingMade():
		return f.defineFirst(ctx, spec, domain, progress)
	case errors.Is(diskErr, store.ErrNotFound):
		return diskGone(volume, f.Pool)
	case diskErr != nil:
		return fmt.Errorf("look for its private disk: %w", diskErr)
	case disk.Capacity < spec.DiskSize:
		progress("growing the private disk")
	case diskSize(known, disk) <= spec.DiskSize:
		size = disk.Capacity // what an earlier growth made of it
	}
	if domain.PrivateDisk, err = f.Store.CreatePrivateDisk(ctx, volume, size); err != nil {
		return fmt.Errorf("make its private disk: %w", err)
	}
	if known, err = f.recordDisks(ctx, known, spec); err != nil {
		return err
	}
	if err := f.defineDisks(ctx, &domain, known, spec, state == hypervisor.Running, progress); err != nil {
		return err
	}
	if known.Metadata.Creating != nil {
		if domain.Metadata.Creating, err = f.creating(); err != nil {
			return err
		}
	}
	progress("defining the domain")
	if err := f.Hypervisor.Define(ctx, domain); err != nil {
		return err
	}
	return f.dropDisks(ctx, domain.UUID, unwanted(known, spec), progress)
}

func diskGone(volume, pool string) error {
	return fmt.Errorf(
		"%w: there is no volume %s in pool %q; if it can be put back there, do that and apply again; to make the VM "+
			"anew, with an empty disk, run terraform apply -replace= with the address of the resource, which "+
			"Terraform shows with this error", ErrDiskGone, volume, pool)
}

// defineFirst defines a VM for the first time. It first defines it without its private disk, so that a
// domain names the volume even if the creation is interrupted. If it fails, it removes what it has made.
func (f *Fleet) defineFirst(ctx context.Context, spec Spec, domain hypervisor.Domain, progress Progress) (err error) {
	if domain.Metadata.Creating, err = f.creating(); err != nil {
		return err
	}
	volume, err := store.DiskName(spec.Name, spec.UUID)
	if err != nil {
		return err
	}
	domain.Metadata.PrivateVolume = volume
	if domain.Metadata.Disks, _, err = f.withNewDisks(domain, spec); err != nil {
		return err
	}
	progress("making the private disk")
	defer func() {
		if err != nil {
			err = errors.Join(err, f.dropFirst(ctx, spec, volume))
		}
	}()
	if err := f.Hypervisor.Define(ctx, domain); err != nil {
		return err
	}
	if domain.PrivateDisk, err = f.Store.CreatePrivateDisk(ctx, volume, spec.DiskSize); err != nil {
		return fmt.Errorf("make its private disk: %w", err)
	}
	if err := f.defineDisks(ctx, &domain, domain, spec, false, progress); err != nil {
		return err
	}
	progress("defining the domain")
	return f.Hypervisor.Define(ctx, domain)
}

// dropFirst removes the private disk, the further disks and the domain of a VM whose first definition failed: nothing
// has written to the disk. Both are kept if the domain has the disk nevertheless, or if libvirt does not answer.
func (f *Fleet) dropFirst(ctx context.Context, spec Spec, volume string) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), callLimit)
	defer cancel()
	domain, _, err := f.Hypervisor.LookupUUID(ctx, spec.UUID)
	gone := errors.Is(err, hypervisor.ErrNotFound)
	switch {
	case err != nil && !gone:
		return err
	case domain.PrivateDisk != "":
		return nil
	}
	if err := f.Store.DeletePrivateDisk(ctx, volume); err != nil && !errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("remove its private disk again: %w", err)
	}
	for name := range spec.Disks {
		record, err := f.recordOf(spec.Name, spec.UUID, name, spec.Disks[name])
		if err == nil {
			err = f.deleteDisk(ctx, spec.UUID, name, record, func(string) {})
		}
		if err != nil && !errors.Is(err, store.ErrAbsentPool) { // nothing was made in a pool that does not exist
			return fmt.Errorf("remove its disks again: %w", err)
		}
	}
	if gone {
		return nil
	}
	if err := f.Hypervisor.Undefine(ctx, domain.Name); err != nil {
		return fmt.Errorf("undefine it again: %w", ignoreNotFound(err))
	}
	return nil
}

// domain describes the VM without its private disk. detaches is that of its metadata (detachAtStart).
func (f *Fleet) domain(ctx context.Context, spec Spec, stack *composed, offer *offer, detaches int,
	progress Progress) (hypervisor.Domain, error) {
	layers, err := f.layerDevices(ctx, stack.Layers)
	if err != nil {
		return hypervisor.Domain{}, err
	}
	offered, err := f.offerDevices(ctx, offer, stack.Stack)
	if err != nil {
		return hypervisor.Domain{}, err
	}
	image, err := f.bootImage(ctx, stack.manifest.Kernel, progress)
	if err != nil {
		return hypervisor.Domain{}, err
	}
	config, err := bootNetworks(agentapi.BootConfig{
		Stack:          stack.Stack,
		Operators:      []string{base64.StdEncoding.EncodeToString(f.publicKey())},
		Hostname:       spec.Hostname,
		AuthorizedKeys: spec.AuthorizedKeys,
		Detaches:       detaches,
		Disks:          MountedDisks(spec.Disks),
	}, spec)
	if err != nil {
		return hypervisor.Domain{}, fmt.Errorf("encode the boot configuration: %w", err)
	}
	rollout, err := recordOf(spec.Refresh)
	if err != nil {
		return hypervisor.Domain{}, err
	}
	domain := hypervisor.Domain{
		Name: spec.Name, UUID: spec.UUID, VCPUs: spec.VCPUs, MaxVCPUs: spec.MaxVCPUs, Memory: spec.Memory,
		MaxMemory: spec.MaxMemory,
		Kernel:    image.kernel, Initramfs: image.initramfs, KernelArgs: spec.KernelArgs,
		Layers: append(layers, offered...), Interfaces: spec.Interfaces, BootConfig: config,
		ConsoleLog: f.consoleLog(spec.Name),
		Metadata: hypervisor.Metadata{
			Stack: stack.Stack, Pool: f.Pool, Offer: offer.record(),
			Initramfs: image.digest, DiskSize: spec.DiskSize, Rollout: rollout,
		},
	}
	domain.Give(spec.Hardware)
	return domain, nil
}

// Read implements Interface.
func (f *Fleet) Read(ctx context.Context, name string) (*VM, error) {
	domain, state, err := f.Hypervisor.Lookup(ctx, name)
	if err != nil {
		return nil, fmt.Errorf("read VM %q: %w", name, err)
	}
	return f.observe(ctx, domain, state)
}

// observe describes a VM, and asks its agent if it runs.
func (f *Fleet) observe(ctx context.Context, domain hypervisor.Domain, state hypervisor.State) (*VM, error) {
	name := domain.Name
	found, err := f.describe(ctx, domain, state)
	if err != nil {
		return nil, fmt.Errorf("read VM %q: %w", name, err)
	}
	if state != hypervisor.Running {
		if state == hypervisor.Off || state == hypervisor.Crashed {
			found.Addresses = noAddresses(domain.Interfaces)
		}
		return found, nil
	}
	agent, err := f.connect(ctx, domain)
	var status *agentapi.StatusResponse
	if err == nil {
		defer func() { _ = agent.Close() }() // only questions are asked on it
		status, err = statusOf(ctx, agent, &agentapi.StatusRequest{})
	}
	if err != nil {
		f.Log.WarnContext(ctx, "the agent does not answer", "vm", name, "error", err)
		found.NoAnswer = err
		return found, nil
	}
	running, err := agentapi.ParseStack(status.GetStack())
	if err != nil {
		// A guest's answer must not prevent a plan, or the deletion of the VM.
		found.NoAnswer = fmt.Errorf("%w: its agent names a stack that is none: %w", ErrNoAnswer, err)
		return found, nil
	}
	found.Answered, found.Agent, found.Stack = true, status, running
	found.AwaitsPowerCycle = awaitsPowerCycle(domain, running)
	if names, moved := movedByUse(domain, running); moved {
		found.Spec.Attached = names
		if !found.AwaitsPowerCycle { // the guest has committed what it runs, and boots it
			found.Configured = running
		}
	}
	has := domain
	has.Interfaces = found.Spec.Interfaces
	found.Unreachable, found.Addresses = unreachable(has, status), addresses(has, status.GetNetwork())
	if err := f.readConfiguration(ctx, agent, domain, found); err != nil {
		// A guest's answer must not prevent a plan: state keeps what it was given.
		f.Log.WarnContext(ctx, "unable to read the configuration of the guest", "vm", name, "error", err)
	}
	if found.Surplus, err = f.surplusLayers(ctx, agent, domain, status); err != nil {
		// Layers that stay attached cost little, and nothing depends on what uses them.
		f.Log.WarnContext(ctx, "unable to find out which layers are in use", "vm", name, "error", err)
	}
	lacking, err := f.attachedFaults(ctx, domain, running)
	if err != nil {
		return nil, fmt.Errorf("read VM %q: %w", name, err)
	}
	found.Faults = append(found.Faults, lacking...)
	return found, nil
}

// describe returns what the definition and the store record about a VM.
func (f *Fleet) describe(ctx context.Context, domain hypervisor.Domain, state hypervisor.State) (*VM, error) {
	faults, err := f.definitionFaults(ctx, domain)
	if err != nil {
		return nil, err
	}
	config, err := bootConfig(domain)
	if err != nil {
		faults = append(faults, Fault{"boot configuration", err.Error() + "; the next apply defines it again", true})
	}
	volume, err := f.diskOf(ctx, domain)
	if err != nil {
		return nil, err
	}
	disk, err := f.Store.PrivateDisk(ctx, volume)
	gone := errors.Is(err, store.ErrNotFound)
	switch {
	case gone && !domain.Metadata.BeingMade():
		faults = append(faults, Fault{"private disk", diskGone(volume, f.Pool).Error(), false})
	case err != nil && !gone:
		return nil, fmt.Errorf("read its private disk: %w", err)
	}
	further, err := f.diskFaults(ctx, domain, state)
	if err != nil {
		return nil, err
	}
	faults = append(faults, further...)
	lifeCycle, err := f.lifeCycle(ctx, domain)
	if err != nil {
		return nil, err
	}
	stack := specOf(domain)
	found := &VM{
		Faults: faults, diskGone: gone && !domain.Metadata.BeingMade(),
		Unrecorded: domain.Metadata.Creating != nil && domain.Metadata.Creating.Finished,
		Spec: Spec{
			Name: domain.Name, UUID: domain.UUID,
			Base: stack.Base, Components: stack.Components, Prefer: stack.Prefer, OnDemand: stack.OnDemand,
			Attached: stack.Attached,
			VCPUs:    domain.VCPUs, MaxVCPUs: domain.MaxVCPUs, Memory: domain.Memory, MaxMemory: domain.MaxMemory,
			DiskSize: diskSize(domain, disk),
			Hostname: config.Hostname, AuthorizedKeys: config.AuthorizedKeys, KernelArgs: domain.KernelArgs,
			Interfaces: domain.Interfaces, Hardware: domain.Hardware, Disks: f.disksOf(domain),
			Running:   state == hypervisor.Running,
			LifeCycle: lifeCycle, Given: domain.Metadata.Configuration,
		},
		State: state, Rollout: participation(domain), Pool: f.Pool, Stack: domain.Metadata.Stack,
		Configured:    domain.Metadata.Stack,
		DiskAllocated: disk.Allocation, ConsoleLog: domain.ConsoleLog,
	}
	if found.Rollout != nil {
		found.Spec.Refresh = found.Rollout.Policy
	}
	if state != hypervisor.Running {
		return found, nil
	}
	if err := f.readProcessors(ctx, found); err != nil {
		return nil, err
	}
	return found, f.readInterfaces(ctx, found)
}

// shutdownLimit is how long a guest may take to shut down before it is powered off.
const shutdownLimit = 90 * time.Second

// stop asks the guest to shut down, and powers the VM off if it does not.
func (f *Fleet) stop(ctx context.Context, name string, progress Progress) error {
	progress("shutting down")
	polite, cancel := context.WithTimeout(ctx, shutdownLimit)
	defer cancel()
	err := f.Hypervisor.Shutdown(polite, name)
	if err == nil {
		return nil
	}
	if ctx.Err() != nil {
		return fmt.Errorf("shut down: %w", err)
	}
	f.Log.WarnContext(ctx, "the guest did not power off by itself", "vm", name, "limit", shutdownLimit, "error", err)
	progress("powering off: the guest did not shut down by itself")
	return f.Hypervisor.PowerOff(ctx, name)
}

// Delete implements Interface.
func (f *Fleet) Delete(ctx context.Context, name, uuid string, progress Progress) error {
	f.garbage.begin()
	had, was, err := f.delete(ctx, name, uuid, progress)
	notCollected := f.collect(ctx, had, err == nil && !was, progress)
	if errors.Is(err, ErrLeft) {
		f.logNotCollected(ctx, notCollected)
		return fmt.Errorf("VM %q is deleted: %w", name, err)
	}
	if err != nil {
		f.logNotCollected(ctx, notCollected)
		return fmt.Errorf("delete VM %q: %w", name, err)
	}
	if notCollected != nil {
		return fmt.Errorf("VM %q is deleted: %w", name, notCollected)
	}
	return nil
}

// delete deletes a VM. It returns the releases that the VM referred to, and whether these are known.
func (f *Fleet) delete(ctx context.Context, name, uuid string,
	progress Progress) (had []tree.Digest, was bool, _ error) {
	domain, _, err := f.find(ctx, name, uuid)
	was = err == nil
	defined := was
	var volume string
	var left error
	switch {
	case errors.Is(err, hypervisor.ErrNotFound), errors.Is(err, hypervisor.ErrDamaged):
		defined = errors.Is(err, hypervisor.ErrDamaged) // the UUID shows that it is this VM
		if volume, err = store.DiskName(name, uuid); err != nil {
			return nil, was, err
		}
	case err != nil:
		return nil, was, err
	case domain.Metadata.Protected:
		return nil, was, ErrProtected
	case len(protectedDisks(domain)) > 0:
		return nil, was, protectedDisk(protectedDisks(domain)[0])
	default:
		if had, err = f.refersTo(ctx, domain); err != nil {
			return nil, was, err
		}
		volume, err = f.diskOf(ctx, domain)
		switch {
		case errors.Is(err, ErrNotOurs) && domain.Metadata.Pool == f.Pool:
			left = fmt.Errorf("%w: %w; if it is not needed, delete it (virsh vol-delete)", ErrLeft, err)
		case err != nil:
			return nil, was, err
		}
	}
	if defined {
		progress("powering off")
		if err := f.Hypervisor.PowerOff(ctx, domain.Name); err != nil && !errors.Is(err, hypervisor.ErrNotFound) {
			return nil, was, fmt.Errorf("power off: %w", err)
		}
	}
	leftDisks, err := f.remove(ctx, domain, volume, defined, progress)
	if err != nil {
		return nil, was, err
	}
	left = errors.Join(left, leftDisks)
	return had, was, errors.Join(left, f.deleteConsole(ctx, name))
}

// remove removes the further disks, the private disk and the definition of a VM that is off. The
// definition is removed last: until then it names the disk, so that the next deletion continues an
// interrupted one. A collection must not see a disk without its definition: it would take the disk
// for that of a VM on another host. A further disk whose pool is gone is left (ErrLeft).
func (f *Fleet) remove(ctx context.Context, domain hypervisor.Domain, volume string, defined bool,
	progress Progress) (left, err error) {
	ctx, unlock, err := f.Store.Lock(ctx, store.Shared, progress)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	for _, disk := range slices.Sorted(maps.Keys(domain.Metadata.Disks)) {
		err := f.deleteDisk(ctx, domain.UUID, disk, domain.Metadata.Disks[disk], progress)
		switch {
		case errors.Is(err, store.ErrAbsentPool), errors.Is(err, ErrNotOurs):
			left = errors.Join(left, fmt.Errorf("%w: %w", ErrLeft, err))
		case err != nil:
			return nil, err
		}
	}
	if volume != "" {
		progress("deleting the private disk")
		if err := f.Store.DeletePrivateDisk(ctx, volume); err != nil && !errors.Is(err, store.ErrNotFound) {
			return nil, fmt.Errorf("delete its private disk: %w", err)
		}
	}
	if !defined {
		return left, nil
	}
	if err := f.Hypervisor.Undefine(ctx, domain.Name); err != nil && !errors.Is(err, hypervisor.ErrNotFound) {
		return nil, fmt.Errorf("undefine: %w", err)
	}
	return left, nil
}

// deleteConsole removes a VM's console log, and the older ones that virtlogd keeps.
func (f *Fleet) deleteConsole(ctx context.Context, name string) error {
	logs := []string{f.consoleLog(name)}
	for i := range consoleBackups {
		logs = append(logs, fmt.Sprintf("%s.%d", f.consoleLog(name), i))
	}
	for _, log := range logs {
		if err := f.Machine.Remove(ctx, log); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("delete its console log: %w", err)
		}
	}
	return nil
}

// consoleBackups is how many logs virtlogd keeps at most (virtlogd.conf, max_backups: 3 unless it is set).
const consoleBackups = 10

// consoleLog is the file that libvirt appends a VM's console to.
func (f *Fleet) consoleLog(name string) string { return filepath.Join(f.ConsoleDir, name+".log") }
