package release

import (
	"fmt"
	"unicode/utf8"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// Limits of a manifest. They are far above what an operating system needs and bound what a hostile one costs.
const (
	// MaxLayers is how many layers a release may have.
	MaxLayers = 64
	// BlockSize of EROFS and of dm-verity in bytes.
	BlockSize = 4096

	maxLayerSize = 1 << 44
	maxBlobSize  = 1 << 36
	maxPackages  = 20_000
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

// check reports the first rule that m breaks. The error matches ErrManifest or ErrSchema.
func (m *Manifest) check() error {
	if m.Schema != Schema {
		return fmt.Errorf("schema %d instead of %d: %w", m.Schema, Schema, ErrSchema)
	}
	for _, rule := range []func() error{m.checkIdentity, m.checkLayers, m.checkBlobs, m.checkPackages, m.checkAccounts} {
		if err := rule(); err != nil {
			return fmt.Errorf("%w: %w", ErrManifest, err)
		}
	}
	return nil
}

func (m *Manifest) checkIdentity() error {
	if m.Kind != Base && m.Kind != Component {
		return fmt.Errorf("kind %q is neither %q nor %q", m.Kind, Base, Component)
	}
	if !ValidName(m.Name) {
		return fmt.Errorf("name %q does not match ^[a-z0-9][a-z0-9._-]{0,62}$", m.Name)
	}
	if m.Sequence == 0 {
		return fmt.Errorf("sequence 0: sequences start at 1")
	}
	if m.Previous.IsZero() != (m.Sequence == 1) {
		return fmt.Errorf("sequence %d with previous release %s: the first release, and only it, has none", m.Sequence, m.Previous)
	}
	if !ValidName(m.Architecture) {
		return fmt.Errorf("architecture %q is not a name of Debian's such as \"amd64\"", m.Architecture)
	}
	if !printable(m.OS) {
		return fmt.Errorf("os %q is not text of 1 to %d bytes", m.OS, maxText)
	}
	if m.Input != "" && !printable(m.Input) {
		return fmt.Errorf("input %q is not text of at most %d bytes", m.Input, maxText)
	}
	return nil
}

func (m *Manifest) checkLayers() error {
	if len(m.Layers) == 0 || len(m.Layers) > MaxLayers {
		return fmt.Errorf("%d layers: there must be 1 to %d", len(m.Layers), MaxLayers)
	}
	seen := make(map[tree.Digest]bool, len(m.Layers))
	for i, layer := range m.Layers {
		if layer.ID.IsZero() || seen[layer.ID] {
			return fmt.Errorf("layer %d: id %s is zero or stands twice", i, layer.ID)
		}
		seen[layer.ID] = true
		// A component stands on the layers of its base, so none of its own is full.
		if full := i == 0 && m.Kind == Base; layer.Delta == full {
			return fmt.Errorf("layer %d: the first layer of a base, and only it, is full", i)
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

func (m *Manifest) checkBlobs() error {
	if err := checkBlob("contents", m.Contents); err != nil {
		return err
	}
	if m.Kind == Component {
		if m.Kernel != nil {
			return fmt.Errorf("a component has no kernel")
		}
		return nil
	}
	if m.Kernel == nil {
		return fmt.Errorf("a base has a kernel")
	}
	if !printable(m.Kernel.Release) {
		return fmt.Errorf("kernel release %q is not text of 1 to %d bytes", m.Kernel.Release, maxText)
	}
	if err := checkBlob("kernel image", m.Kernel.Image); err != nil {
		return err
	}
	return checkBlob("kernel modules", m.Kernel.Modules)
}

func checkBlob(what string, blob Blob) error {
	if blob.Digest.IsZero() || blob.Size <= 0 || blob.Size > maxBlobSize {
		return fmt.Errorf("%s: a blob has a digest and 1 to %d bytes, not %d", what, int64(maxBlobSize), blob.Size)
	}
	return nil
}

func (m *Manifest) checkPackages() error {
	if len(m.Packages) > maxPackages {
		return fmt.Errorf("%d packages, more than %d", len(m.Packages), maxPackages)
	}
	for i, p := range m.Packages {
		if !printable(p.Name) || !printable(p.Version) {
			return fmt.Errorf("package %d: name %q and version %q are not texts of 1 to %d bytes", i, p.Name, p.Version, maxText)
		}
		if i > 0 && m.Packages[i-1].Name >= p.Name {
			return fmt.Errorf("package %q stands after %q: packages are sorted by name, each once", p.Name, m.Packages[i-1].Name)
		}
	}
	return nil
}

func (m *Manifest) checkAccounts() error {
	for what, accounts := range map[string]map[string]uint32{"users": m.Users, "groups": m.Groups} {
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
