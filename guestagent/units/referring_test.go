package units

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestOnlyUnitsWhoseFilesLeadToOthersAreAskedAbout(t *testing.T) {
	root := t.TempDir()
	write := func(name, text string) {
		t.Helper()
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const environment = "[Service]\nEnvironmentFile=-/etc/default/x\n"
	write("lib/plain.service", "[Service]\nExecStart=/bin/x\n")
	write("lib/direct.service", environment)
	write("etc/dropin.service.d/x.conf", environment)
	write("etc/dropin.service.d/README", "")
	write("etc/other.service.d/README", environment)
	write("lib/template@.service", environment)
	write("lib/foo-.service.d/x.conf", environment)
	write("run/generator/made.service", "[Service]\nExecStart=/etc/init.d/made\n")
	write("elsewhere", "[Service]\n")
	for name, target := range map[string]string{"linked.service": "elsewhere", "masked.service": "/dev/null"} {
		if err := os.Symlink(filepath.Join("..", target), filepath.Join(root, "etc", name)); err != nil {
			t.Fatal(err)
		}
	}
	got, err := referring([]string{filepath.Join(root, "etc"), filepath.Join(root, "run/generator"),
		filepath.Join(root, "lib"), filepath.Join(root, "none")}, []string{
		"plain.service", "direct.service", "dropin.service", "other.service", "template@1.service", "foo-bar.service",
		"made.service", "linked.service", "absent.service",
	})
	want := []string{"direct.service", "dropin.service", "template@1.service", "foo-bar.service", "made.service", "linked.service"}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%q, %v; want %q", got, err, want)
	}
}

func TestLinksThatEnableUnits(t *testing.T) {
	root := t.TempDir()
	for _, name := range []string{
		"etc/systemd/system/multi-user.target.wants/a.service", "usr/lib/systemd/system/sockets.target.wants/b.socket",
		"usr/local/lib/systemd/system/a.service.requires/c@1.service", "etc/systemd/system/a.service.upholds/d.service",
		"etc/systemd/system/a.service.d/drop-ins.conf", "etc/systemd/system/dbus-x.service", "etc/systemd/system/other.links/x",
	} {
		if err := errors.Join(os.MkdirAll(filepath.Join(root, filepath.Dir(name)), 0o755),
			os.WriteFile(filepath.Join(root, name), nil, 0o600)); err != nil {
			t.Fatal(err)
		}
	}
	links, err := linksIn(root, unitDirs)
	var got []string
	for _, link := range links {
		got = append(got, link.Unit+" by "+link.By+" at "+link.Path)
	}
	slices.Sort(got)
	want := []string{
		"a.service by multi-user.target at etc/systemd/system/multi-user.target.wants/a.service",
		"b.socket by sockets.target at usr/lib/systemd/system/sockets.target.wants/b.socket",
		"c@1.service by a.service at var/usrlocal/lib/systemd/system/a.service.requires/c@1.service",
		"d.service by a.service at etc/systemd/system/a.service.upholds/d.service",
	}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%q, %v", got, err)
	}
}
