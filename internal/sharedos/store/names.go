package store

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// HeadSize is the number of bytes at the start of a volume that are written last. While they are zero, the volume is torn.
const HeadSize = 4096

// MaxRecord is the maximum size in bytes of a signed manifest or a history.
const MaxRecord = 1<<20 - HeadSize

// VolumeKind is the kind of content of a volume.
type VolumeKind string

// The kinds of volumes. A volume's name begins with its kind.
const (
	LayerVolume   VolumeKind = "layer"
	BlobVolume    VolumeKind = "blob"
	ReleaseVolume VolumeKind = "release"
	HeadVolume    VolumeKind = "head"
	DiskVolume    VolumeKind = "vm"
	LockVolume    VolumeKind = "lock"
)

// VolumeName is the parsed name of a volume.
type VolumeName struct {
	Kind VolumeKind
	// Digest of a layer, blob or manifest.
	Digest tree.Digest
	// Of is the base or component that a head belongs to.
	Of Named
	// VM that a private disk belongs to, and Mark, the start of the VM's UUID. A disk of an earlier version has no mark.
	VM, Mark string
	// lock is the name of a lock volume.
	lock lockName
}

// LayerName is the name of a layer's volume.
func LayerName(id tree.Digest) string { return string(LayerVolume) + "-" + id.Hex() }

// BlobName is the name of a blob's volume.
func BlobName(digest tree.Digest) string { return string(BlobVolume) + "-" + digest.Hex() }

// ReleaseName is the name of a signed manifest's volume.
func ReleaseName(id tree.Digest) string { return string(ReleaseVolume) + "-" + id.Hex() }

// plain matches what libvirt, every type of pool and every file system accept as a part of a volume's name.
var plain = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._+-]{0,99}$`)

// HeadName is the name of the volume with the history of a base or component.
func HeadName(kind release.Kind, name string) (string, error) {
	if !kind.Known() {
		return "", fmt.Errorf("%q is none of %q", kind, release.Kinds())
	}
	if !plain.MatchString(name) {
		return "", fmt.Errorf("%q cannot name a %s: use 1 to 100 letters, digits and ._+-, starting with a letter or digit", name, kind)
	}
	return string(HeadVolume) + "-" + string(kind) + "-" + name, nil
}

// markDigits is how many hexadecimal digits of a VM's UUID are in the name of its private disk.
const markDigits = 16

// marked matches what follows "vm-" in the name of a private disk: the name of the VM, and the mark.
var marked = regexp.MustCompile(`^(.*)\.([0-9a-f]{16})$`)

// DiskName is the name of the volume of a VM's private disk: "vm-<name>.<the first 16 digits of its UUID>". The UUID is random, so
// nobody else gives a volume this name by accident: the name is the mark that the volume is this VM's. The UUID is in canonical form.
func DiskName(vm, uuid string) (string, error) {
	if !plain.MatchString(vm) {
		return "", fmt.Errorf("%q cannot name a VM: use 1 to 100 letters, digits and ._+-, starting with a letter or digit", vm)
	}
	digits := strings.ReplaceAll(uuid, "-", "")
	if len(digits) != 2*markDigits || strings.Trim(digits, "0123456789abcdef") != "" {
		return "", fmt.Errorf("private disk of VM %q: %q is not a UUID in canonical form", vm, uuid)
	}
	return string(DiskVolume) + "-" + vm + "." + digits[:markDigits], nil
}

// DiskIsOf reports whether a volume can be the private disk of the VM with a UUID. The record of the VM, its domain's metadata, has
// to name the volume, too. This alone proves whose disk it is if an earlier version made it, whose name has no mark.
func DiskIsOf(volume, uuid string) bool {
	name, ok := ParseVolumeName(volume)
	return ok && name.Kind == DiskVolume && (name.Mark == "" || strings.HasPrefix(strings.ReplaceAll(uuid, "-", ""), name.Mark))
}

// checkDisk returns an error unless a volume's name is that of a private disk.
func checkDisk(volume string) error {
	if name, ok := ParseVolumeName(volume); !ok || name.Kind != DiskVolume {
		return fmt.Errorf("%q is not the name of a private disk's volume", volume)
	}
	return nil
}

// ParseVolumeName parses a volume's name. It returns false for a name that this package does not give.
func ParseVolumeName(name string) (VolumeName, bool) {
	kind, rest, ok := strings.Cut(name, "-")
	if !ok {
		return VolumeName{}, false
	}
	parsed := VolumeName{Kind: VolumeKind(kind)}
	switch parsed.Kind {
	case LayerVolume, BlobVolume, ReleaseVolume:
		digest, err := tree.ParseDigest("sha256:" + rest)
		if err != nil {
			return VolumeName{}, false
		}
		parsed.Digest = digest
	case HeadVolume:
		kind, of, _ := strings.Cut(rest, "-")
		if _, err := HeadName(release.Kind(kind), of); err != nil {
			return VolumeName{}, false
		}
		parsed.Of = Named{Kind: release.Kind(kind), Name: of}
	case DiskVolume:
		parsed.VM = rest
		if parts := marked.FindStringSubmatch(rest); parts != nil {
			parsed.VM, parsed.Mark = parts[1], parts[2]
		}
		if !plain.MatchString(parsed.VM) {
			return VolumeName{}, false
		}
	case LockVolume:
		if parsed.lock, ok = parseLockName(rest); !ok {
			return VolumeName{}, false
		}
	default:
		return VolumeName{}, false
	}
	return parsed, true
}
