package rootfs

import (
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// Normalise returns the tree that a release shares. It removes what must belong to one machine only and what the build
// left behind, and it moves directories that must belong to the OS or to the VM.
//
// It removes SSH host keys, the machine ID (an empty /etc/machine-id stays), random seeds, secrets created
// by systemd, NVMe host names, answers to debconf that are passwords, hostname and resolv.conf of the build
// machine, apt's caches and package lists, backups and locks of dpkg, debconf, ldconfig and the account
// files, and everything in /boot (the kernel is a blob of the release), /tmp, /var/tmp, /run, /dev, /proc
// and /sys. Log files are truncated rather than removed, so services find them with their owner and mode.
//
// Databases of packages move from /var below /usr/lib/sysimage, since they describe the release and not the
// VM. /usr/local moves to /var/usrlocal and /opt to /var/opt (tree.CarriedTrees). A symbolic link replaces
// each. Relative links that would point elsewhere after the move become absolute. Links at the top that
// lead below /var or /sysroot, such as /home, become directories with what they lead to; see topLinks.
//
// /usr, /etc/.updated and /var/.updated get the modification time 0. systemd's ConditionNeedsUpdate= (systemd.unit(5))
// is true if /usr is newer than the stamp, which it never is with any release. So no boot runs ldconfig, systemd-hwdb,
// systemd-sysusers or the update of the journal catalog again: their results are in the tree.
//
// Normalise does not change t. Normalising a tree twice has the same result as once. The new tree shares t's contents.
//
// given are paths of files that the user has given, see CheckGiven: they stay.
func Normalise(t *tree.Tree, given ...string) (*tree.Tree, error) {
	n := &normaliser{
		entries: make([]tree.Entry, 0, len(t.Entries)+len(moves)+len(mountPoints)),
		index:   make(map[string]int, len(t.Entries)), blank: tree.Sum(nil),
	}
	for _, e := range t.Entries {
		what := fateOf(e)
		if slices.Contains(given, e.Path) {
			what = keep
		}
		switch what {
		case remove:
			continue
		case empty:
			e.Size, e.Digest = 0, n.blank
		}
		if err := n.put(e); err != nil {
			return nil, err
		}
	}
	if err := n.unlinkTop(); err != nil {
		return nil, err
	}
	if err := n.move(); err != nil {
		return nil, err
	}
	if err := n.complete(); err != nil {
		return nil, err
	}
	return tree.New(n.entries, blankContent{blank: n.blank, Content: t.Content})
}

// blankContent is a Content with the empty file added.
type blankContent struct {
	tree.Content
	blank tree.Digest
}

func (c blankContent) Open(digest tree.Digest) (io.ReadCloser, error) {
	if digest == c.blank {
		return io.NopCloser(strings.NewReader("")), nil
	}
	return c.Content.Open(digest)
}

// fate is what happens to an entry.
type fate int

const (
	keep fate = iota
	remove
	empty
)

// emptied are directories whose whole content is removed.
var emptied = []string{"boot", "dev", "proc", "sys", "run", "tmp", "var/tmp", "var/log/journal"}

// filesOnly are directories below which all files are removed and directories stay.
var filesOnly = []string{"var/cache/apt", "var/lib/apt/lists", "var/log/apt"}

// patterns match files that are removed, in the syntax of path.Match.
var patterns = []string{
	"etc/ssh/ssh_host_*", "etc/dropbear/dropbear_*_host_key",
	// Names of one machine on a network of storage (nvme-connect(1)).
	"etc/nvme/hostnqn", "etc/nvme/hostid",
	"var/lib/dbus/machine-id",
	"var/lib/systemd/random-seed", "var/lib/systemd/credential.secret", "var/lib/urandom/random-seed",
	"etc/hostname",
	"var/cache/debconf/*-old", "var/cache/debconf/passwords.dat", "var/cache/ldconfig/aux-cache",
	"var/log/dpkg.log", "var/log/alternatives.log", "var/log/bootstrap.log",
	// Rotated logs.
	"var/log/*.[0-9]", "var/log/*.gz", "var/log/*.xz", "var/log/*.old",
	"etc/passwd-", "etc/group-", "etc/shadow-", "etc/gshadow-", "etc/subuid-", "etc/subgid-",
}

// dpkgPatterns match files that are removed from dpkg's database, in either of its directories.
var dpkgPatterns = []string{"*-old", "lock", "lock-frontend", "triggers/Lock", "info/*.dpkg-new", "info/*.dpkg-tmp"}

func fateOf(e tree.Entry) fate {
	for _, dir := range emptied {
		if below(e.Path, dir) {
			return remove
		}
	}
	if e.Type == tree.Directory {
		return keep
	}
	for _, dir := range filesOnly {
		if below(e.Path, dir) {
			return remove
		}
	}
	if matches(e.Path, patterns) {
		return remove
	}
	for _, db := range []string{debianDpkg, sysimageDpkg} {
		if rest, ok := strings.CutPrefix(e.Path, db+"/"); ok && matches(rest, dpkgPatterns) {
			return remove
		}
	}
	switch {
	case e.Path == "etc/resolv.conf" && e.Type == tree.Regular:
		// A symbolic link to the file of a resolver in the VM is part of the OS and stays.
		return remove
	case e.Type == tree.Symlink && tree.Parent(e.Path) == tree.Root &&
		strings.HasPrefix(strings.TrimPrefix(e.Link, "/"), "boot/"):
		// /vmlinuz, /initrd.img and their .old variants would be dangling links.
		return remove
	case e.Type == tree.Regular && below(e.Path, "var/log"):
		return empty
	}
	return keep
}

// ownFiles are files that each VM has of its own and that replace those of a release at every boot.
var ownFiles = []string{"etc/machine-id", "etc/hostname", "etc/.updated", "var/.updated"}

// CheckGiven returns an error if a file that a user gives for a base cannot reach a VM: VMs mount
// something over it, each VM has its own, or it is a secret or a log. p is relative to the root.
func CheckGiven(p string) error {
	e := tree.Entry{Path: p, Type: tree.Regular}
	switch {
	case slices.ContainsFunc(emptied, func(dir string) bool { return below(p, dir) }):
		return fmt.Errorf("/%s would not be in a VM: each VM has its own content there", p)
	case slices.Contains(ownFiles, p) || p == "var/lib/dbus/machine-id":
		return fmt.Errorf("/%s would not be in a VM: each VM gets its own", p)
	case p == "etc/resolv.conf": // that of a build machine is removed, and one that was given stays
		return nil
	case fateOf(e) == empty:
		return fmt.Errorf("/%s would be empty in a VM: logs are not shared", p)
	case fateOf(e) == remove:
		return fmt.Errorf("/%s would not be in a VM: it is a file of one machine or of a build, which is never shared",
			p)
	}
	return nil
}

// below reports whether p is inside dir.
func below(p, dir string) bool {
	return len(p) > len(dir) && p[len(dir)] == '/' && p[:len(dir)] == dir
}

func matches(p string, patterns []string) bool {
	return slices.ContainsFunc(patterns, func(pattern string) bool {
		ok, err := path.Match(pattern, p)
		return ok && err == nil
	})
}

// normaliser is a tree that is being built.
type normaliser struct {
	entries []tree.Entry
	index   map[string]int
	blank   tree.Digest
}

// put adds an entry. If the path exists, both must be directories, and the first one stays.
func (n *normaliser) put(e tree.Entry) error {
	if i, ok := n.index[e.Path]; ok {
		if n.entries[i].Type == tree.Directory && e.Type == tree.Directory {
			return nil
		}
		return fmt.Errorf("/%s exists already: move one of the two away in the source", e.Path)
	}
	n.index[e.Path] = len(n.entries)
	n.entries = append(n.entries, e)
	return nil
}

func (n *normaliser) at(p string) (*tree.Entry, bool) {
	i, ok := n.index[p]
	if !ok {
		return nil, false
	}
	return &n.entries[i], true
}

// directory adds the directory p and those above it, unless they exist.
func (n *normaliser) directory(p string, mode uint32) error {
	if e, ok := n.at(p); ok {
		if e.Type != tree.Directory {
			return fmt.Errorf("/%s is a %s: it must be a directory", p, e.Type)
		}
		return nil
	}
	if p != tree.Root {
		if err := n.directory(tree.Parent(p), 0o755); err != nil {
			return err
		}
	}
	return n.put(tree.Entry{Path: p, Type: tree.Directory, Mode: mode, ModTime: time.Unix(0, 0)})
}

// A move takes a directory to another path and leaves a symbolic link.
type move struct {
	from, to, link string
	// packages marks the database of a package manager, which not every OS has.
	packages bool
}

var moves = []move{
	{from: debianDpkg, to: sysimageDpkg, link: "../../usr/lib/sysimage/dpkg", packages: true},
	{from: varRPM, to: sysimageRPM, link: "../../usr/lib/sysimage/rpm", packages: true},
	{from: "var/lib/pacman/local", to: "usr/lib/sysimage/pacman/local",
		link: "../../../usr/lib/sysimage/pacman/local", packages: true},
	{from: "usr/local", to: "var/usrlocal", link: "../var/usrlocal"},
	{from: "opt", to: "var/opt", link: "var/opt"},
}

// move performs the moves. A directory that is a symbolic link already was moved before, by Normalise or by the
// distribution.
func (n *normaliser) move() error {
	for _, m := range moves {
		top, ok := n.at(m.from)
		if ok && top.Type == tree.Symlink {
			continue
		}
		if ok && top.Type != tree.Directory {
			return fmt.Errorf("/%s is a %s: it must be a directory", m.from, top.Type)
		}
		if !ok && m.packages {
			continue
		}
		if err := n.directory(tree.Parent(m.to), 0o755); err != nil {
			return err
		}
		if err := n.relocate(m); err != nil {
			return fmt.Errorf("move /%s to /%s: %w", m.from, m.to, err)
		}
		if err := n.directory(m.to, 0o755); err != nil {
			return err
		}
		if err := n.directory(tree.Parent(m.from), 0o755); err != nil {
			return err
		}
		if err := n.put(symlink(m.from, m.link)); err != nil {
			return err
		}
	}
	return nil
}

// relocate moves a directory and everything below it.
func (n *normaliser) relocate(m move) error {
	// It reuses the slice: a copy of all entries for each move would dominate the memory of a build.
	var moved []tree.Entry
	rest := n.entries[:0]
	for _, e := range n.entries {
		if e.Path == m.from || below(e.Path, m.from) {
			moved = append(moved, e)
			delete(n.index, e.Path)
			continue
		}
		n.index[e.Path] = len(rest)
		rest = append(rest, e)
	}
	clear(n.entries[len(rest):])
	n.entries = rest
	for _, e := range moved {
		if e.Type == tree.Symlink {
			e.Link = unbend(e.Path, e.Link, m.from)
		}
		e.Path = m.to + strings.TrimPrefix(e.Path, m.from)
		if err := n.put(e); err != nil {
			return err
		}
	}
	return nil
}

// unbend returns the target of a symbolic link at p that moves together with the directory dir. A relative target
// outside of dir becomes absolute, since it would point elsewhere from the new path.
func unbend(p, target, dir string) string {
	if strings.HasPrefix(target, "/") {
		return target
	}
	to := path.Join(tree.Parent(p), target)
	if to == dir || below(to, dir) {
		return target
	}
	for strings.HasPrefix(to, "../") {
		to = strings.TrimPrefix(to, "../")
	}
	if to == ".." || to == tree.Root {
		return "/"
	}
	return "/" + to
}

func symlink(p, target string) tree.Entry {
	return tree.Entry{Path: p, Type: tree.Symlink, Mode: 0o777, ModTime: time.Unix(0, 0), Link: target}
}

// mountPoints are directories that a VM needs, with the modes that they get if they are missing.
var mountPoints = []struct {
	path string
	mode uint32
}{
	{"dev", 0o755},
	{"proc", 0o555},
	{"sys", 0o555},
	{"run", 0o755},
	{"tmp", 0o1777},
	{"etc", 0o755},
	{"usr", 0o755},
	{"var", 0o755},
	{"var/tmp", 0o1777},
	{"home", 0o755},
	{"root", 0o700},
	{"srv", 0o755},
	{"mnt", 0o755},
	{"boot", 0o755},
}

// complete adds what every tree must have: mount points, machine-id and stamps.
func (n *normaliser) complete() error {
	if err := n.directory(tree.Root, 0o755); err != nil {
		return err
	}
	for _, d := range mountPoints {
		if err := n.directory(d.path, d.mode); err != nil {
			return err
		}
	}
	epoch := time.Unix(0, 0)
	usr, _ := n.at("usr")
	usr.ModTime = epoch
	for _, stamp := range []struct {
		path string
		mode uint32
	}{{"etc/machine-id", 0o444}, {"etc/.updated", 0o644}, {"var/.updated", 0o644}} {
		file := tree.Entry{Path: stamp.path, Type: tree.Regular, Mode: stamp.mode, ModTime: epoch, Digest: n.blank}
		e, ok := n.at(stamp.path)
		switch {
		case !ok:
			if err := n.put(file); err != nil {
				return err
			}
		case e.Type == tree.Directory:
			return fmt.Errorf("/%s is a directory: it must be a file", stamp.path)
		default:
			*e = file
		}
	}
	return nil
}
