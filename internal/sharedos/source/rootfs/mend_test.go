package rootfs_test

import (
	"archive/tar"
	"bytes"
	"encoding/binary"
	"errors"
	"maps"
	"math"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/archive"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/rootfs"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/sourcetest"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// system reads a bootable system with more items.
func system(t *testing.T, items ...sourcetest.Item) (*rootfs.System, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "rootfs.tar")
	sourcetest.WriteOld(t, file, sourcetest.Tar(t, append(sourcetest.Bootable("6.1"), items...)...))
	return sourcetest.ReadSystem(t, archive.Source{Path: file}, nil)
}

func item(name string, kind byte, mode int64, uid, gid int, attributes ...string) sourcetest.Item {
	i := sourcetest.Item{Header: tar.Header{Name: name, Typeflag: kind, Mode: mode, Uid: uid, Gid: gid}}
	for n := 0; n < len(attributes); n += 2 {
		if i.PAXRecords == nil {
			i.PAXRecords = map[string]string{}
		}
		key := attributes[n]
		if !strings.HasPrefix(key, "SCHILY.") && !strings.HasPrefix(key, "RHT.") {
			key = "SCHILY.xattr." + key
		}
		i.PAXRecords[key] = attributes[n+1]
	}
	return i
}

// Capabilities as setcap writes them: cap_net_raw+ep, and the same for the root of a container.
var (
	capabilities = "\x01\x00\x00\x02\x00\x20" + strings.Repeat("\x00", 14)
	inContainer  = "\x01\x00\x00\x03\x00\x20" + strings.Repeat("\x00", 14) + "\xa0\x86\x01\x00"
)

// listFor is an access control list that gives a user permissions.
func listFor(user, permissions uint32) string {
	list := binary.LittleEndian.AppendUint32(nil, 2)
	for _, entry := range [][3]uint32{{0x01, 6, math.MaxUint32}, {0x02, permissions, user}, {0x04, 4, math.MaxUint32},
		{0x10, 6, math.MaxUint32}, {0x20, 0, math.MaxUint32}} {
		list = binary.LittleEndian.AppendUint16(list, uint16(entry[0]))
		list = binary.LittleEndian.AppendUint16(list, uint16(entry[1]))
		list = binary.LittleEndian.AppendUint32(list, entry[2])
	}
	return string(list)
}

func TestWhatWouldBeUnsafeOrBrokenIsMended(t *testing.T) {
	const f, d = tar.TypeReg, tar.TypeDir
	for name, c := range map[string]struct {
		item sourcetest.Item
		mode uint32
		note string // a part of the note; "" for none
	}{
		"the root for its owner only": {item("./", d, 0o700, 0, 0), 0o755, "/: not every user could enter"},
		"the root for everyone":       {item("./", d, 0o777, 0, 0), 0o775, "/: everyone could write it"},
		"the root, sticky":            {item("./", d, 0o1777, 0, 0), 0o1775, "/: everyone could write it"},
		"/usr for everyone":           {item("usr/", d, 0o777, 0, 0), 0o775, "/usr: everyone could write it"},
		"/usr without x":              {item("usr/", d, 0o644, 0, 0), 0o755, "/usr: not every user could enter"},
		"/etc without x":              {item("etc/", d, 0o600, 0, 0), 0o755, "/etc: not every user could enter"},
		"a directory without x": {item("usr/share/doc/", d, 0o644, 0, 0), 0o755,
			"/usr/share/doc: who could list"},
		"a private directory without x": {item("var/lib/private/", d, 0o600, 0, 0), 0o700,
			"/var/lib/private: who could list"},
		"a program for everyone": {item("usr/bin/tool", f, 0o777, 0, 0), 0o775,
			"/usr/bin/tool: everyone could write it"},
		"a configuration for everyone": {item("etc/app.conf", f, 0o666, 0, 0), 0o664,
			"/etc/app.conf: everyone could write it"},
		"/opt for everyone": {item("opt/app/", d, 0o777, 0, 0), 0o775, "everyone could write it"},
		"/var for everyone": {item("var/", d, 0o777, 0, 0), 0o775, "/var: everyone could write it"},
		"a group of users": {item("usr/share/app/", d, 0o775, 0, 1000), 0o755,
			"/usr/share/app: a group"},
		"a group that is not there":     {item("etc/app.conf", f, 0o664, 0, 777), 0o644, "/etc/app.conf: a group"},
		"passwords for all":             {item("etc/shadow", f, 0o644, 0, 0), 0o640, "/etc/shadow: passwords"},
		"passwords of groups for all":   {item("etc/gshadow", f, 0o666, 0, 0), 0o640, "/etc/gshadow: passwords"},
		"passwords for a strange group": {item("etc/shadow", f, 0o640, 0, 42), 0o600, "/etc/shadow: passwords"},
		"names for root only":           {item("etc/group", f, 0o600, 0, 0), 0o644, "/etc/group: everyone reads"},
		"/tmp without the sticky bit":   {item("tmp/", d, 0o777, 0, 0), 0o1777, "/tmp: it is a directory"},
		"/var/tmp for root only":        {item("var/tmp/", d, 0o755, 0, 0), 0o1777, "/var/tmp: it is a directory"},
		"keys that all can write":       {item("root/.ssh/", d, 0o777, 0, 0), 0o755, "/root/.ssh: sshd ignores"},
		"rules that a group can write": {item("etc/sudoers.d/x", f, 0o660, 0, 0), 0o640,
			"/etc/sudoers.d/x: sudo refuses"},
		"setuid of a user": {item("usr/bin/su", f, 0o4755, 1000, 0), 0o755,
			"/usr/bin/su: the setuid bit"},
		"setuid of no account": {item("usr/bin/su", f, 0o6755, 77, 0), 0o2755,
			"/usr/bin/su: the setuid bit"},
		"setuid among data": {item("var/lib/x", f, 0o4755, 0, 0), 0o755, "/var/lib/x: the setuid bit"},
		"setuid in a home":  {item("home/x/sh", f, 0o4755, 0, 0), 0o755, "/home/x/sh: the setuid bit"},
		"setgid of a group of users": {item("usr/bin/g", f, 0o2755, 0, 1000), 0o755,
			"/usr/bin/g: the setgid bit"},
		"setgid of no group": {item("usr/bin/g", f, 0o2755, 0, 77), 0o755, "/usr/bin/g: the setgid bit"},
		"a user's file in /etc": {item("etc/app.conf", f, 0o644, 1000, 0), 0o644,
			"/etc/app.conf: it belongs to an ordinary user"},
		"a user's file in /usr": {item("usr/lib/node_modules/a.js", f, 0o644, 1000, 0), 0o644,
			"/usr/lib/node_modules/a.js: it belongs to an ordinary user"},
		"a shell of a user": {item("usr/bin/bash", f, 0o755, 1000, 0), 0o755,
			"/usr/bin/bash: it belonged to no account of the system, and is root's now"},
		"a user's file in /opt": {item("opt/acme/acmed", f, 0o755, 1000, 0), 0o755,
			"it belongs to an ordinary user"},
		"a list that lets a user write": {item("etc/app.conf", f, 0o640, 0, 0, "system.posix_acl_access",
			listFor(1000, 6)), 0o640, "/etc/app.conf: its access control list"},
		"a list that lets a user read": {item("etc/app.conf", f, 0o640, 0, 0, "system.posix_acl_access",
			listFor(1000, 4)), 0o640, ""},
		"passwords by a list": {item("etc/shadow", f, 0o640, 0, 0, "system.posix_acl_access",
			listFor(1000, 4)), 0o640, "/etc/shadow: its access control list"},
		"a disk for everyone": {item("var/lib/d", tar.TypeBlock, 0o666, 0, 0), 0o600,
			"/var/lib/d: others could read"},
		"a number's file in /etc": {item("etc/app.conf", f, 0o644, 501, 20), 0o644,
			"/etc/app.conf: it belongs to the number 501"},
		"a number's file in /usr": {item("usr/share/x", f, 0o644, 501, 20), 0o644,
			"/usr/share/x: it belongs to the number 501"},
		"setuid of root, as it should be":  {item("usr/bin/su", f, 0o4755, 0, 0), 0o4755, ""},
		"setuid of an account":             {item("usr/bin/at", f, 0o6755, 33, 33), 0o6755, ""},
		"a spool for everyone":             {item("var/spool/x/", d, 0o1777, 0, 0), 0o1777, ""},
		"sticky and in /usr":               {item("usr/share/x/", d, 0o1777, 0, 0), 0o1777, ""},
		"a home without listing":           {item("home/", d, 0o711, 0, 0), 0o711, ""},
		"the passwords of Fedora":          {item("etc/shadow", f, 0o000, 0, 0), 0o000, ""},
		"the passwords of Debian":          {item("etc/shadow", f, 0o640, 0, 33), 0o640, ""},
		"a user's home":                    {item("home/x/", d, 0o2770, 1000, 1000), 0o2770, ""},
		"a directory for its owner's eyes": {item("var/lib/x/", d, 0o700, 33, 33), 0o700, ""},
	} {
		s, err := system(t, c.item)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		p := strings.Trim(c.item.Name, "/")
		p = strings.Replace(p, "opt/", "var/opt/", 1)
		e, ok := s.Tree.Lookup(p)
		if !ok || e.Mode != c.mode {
			t.Errorf("%s: %+v, want the mode %#o", name, e, c.mode)
		}
		if notes := strings.Join(s.Notes, "\n"); (notes == "") != (c.note == "") || !strings.Contains(notes, c.note) {
			t.Errorf("%s: the notes are %q, want %q", name, notes, c.note)
		}
	}
}

func TestWhatCannotBeMendedIsRefusedByName(t *testing.T) {
	const f, d = tar.TypeReg, tar.TypeDir
	for name, c := range map[string]struct {
		item sourcetest.Item
		want string
	}{
		"the root of a user": {item("./", d, 0o755, 1000, 1000),
			`"/" belongs to the account with the number 1000`},
		"/usr of a user":        {item("usr/", d, 0o755, 1000, 0), `"/usr" belongs`},
		"/etc/shadow of a user": {item("etc/shadow", f, 0o600, 33, 0), `"/etc/shadow" belongs`},
		"root's keys of a user": {item("root/.ssh/authorized_keys", f, 0o600, 1000, 0),
			`"/root/.ssh/authorized_keys" belongs`},
		"a unit of a number": {item("etc/systemd/system/x.service", f, 0o644, 501, 20),
			`"/etc/systemd/system/x.service" belongs to the number 501`},
		"rules of a user": {item("etc/sudoers.d/x", f, 0o440, 1000, 0),
			`"/etc/sudoers.d/x" belongs to the number 1000`},
		"a user's directory of units": {item("usr/lib/systemd/system-generators/", d, 0o755, 1000, 0),
			`"/usr/lib/systemd/system-generators" belongs`},
		"root's jobs of a user": {item("var/spool/cron/crontabs/root", f, 0o600, 1000, 0),
			`"/var/spool/cron/crontabs/root" belongs`},
		"root's shell of a user": {item("root/.bashrc", f, 0o644, 1000, 0), `"/root/.bashrc" belongs`},
		"a program of nobody":    {item("usr/bin/x", f, 0o755, 65534, 65534), `"/usr/bin/x" belongs to nobody`},
		"systemd that cannot run": {sourcetest.File("usr/lib/systemd/systemd",
			"\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x03\x00\x3e\x00"),
			`"/usr/lib/systemd/systemd" is a program that cannot be executed (mode 0644)`},
		"damaged capabilities": {item("usr/bin/ping", f, 0o755, 0, 0, "security.capability", "\x01\x00"),
			`"/usr/bin/ping" has a damaged attribute security.capability`},
		"capabilities of no revision": {item("usr/bin/ping", f, 0o755, 0, 0, "security.capability",
			strings.Repeat("\x09", 20)), `"/usr/bin/ping" has a damaged`},
		"long capabilities": {item("usr/bin/ping", f, 0o755, 0, 0, "security.capability",
			capabilities+"\x00"), `"/usr/bin/ping" has a damaged`},
		"capabilities of a directory": {item("usr/share/x/", d, 0o755, 0, 0, "security.capability", capabilities),
			`"/usr/share/x" has the attribute security.capability and is a directory`},
		"a damaged access control list": {item("etc/x", f, 0o644, 0, 0, "system.posix_acl_access",
			"\x02\x00\x00\x00\x01"), `"/etc/x" has a damaged attribute system.posix_acl_access`},
	} {
		_, err := system(t, c.item)
		if !errors.Is(err, source.ErrRefused) || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: error %v, want %s", name, err, c.want)
		}
	}
}

func TestAttributesOfOtherSystemsAreRemovedWithANote(t *testing.T) {
	const f = tar.TypeReg
	s, err := system(t,
		item("usr/bin/a", f, 0o755, 0, 0, "com.apple.quarantine", "x", "SCHILY.fflags", "uimmutable", "SCHILY.acl.ace",
			"x", "user.kept", "x", "security.capability", capabilities),
		item("usr/bin/b", f, 0o755, 0, 0, "com.apple.quarantine", "x", "lustre.lov", "x", "trusted.lov", "x",
			"trusted.kept", "x", "RHT.security.selinux", "x"),
		item("usr/bin/c", f, 0o755, 0, 0, "system.nfs4_acl", "x", "system.posix_acl_access", "\x02\x00\x00\x00",
			"security.capability", inContainer))
	sourcetest.Must(t, err)
	for p, want := range map[string]map[string]string{
		"usr/bin/a": {"user.kept": "x", "security.capability": capabilities},
		"usr/bin/b": {"trusted.kept": "x"},
		"usr/bin/c": {"system.posix_acl_access": "\x02\x00\x00\x00", "security.capability": capabilities},
	} {
		if e, ok := s.Tree.Lookup(p); !ok || !maps.Equal(e.Xattrs, want) {
			t.Errorf("%s has %q, want %q", p, e.Xattrs, want)
		}
	}
	for _, want := range []string{
		`/usr/bin/a and 1 more: the attribute "com.apple.quarantine" was removed`,
		`/usr/bin/a: the attribute "SCHILY.fflags"`, `/usr/bin/a: the attribute "SCHILY.acl.ace"`,
		`/usr/bin/b: the attribute "lustre.lov"`, `/usr/bin/b: the attribute "trusted.lov"`,
		`/usr/bin/b: the attribute "RHT.security.selinux"`,
		`/usr/bin/c: the attribute "system.nfs4_acl"`, "/usr/bin/c: its capabilities",
	} {
		if !slices.ContainsFunc(s.Notes, func(note string) bool { return strings.HasPrefix(note, want) }) {
			t.Errorf("no note says %s: %q", want, s.Notes)
		}
	}
}

func TestLinksAtTheTopBecomeDirectories(t *testing.T) {
	file := filepath.Join(t.TempDir(), "rootfs.tar")
	sourcetest.WriteOld(t, file, sourcetest.Tar(t, sourcetest.Ostree("6.1")...))
	s, err := sourcetest.ReadSystem(t, archive.Source{Path: file}, nil)
	sourcetest.Must(t, err)
	for p, want := range map[string]string{
		"home": "directory", "root": "directory", "root/.profile": "regular file", "srv": "directory",
		"srv/www": "directory", "mnt": "directory",
		"tmp": "directory", "var/home": "-> ../home", "var/roothome": "-> ../root", "var/srv": "-> ../srv",
		"ostree": "-> sysroot/ostree", "media": "-> run/media",
	} {
		e, ok := s.Tree.Lookup(p)
		got := ""
		if ok {
			if got = e.Type.String(); e.Type == tree.Symlink {
				got = "-> " + e.Link
			}
		}
		if got != want {
			t.Errorf("/%s is %q, want %q", p, got, want)
		}
	}
	if e, _ := s.Tree.Lookup("root"); e.Mode != 0o700 {
		t.Errorf("/root has the mode %#o", e.Mode)
	}
	if e, err := s.Tree.Resolve("var/roothome/.profile"); err != nil || e.Path != "root/.profile" {
		t.Errorf("%v, %v", e, err)
	}
	again, err := rootfs.Normalise(s.Tree)
	if sourcetest.Must(t, err); !slices.EqualFunc(again.Entries, s.Tree.Entries, tree.Equal) {
		t.Error("normalised twice, it is another tree")
	}
	for link, want := range map[string]string{"usr": "is a link to", "/": "is a link to", "../etc": "is a link to",
		"var/f": "is a regular file"} {
		_, err := system(t, sourcetest.File("var/f", ""), sourcetest.Link("home", link))
		if err == nil || !strings.Contains(err.Error(), "/home") || !strings.Contains(err.Error(), want) {
			t.Errorf("a link to %s: %v", link, err)
		}
	}
}

// Whatever the bytes, they are read, mended and normalised, or refused.
func FuzzMend(f *testing.F) {
	for _, archive := range sourcetest.Archives() {
		f.Add(sourcetest.Tar(f, append(sourcetest.Bootable("6.1"), archive.Items...)...))
	}
	dir := f.TempDir()
	f.Fuzz(func(t *testing.T, stream []byte) {
		s, err := rootfs.Read(t.Context(), sourcetest.Bytes(stream), dir, nil)
		if err != nil {
			return
		}
		defer func() {
			if err := s.Close(); err != nil {
				t.Error(err)
			}
		}()
		if _, err := tree.New(slices.Clone(s.Tree.Entries), s.Tree.Content); err != nil {
			t.Error(err)
		}
		for _, p := range []string{"home", "root", "srv", "mnt", "tmp", "boot", "var", "usr", "etc"} {
			if e, ok := s.Tree.Lookup(p); !ok || e.Type != tree.Directory {
				t.Errorf("/%s is %+v", p, e)
			}
		}
		if bytes.Contains([]byte(strings.Join(s.Notes, "")), []byte("\n")) {
			t.Errorf("%q", s.Notes)
		}
	})
}
