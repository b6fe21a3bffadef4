package rootfs

import (
	"encoding/binary"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// Programs that make archives often lose or change owners, modes and attributes. mend corrects in place what has one
// safe meaning, and returns a note about each kind of correction. What has none is refused, by name: the error wraps
// source.ErrRefused and lists everything.
//
// It corrects:
//   - extended attributes of other systems and of other file systems, which no VM can have: they are removed.
//   - files and directories of the OS that every user may write: they may no longer.
//   - directories that a reader cannot enter, and directories that every program needs and not every user can enter.
//   - /tmp and /var/tmp without the sticky bit.
//   - files with passwords that others may read, and the account files if others may not read them.
//   - setuid and setgid of an account that the system does not have, of an ordinary user, and in places of data.
//   - access control lists by which single users or groups can write what is the OS's, or read passwords.
//   - block devices outside of /dev that others than root may read or write.
//   - capabilities of a container's root, which become those of the VM's.
//
// It notes what belongs to an ordinary user, or to a number that no account has, and leaves it so:
// whoever has or gets that number in a VM can change it.
//
// It gives root what is in the directories of its search path and belongs to neither root nor an account of the system.
//
// It refuses other owners than root of the system's core, and of what root runs or obeys, programs
// without which nothing starts and that cannot be executed, and attributes that are damaged.
func mend(t *tree.Tree, users, groups map[string]uint32) ([]string, error) {
	m := mender{users: numbers(users), groups: numbers(groups), seen: map[string]*finding{}}
	for i := range t.Entries {
		e := &t.Entries[i]
		m.attributes(e)
		m.owner(e)
		if e.Type != tree.Symlink {
			m.mode(e)
		}
	}
	for _, program := range []string{initPath, "bin/sh"} {
		if e, err := t.Resolve(program); err == nil && e.Type == tree.Regular && e.Mode&0o001 == 0 {
			m.refuse(e, "is a program that cannot be executed (mode "+octal(e.Mode)+")")
		}
	}
	return m.notes(), m.err()
}

// finding is one kind of correction, and where it was made.
type finding struct {
	what  string
	first string
	count int
}

type mender struct {
	// users and groups are the numbers of accounts.
	users, groups map[uint32]bool
	order         []*finding
	seen          map[string]*finding
	refused       []error
}

func numbers(accounts map[string]uint32) map[uint32]bool {
	all := map[uint32]bool{}
	for _, number := range accounts {
		all[number] = true
	}
	return all
}

// note records a correction. what completes the path: "was writable for everyone".
func (m *mender) note(e *tree.Entry, what string) {
	f := m.seen[what]
	if f == nil {
		f = &finding{what: what, first: slashed(e.Path)}
		m.seen[what], m.order = f, append(m.order, f)
	}
	f.count++
}

// maxRefused bounds how many paths an error lists.
const maxRefused = 20

func (m *mender) refuse(e *tree.Entry, why string) {
	if len(m.refused) < maxRefused {
		m.refused = append(m.refused, fmt.Errorf("%q %s", slashed(e.Path), why))
	}
}

func (m *mender) err() error {
	if len(m.refused) == 0 {
		return nil
	}
	return fmt.Errorf("%w, because a VM with it would be unsafe or could not run: %w", source.ErrRefused,
		errors.Join(m.refused...))
}

func (m *mender) notes() []string {
	var notes []string
	for _, f := range m.order {
		where := f.first
		if f.count > 1 {
			where = fmt.Sprintf("%s and %d more", f.first, f.count-1)
		}
		notes = append(notes, where+": "+f.what)
	}
	return notes
}

func slashed(p string) string {
	if p == tree.Root {
		return "/"
	}
	return "/" + p
}

func octal(mode uint32) string { return fmt.Sprintf("%04o", mode) }

// shared reports whether a path is the OS's, so that nobody but root may write it.
func shared(p string) bool {
	top, _, _ := strings.Cut(p, "/")
	return p == tree.Root ||
		slices.Contains([]string{"usr", "etc", "opt", "boot", "root", "lib", "bin", "sbin"}, top) ||
		slices.Contains([]string{"var", "var/lib", "var/log", "var/cache", "var/spool", "home", "srv"}, p) ||
		below(p, "var/opt") || below(p, "var/usrlocal")
}

// everyone are directories that every user has to enter.
var everyone = []string{
	tree.Root, "usr", "usr/bin", "usr/sbin", "usr/lib", "usr/lib64", "usr/share", "usr/lib/x86_64-linux-gnu",
	"usr/lib/aarch64-linux-gnu",
	"etc", "var", "var/lib", "home", "opt", "srv", "usr/local",
}

// rootsOnly are paths whose owner can become root.
var rootsOnly = []string{
	tree.Root, "usr", "usr/bin", "usr/sbin", "usr/lib", "usr/lib/systemd", "usr/lib/systemd/systemd",
	"usr/lib/systemd/system", "etc", "etc/passwd",
	"etc/group", "etc/shadow", "etc/gshadow", "etc/sudoers", "etc/sudoers.d", "etc/pam.d", "etc/ssh",
	"etc/ssh/sshd_config", "etc/systemd", "etc/systemd/system",
	"etc/ld.so.conf", "etc/ld.so.preload", "etc/crontab", "etc/profile", "root", "root/.ssh",
	"root/.ssh/authorized_keys", "var", "var/lib",
}

// obeyed are directories of configuration by which root runs programs or trusts somebody. A file there that belongs
// to an account of the system may be meant so, but none of an ordinary user or of a number that no account has.
var obeyed = []string{
	"etc/apt", "etc/bash.bashrc", "etc/cron.d", "etc/cron.daily", "etc/cron.hourly", "etc/cron.monthly",
	"etc/cron.weekly", "etc/environment",
	"etc/init.d", "etc/kernel", "etc/ld.so.conf.d", "etc/modprobe.d", "etc/network", "etc/NetworkManager", "etc/pam.d",
	"etc/polkit-1", "etc/profile.d",
	"etc/rc.local", "etc/security", "etc/ssh", "etc/ssl", "etc/sudoers.d", "etc/systemd", "etc/tmpfiles.d", "etc/udev",
	"root/.bash_profile", "root/.bashrc", "root/.profile", "root/.ssh", "var/spool/cron",
	"usr/lib/systemd", "usr/lib/tmpfiles.d", "usr/lib/udev",
}

// programs are the directories of root's search path, which have nobody's programs but root's.
var programs = []string{"usr/bin", "usr/sbin", "usr/local/bin", "usr/local/sbin",
	"var/usrlocal/bin", "var/usrlocal/sbin"}

// ordinary is the first number of users who are no accounts of the system (login.defs(5)).
const ordinary = 1000

// nobody is the number that files of accounts without a number have in a container (user_namespaces(7)).
const nobody = 65534

func (m *mender) owner(e *tree.Entry) {
	in := func(directories []string) bool {
		return slices.ContainsFunc(directories, func(dir string) bool { return e.Path == dir || below(e.Path, dir) })
	}
	stranger := e.UID >= ordinary || e.UID != 0 && !m.users[e.UID]
	switch remedy := "; pack the archive as root, or with tar --numeric-owner --owner=0 --group=0, or use directory with owner = \"root\""; {
	case e.UID != 0 && slices.Contains(rootsOnly, e.Path):
		m.refuse(e, fmt.Sprintf("belongs to the account with the number %d, and not to root%s", e.UID, remedy))
	case e.UID == nobody && (e.Path == "usr" || below(e.Path, "usr") || below(e.Path, "etc")):
		m.refuse(e, "belongs to nobody: its owner had no number where it was packed"+remedy)
	case stranger && in(obeyed):
		m.refuse(e, fmt.Sprintf("belongs to the number %d, which is no account of the system, though root obeys it%s",
			e.UID, remedy))
	case stranger && in(programs):
		defer func() { // after setuid
			m.note(e, "it belonged to no account of the system, and is root's now, who runs it")
			e.UID = 0
		}()
	case e.UID >= ordinary && e.UID != nobody && shared(e.Path):
		m.note(e, "it belongs to an ordinary user, who can change it in every VM; it was left so")
	case e.UID != 0 && !m.users[e.UID] && e.UID != nobody && shared(e.Path):
		m.note(e, fmt.Sprintf(
			"it belongs to the number %d, which no account has: whoever gets it in a VM can change it; it was left so",
			e.UID))
	}
	const setuid, setgid = 0o4000, 0o2000
	if e.Type != tree.Regular {
		return
	}
	data := below(e.Path, "etc") || below(e.Path, "home") || below(e.Path, "root") || below(e.Path, "srv") ||
		below(e.Path, "var") && !below(e.Path, "var/opt") && !below(e.Path, "var/usrlocal")
	if e.Mode&setuid != 0 && (data || e.UID >= ordinary || e.UID != 0 && !m.users[e.UID]) {
		m.note(e, "the setuid bit was removed: the owner is no account of the system, or this is a place of data")
		e.Mode &^= setuid
	}
	if e.Mode&setgid != 0 && e.Mode&0o010 != 0 && (data || e.GID >= ordinary || e.GID != 0 && !m.groups[e.GID]) {
		m.note(e, "the setgid bit was removed: the group is no group of the system, or this is a place of data")
		e.Mode &^= setgid
	}
}

func (m *mender) mode(e *tree.Entry) {
	set := func(mode uint32, what string) {
		if e.Mode != mode {
			m.note(e, what+" (mode "+octal(e.Mode)+", now "+octal(mode)+")")
			e.Mode = mode
		}
	}
	isDirectory := e.Type == tree.Directory
	switch {
	case isDirectory && (e.Path == "tmp" || e.Path == "var/tmp"):
		set(0o1777, "it is a directory for everyone's temporary files")
		return
	case e.Path == "etc/shadow" || e.Path == "etc/gshadow":
		mode := e.Mode &^ 0o137
		if e.GID != 0 && !m.groups[e.GID] {
			mode &^= 0o070
		}
		set(mode, "passwords are for root only")
	case e.Path == "root/.ssh" || below(e.Path, "root/.ssh"):
		set(e.Mode&^0o022, "sshd ignores keys that others may write")
	case e.Path == "etc/sudoers" || below(e.Path, "etc/sudoers.d"):
		set(e.Mode&^0o022, "sudo refuses rules that others may write")
	case e.Path == "etc/passwd" || e.Path == "etc/group":
		set(e.Mode|0o444, "everyone reads the names of accounts")
	}
	if e.Type == tree.BlockDevice && !below(e.Path, "dev") {
		set(e.Mode&^0o066, "others could read or write a device")
	}
	if shared(e.Path) && e.Mode&0o002 != 0 && e.Type != tree.CharDevice && e.Type != tree.BlockDevice &&
		!(isDirectory && e.Mode&0o1000 != 0 && e.Path != tree.Root) {
		set(e.Mode&^0o002, "everyone could write it")
	}
	if shared(e.Path) && e.Mode&0o020 != 0 && (e.GID >= ordinary && e.GID != nobody || e.GID != 0 && !m.groups[e.GID]) {
		set(e.Mode&^0o020, "a group that is none of the system could write it")
	}
	if isDirectory && slices.Contains(everyone, e.Path) && e.Mode&0o111 != 0o111 {
		set(e.Mode|0o755, "not every user could enter this directory")
	}
	if readers := e.Mode & 0o444; isDirectory && e.Mode&(readers>>2) != readers>>2 {
		set(e.Mode|readers>>2, "who could list this directory could not enter it")
	}
}

// foreign are attributes of other systems and of other file systems: of Lustre, GlusterFS, XFS and
// NFS. A name that ends in "." stands for all that start with it.
var foreign = []string{
	"trusted.lov", "trusted.lma", "trusted.lmv", "trusted.link", "trusted.fid", "trusted.som", "trusted.hsm",
	"trusted.dmv", "trusted.version",
	"trusted.gfid", "trusted.glusterfs.", "trusted.afr.", "trusted.SGI_", "security.NTACL", "user.DOSATTRIB",
	"user.fuseoverlayfs.", "user.rootlesscontainers",
}

// usable reports whether Linux has an attribute on every file system (xattr(7)).
func usable(name string) bool {
	if slices.ContainsFunc(foreign,
		func(f string) bool { return name == f || strings.HasPrefix(name, f) && !isLetter(f[len(f)-1]) }) {
		return false
	}
	switch namespace, _, _ := strings.Cut(name, "."); namespace {
	case "user", "trusted", "security":
		return true
	case "system":
		return name == aclAccess || name == aclDefault
	default:
		return false
	}
}

func isLetter(b byte) bool { return b >= 'a' && b <= 'z' }

const (
	aclAccess  = "system.posix_acl_access"
	aclDefault = "system.posix_acl_default"
	capability = "security.capability"
)

func (m *mender) attributes(e *tree.Entry) {
	for _, name := range slices.Sorted(maps.Keys(e.Xattrs)) {
		value := e.Xattrs[name]
		switch {
		case !usable(name):
			m.note(e, fmt.Sprintf("the attribute %q was removed: no VM can have it", source.Shorten(name)))
			e.Xattrs = maps.Clone(e.Xattrs)
			delete(e.Xattrs, name)
		case name == capability:
			m.capabilities(e, value)
		case name == aclAccess || name == aclDefault:
			// Linux, include/uapi/linux/posix_acl_xattr.h: a version of 4 bytes, and 8 for each entry.
			if len(value) < 4 || (len(value)-4)%8 != 0 || binary.LittleEndian.Uint32([]byte(value)) != 2 {
				m.refuse(e, "has a damaged attribute "+name)
				continue
			}
			m.list(e, name, value)
		}
	}
}

// list removes the entries of an access control list (acl(5)) by which single users or groups can
// write what is the OS's, or read passwords. No package makes such.
func (m *mender) list(e *tree.Entry, name, value string) {
	const user, group, write = 0x02, 0x08, 0x02 // ACL_USER, ACL_GROUP, ACL_WRITE
	passwords := e.Path == "etc/shadow" || e.Path == "etc/gshadow"
	if !shared(e.Path) {
		return
	}
	kept := []byte(value[:4])
	for at := 4; at < len(value); at += 8 {
		entry := []byte(value[at : at+8])
		tag, allows := binary.LittleEndian.Uint16(entry), binary.LittleEndian.Uint16(entry[2:])
		if (tag != user && tag != group) || allows&write == 0 && !passwords {
			kept = append(kept, entry...)
		}
	}
	if len(kept) < len(value) {
		m.note(e, "its access control list let single users or groups write it, or read passwords: these entries were removed")
		e.Xattrs = maps.Clone(e.Xattrs)
		e.Xattrs[name] = string(kept)
	}
}

// capabilities checks an attribute of capabilities(7) (Linux, include/uapi/linux/capability.h, vfs_ns_cap_data). Its
// third revision has the number of the root of a user namespace, which no VM has.
func (m *mender) capabilities(e *tree.Entry, value string) {
	const revision1, revision2, revision3, flags = 0x01000000, 0x02000000, 0x03000000, 0x000001
	sizes := map[uint32]int{revision1: 12, revision2: 20, revision3: 24}
	if len(value) < 4 {
		m.refuse(e, "has a damaged attribute "+capability)
		return
	}
	magic := binary.LittleEndian.Uint32([]byte(value))
	if revision := magic &^ flags; sizes[revision] == 0 || len(value) != sizes[revision] {
		m.refuse(e, "has a damaged attribute "+capability)
	} else if e.Type != tree.Regular {
		m.refuse(e, "has the attribute "+capability+" and is a "+e.Type.String())
	} else if revision == revision3 {
		plain := binary.LittleEndian.AppendUint32(nil, revision2|magic&flags)
		m.note(e, "its capabilities were for the root of a container, and are for the VM's now")
		e.Xattrs = maps.Clone(e.Xattrs)
		e.Xattrs[capability] = string(plain) + value[4:20]
	}
}
