// Package hypervisor runs VMs as libvirt domains.
//
// It knows domains, disks and metadata. It does not know what a release is, and takes layers as volumes to
// attach. Names and forms of libvirt stay inside: callers match ErrNotFound, ErrForeign and ErrUnreachable.
package hypervisor

import (
	"context"
	"errors"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/libvirtconn"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/transport"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

var (
	// ErrNotFound means that libvirt itself said that no such domain exists. No other failure means gone.
	ErrNotFound = errors.New("no such domain")
	// ErrForeign means that a domain of the name exists that this project did not make.
	ErrForeign = errors.New("a domain of this name exists that was not made by sharedos")
	// ErrUnreachable means that libvirt did not answer. Whether the domain exists is unknown.
	ErrUnreachable = libvirtconn.ErrUnreachable
)

// Hypervisor is the seam to libvirt.
type Hypervisor interface {
	// Define creates the domain, or redefines it over the same UUID without a moment in which it is gone.
	// It returns ErrForeign when a domain of the name exists under another UUID.
	Define(ctx context.Context, domain Domain) error
	// Lookup returns the domain as defined, and whether it runs. ErrNotFound if libvirt says that there is none.
	Lookup(ctx context.Context, name string) (Domain, State, error)
	// List returns every domain that this project made, running or not.
	List(ctx context.Context) ([]Domain, error)
	// Start boots the domain; a running one is left alone.
	Start(ctx context.Context, name string) error
	// Shutdown asks the guest to power off and waits until it has or ctx ends.
	Shutdown(ctx context.Context, name string) error
	// PowerOff ends the domain at once. A domain that does not run is left alone.
	PowerOff(ctx context.Context, name string) error
	// Undefine removes the definition of a domain that does not run; ErrNotFound if there is none.
	Undefine(ctx context.Context, name string) error
	// AttachLayer plugs a layer into the running domain and its definition. Attached already is success.
	AttachLayer(ctx context.Context, name string, layer LayerDevice) error
	// DetachLayer unplugs a layer from both, and waits until the guest has let go. Only call it for layers that
	// the agent has released: libvirt unplugs a mounted disk without a word.
	DetachLayer(ctx context.Context, name string, id tree.Digest) error
	// AttachedLayers lists the layers that the running domain has, whatever its definition says; none if it does not run.
	AttachedLayers(ctx context.Context, name string) ([]tree.Digest, error)
	// BootFiles lists the kernels and initramfs that domains name, whoever made them: in their definitions, and as they
	// run. It is sorted.
	BootFiles(ctx context.Context) ([]string, error)
	// ResizeDisk makes the private disk of the running domain size bytes large and tells the guest. One that is larger is
	// left alone. ErrNotRunning if the domain does not run: then the volume is all there is to change.
	ResizeDisk(ctx context.Context, name string, size int64) error
	// SetMetadata replaces what the definition records about the VM, live and persistent, in one step.
	SetMetadata(ctx context.Context, name string, metadata Metadata) error
	// Dialer reaches ports of the domain's vsock.
	Dialer(ctx context.Context, name string) (transport.Dialer, error)
	// Close ends the connection to libvirt. Domains go on running.
	Close() error
}

// State is whether a domain runs.
type State int

// The states of a domain that matter here.
const (
	Off State = iota + 1
	Running
	// Crashed and Paused domains need a person.
	Crashed
	Paused
)

// Domain is one VM as it is to be defined.
type Domain struct {
	Name string
	// UUID in the canonical text form. It is the guest's machine-id too.
	UUID  string
	VCPUs int
	// Memory in bytes.
	Memory int64
	// Kernel and Initramfs are paths on the host.
	Kernel, Initramfs string
	// Emulated is true when the host has no KVM for it. Lookup and List tell it, and Define finds it out by itself.
	Emulated bool
	// KernelArgs are added to the ones this package sets.
	KernelArgs []string
	Layers     []LayerDevice
	// PrivateDisk is the volume's path on the host.
	PrivateDisk string
	// Interfaces by a name that is the user's own.
	Interfaces map[string]Interface
	// BootConfig is agentapi.BootConfig as JSON.
	BootConfig []byte
	// ConsoleLog is a file on the host that gets the serial console.
	ConsoleLog string
	Metadata   Metadata
}

// LayerDevice is one layer attached as a shareable, read-only disk.
type LayerDevice struct {
	ID   tree.Digest
	Path string
}

// Interface is one network interface. Exactly one of User, Bridge and Network is set.
type Interface struct {
	User    *UserNetwork
	Bridge  string
	Network string
	// MAC is made from the UUID and the interface's name when empty.
	MAC string
}

// UserNetwork is QEMU's user-mode network with forwards from the host's 127.0.0.1.
type UserNetwork struct {
	// Forwards maps a TCP port on the host's 127.0.0.1 to one in the guest.
	Forwards map[uint16]uint16
}

// Metadata is what a domain's definition records, so that import and drift need no state file.
type Metadata struct {
	Stack release.Stack
	// AgentKey is the agent's Ed25519 public key, base64, as pinned at first contact; empty before.
	AgentKey string
	// Pool and PrivateVolume name the private disk.
	Pool, PrivateVolume string
	// Settings are what the user asked for and no other part of the domain shows, by name.
	Settings map[string]string
}
