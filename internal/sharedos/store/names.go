package store

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// HeadSize is how many bytes of a volume are written last: as long as they are all zero, the volume is torn.
const HeadSize = 4096

// MaxRecord is the size in bytes that a signed manifest or a history may have at most.
const MaxRecord = 1<<20 - HeadSize

// VolumeKind is what a volume holds.
type VolumeKind string

// The kinds of volume that this project keeps in a pool. The kind is the first part of the volume's name.
const (
	LayerVolume   VolumeKind = "layer"
	BlobVolume    VolumeKind = "blob"
	ReleaseVolume VolumeKind = "release"
	HeadVolume    VolumeKind = "head"
	DiskVolume    VolumeKind = "vm"
	LockVolume    VolumeKind = "lock"
)

// VolumeName is the name of a volume taken apart.
type VolumeName struct {
	Kind VolumeKind
	// Digest of a layer, blob or release.
	Digest tree.Digest
	// Of is the base or component that a head belongs to.
	Of Named
	// VM that a private disk belongs to.
	VM string
	// lock that a lock volume is of.
	lock lockName
}

// LayerName names the volume of a layer.
func LayerName(id tree.Digest) string { return string(LayerVolume) + "-" + id.Hex() }

// BlobName names the volume of a blob.
func BlobName(digest tree.Digest) string { return string(BlobVolume) + "-" + digest.Hex() }

// ReleaseName names the volume of a signed manifest.
func ReleaseName(id tree.Digest) string { return string(ReleaseVolume) + "-" + id.Hex() }

// plain is what libvirt, every pool type and every file system take as a part of a volume's name.
var plain = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._+-]{0,99}$`)

// HeadName names the volume that records the releases of a base or component.
func HeadName(kind release.Kind, name string) (string, error) {
	if kind != release.Base && kind != release.Component {
		return "", fmt.Errorf("%q is neither %q nor %q", kind, release.Base, release.Component)
	}
	if !plain.MatchString(name) {
		return "", fmt.Errorf("%q cannot name a %s: use 1 to 100 letters, digits and ._+-, first a letter or digit", name, kind)
	}
	return string(HeadVolume) + "-" + string(kind) + "-" + name, nil
}

// DiskName names the volume of a VM's private disk.
func DiskName(vm string) (string, error) {
	if !plain.MatchString(vm) {
		return "", fmt.Errorf("%q cannot name a VM: use 1 to 100 letters, digits and ._+-, first a letter or digit", vm)
	}
	return string(DiskVolume) + "-" + vm, nil
}

// ParseVolumeName takes a volume's name apart. It is false for every name that this project does not give.
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
		if _, err := DiskName(rest); err != nil {
			return VolumeName{}, false
		}
		parsed.VM = rest
	case LockVolume:
		if parsed.lock, ok = parseLockName(rest); !ok {
			return VolumeName{}, false
		}
	default:
		return VolumeName{}, false
	}
	return parsed, true
}
