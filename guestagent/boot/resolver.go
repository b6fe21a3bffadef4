package boot

import (
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/etcmerge"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/fileio"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/mounts"
)

// A base with systemd-networkd and without systemd-resolved has nobody who writes the name servers that DHCP brings
// into resolv.conf(5). The agent does, in a unit that starts when networkd has something new.
const (
	// resolverFile is the file that /etc/resolv.conf is a link to in such a VM. It lasts until the next boot.
	resolverFile = etcmerge.ResolverFile
	// stubResolver is that of systemd-resolved.
	stubResolver = "/run/systemd/resolve/stub-resolv.conf"
	// networkState is where networkd tells systemd's own programs what it has.
	networkState = "/run/systemd/netif/state"

	resolverUnit    = "sharedos-resolver.service"
	resolverTrigger = "sharedos-resolver.path"
)

const resolverPath = `[Unit]
Description=Watch for name servers of systemd-networkd
DefaultDependencies=no
Conflicts=shutdown.target
Before=shutdown.target

[Path]
PathChanged=` + networkState + `
`

func resolverService(file string) string {
	return `[Unit]
Description=Write the name servers of systemd-networkd
DefaultDependencies=no
StartLimitIntervalSec=0
Conflicts=shutdown.target
Before=shutdown.target

[Service]
Type=oneshot
ExecStart=` + mounts.AgentBinary + ` resolver ` + file + `
TimeoutStartSec=30
`
}

// linkResolver returns the file that the agent is to write for the resolv.conf of the system at root, and makes a link
// to it if the system has none. It is "" if the system has a file of its own, or systemd-resolved, which writes one.
func linkResolver(target string) (file string, err error) {
	root, err := os.OpenRoot(target)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, root.Close()) }()
	const name = "etc/resolv.conf"
	resolved := present(target, "usr/lib/systemd/systemd-resolved")
	link, err := root.Readlink(name)
	if err == nil && !path.IsAbs(link) {
		link = path.Join("/etc", link)
	}
	to := resolverFile
	if resolved {
		to = stubResolver
	}
	switch _, stat := root.Lstat(name); {
	case errors.Is(stat, fs.ErrNotExist):
	case stat != nil:
		return "", stat
	case err != nil: // it is no link
		return "", nil //nolint:nilerr // somebody has put a file there, which counts
	case link == resolverFile && resolved:
		// A later release has systemd-resolved.
		if err := root.Remove(name); err != nil {
			return "", err
		}
	case resolved, !strings.HasPrefix(link, "/run/"):
		return "", nil
	default:
		return path.Clean(link), nil // to a file that another program was to write, which is not there
	}
	if err := root.Symlink(".."+to, name); err != nil || resolved {
		return "", err
	}
	return to, nil
}

// WriteResolver writes the name servers that systemd-networkd has into a file, in the form of resolv.conf(5).
func WriteResolver(file string) error {
	state, err := fileio.Read(networkState, 1<<20)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("read the name servers: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(file), 0o755); err != nil {
		return fmt.Errorf("write the name servers: %w", err)
	}
	if err := fileio.Replace(file, resolverText(string(state)), 0o644); err != nil {
		return fmt.Errorf("write the name servers: %w", err)
	}
	return nil
}

// maxServers is how many name servers the C library asks (MAXNS in resolv.h), and maxDomains how many domains it looks
// in.
const maxServers, maxDomains = 3, 6

// resolverText is what resolv.conf says of a state of networkd: lines DNS= and DOMAINS= with words.
func resolverText(state string) []byte {
	text := strings.Builder{}
	text.WriteString("# Written by the agent of Shared OS from what systemd-networkd has.\n")
	words := func(key string) (found []string) {
		for line := range strings.Lines(state) {
			if value, ok := strings.CutPrefix(strings.TrimSpace(line), key+"="); ok {
				found = append(found, strings.Fields(strings.Trim(value, `"`))...)
			}
		}
		return found
	}
	servers := slices.DeleteFunc(words("DNS"), func(word string) bool {
		_, err := netip.ParseAddr(word)
		return err != nil // with a port or the name of a certificate, which resolv.conf cannot say
	})
	for _, server := range servers[:min(len(servers), maxServers)] {
		text.WriteString("nameserver " + server + "\n")
	}
	domains := slices.DeleteFunc(words("DOMAINS"), func(word string) bool { return strings.HasPrefix(word, "~") })
	if len(domains) > 0 {
		text.WriteString("search " + strings.Join(domains[:min(len(domains), maxDomains)], " ") + "\n")
	}
	return []byte(text.String())
}
