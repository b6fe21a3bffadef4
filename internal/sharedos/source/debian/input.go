package debian

import (
	"encoding/json"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// input is everything that determines the tree. Its JSON form determines the fingerprint of the tree that mmdebstrap
// makes.
type input struct {
	// Recipe is increased when this package makes another tree of the same input.
	Recipe       int               `json:"recipe"`
	Architecture string            `json:"architecture"`
	Packages     []string          `json:"packages"`
	Triggers     map[string]string `json:"triggers"`
	Suites       []suite           `json:"suites"`
	// AnyDate stays in the apt configuration of the tree.
	AnyDate bool `json:"any_date,omitempty"`
	// PackageFiles are digests of .deb files.
	PackageFiles []tree.Digest `json:"package_files,omitempty"`

	readAt       time.Time
	packageFiles []packageFile
	files        []fileEntry
	mode         string
	// kept are packages that mmdebstrap need not fetch.
	kept kept
	// repositories is true if there are archives other than Debian's.
	repositories bool
}

// recipe is input.Recipe of this code.
const recipe = 1

// suite is one suite as its archive describes it.
type suite struct {
	Name       string   `json:"name"`
	Site       string   `json:"site"`
	Components []string `json:"components"`
	// Indexes are digests of the package indexes, one for each component.
	Indexes []string `json:"indexes"`
	// Key is an OpenPGP public key; empty if apt has it.
	Key string `json:"key,omitempty"`

	date time.Time
}

// base is the digest of what mmdebstrap makes: of the tree without Files.
func (in *input) base() (tree.Digest, error) {
	text, err := json.Marshal(in)
	return tree.Sum(text), err
}

// fingerprint identifies the whole tree.
func (in *input) fingerprint() (string, error) {
	base, err := in.base()
	if err != nil {
		return "", err
	}
	text := "debian:" + base.String()
	if len(in.files) == 0 {
		return text, nil
	}
	sum := tree.NewHasher()
	_, _ = sum.Write([]byte(text)) // it never fails
	for _, f := range in.files {
		sum.Add(f.Entry)
	}
	return "debian:" + sum.Digest().String(), nil
}

// sameTree reports whether mmdebstrap makes the same tree of both inputs.
func (in *input) sameTree(other *input) (bool, error) {
	a, err := in.base()
	if err != nil {
		return false, err
	}
	b, err := other.base()
	return a == b, err
}
