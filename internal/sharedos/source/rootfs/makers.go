package rootfs

import (
	"bytes"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// SecretUnits is the prefix of the units that make secrets in a VM. The guest agent starts those that a refresh adds.
const SecretUnits = "sharedos-secret-"

// unitDirectory has the units of the OS (systemd.unit(5)).
const unitDirectory = "usr/lib/systemd/system"

// maker makes a secret in each VM with the tool of the package that made it in the build.
type maker struct {
	name string
	// secret is what it makes, tool the program that makes it.
	secret, tool string
	command      string
}

// iscsiName is the name of a machine on a network of storage (RFC 7143, section 4.2.7).
const iscsiName = "etc/iscsi/initiatorname.iscsi"

// makers are all that are known. systemd, samba and sshd make theirs without a unit of ours; see boot.installHostKeys
// for sshd.
var makers = []maker{
	{name: "ssl-cert", secret: "etc/ssl/private/ssl-cert-snakeoil.key", tool: "usr/sbin/make-ssl-cert",
		command: "/usr/sbin/make-ssl-cert generate-default-snakeoil"},
	{name: "rndc", secret: "etc/bind/rndc.key", tool: "usr/sbin/rndc-confgen", command: "/usr/sbin/rndc-confgen -a"},
	{name: "rndc", secret: "etc/rndc.key", tool: "usr/sbin/rndc-confgen", command: "/usr/sbin/rndc-confgen -a"},
	// No secret, but a name that two machines must not have. open-iscsi draws one where this is asked for.
	{name: "iscsi", secret: iscsiName, tool: "usr/lib/open-iscsi/startup-checks.sh",
		command: "/bin/sh -c 'echo GenerateName=yes > /" + iscsiName + "'"},
	{name: "munge", secret: "etc/munge/munge.key", tool: "usr/sbin/mungekey", command: "/usr/sbin/mungekey --create"},
	{name: "munge", secret: "etc/munge/munge.key", tool: "usr/sbin/create-munge-key",
		command: "/usr/sbin/create-munge-key"},
}

// madeByService are secrets that the service itself makes when it starts and finds none.
var madeByService = []string{"var/lib/samba/private/*"}

// unit is the unit that runs a maker before all services. It gives the secret the owner and mode that it has in the
// build.
func (m maker) unit(e *tree.Entry, owner, group string) string {
	return `[Unit]
Description=Make this machine's own /` + m.secret + `
DefaultDependencies=no
ConditionPathExists=!/` + m.secret + `
RequiresMountsFor=/var/cache /tmp
After=systemd-sysusers.service systemd-tmpfiles-setup.service
Before=sysinit.target shutdown.target
Conflicts=shutdown.target

[Service]
Type=oneshot
TimeoutStartSec=90
Environment=DEBIAN_FRONTEND=noninteractive
ExecStart=` + m.command + `
ExecStartPost=/usr/bin/chown ` + owner + `:` + group + ` /` + m.secret + `
ExecStartPost=/usr/bin/chmod ` + fmt.Sprintf("%04o", e.Mode) + ` /` + m.secret + `
`
}

// leaveOut returns the tree without the secrets, and with the units that make them in each VM. It sets Secret.Made.
func leaveOut(t *tree.Tree, secrets []Secret, users, groups map[string]uint32) (*tree.Tree, error) {
	if len(secrets) == 0 {
		return t, nil
	}
	gone := map[string]*Secret{}
	for i := range secrets {
		gone[secrets[i].Path] = &secrets[i]
		secrets[i].Made = slices.ContainsFunc(madeByService, func(pattern string) bool {
			matched, err := path.Match(pattern, secrets[i].Path)
			return matched && err == nil
		})
	}
	n := &normaliser{index: map[string]int{}, blank: tree.Sum(nil)}
	added := map[tree.Digest][]byte{}
	units := map[string]tree.Entry{}
	for i := range t.Entries {
		e := t.Entries[i]
		if gone[e.Path] == nil {
			if err := n.put(e); err != nil {
				return nil, err
			}
			continue
		}
		for _, m := range makers {
			if _, err := t.Resolve(m.tool); m.secret != e.Path || err != nil {
				continue
			}
			text := []byte(m.unit(&e, nameOf(users, e.UID), nameOf(groups, e.GID)))
			added[tree.Sum(text)] = text
			name := SecretUnits + m.name + ".service"
			units[name] = tree.Entry{Path: unitDirectory + "/" + name, Type: tree.Regular, Mode: 0o644,
				ModTime: time.Unix(0, 0), Size: int64(len(text)), Digest: tree.Sum(text)}
			gone[e.Path].Made = true
			break
		}
	}
	// A certificate and its links are made together with their key.
	if slices.ContainsFunc(secrets, func(s Secret) bool { return s.Made && s.Path == makers[0].secret }) {
		for i := range secrets {
			secrets[i].Made = secrets[i].Made || path.Dir(secrets[i].Path) == "etc/ssl/certs"
		}
	}
	for name, unit := range units {
		if err := n.directory(unitDirectory+"/sysinit.target.wants", 0o755); err != nil {
			return nil, err
		}
		for _, e := range []tree.Entry{unit, symlink(unitDirectory+"/sysinit.target.wants/"+name, "../"+name)} {
			if _, exists := n.at(e.Path); exists {
				continue // the source was made from such a tree
			}
			if err := n.put(e); err != nil {
				return nil, err
			}
		}
	}
	return tree.New(n.entries, moreContent{Content: t.Content, added: added})
}

// nameOf returns the name of an account, or its number if it has none.
func nameOf(accounts map[string]uint32, number uint32) string {
	var names []string
	for name, n := range accounts {
		if n == number {
			names = append(names, name)
		}
	}
	if len(names) == 0 {
		return fmt.Sprint(number)
	}
	return slices.Min(names)
}

// moreContent adds contents to those of a tree.
type moreContent struct {
	tree.Content
	added map[tree.Digest][]byte
}

// Open implements tree.Content.
func (c moreContent) Open(digest tree.Digest) (io.ReadCloser, error) {
	if data, ok := c.added[digest]; ok {
		return io.NopCloser(bytes.NewReader(data)), nil
	}
	return c.Content.Open(digest)
}

// SecretsText describes secrets that a build leaves out, in one line for each.
func SecretsText(secrets []Secret) []string {
	var lines []string
	for _, s := range secrets {
		line := "/" + s.Path + " (" + s.What + ")"
		if s.Made {
			line += ": each VM makes its own"
		}
		lines = append(lines, strings.TrimSpace(line))
	}
	return lines
}
