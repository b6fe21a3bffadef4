package sourcetest

import "archive/tar"

// Archive is an archive as people have them, and what a tree of it has.
type Archive struct {
	Name  string
	Items []Item
	// Want are the entries at some paths: "/" for a directory, "-> target" for a symbolic link, "" for none, and
	// otherwise the content of a file.
	Want map[string]string
}

// Archives are archives with all that other programs write and that is not as one might expect. Fuzz targets start from
// them, too.
func Archives() []Archive {
	with := func(i Item, records ...string) Item {
		i.PAXRecords = map[string]string{}
		for n := 0; n < len(records); n += 2 {
			i.PAXRecords[records[n]] = records[n+1]
		}
		return i
	}
	return []Archive{
		{"slashes and dots", []Item{
			Dir("./"), Dir(".//usr/"), Dir("/usr/./bin//"), File("usr//bin/a", "a"), File("./usr/./bin/b", "b"),
			File("//usr/bin/c", "c"),
			File("././d", "d"), Link("usr//bin/e/", "a"), HardLink("f", ".//usr//bin/./a"),
		}, map[string]string{"usr/bin/a": "a", "usr/bin/b": "b", "usr/bin/c": "c", "d": "d",
			"usr/bin/e": "-> a", "f": "a"}},
		{"the root by other names", []Item{Dir("."), Dir(".//"), Dir("//"), Dir("/./"), File("a", "a")}, map[string]string{".": "/", "a": "a"}},
		{"a file after a link", []Item{Link("a", "b"), File("b", "b"), File("a", "a")}, map[string]string{"a": "a", "b": "b"}},
		{"a link after a file", []Item{File("b", "b"), File("a", "a"), Link("a", "b")}, map[string]string{"a": "-> b"}},
		{"a link after a directory", []Item{File("d/x", "x"), File("e/y", "y"), Link("d", "e"), File("d/z", "z")},
			map[string]string{"d": "-> e", "d/x": "", "e/y": "y", "e/z": "z"}},
		{"a directory after a file", []Item{File("d", "d"), File("e", "e"), Dir("d/"), File("d/x", "x")}, map[string]string{"d": "/", "d/x": "x", "e": "e"}},
		{"a directory again after a file", []Item{
			File("d/old", "old"), File("d/e/old", "old"), File("d", "d"), Dir("d/"),
			File("d/e/new", "new"), File("d/f", "f"),
		}, map[string]string{"d": "/", "d/old": "", "d/e": "/", "d/e/old": "", "d/e/new": "new", "d/f": "f"}},
		{"a directory below one that is no more", []Item{
			File("d/e/f/old", "old"), Link("d", "gone"), Dir("d/"), Dir("d/e/"), File("d/e/f/new", "new"),
		}, map[string]string{"d/e/f": "/", "d/e/f/old": "", "d/e/f/new": "new"}},
		{"files below linked directories", []Item{
			Dir("usr/lib/"), Link("lib", "usr/lib"), File("lib/a", "a"), Link("lib64", "/lib"),
			File("lib64/deep/b", "b"), Link("up", "../../usr"), File("up/c", "c"),
		}, map[string]string{"lib": "-> usr/lib", "usr/lib/a": "a", "usr/lib/deep/b": "b", "usr/c": "c"}},
		{"hard links through linked directories", []Item{
			File("usr/bin/a", "a"), Link("bin", "usr/bin"), HardLink("usr/bin/b", "bin/a"),
			HardLink("bin/c", "/bin/b"), HardLink("d", "bin/c"),
		}, map[string]string{"usr/bin/b": "a", "usr/bin/c": "a", "d": "a"}},
		{"a hard link to what was replaced", []Item{File("a", "old"), HardLink("kept", "a"), File("a", "new"), HardLink("later", "a")},
			map[string]string{"a": "new", "kept": "old", "later": "new"}},
		{"records of other systems", []Item{
			with(File("mac", ""), "SCHILY.xattr.com.apple.quarantine", "x", "LIBARCHIVE.xattr.com.apple.quarantine",
				"eA", "SCHILY.fflags", "uarch", "SCHILY.acl.ace", "owner@:rw"),
			with(File("lustre", ""), "SCHILY.xattr.lustre.lov", "\xd0\x0b\xd1\x0b", "SCHILY.xattr.trusted.lov", "\x00"),
			with(File("nfs", ""), "SCHILY.xattr.system.nfs4_acl", "\x00\x00\x00\x03"),
			with(File("bsd", ""), "LIBARCHIVE.xattr.user.a%25b", "eA==", "SCHILY.fflags", "schg"),
			with(File("gnu", ""), "RHT.security.selinux", "system_u:object_r:bin_t:s0"),
		}, map[string]string{"mac": "", "bsd": ""}},
		{"two links in a circle", []Item{Link("a", "b"), Link("b", "a"), File("c", "c")}, map[string]string{"c": "c"}},
		{"image of bootc", Ostree("6.1"), map[string]string{"home": "-> var/home", "var/roothome/.profile": "PS1=x"}},
		{"odd owners and modes", []Item{
			{Header: tar.Header{Name: "./", Typeflag: tar.TypeDir, Mode: 0o700, Uid: 1000}},
			{Header: tar.Header{Name: "etc/shadow", Typeflag: tar.TypeReg, Mode: 0o666, Gid: 42}},
			{Header: tar.Header{Name: "usr/bin/su", Typeflag: tar.TypeReg, Mode: 0o6777, Uid: 1000, Gid: 65534}},
			{Header: tar.Header{Name: "usr/", Typeflag: tar.TypeDir, Mode: 0o666}},
		}, map[string]string{".": "/"}},
	}
}

// Ostree returns a bootable system as images of bootc, ostree and Fedora CoreOS have it: most
// directories at the top are links.
func Ostree(kernel string) []Item {
	profile := File("var/roothome/.profile", "PS1=x")
	root := Dir("var/roothome/")
	root.Mode = 0o700
	return append(Bootable(kernel),
		Link("home", "var/home"), Link("root", "var/roothome"), Link("srv", "var/srv"), Link("mnt", "var/mnt"),
		Link("tmp", "sysroot/tmp"),
		Link("opt", "var/opt"), Link("ostree", "sysroot/ostree"), Link("media", "run/media"), Dir("sysroot/"),
		Dir("var/home/"), root, profile,
		Dir("var/srv/www/"))
}
