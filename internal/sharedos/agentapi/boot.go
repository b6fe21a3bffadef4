package agentapi

import "github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"

// Protocol is the version of the contract in agent.proto that this program speaks. Version 2 moves a VM from one signed
// stack manifest to another; version 1 took a list of release manifests for each.
const Protocol = 2

// Port is the vsock port that the agent listens on. It is below 1024, so that only root in the guest can take it.
const Port = 1000

// BootConfigPrefix starts the one SMBIOS OEM string (type 11) that holds a BootConfig as JSON.
// The guest reads it from /sys/firmware/dmi/tables/DMI, which is built into the kernel and readable by root only.
const BootConfigPrefix = "sharedos.boot="

// BootConfig is what the host gives a VM at every start. The host made the VM, so the guest trusts it.
type BootConfig struct {
	// Stack to boot when the private disk records none that is newer and verifies.
	Stack release.Stack `json:"stack"`
	// Operators are Ed25519 public keys, base64 (standard, padded). They sign releases and may call the agent.
	Operators []string `json:"operators"`
	// Hostname is set at every boot.
	Hostname string `json:"hostname"`
	// AuthorizedKeys are OpenSSH public keys for root.
	AuthorizedKeys []string `json:"authorized_keys,omitempty"`
	// Detaches counts how often the host has defined the VM without the components that the VM had attached by itself.
	// If the private disk records another number, Stack is newer than what the VM has attached by itself.
	Detaches int `json:"detaches,omitempty"`
}

// PrivateDiskSerial is the serial of the private disk. A layer's serial is the first 20 hexadecimal digits of
// its id: virtio-blk has room for no more.
const PrivateDiskSerial = "sharedos-private"

// OfferSerialPrefix begins the serial of an offer: the disk with the stacks of components on demand (design/0058).
const OfferSerialPrefix = "offer-"
