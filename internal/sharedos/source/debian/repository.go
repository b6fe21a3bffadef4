package debian

import (
	"context"
	"errors"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"strings"
)

// Repository is an archive of packages other than Debian's own.
type Repository struct {
	// URI of the archive, http or https: the part before /dists.
	URI string
	// Suite and Components to use; no components means "main".
	Suite      string
	Components []string
	// Key is the archive's OpenPGP public key in ASCII armour. If it is empty, this machine's apt must trust the key.
	Key string
}

// ASCII armour of an OpenPGP public key (RFC 9580, section 6), and the largest size of one in bytes.
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

// checkArchiveURI accepts addresses that a line of sources.list(5) can hold.
func checkArchiveURI(uri string) error {
	u, err := url.Parse(uri)
	if err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" || strings.ContainsAny(uri, " \t\n[]") {
		// It is not quoted: it may hold a password in a form that is not recognised.
		return errors.New("its address is not an http or https URL")
	}
	return nil
}

// suite reads how the repository describes its suite now.
func (r Repository) suite(ctx context.Context, s *sites, arch string) (suite, error) {
	site := strings.TrimSuffix(r.URI, "/")
	components := r.Components
	if len(components) == 0 {
		components = []string{"main"}
	}
	released, err := s.release(ctx, site, r.Suite)
	if err != nil {
		return suite{}, err
	}
	return newSuite(r.Suite, site, components, released, arch, r.Key)
}

// writeSources writes a suite with a key of its own as a deb822 file of sources.list(5), and returns its path. The file
// stays in the tree, key included, so apt in a VM can use the suite, too. Its name is the same in every build.
func (s suite) writeSources(dir string, number int, anyDate bool) (string, error) {
	var b strings.Builder
	fmt.Fprintf(&b, "Types: deb\nURIs: %s\nSuites: %s\nComponents: %s\n", s.Site, s.Name,
		strings.Join(s.Components, " "))
	if anyDate {
		b.WriteString("Check-Valid-Until: no\n")
	}
	b.WriteString("Signed-By:\n")
	for line := range strings.Lines(strings.TrimSpace(s.Key)) {
		if line = strings.TrimRight(line, " \t\r\n"); line == "" {
			line = "."
		}
		b.WriteString(" " + line + "\n")
	}
	path := filepath.Join(dir, fmt.Sprintf("sharedos-%d.sources", number))
	return path, os.WriteFile(path, []byte(b.String()), 0o644)
}
