// Package release defines releases and stacks. A release is one immutable version of a base or a component. A stack is
// what a VM runs: a base and the components on it. A manifest describes each of them, its SHA-256 is the id, and an
// operator signs it.
//
// A manifest is small. The contents list, which has every path with its digest, is a separate blob. The manifest has
// the blob's digest. Host and guest read the list as a stream.
package release

import (
	"slices"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// Schema is the schema version of release manifests. This program writes and reads only this one.
const Schema = 1

// Kind says what a release is of.
type Kind string

// The kinds of release.
const (
	Base      Kind = "base"
	Component Kind = "component"
	// Joining is the joining layer of certain releases of components, on the release of a base that they are built on.
	// Its name identifies them, and it has one release.
	Joining Kind = "joining"
	// StandIn is the stand-in layer of one release of a component, on the same release of a base. Its name identifies
	// that release.
	StandIn Kind = "standin"
	// Offer has the stack manifests and contents lists of stacks that a VM may attach by itself. Its only
	// layer is a full layer with a tree of its own, which no stack has. Its name identifies the stacks.
	Offer Kind = "offer"
)

// Kinds are all kinds of release.
func Kinds() []Kind { return []Kind{Base, Component, Joining, StandIn, Offer} }

// Known reports whether a kind is one of Kinds.
func (k Kind) Known() bool { return slices.Contains(Kinds(), k) }

// Derived reports whether the host makes releases of this kind from other releases, when a VM needs them. There is one
// release of each name, and the store keeps it for as long as a VM has a layer of it attached.
func (k Kind) Derived() bool { return k == Joining || k == StandIn || k == Offer }

// Manifest describes one release. Encode returns its canonical form, whose SHA-256 is the release's id.
type Manifest struct {
	Schema int    `json:"schema"`
	Kind   Kind   `json:"kind"`
	Name   string `json:"name"`
	// Sequence counts the releases of the same kind and name, from 1.
	Sequence uint64 `json:"sequence"`
	// Previous is the id of the release before this one; zero for the first.
	Previous tree.Digest `json:"previous,omitzero"`
	// BuiltOn is the id of the base release that everything but a base was built on, or is for; a base has none.
	BuiltOn tree.Digest `json:"built_on,omitzero"`
	// Architecture is the name of the architecture in Debian, such as "amd64".
	Architecture string `json:"architecture"`
	// OS is the PRETTY_NAME of os-release.
	OS string `json:"os"`
	// Layers are ordered bottom to top: in a base a full layer, then deltas; in an offer one full layer; in all others
	// deltas over the layers of the base.
	Layers []Layer `json:"layers"`
	// Contents names the contents list of the whole tree, all layers merged: in a component the base's tree with the
	// component laid over it. Packages, Users and Groups are of that tree, too. The tree of an offer has none of these.
	Contents Blob `json:"contents"`
	// Kernel is nil for all but a base.
	Kernel *Kernel `json:"kernel,omitempty"`
	// Packages are sorted by name.
	Packages []Package `json:"packages"`
	// Users and Groups map account names to uids and gids.
	Users  map[string]uint32 `json:"users"`
	Groups map[string]uint32 `json:"groups"`
	// Needs is what files of a component need and neither it nor its base has: another component of
	// the stack has to have it.
	Needs []Need `json:"needs,omitempty"`
	// Input identifies the source of the release: the kind of source and a digest, such as "archive:sha256:<64 hex>".
	// Equal inputs yield equal releases, but different inputs can do so, too.
	Input string `json:"input,omitempty"`
}

// Need is what one file needs. Exactly one of Program and Libraries is set.
type Need struct {
	// File is the path of the file, without a leading slash.
	File string `json:"file"`
	// Program is an absolute path, or a name that env(1) looks for.
	Program string `json:"program,omitempty"`
	// Libraries are names of files, wherever they are.
	Libraries []string `json:"libraries,omitempty"`
}

// Layer is one EROFS image with its dm-verity hash tree appended.
type Layer struct {
	// ID is the dm-verity root digest. It is also in the names of the volume, of the disk's serial and of the mount
	// point.
	ID tree.Digest `json:"id"`
	// DataSize is the size of the EROFS image in bytes, a multiple of 4096. The hash tree begins at this offset.
	DataSize int64 `json:"data_size"`
	// Size is the size of image and hash tree together in bytes.
	Size int64 `json:"size"`
	// Delta is true for a delta and false for a full layer.
	Delta bool `json:"delta"`
}

// Blob identifies a sequence of bytes by its SHA-256 and its size.
type Blob struct {
	Digest tree.Digest `json:"digest"`
	Size   int64       `json:"size"`
}

// Kernel is the kernel that a VM of this base boots.
type Kernel struct {
	// Release is the output of uname -r.
	Release string `json:"release"`
	Image   Blob   `json:"image"`
	// Modules is an uncompressed cpio archive of the modules that the initramfs needs, in load order.
	Modules Blob `json:"modules"`
}

// Package is one installed package of the release.
type Package struct {
	Name    string `json:"name"`
	Version string `json:"version"`
}
