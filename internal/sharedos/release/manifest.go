// Package release defines releases and stacks. A release is one immutable version of a base or a component. A stack is
// what a VM runs: a base and the components on it. Each is described by a manifest, named by the manifest's SHA-256,
// and signed by an operator.
//
// A manifest is small. The list of every path with its digest is a blob of its own, the contents list, which
// the manifest names by digest; both sides read it as a stream.
package release

import "github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"

// Schema is the schema of release manifests that this code writes, and the only one it reads.
const Schema = 1

// Kind tells a base from a component.
type Kind string

// The kinds of release.
const (
	Base      Kind = "base"
	Component Kind = "component"
)

// Manifest describes one release. Its canonical form is Encode's; its id is the SHA-256 of that form.
type Manifest struct {
	Schema int    `json:"schema"`
	Kind   Kind   `json:"kind"`
	Name   string `json:"name"`
	// Sequence grows by one with every release of the same kind and name, from 1.
	Sequence uint64 `json:"sequence"`
	// Previous is the id of the release before this one; zero for the first.
	Previous tree.Digest `json:"previous,omitzero"`
	// BuiltOn is the id of the base release that a component was built on; a base has none.
	BuiltOn tree.Digest `json:"built_on,omitzero"`
	// Architecture is Debian's name of it: "amd64".
	Architecture string `json:"architecture"`
	// OS is the PRETTY_NAME of os-release.
	OS string `json:"os"`
	// Layers are ordered bottom to top: in a base a full layer, then deltas; in a component deltas over its base's
	// layers.
	Layers []Layer `json:"layers"`
	// Contents names the contents list of the whole tree, all layers merged: in a component the base's tree with the
	// component laid over it. Packages, Users and Groups are of that tree, too.
	Contents Blob `json:"contents"`
	// Kernel is absent in a component.
	Kernel *Kernel `json:"kernel,omitempty"`
	// Packages are sorted by name.
	Packages []Package `json:"packages"`
	// Users and Groups map account names to numbers.
	Users  map[string]uint32 `json:"users"`
	Groups map[string]uint32 `json:"groups"`
	// Input names what the release was made from: the kind of source and a digest, such as "archive:sha256:<64 hex>".
	// The same input has made the same release, but other inputs can too.
	Input string `json:"input,omitempty"`
}

// Layer is one EROFS image with its dm-verity hash tree appended.
type Layer struct {
	// ID is the dm-verity root digest. It names the layer everywhere: volume, disk serial, mount point.
	ID tree.Digest `json:"id"`
	// DataSize is the size of the EROFS image in bytes and so the offset of the hash tree; a multiple of 4096.
	DataSize int64 `json:"data_size"`
	// Size in bytes of image and hash tree together.
	Size int64 `json:"size"`
	// Delta tells a delta from a full layer.
	Delta bool `json:"delta"`
}

// Blob is bytes named by their SHA-256.
type Blob struct {
	Digest tree.Digest `json:"digest"`
	Size   int64       `json:"size"`
}

// Kernel is what a VM of this base boots.
type Kernel struct {
	// Release is what uname -r prints.
	Release string `json:"release"`
	Image   Blob   `json:"image"`
	// Modules is a cpio archive, uncompressed, of the modules that the initramfs needs, in load order.
	Modules Blob `json:"modules"`
}

// Package is one installed package of the release.
type Package struct {
	Name    string `json:"name"`
	Version string `json:"version"`
}
