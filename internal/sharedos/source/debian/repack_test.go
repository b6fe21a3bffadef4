package debian

import (
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/sourcetest"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

const repackStatus = `Package: acme
Status: install ok installed
Priority: optional
Architecture: amd64
Version: 1:2.0-1
Conffiles:
 /etc/acme.conf 900150983cd24fb0d6963f7d28e17f72
Description: a test
 with a long text

Package: acme
Status: install ok installed
Architecture: arm64
Multi-Arch: same
Version: 1:2.0-1
Description: the same for another architecture

Package: gone
Status: deinstall ok config-files
Architecture: amd64
Version: 1
Description: only its configuration is left
`

// A package is made again out of dpkg's database and the tree, and dpkg-deb reads it.
func TestAPackageIsMadeAgain(t *testing.T) {
	list := func(paths ...string) string { return strings.Join(paths, "\n") + "\n" }
	own := sourcetest.File("usr/share/acme/own", "data")
	own.Uid, own.Gid = 999, 33
	of := sourcetest.ReadTar(t, sourcetest.Tar(t,
		sourcetest.Link("lib", "usr/lib"), sourcetest.File("usr/lib/acme.so", "library"),
		sourcetest.Program("usr/bin/acme", "program"),
		sourcetest.File("usr/bin/acme.distrib", "what the package has"), sourcetest.File("etc/acme.conf", "abc"), own,
		sourcetest.File("usr/lib/sysimage/dpkg/status", repackStatus),
		sourcetest.File("usr/lib/sysimage/dpkg/diversions", list("/usr/bin/acme", "/usr/bin/acme.distrib", "other")),
		sourcetest.File("usr/lib/sysimage/dpkg/info/acme.list",
			list("/.", "/lib", "/lib/acme.so", "/usr", "/usr/bin", "/usr/bin/acme", "/usr/share",
				"/usr/share/acme", "/usr/share/acme/own", "/usr/share/doc", "/usr/share/doc/acme",
				"/etc", "/etc/acme.conf")),
		sourcetest.Program("usr/lib/sysimage/dpkg/info/acme.postinst", "#!/bin/sh\n"),
		sourcetest.File("usr/lib/sysimage/dpkg/info/acme.conffiles", "/etc/acme.conf\n"),
		sourcetest.File("usr/lib/sysimage/dpkg/info/acme:arm64.list",
			list("/.", "/usr", "/usr/share", "/usr/share/acme", "/usr/share/acme/own")),
	))
	r, err := newRepacker(of, "amd64", map[uint32]bool{999: true}, nil)
	sourcetest.Must(t, err)
	dir := t.TempDir()
	made, err := r.write("acme", dir)
	sourcetest.Must(t, err)
	ask := func(arguments ...string) string {
		t.Helper()
		said, err := exec.CommandContext(t.Context(), "dpkg-deb", arguments...).CombinedOutput()
		if err != nil {
			t.Fatalf("dpkg-deb %v: %v: %s", arguments, err, said)
		}
		return string(said)
	}
	if control := ask("--field", made); strings.Contains(control, "Status") || strings.Contains(control, "acme.conf") ||
		!strings.Contains(control, "Version: 1:2.0-1\n") ||
		!strings.Contains(control, "Description: a test\n with a long text\n") {
		t.Errorf("control file:\n%s", control)
	}
	root := t.TempDir()
	ask("--raw-extract", made, root)
	for name, want := range map[string]string{
		"lib/acme.so": "library", "usr/bin/acme": "what the package has", "etc/acme.conf": "abc",
		"usr/share/acme/own": "data",
		"usr/share/doc/acme": "", "DEBIAN/postinst": "#!/bin/sh\n", "DEBIAN/conffiles": "/etc/acme.conf\n",
	} {
		if got, err := os.ReadFile(filepath.Join(root, name)); err != nil || string(got) != want {
			t.Errorf("%s is %q, %v; want %q", name, got, err, want)
		}
	}
	if info, err := os.Lstat(filepath.Join(root, "lib")); err != nil || !info.IsDir() {
		t.Errorf("/lib is no directory in the package: %v", err)
	}
	// The number of an account that a script has made is none that a package has.
	if listed := ask("--contents", made); !strings.Contains(listed, "0/33 ") &&
		!strings.Contains(listed, "root/www-data") {
		t.Errorf("owners:\n%s", listed)
	}
	if _, err := r.write("acme:arm64", dir); err != nil {
		t.Error(err)
	}
	if _, err := r.write("gone", dir); err == nil {
		t.Error("a package that is not installed was made")
	}
	for _, bad := range []string{"../../x", "a b", ""} {
		status := strings.Replace(repackStatus, "Package: acme", "Package: "+bad, 1)
		hostile := sourcetest.ReadTar(t, sourcetest.Tar(t, sourcetest.File(dpkgDir+"/status", status)))
		if _, err := newRepacker(hostile, "amd64", nil, nil); err == nil {
			t.Errorf("a package of the name %q was accepted", bad)
		}
	}
}

// A package that one component was made for and that another one needs is no mere dependency. Each
// package is made once, and none of the base.
func TestPackagesOfAllPartsAreMadeOnce(t *testing.T) {
	of := func(auto string, names ...string) *tree.Tree {
		status := ""
		items := []sourcetest.Item{sourcetest.Link("sbin", "usr/sbin"),
			sourcetest.Program("usr/sbin/init", "\x7fELF\x02\x01\x01"+strings.Repeat("\x00", 9)+"\x03\x00\x3e\x00")}
		for _, name := range names {
			status += "Package: " + name +
				"\nStatus: install ok installed\nArchitecture: amd64\nVersion: 1\nDescription: x\n\n"
			items = append(items, sourcetest.File(dpkgDir+"/info/"+name+".list", "/.\n"))
		}
		items = append(items, sourcetest.File(dpkgDir+"/status", strings.TrimSuffix(status, "\n")))
		if auto != "" {
			items = append(items,
				sourcetest.File("var/lib/apt/extended_states",
					"Package: "+auto+"\nArchitecture: amd64\nAuto-Installed: 1\n"))
		}
		return sourcetest.ReadTar(t, sourcetest.Tar(t, items...))
	}
	dir := t.TempDir()
	j := Joined{Base: source.Base{Name: "os", Tree: of("", "dpkg")}, Parts: []Part{
		{Name: "a", Tree: of("libc", "dpkg", "app", "libc")}, {Name: "b", Tree: of("app", "dpkg", "app", "libc", "tool")},
		{Name: "c", Tree: of("libx", "dpkg", "libx")},
	}}
	auto, err := j.repack(dir, func(string, int64, int64) {})
	sourcetest.Must(t, err)
	// app was wanted in component a, and libc in component b; libx is a dependency wherever it is.
	if !slices.Equal(auto, []string{"libx"}) {
		t.Errorf("mere dependencies are %v", auto)
	}
	made, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	sourcetest.Must(t, err)
	for i := range made {
		made[i] = filepath.Base(made[i])
	}
	if want := []string{"app.deb", "libc.deb", "libx.deb", "tool.deb"}; !slices.Equal(made, want) {
		t.Errorf("made %v, want %v", made, want)
	}
}
