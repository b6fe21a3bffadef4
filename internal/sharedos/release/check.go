package release

import (
	"fmt"
	"slices"
	"unicode/utf8"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// Limits of a manifest. They are far above the needs of an operating system, and bound the memory and time that a
// hostile manifest costs.
const (
	// MaxLayers is how many layers a release may have.
	MaxLayers = 64
	// BlockSize is the block size of EROFS and of dm-verity in bytes.
	BlockSize = 4096

	maxLayerSize = 1 << 44
	maxBlobSize  = 1 << 36
	maxPackages  = 20_000
	maxNeeds     = 10_000
	maxAccounts  = 20_000
	maxText      = 256
)

// ValidName reports whether name can name a base or a component: ^[a-z0-9][a-z0-9._-]{0,62}$.
func ValidName(name string) bool {
	if len(name) < 1 || len(name) > 63 {
		return false
	}
	for i := range len(name) {
		c := name[i]
		alphanumeric := c >= 'a' && c <= 'z' || c >= '0' && c <= '9'
		if !alphanumeric && (i == 0 || c != '.' && c != '_' && c != '-') {
			return false
		}
	}
	return true
}

// rules returns the checks of a release manifest.
func (m *Manifest) rules() []func() error {
	return []func() error{
		m.checkIdentity,
		func() error { return checkSystem(m.Architecture, m.OS) },
		func() error { return checkLayers(m.Layers, m.mostLayers(), m.Kind == Base || m.Kind == Offer) },
		func() error { return checkBlob("contents", m.Contents) },
		m.checkKernel,
		m.checkOffer,
		func() error { return checkPackages(m.Packages) },
		func() error { return checkNeeds(m.Kind, m.Needs) },
		func() error { return checkAccounts(m.Users, m.Groups) },
	}
}

func (m *Manifest) checkIdentity() error {
	if !m.Kind.Known() {
		return fmt.Errorf("kind %q is none of %q", m.Kind, Kinds())
	}
	if !ValidName(m.Name) {
		return fmt.Errorf("name %q does not match ^[a-z0-9][a-z0-9._-]{0,62}$", m.Name)
	}
	if m.Sequence == 0 {
		return fmt.Errorf("sequence 0: sequences start at 1")
	}
	if m.Previous.IsZero() != (m.Sequence == 1) {
		return fmt.Errorf("sequence %d with previous release %s: the first release, and only it, has none", m.Sequence,
			m.Previous)
	}
	if m.BuiltOn.IsZero() != (m.Kind == Base) {
		return fmt.Errorf("%s built on %s: everything but a base, and only that, is built on a base release", m.Kind,
			m.BuiltOn)
	}
	if m.Input != "" && !printable(m.Input) {
		return fmt.Errorf("input %q is not text of at most %d bytes", m.Input, maxText)
	}
	return nil
}

func checkSystem(architecture, os string) error {
	if !ValidName(architecture) {
		return fmt.Errorf("architecture %q is not a name of Debian's such as \"amd64\"", architecture)
	}
	if !printable(os) {
		return fmt.Errorf("os %q is not text of 1 to %d bytes", os, maxText)
	}
	return nil
}

// checkLayers checks 1 to most layers. If they are whole, so that a VM needs no other layers, the first one must be a
// full layer. All others must be deltas.
func checkLayers(layers []Layer, most int, whole bool) error {
	if len(layers) == 0 || len(layers) > most {
		return fmt.Errorf("%d layers: there must be 1 to %d", len(layers), most)
	}
	seen := make(map[tree.Digest]bool, len(layers))
	for i, layer := range layers {
		if layer.ID.IsZero() || seen[layer.ID] {
			return fmt.Errorf("layer %d: id %s is zero or stands twice", i, layer.ID)
		}
		seen[layer.ID] = true
		if full := i == 0 && whole; layer.Delta == full {
			return fmt.Errorf("layer %d: the first layer of a base, and the layer of an offer, are full, and no others",
				i)
		}
		if layer.DataSize <= 0 || layer.DataSize%BlockSize != 0 {
			return fmt.Errorf("layer %d: data_size %d is not a positive multiple of %d", i, layer.DataSize, BlockSize)
		}
		if layer.Size <= layer.DataSize || layer.Size%BlockSize != 0 || layer.Size > maxLayerSize {
			return fmt.Errorf("layer %d: size %d is not a multiple of %d between data_size %d and %d",
				i, layer.Size, BlockSize, layer.DataSize, int64(maxLayerSize))
		}
	}
	return nil
}

// mostLayers is how many layers a release of this kind may have.
func (m *Manifest) mostLayers() int {
	if m.Kind == Offer {
		return 1
	}
	return MaxLayers
}

// checkOffer checks that an offer has nothing that only an operating system has.
func (m *Manifest) checkOffer() error {
	if m.Kind == Offer && len(m.Packages)+len(m.Users)+len(m.Groups) > 0 {
		return fmt.Errorf("an offer has no packages and no accounts")
	}
	return nil
}

func (m *Manifest) checkKernel() error {
	switch {
	case m.Kind != Base && m.Kernel != nil:
		return fmt.Errorf("a %s has no kernel", m.Kind)
	case m.Kind != Base:
		return nil
	case m.Kernel == nil:
		return fmt.Errorf("a base has a kernel")
	}
	return m.Kernel.check()
}

func (k *Kernel) check() error {
	if !printable(k.Release) {
		return fmt.Errorf("kernel release %q is not text of 1 to %d bytes", k.Release, maxText)
	}
	if err := checkBlob("kernel image", k.Image); err != nil {
		return err
	}
	return checkBlob("kernel modules", k.Modules)
}

func checkBlob(what string, blob Blob) error {
	if blob.Digest.IsZero() || blob.Size <= 0 || blob.Size > maxBlobSize {
		return fmt.Errorf("%s: a blob has a digest and 1 to %d bytes, not %d", what, int64(maxBlobSize), blob.Size)
	}
	return nil
}

func checkNeeds(kind Kind, needs []Need) error {
	if len(needs) > maxNeeds || len(needs) > 0 && kind != Component {
		return fmt.Errorf("a %s has %d needs, and only a component has any, at most %d", kind, len(needs), maxNeeds)
	}
	for _, need := range needs {
		if need.File == "" || (need.Program == "") == (len(need.Libraries) == 0) || len(need.Libraries) > maxNeeds ||
			slices.Contains(need.Libraries, "") {
			return fmt.Errorf("file %q needs neither one program nor some libraries", need.File)
		}
	}
	return nil
}

func checkPackages(packages []Package) error {
	if len(packages) > maxPackages {
		return fmt.Errorf("%d packages, more than %d", len(packages), maxPackages)
	}
	for i, p := range packages {
		if !printable(p.Name) || !printable(p.Version) {
			return fmt.Errorf("package %d: name %q and version %q are not texts of 1 to %d bytes", i,
				p.Name, p.Version, maxText)
		}
		if i > 0 && packages[i-1].Name >= p.Name {
			return fmt.Errorf("package %q stands after %q: packages are sorted by name, each once",
				p.Name, packages[i-1].Name)
		}
	}
	return nil
}

func checkAccounts(users, groups map[string]uint32) error {
	for what, accounts := range map[string]map[string]uint32{"users": users, "groups": groups} {
		if len(accounts) > maxAccounts {
			return fmt.Errorf("%d %s, more than %d", len(accounts), what, maxAccounts)
		}
		for name := range accounts {
			if !printable(name) {
				return fmt.Errorf("%s: name %q is not text of 1 to %d bytes", what, name, maxText)
			}
		}
	}
	return nil
}

// printable reports whether text is 1 to 256 bytes of UTF-8 without control characters.
func printable(text string) bool {
	if len(text) == 0 || len(text) > maxText || !utf8.ValidString(text) {
		return false
	}
	for _, r := range text {
		if r < 0x20 || r == 0x7f {
			return false
		}
	}
	return true
}
