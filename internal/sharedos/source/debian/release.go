package debian

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
)

// sites are the addresses of archives in the order of apt's configuration: those with security updates, and the others.
// Their Release files tell which of them are Debian's.
type sites struct {
	main, security []string
	// custom is true if the user chose the main archive: then its Release files need not say that it is Debian's.
	custom bool
	// mirrorKey is the key of that archive, unless apt has it.
	mirrorKey string
	client    *http.Client
}

// What the Release files of Debian's archives say.
const (
	originDebian  = "Debian"
	labelSecurity = "Debian-Security"
)

// suite reads a suite's Release file from the first site that has it.
func (s *sites) suite(ctx context.Context, name string, components []string, arch string) (suite, error) {
	candidates, security := s.main, strings.HasSuffix(name, "-security")
	what, remedy := "Debian archive", "set mirror"
	if security {
		candidates, what, remedy = s.security, "archive of Debian's security updates",
			"set additional_suites to a list without "+name
	}
	var failures []error
	for _, site := range candidates {
		r, err := s.release(ctx, site, name)
		switch {
		case err != nil:
			failures = append(failures, err)
			continue
		case security && r.label != labelSecurity, !security && !s.custom && r.origin != originDebian:
			failures = append(failures,
				fmt.Errorf("%s is of %q with the label %q", site, source.Shorten(r.origin), source.Shorten(r.label)))
			continue
		}
		key := ""
		if s.custom && !security {
			key = s.mirrorKey
		}
		return newSuite(name, site, components, r, arch, key)
	}
	if len(candidates) == 0 {
		return suite{}, fmt.Errorf("%w: apt on this machine has no %s among its sources: add one, or %s",
			ErrNoMirror, what, remedy)
	}
	return suite{}, fmt.Errorf("%w has it: %w", ErrNoMirror, errors.Join(failures...))
}

// newSuite describes a suite by its Release file.
func newSuite(name, site string, components []string, r release, arch, key string) (suite, error) {
	described := suite{Name: name, Site: site, Components: components, Key: key, date: r.date}
	for _, component := range components {
		digest, ok := r.index(component, arch)
		if !ok {
			return suite{}, fmt.Errorf("%s has no component %s for %s", site, component, arch)
		}
		described.Indexes = append(described.Indexes, digest)
	}
	return described, nil
}

// release reads the Release file of a suite.
func (s *sites) release(ctx context.Context, site, suite string) (release, error) {
	text, err := s.fetch(ctx, site+"/dists/"+suite+"/InRelease")
	if err != nil {
		return release{}, err
	}
	r, err := parseRelease(text)
	if err != nil {
		return r, fmt.Errorf("%s: InRelease: %w", site, err)
	}
	return r, nil
}

// maxRelease bounds an InRelease file in bytes; Debian's have about 150 KB.
const maxRelease = 16 << 20

// fetch downloads a small file. Its signature is not verified: mmdebstrap does that when it makes the tree.
func (s *sites) fetch(ctx context.Context, address string) (_ []byte, err error) {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return nil, err
	}
	if request.URL.Scheme != "http" && request.URL.Scheme != "https" {
		return nil, fmt.Errorf("%s: only http and https mirrors can be read: set mirror", address)
	}
	response, err := s.client.Do(request)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, response.Body.Close()) }()
	if response.StatusCode == http.StatusNotFound {
		return nil, fmt.Errorf("%s: the mirror has no such suite (404)", address)
	}
	if response.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: the mirror answers %s", address, response.Status)
	}
	text, err := io.ReadAll(io.LimitReader(response.Body, maxRelease+1))
	if err != nil {
		return nil, fmt.Errorf("%s: %w", address, err)
	}
	if len(text) > maxRelease {
		return nil, fmt.Errorf("%s: more than %d bytes: %w", address, maxRelease, source.ErrLimit)
	}
	return text, nil
}

// release is what an InRelease file says.
type release struct {
	origin, label string
	date          time.Time
	// digests are those of the suite's files, by path.
	digests map[string]string
}

// parseRelease reads the fields Origin, Label, Date and SHA256 (https://wiki.debian.org/DebianRepository/Format).
func parseRelease(text []byte) (release, error) {
	r := release{digests: make(map[string]string)}
	field := ""
	for line := range strings.Lines(string(text)) {
		line = strings.TrimRight(line, "\r\n")
		if strings.HasPrefix(line, "-----BEGIN PGP SIGNATURE") {
			break
		}
		if !strings.HasPrefix(line, " ") {
			key, value, _ := strings.Cut(line, ":")
			field = key
			switch key {
			case "Origin":
				r.origin = strings.TrimSpace(value)
			case "Label":
				r.label = strings.TrimSpace(value)
			case "Date":
				date, err := time.Parse("Mon, 2 Jan 2006 15:04:05 MST", strings.TrimSpace(value))
				if err != nil {
					return r, fmt.Errorf("date: %w: %w", err, source.ErrMalformed)
				}
				r.date = date
			}
			continue
		}
		if field != "SHA256" {
			continue
		}
		parts := strings.Fields(line)
		if len(parts) != 3 || len(parts[0]) != 64 {
			return r, fmt.Errorf("%q: %w", source.Shorten(line), source.ErrMalformed)
		}
		r.digests[parts[2]] = parts[0]
	}
	if r.date.IsZero() || len(r.digests) == 0 {
		return r, fmt.Errorf("no Date or no SHA256 field: %w", source.ErrMalformed)
	}
	return r, nil
}

// index returns the digest of the package index of a component.
func (r release) index(component, arch string) (string, bool) {
	for _, compression := range []string{"", ".xz", ".gz"} {
		if digest, ok := r.digests[component+"/binary-"+arch+"/Packages"+compression]; ok {
			return digest, true
		}
	}
	return "", false
}
