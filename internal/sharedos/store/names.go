package store

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// HeadSize is the number of bytes at the start of a volume that are written last. While they are
// zero, the volume is torn.
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
	// FurtherDiskVolume can be in any pool, not only in the store's own.
	FurtherDiskVolume VolumeKind = "disk"
)

// VolumeName is the parsed name of a volume.
type VolumeName struct {
	Kind VolumeKind
	// Digest of a layer, blob or manifest.
	Digest tree.Digest
	// Of is the base or component that a head belongs to.
	Of Named
	// VM that a private disk belongs to, and Mark, the start of the VM's UUID. A disk of an earlier
	// version has no mark.
	VM, Mark string
	// Disk is the name of a further disk of a VM.
	Disk string
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

// CheckPoolName returns why a text cannot name a storage pool.
func CheckPoolName(name string) error {
	if !plain.MatchString(name) {
		return fmt.Errorf("%q is not a name of 1 to 100 letters, digits and ._+-, starting with a letter or digit",
			name)
	}
	return nil
}

// CheckGivenVolume returns why a text cannot name a volume that somebody else has made.
func CheckGivenVolume(name string) error {
	if len(name) > 255 || name == "" || name == "." || name == ".." ||
		strings.ContainsFunc(name, func(r rune) bool { return r < ' ' || r == '/' || r == 0x7f }) {
		return fmt.Errorf("%q is not a name of 1 to 255 bytes without slashes and control characters", name)
	}
	if _, ours := ParseVolumeName(name); ours {
		return fmt.Errorf("%q is the name of a layer, of a VM's disk or of another volume of this provider", name)
	}
	return nil
}

// HeadName is the name of the volume with the history of a base or component.
func HeadName(kind release.Kind, name string) (string, error) {
	if !kind.Known() {
		return "", fmt.Errorf("%q is none of %q", kind, release.Kinds())
	}
	if !plain.MatchString(name) {
		return "", fmt.Errorf(
			"%q cannot name a %s: use 1 to 100 letters, digits and ._+-, starting with a letter or digit", name, kind)
	}
	return string(HeadVolume) + "-" + string(kind) + "-" + name, nil
}

// markDigits is how many hexadecimal digits of a VM's UUID are in the name of its private disk.
const markDigits = 16

// marked matches what follows "vm-" in the name of a private disk: the name of the VM, and the mark.
var marked = regexp.MustCompile(`^(.*)\.([0-9a-f]{16})$`)

// DiskName is the name of the volume of a VM's private disk: "vm-<name>.<the first 16 digits of its
// UUID>". The UUID is random, so nobody else gives a volume this name by accident: the name is the
// mark that the volume is this VM's. The UUID is in canonical form.
func DiskName(vm, uuid string) (string, error) {
	if !plain.MatchString(vm) {
		return "", fmt.Errorf(
			"%q cannot name a VM: use 1 to 100 letters, digits and ._+-, starting with a letter or digit", vm)
	}
	digits := strings.ReplaceAll(uuid, "-", "")
	if len(digits) != 2*markDigits || strings.Trim(digits, "0123456789abcdef") != "" {
		return "", fmt.Errorf("private disk of VM %q: %q is not a UUID in canonical form", vm, uuid)
	}
	return string(DiskVolume) + "-" + vm + "." + digits[:markDigits], nil
}

// furtherMarked matches what follows "disk-" in the name of a further disk: the name of the VM, the
// mark, and the name of the disk.
var furtherMarked = regexp.MustCompile(`^(.*)\.([0-9a-f]{16})\.([A-Za-z0-9][A-Za-z0-9_-]{0,19})$`)

// FurtherDiskName is the name of the volume of a further disk of a VM: "disk-<name>.<the first 16
// digits of its UUID>.<disk>". As with DiskName, the name is the mark that the volume is this VM's.
func FurtherDiskName(vm, uuid, disk string) (string, error) {
	private, err := DiskName(vm, uuid)
	if err != nil {
		return "", err
	}
	name := string(FurtherDiskVolume) + strings.TrimPrefix(private, string(DiskVolume)) + "." + disk
	return name, checkFurtherDisk(name)
}

// FurtherDiskIsOf reports whether a volume can be a further disk of the VM with a UUID, by its name.
func FurtherDiskIsOf(volume, uuid string) bool {
	name, ok := ParseVolumeName(volume)
	return ok && name.Kind == FurtherDiskVolume && strings.HasPrefix(strings.ReplaceAll(uuid, "-", ""), name.Mark)
}

// checkFurtherDisk returns an error unless a volume's name is that of a further disk.
func checkFurtherDisk(volume string) error {
	if name, ok := ParseVolumeName(volume); !ok || name.Kind != FurtherDiskVolume {
		return fmt.Errorf("%q is not the name of a further disk's volume", volume)
	}
	return nil
}

// DiskIsOf reports whether a volume can be the private disk of the VM with a UUID. The record of
// the VM, its domain's metadata, has to name the volume, too. This alone proves whose disk it is if
// an earlier version made it, whose name has no mark.
func DiskIsOf(volume, uuid string) bool {
	name, ok := ParseVolumeName(volume)
	return ok && name.Kind == DiskVolume &&
		(name.Mark == "" || strings.HasPrefix(strings.ReplaceAll(uuid, "-", ""), name.Mark))
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
	case FurtherDiskVolume:
		parts := furtherMarked.FindStringSubmatch(rest)
		if parts == nil || !plain.MatchString(parts[1]) {
			return VolumeName{}, false
		}
		parsed.VM, parsed.Mark, parsed.Disk = parts[1], parts[2], parts[3]
	case LockVolume:
		if parsed.lock, ok = parseLockName(rest); !ok {
			return VolumeName{}, false
		}
	default:
		return VolumeName{}, false
	}
	return parsed, true
}
