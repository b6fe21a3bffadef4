package source

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"time"
)

// sites are addresses of archives, in the order of apt's configuration: those of security updates, and the others.
// Which of them are Debian's shows in what they serve.
type sites struct {
	main, security []string
	// chosen is true when the user chose the main archive: then it need not call itself Debian.
	chosen bool
	// mirrorKey is the key of that archive, if apt does not know it.
	mirrorKey string
	client    *http.Client
}

// What Debian's archives call themselves in their Release files.
const (
	originDebian  = "Debian"
	labelSecurity = "Debian-Security"
)

// inRelease finds the addresses of Release files in what apt-get --print-uris update prints: one that is quoted, its
// file name and its size.
var inRelease = regexp.MustCompile(`(?m)^'([^'\s\[\]]+)/dists/([^'\s]+)/InRelease' `)

// findSites reads the addresses from this machine's apt configuration, whether its lists were ever fetched or not.
// A mirror of the user's takes the place of the main archive.
func findSites(ctx context.Context, mirror, key string) (*sites, error) {
	s := &sites{mirrorKey: key}
	out, err := aptOutput(ctx, "apt-get", "--print-uris", "update")
	if err != nil {
		return nil, fmt.Errorf("ask apt for its mirrors: %w", err)
	}
	for _, found := range inRelease.FindAllStringSubmatch(out, -1) {
		if site, suite := found[1], found[2]; strings.HasSuffix(suite, "-security") {
			s.security = append(s.security, site)
		} else {
			s.main = append(s.main, site)
		}
	}
	if mirror != "" {
		s.main, s.chosen = []string{strings.TrimSuffix(mirror, "/")}, true
	}
	s.main, s.security = distinct(s.main), distinct(s.security)
	if s.client, err = aptClient(ctx); err != nil {
		return nil, err
	}
	return s, nil
}

// distinct drops what was there before and keeps the order.
func distinct(all []string) []string {
	var out []string
	for _, s := range all {
		if !slices.Contains(out, s) {
			out = append(out, s)
		}
	}
	return out
}

// maxAptOutput bounds what apt may print in bytes, aptWait how long it may take.
const (
	maxAptOutput = 4 << 20
	aptWait      = 30 * time.Second
)

// aptOutput runs one of apt's programs.
func aptOutput(ctx context.Context, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, aptWait)
	defer cancel()
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("%w; a debian source needs a machine that has apt: use an archive source elsewhere", err)
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.WaitDelay = time.Second
	out, failed := &tail{most: maxAptOutput}, &tail{most: 4 << 10}
	cmd.Stdout, cmd.Stderr = out, failed
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(failed.String()))
	}
	return out.String(), nil
}

// tail keeps the last bytes that were written to it.
type tail struct {
	buf  bytes.Buffer
	most int
}

func (t *tail) Write(p []byte) (int, error) {
	t.buf.Write(p[max(0, len(p)-t.most):])
	if over := t.buf.Len() - t.most; over > 0 {
		t.buf.Next(over)
	}
	return len(p), nil
}

func (t *tail) String() string { return t.buf.String() }

// aptClient makes an HTTP client that goes through the same proxies as apt: those of its configuration, else those
// of the environment.
func aptClient(ctx context.Context) (*http.Client, error) {
	out, err := aptOutput(ctx, "apt-config", "dump", "--format", "%f|%v%n", "Acquire::http::Proxy", "Acquire::https::Proxy")
	if err != nil {
		return nil, fmt.Errorf("ask apt for its proxies: %w", err)
	}
	proxies := map[string]string{}
	for line := range strings.Lines(out) {
		key, value, _ := strings.Cut(strings.TrimSpace(line), "|")
		if value != "" {
			proxies[key] = value
		}
	}
	transport := &http.Transport{
		Proxy: func(r *http.Request) (*url.URL, error) {
			switch proxy := proxies["Acquire::"+r.URL.Scheme+"::Proxy"]; proxy {
			case "":
				return http.ProxyFromEnvironment(r)
			case "DIRECT":
				return nil, nil
			default:
				return url.Parse(proxy)
			}
		},
		TLSHandshakeTimeout:   15 * time.Second,
		ResponseHeaderTimeout: 30 * time.Second,
		DisableKeepAlives:     true,
	}
	return &http.Client{Transport: transport, Timeout: 2 * time.Minute}, nil
}

// suite reads a suite's InRelease file from the first site that has it.
func (s *sites) suite(ctx context.Context, name string, components []string, arch string) (debianSuite, error) {
	candidates, security := s.main, strings.HasSuffix(name, "-security")
	what, remedy := "Debian archive", "set mirror"
	if security {
		candidates, what, remedy = s.security, "archive of Debian's security updates",
			"set additional_suites to a list without "+name
	}
	var failed []error
	for _, site := range candidates {
		r, err := s.release(ctx, site, name)
		switch {
		case err != nil:
			failed = append(failed, err)
			continue
		case security && r.label != labelSecurity, !security && !s.chosen && r.origin != originDebian:
			failed = append(failed, fmt.Errorf("%s is of %q with the label %q", site, shorten(r.origin), shorten(r.label)))
			continue
		}
		key := ""
		if s.chosen && !security {
			key = s.mirrorKey
		}
		return newDebianSuite(name, site, components, r, arch, key)
	}
	if len(candidates) == 0 {
		return debianSuite{}, fmt.Errorf("%w: apt on this machine has no %s among its sources: add one, or %s",
			ErrNoMirror, what, remedy)
	}
	return debianSuite{}, fmt.Errorf("%w has it: %w", ErrNoMirror, errors.Join(failed...))
}

// newDebianSuite describes a suite by what its archive says of it.
func newDebianSuite(name, site string, components []string, r debianRelease, arch, key string) (debianSuite, error) {
	suite := debianSuite{Name: name, Site: site, Components: components, Key: key, date: r.date}
	for _, component := range components {
		digest, ok := r.index(component, arch)
		if !ok {
			return debianSuite{}, fmt.Errorf("%s has no component %s for %s", site, component, arch)
		}
		suite.Indexes = append(suite.Indexes, digest)
	}
	return suite, nil
}

// release reads what a site says of a suite.
func (s *sites) release(ctx context.Context, site, suite string) (debianRelease, error) {
	text, err := s.fetch(ctx, site+"/dists/"+suite+"/InRelease")
	if err != nil {
		return debianRelease{}, err
	}
	r, err := parseRelease(text)
	if err != nil {
		return r, fmt.Errorf("%s: InRelease: %w", site, err)
	}
	return r, nil
}

// maxRelease bounds an InRelease file in bytes; Debian's have some 150 KB.
const maxRelease = 16 << 20

// fetch gets a small file. Nothing is trusted of it: mmdebstrap checks signatures when it builds.
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
		return nil, fmt.Errorf("%s: more than %d bytes: %w", address, maxRelease, ErrLimit)
	}
	return text, nil
}

// debianRelease is what an InRelease file says.
type debianRelease struct {
	origin, label string
	date          time.Time
	digests       map[string]string
}

// parseRelease reads the fields Origin, Label, Date and SHA256 (https://wiki.debian.org/DebianRepository/Format).
func parseRelease(text []byte) (debianRelease, error) {
	r := debianRelease{digests: make(map[string]string)}
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
					return r, fmt.Errorf("date: %w: %w", err, ErrMalformed)
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
			return r, fmt.Errorf("%q: %w", shorten(line), ErrMalformed)
		}
		r.digests[parts[2]] = parts[0]
	}
	if r.date.IsZero() || len(r.digests) == 0 {
		return r, fmt.Errorf("no Date or no SHA256 field: %w", ErrMalformed)
	}
	return r, nil
}

// index is the digest of the package index of a component.
func (r debianRelease) index(component, arch string) (string, bool) {
	for _, packed := range []string{"", ".xz", ".gz"} {
		if digest, ok := r.digests[component+"/binary-"+arch+"/Packages"+packed]; ok {
			return digest, true
		}
	}
	return "", false
}
