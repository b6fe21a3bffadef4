// Package hypervisor runs VMs as libvirt domains.
//
// A [Domain] is the model of a definition. Definitions are written from the model and never edited, so
// that nothing stays in them that the model does not have. What a person adds to a definition and the
// model has is kept: its title, its description and metadata of others, and disks of others. Each group
// of devices has a file: layerdevice.go, privatedisk.go, disk.go, network.go, vsock.go and pci.go.
//
// The package does not know what a release is: a layer is a volume that is attached as a device. It
// has no type of libvirt in its API. Callers match ErrNotFound, ErrForeign and ErrUnreachable.
package hypervisor

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/libvirtconn"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/transport"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

var (
	// ErrNotFound means that libvirt answered that there is no such domain. No other failure means that it is gone.
	ErrNotFound = errors.New("no such domain")
	// ErrForeign means that the name belongs to a domain that this project did not create.
	ErrForeign = errors.New("a domain of this name exists that was not made by sharedos")
	// ErrDamaged means that a domain has this project's mark, and that the record in its metadata cannot be read.
	ErrDamaged = errors.New("the record of this domain in its metadata is damaged")
	// ErrUnreachable means that libvirt did not answer. Whether the domain exists is unknown.
	ErrUnreachable = libvirtconn.ErrUnreachable
	// ErrNotRunning means that the operation needs a running domain.
	ErrNotRunning = errors.New("the domain does not run")
	// ErrGuestKeeps means that a guest has not released processors or memory, or not taken them.
	ErrGuestKeeps = errors.New("the guest has not followed")
	// ErrEmulated means that a domain cannot get processors while it runs, because QEMU emulates it: QEMU 10.0 ends
	// (tcg_register_thread) if a processor comes back that was taken out before.
	ErrEmulated = errors.New("an emulated domain cannot get processors while it runs")
	// ErrNoPort means that a running domain has no PCIe port left for another layer, disk or interface.
	ErrNoPort = errors.New("the running domain has no room for another layer, disk or interface")
	// ErrNoDisk means that a running domain has no such disk.
	ErrNoDisk = errors.New("the running domain has no such disk")
	// ErrNoInterface means that a domain has no such interface, or one on a user-mode network,
	// which libvirt does not know.
	ErrNoInterface = errors.New("the domain has no such interface that libvirt knows")
	// ErrNoVLAN means that interfaces on a bridge cannot be in a VLAN.
	ErrNoVLAN = errors.New("interfaces on this bridge cannot be in a VLAN")
	// ErrVSockEnded means that the vsock daemon of a running domain has ended. The domain is
	// unreachable until it is powered off and started.
	ErrVSockEnded = errors.New("its vsock daemon has ended")
	// ErrStarting means that the guest has not set up its vsock: it is booting, or was reset.
	ErrStarting = errors.New("the guest has not set up its vsock yet")
)

// VSockState says whether the guest can be dialled.
type VSockState int

const (
	// VSockKernel: the machine's kernel serves the vsock, which can be dialled at any moment.
	VSockKernel VSockState = iota
	// VSockUp and VSockDown: a daemon serves it, and the guest's driver has set it up, or not. A daemon
	// that is dialled at the moment at which the guest goes down does not recover (readyDialer).
	VSockUp
	VSockDown
)

// Hypervisor defines, runs and changes domains.
type Hypervisor interface {
	// Define creates the domain, or redefines it under the same UUID, so that it exists at every
	// moment. ErrForeign if a domain of the name has another UUID.
	Define(ctx context.Context, domain Domain) error
	// Lookup returns the domain as it is defined, and its state. With ErrForeign and ErrDamaged,
	// the Domain has the name and the UUID.
	Lookup(ctx context.Context, name string) (Domain, State, error)
	// LookupUUID is Lookup by the UUID, in canonical form, whatever the name of the domain is.
	LookupUUID(ctx context.Context, uuid string) (Domain, State, error)
	// Broke reports whether QEMU of a domain that does not run ended although the guest had not
	// powered off: it crashed, or somebody killed it. libvirt knows that until it is restarted itself.
	Broke(ctx context.Context, name string) (bool, error)
	// List returns all domains that this project created, running or not.
	List(ctx context.Context) ([]Domain, error)
	// Inventory is List with the state of each domain. A domain whose record is damaged is listed, too.
	Inventory(ctx context.Context) ([]Listed, error)
	// Start boots the domain. It does nothing if the domain runs.
	Start(ctx context.Context, name string) error
	// Shutdown asks the guest to power off and waits until it has.
	Shutdown(ctx context.Context, name string) error
	// PowerOff stops the domain at once. It does nothing if the domain does not run.
	PowerOff(ctx context.Context, name string) error
	// Undefine removes the definition of a domain that does not run.
	Undefine(ctx context.Context, name string) error
	// AttachLayer adds a layer to the running domain and to its definition, unless they have it.
	// ErrNoPort if the running domain has no room for it.
	AttachLayer(ctx context.Context, name string, layer LayerDevice) error
	// DetachLayer removes a layer from the running domain and from its definition. It waits until the guest has
	// released the device. The agent must have released the layer before: libvirt detaches a mounted disk, too.
	DetachLayer(ctx context.Context, name string, id tree.Digest) error
	// AttachedLayers lists the layers of the running domain, whatever its definition says. A domain
	// that does not run has none.
	AttachedLayers(ctx context.Context, name string) ([]tree.Digest, error)
	// BootFiles lists the kernels and initramfs of all domains, whoever created them, as they are
	// defined and as they run. The list is sorted.
	BootFiles(ctx context.Context) ([]string, error)
	// ResizeDisk grows a disk of a running domain to size bytes and tells the guest: the further disk of the
	// name, or the private disk for "". It does nothing if the disk is larger. ErrNotRunning if the domain
	// does not run; its volume alone has to be grown then. ErrNoDisk if the running domain does not have it.
	ResizeDisk(ctx context.Context, name, disk string, size int64) error
	// AttachDisk adds a further disk to the running domain and to its definition, unless they have
	// it. ErrNoPort if the running domain has no room for it.
	AttachDisk(ctx context.Context, name, disk string, device Disk) error
	// DetachDisk removes a further disk from the running domain and from its definition. It waits until the guest
	// has released the device. The agent must have unmounted it before: libvirt detaches a mounted disk, too.
	DetachDisk(ctx context.Context, name, disk string) error
	// AttachedDisks lists the further disks of the running domain, sorted, whatever its definition
	// says. ErrNotRunning if it does not run.
	AttachedDisks(ctx context.Context, name string) ([]string, error)
	// RoomForDisks returns how many further disks, or interfaces, can be attached to the running
	// domain. ErrNotRunning if it does not run.
	RoomForDisks(ctx context.Context, name string) (int, error)
	// SetVCPUs gives the running domain so many processors, 1 to its MaxVCPUs, and SetMemory so many
	// bytes of memory, whole MiB up to its MaxMemory. They wait until the domain has them: ErrGuestKeeps
	// if the guest has not released the rest when ctx ends. The definition stays as it is. ErrNotRunning
	// if the domain does not run, and ErrEmulated for more processors of an emulated one.
	SetVCPUs(ctx context.Context, name string, count int) error
	SetMemory(ctx context.Context, name string, bytes int64) error
	// VCPUsNow is how many processors the running domain has, whatever its definition says.
	// ErrNotRunning if it does not run.
	VCPUsNow(ctx context.Context, name string) (int, error)
	// SetShares sets CPU.Shares of the running domain; 0 is the host's default. The definition
	// stays as it is. ErrNotRunning if it does not run.
	SetShares(ctx context.Context, name string, shares int) error
	// Accepts asks whether the host can run a domain with this definition, as far as that can be known without starting
	// it. Nothing is changed. ErrRefused says why it cannot, with a PatchError in it if a patch cannot be applied.
	Accepts(ctx context.Context, domain Domain) error
	// CPUModels lists what CPU.Model can be on this host, sorted, and FreePages counts the free
	// memory pages of a size in bytes.
	CPUModels(ctx context.Context) ([]string, error)
	FreePages(ctx context.Context, size int64) (int64, error)
	// HasDevice reports whether the host has a device.
	HasDevice(ctx context.Context, device HostDevice) (bool, error)
	// AttachInterface adds an interface on a bridge or network to the running domain and to its definition,
	// unless they have one of the name. ErrNoPort if the running domain has not more than reserved PCIe
	// ports free, ErrNoVLAN if the bridge has no VLANs, and ErrNoInterface for one on a user-mode network.
	AttachInterface(ctx context.Context, name, iface string, device Interface, reserved int) error
	// DetachInterface removes an interface from the running domain and from its definition. It
	// waits until the guest has released the card. It does nothing if neither has it.
	DetachInterface(ctx context.Context, name, iface string) error
	// UpdateInterface sets the link of an interface, and the bridge or network that it is on, in the
	// running domain and in the definition, where they differ. One that moves to another network has
	// its link down for a moment, so that the guest asks for an address again. Everything else of it
	// stays as it is. ErrNoInterface if neither has it, or libvirt does not know it.
	UpdateInterface(ctx context.Context, name, iface string, device Interface) error
	// AttachedInterfaces returns the interfaces of the running domain that libvirt knows, whatever its definition says.
	// ErrNotRunning if it does not run.
	AttachedInterfaces(ctx context.Context, name string) (map[string]Interface, error)
	// CheckVLAN returns why an interface on a bridge of the host cannot be in a VLAN: ErrNoVLAN, or
	// that it is not known.
	CheckVLAN(ctx context.Context, bridge string) error
	// SetMetadata replaces the metadata of the domain, in its definition and in the running domain, in one step.
	SetMetadata(ctx context.Context, name string, metadata Metadata) error
	// SetTitle and SetDescription replace the title and the description of the domain, in its definition and in the
	// running domain. "" removes them.
	SetTitle(ctx context.Context, name, title string) error
	SetDescription(ctx context.Context, name, description string) error
	// SetAutostart says whether libvirt starts the domain when the host starts. That changes neither the definition nor
	// the running domain, and lasts until the domain is undefined.
	SetAutostart(ctx context.Context, name string, on bool) error
	// Autostarted returns the UUIDs of the domains that libvirt starts when the host starts, whoever created them.
	Autostarted(ctx context.Context) (map[string]bool, error)
	// StartsAlone reports whether a domain also comes up if somebody else than this package starts it, such as libvirt
	// when the host starts.
	StartsAlone(ctx context.Context) (bool, error)
	// Dialer connects to ports of the running domain's vsock.
	Dialer(ctx context.Context, name string) (transport.Dialer, error)
	// VSock returns the state of the running domain's vsock, without touching it.
	VSock(ctx context.Context, name string) (VSockState, error)
	// Facts returns what this host runs domains with.
	Facts(ctx context.Context) (Facts, error)
	// Limits returns what a domain can have at most on this host.
	Limits(ctx context.Context) (Limits, error)
	// NetworkActive reports whether a network of libvirt is active, so that a domain with an interface on it can start.
	// ErrNoNetwork if libvirt has none of the name.
	NetworkActive(ctx context.Context, name string) (bool, error)
	// IsBridge reports whether the host has a bridge of the name. A network device of another kind is none.
	IsBridge(ctx context.Context, name string) (bool, error)
	// Closing reports whether a connection to a guest stays open until the guest is ready for its
	// end. A process that ends meanwhile can end the domain's vsock daemon (readyDialer).
	Closing() bool
	// Close closes the connections to guests. Domains keep running.
	Close() error
}

// State is the state of a domain.
type State int

// The states of a domain.
const (
	Off State = iota + 1
	Running
	// Crashed and Paused domains need a person.
	Crashed
	Paused
)

// String returns "off", "running", "crashed", "paused" or "unknown".
func (s State) String() string {
	switch s {
	case Off:
		return "off"
	case Running:
		return "running"
	case Crashed:
		return "crashed"
	case Paused:
		return "paused"
	default:
		return "unknown"
	}
}

// Creating says who makes a VM, so that another process recognises a creation that was interrupted,
// even after the VM itself was made: Terraform may be killed before it has written the VM to its state.
type Creating struct {
	// Operator is the operator's Ed25519 public key, base64.
	Operator string
	// Process is the process that makes it (store.ThisProcess).
	Process string
	// Began is when it began, in whole seconds, UTC.
	Began time.Time
	// Workspace is that of the process (store.ThisWorkspace); empty if a version before this one has recorded it.
	Workspace string `json:",omitempty"`
	// Finished is true if the VM was made, and it is not certain yet that it is in a state of Terraform.
	Finished bool `json:",omitempty"`
}

// Metadata is what a domain's definition records, so that import and drift need no state file.
type Metadata struct {
	Stack release.Stack
	// AgentKey is the agent's Ed25519 public key, base64, as pinned at first contact; empty before.
	AgentKey string
	// Pool and PrivateVolume name the private disk.
	Pool, PrivateVolume string
	// Creating is set until the VM was made for the first time and Terraform has recorded it; nil after that.
	Creating *Creating `json:",omitempty"`
	// Initramfs is the blob that the definition boots; zero if it is not recorded.
	Initramfs tree.Digest `json:",omitzero"`
	// DiskSize is the size of the private disk in bytes as it was asked for; 0 if it is not recorded.
	DiskSize int64 `json:",omitempty"`
	// Pinned are the releases that a refresh moves the guest between: until the definition follows,
	// the guest may run one that the definition does not name.
	Pinned []tree.Digest `json:",omitempty"`
	// Fallback is the stack that the guest falls back to if the one in the definition does not come up, without its
	// layers; nil if there is none.
	Fallback *release.Stack `json:",omitempty"`
	// Offer is what the VM can attach by itself; nil if nothing.
	Offer *Offer `json:",omitempty"`
	// Detaches counts how often the VM was defined without what it had attached by itself, for its
	// next start to detach it.
	Detaches int `json:",omitempty"`
	// Configuration is the id of the configuration that the guest has taken on last; "" if none.
	Configuration string `json:",omitempty"`
	// Protected is true while the VM must not be deleted.
	Protected bool `json:",omitempty"`
	// Disks are the further disks by their names. An entry is there before its volume is made, and
	// until that is deleted.
	Disks map[string]DiskRecord `json:",omitempty"`
	// LeftWith is the stack that the VM ran, without its layers, when its definition got another
	// one for the next power-off and start; nil if the guest follows the definition.
	LeftWith *release.Stack `json:",omitempty"`
	// Hardware is what the user said about the hardware, as it was said; nil if nothing. UnreadPatches are its patches,
	// counted from 0, that libvirt has written in other words, so that nobody can tell whether they are still there.
	Hardware      *Hardware `json:",omitempty"`
	UnreadPatches []int     `json:",omitempty"`
	// Rollout is set while rollouts move the VM to other stacks; nil if its own resource does.
	Rollout *Rollout `json:",omitempty"`
}

// Rollout is the record of a VM that takes part in rollouts.
type Rollout struct {
	// Policy is how the VM may be moved: an agentapi.RefreshRequest without a target, as JSON of protobuf.
	Policy json.RawMessage
	// Failing are the health checks that failed before the last move, so that they do not judge it.
	Failing []string `json:",omitempty"`
	// Moved is the last move by a rollout, until that has judged it for good; nil if there is none.
	Moved *Moved `json:",omitempty"`
}

// Moved is a move of a VM to the stack in its definition.
type Moved struct {
	// At is when the definition followed the guest. Off says that the VM was off, so that there was none.
	At  time.Time
	Off bool `json:",omitempty"`
	// Base, Components, OnDemand and Prefer make the stack from before.
	Base       tree.Digest
	Components []tree.Digest        `json:",omitempty"`
	OnDemand   []tree.Digest        `json:",omitempty"`
	Prefer     []release.Preference `json:",omitempty"`
}

// BeingMade reports whether the VM has not been made completely yet, so that parts of it may be missing.
func (m Metadata) BeingMade() bool { return m.Creating != nil && !m.Creating.Finished }

// Offer is the record of what a VM can attach by itself.
type Offer struct {
	// Components are the components on demand, attached or not.
	Components []release.Member
	// Layers are the layers of all stacks of the offer, and its own.
	Layers []tree.Digest
}

// LayerIDs returns the layers of an offer; none of a nil one.
func (o *Offer) LayerIDs() []tree.Digest {
	if o == nil {
		return nil
	}
	return o.Layers
}

// Split returns which components of a stack are none on demand, and the names of those that are.
func (o *Offer) Split(components []tree.Digest) (fixed []tree.Digest, onDemand []string) {
	for _, id := range components {
		at := -1
		if o != nil {
			at = slices.IndexFunc(o.Components, func(m release.Member) bool { return m.ID == id })
		}
		if at < 0 {
			fixed = append(fixed, id)
		} else {
			onDemand = append(onDemand, o.Components[at].Name)
		}
	}
	return fixed, onDemand
}
