package debian

import (
	"bytes"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"time"
)

// inRelease matches the addresses of Release files in the output of apt-get --print-uris update: the quoted address,
// the file name and the size.
var inRelease = regexp.MustCompile(`(?m)^'([^'\s\[\]]+)/dists/([^'\s]+)/InRelease' `)

// findSites reads the addresses of archives from this machine's apt configuration. Its package lists need not have been
// downloaded. A mirror replaces the main archive.
func findSites(ctx context.Context, mirror, key string) (*sites, error) {
	s := &sites{mirrorKey: key}
	out, err := aptOutput(ctx, "apt-get", "--print-uris", "update")
	if err != nil {
		return nil, fmt.Errorf("ask apt for its mirrors: %w", err)
	}
	for _, found := range inRelease.FindAllStringSubmatch(out, -1) {
		if site, suite := found[1], found[2]; strings.HasSuffix(suite, "-security") {
			s.security = appendNew(s.security, site)
		} else {
			s.main = appendNew(s.main, site)
		}
	}
	if mirror != "" {
		s.main, s.custom = []string{strings.TrimSuffix(mirror, "/")}, true
	}
	s.client, err = aptClient(ctx)
	return s, err
}

// appendNew appends an element unless the list has it.
func appendNew(list []string, s string) []string {
	if slices.Contains(list, s) {
		return list
	}
	return append(list, s)
}

// maxAptOutput bounds the output of apt in bytes, and aptWait its running time.
const (
	maxAptOutput = 4 << 20
	aptWait      = 30 * time.Second
)

// aptOutput runs one of apt's programs and returns its output.
func aptOutput(ctx context.Context, name string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, aptWait)
	defer cancel()
	path, err := exec.LookPath(name)
	if err != nil {
		return "", fmt.Errorf("%w; a debian source needs a machine that has apt: use an archive source elsewhere", err)
	}
	cmd := exec.CommandContext(ctx, path, args...)
	cmd.WaitDelay = time.Second
	stdout, stderr := &tail{limit: maxAptOutput}, &tail{limit: 4 << 10}
	cmd.Stdout, cmd.Stderr = stdout, stderr
	if err := cmd.Run(); err != nil {
		return "", fmt.Errorf("%s: %w: %s", name, err, strings.TrimSpace(stderr.buf.String()))
	}
	return stdout.buf.String(), nil
}

// tail keeps the last bytes that were written to it.
type tail struct {
	buf   bytes.Buffer
	limit int
}

func (t *tail) Write(p []byte) (int, error) {
	t.buf.Write(p[max(0, len(p)-t.limit):])
	if excess := t.buf.Len() - t.limit; excess > 0 {
		t.buf.Next(excess)
	}
	return len(p), nil
}

// aptClient returns an HTTP client that uses the proxies of apt's configuration, or else those of the environment.
func aptClient(ctx context.Context) (*http.Client, error) {
	out, err := aptOutput(ctx, "apt-config", "dump", "--format", "%f|%v%n",
		"Acquire::http::Proxy", "Acquire::https::Proxy")
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
