package agentapi

import (
	"fmt"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/guestconfig"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
)

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
	// Disks are the further disks that have a file system.
	Disks []MountedDisk `json:"disks,omitempty"`
	// Changes counts how often the host has defined the VM with another host name, other keys or
	// other disks. So a guest that was given some of these while it ran knows a definition that
	// came after them, even one that has again what the one before them had.
	Changes int `json:"changes,omitempty"`
	// Networks are how the guest uses its interfaces, by name, until it takes on its configuration for the first time.
	Networks map[string]guestconfig.Network `json:"networks,omitempty"`
}

// MountedDisk is a further disk with a file system that the guest mounts.
type MountedDisk struct {
	Serial string `json:"serial"`
	// FileSystem is one of FileSystems. It is made if the disk is empty.
	FileSystem string `json:"file_system"`
	// MountPoint is a path that CheckMountPoint accepts.
	MountPoint string `json:"mount_point"`
	ReadOnly   bool   `json:"read_only,omitempty"`
}

// The file systems that a guest makes.
const (
	Ext4 = "ext4"
	XFS  = "xfs"
)

// FileSystems are the file systems that a guest makes.
var FileSystems = []string{Ext4, XFS}

// DiskSerialLength is how many bytes the serial of a virtio disk can have.
const DiskSerialLength = 20

// systemTrees are the trees in which nothing can be mounted: they are the stack's, the kernel's or systemd's.
var systemTrees = []string{
	"bin", "boot", "dev", "efi", "etc", "lib", "lib32", "lib64", "libx32", "opt", "proc", "run",
	"sbin", "sys", "tmp", "usr",
	"var/lib/dpkg", "var/lib/rpm", "var/lib/sharedos", "var/lock", "var/run",
}

// mountedTrees are mounts of the private disk, below which something can be mounted.
var mountedTrees = []string{"home", "root", "srv", "var"}

// CheckMountPoint returns why nothing can be mounted at a path of a guest.
func CheckMountPoint(path string) error {
	relative, absolute := strings.CutPrefix(path, "/")
	switch {
	case !absolute || relative == "" || filepath.Clean(path) != path || len(path) > 200 ||
		strings.ContainsFunc(path,
			func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune(`%"'\$`, r) }):
		return fmt.Errorf(
			"%q is not a path of at most 200 characters without spaces, quotes and other special ones, such as /srv/data", path)
	case slices.Contains(mountedTrees, relative):
		return fmt.Errorf("%s is a mount of the private disk; use a directory below it", path)
	}
	for _, tree := range systemTrees {
		if relative == tree || strings.HasPrefix(relative, tree+"/") {
			return fmt.Errorf("%s is in /%s, which belongs to the operating system", path, tree)
		}
	}
	return nil
}

// diskSerial has only characters that udev leaves as they are in the name of a link.
var diskSerial = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9_-]*$`)

// CheckMountedDisks returns why a guest cannot mount disks.
func CheckMountedDisks(disks []MountedDisk) error {
	serials, points := map[string]bool{}, map[string]bool{}
	for _, disk := range disks {
		switch {
		case !diskSerial.MatchString(disk.Serial) || len(disk.Serial) > DiskSerialLength:
			return fmt.Errorf("%q is not the serial of a further disk", disk.Serial)
		case !slices.Contains(FileSystems, disk.FileSystem):
			return fmt.Errorf("disk %s: file system %q is none of %q", disk.Serial, disk.FileSystem, FileSystems)
		case serials[disk.Serial] || points[disk.MountPoint]:
			return fmt.Errorf("disk %s: its serial or its mount point %s stands twice", disk.Serial, disk.MountPoint)
		}
		if err := CheckMountPoint(disk.MountPoint); err != nil {
			return fmt.Errorf("disk %s: %w", disk.Serial, err)
		}
		serials[disk.Serial], points[disk.MountPoint] = true, true
	}
	return nil
}

// PrivateDiskSerial is the serial of the private disk. A layer's serial is the first 20 hexadecimal digits of
// its id: virtio-blk has room for no more.
const PrivateDiskSerial = "sharedos-private"

// OfferSerialPrefix begins the serial of an offer: the disk with the stacks of components on demand (design/0058).
const OfferSerialPrefix = "offer-"
