package source

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
)

// DebianRepository is an archive of packages beside Debian's own.
type DebianRepository struct {
	// URI of the archive, http or https: what stands before /dists.
	URI string
	// Suite and Components of it; no component means "main".
	Suite      string
	Components []string
	// Key signs it: an OpenPGP public key in ASCII armour. Empty: one that this machine's apt trusts.
	Key string
}

// Armour of an OpenPGP public key (RFC 9580, section 6), and how many bytes it may have.
const (
	keyBegin = "-----BEGIN PGP PUBLIC KEY BLOCK-----"
	keyEnd   = "-----END PGP PUBLIC KEY BLOCK-----"
	maxKey   = 256 << 10
)

func checkKey(key string) error {
	if text := strings.TrimSpace(key); key != "" &&
		(len(key) > maxKey || !strings.HasPrefix(text, keyBegin) || !strings.HasSuffix(text, keyEnd)) {
		return errors.New("it is no OpenPGP public key in ASCII armour, such as gpg --export --armor writes")
	}
	return nil
}

// checkArchiveURI accepts the address of an archive as a line of sources.list(5) can hold it.
func checkArchiveURI(uri string) error {
	u, err := url.Parse(uri)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || strings.ContainsAny(uri, " \t\n[]") {
		return fmt.Errorf("%q is not an http or https URL", uri)
	}
	return nil
}

// suite reads what the repository has now.
func (r DebianRepository) suite(ctx context.Context, s *sites, arch string) (debianSuite, error) {
	site := strings.TrimSuffix(r.URI, "/")
	components := r.Components
	if len(components) == 0 {
		components = []string{"main"}
	}
	released, err := s.release(ctx, site, r.Suite)
	if err != nil {
		return debianSuite{}, err
	}
	return newDebianSuite(r.Suite, site, components, released, arch, r.Key)
}

// sourcesFile writes a suite of a key of its own as a file of sources.list(5) in the form of deb822, and returns its path.
// The file stays in the tree, key and all, so that apt in a guest knows the suite too; its name must not be another in
// every build.
func (s debianSuite) sourcesFile(dir string, number int) (string, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "Types: deb\nURIs: %s\nSuites: %s\nComponents: %s\nSigned-By:\n", s.Site, s.Name, strings.Join(s.Components, " "))
	for line := range strings.Lines(strings.TrimSpace(s.Key)) {
		if line = strings.TrimRight(line, " \t\r\n"); line == "" {
			line = "."
		}
		b.WriteString(" " + line + "\n")
	}
	path := filepath.Join(dir, fmt.Sprintf("sharedos-%d.sources", number))
	return path, os.WriteFile(path, []byte(b.String()), 0o644)
}
