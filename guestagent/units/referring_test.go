package units

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/godbus/dbus/v5"
	"github.com/google/go-cmp/cmp"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/impact"
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
	want := []string{"direct.service", "dropin.service", "template@1.service", "foo-bar.service",
		"made.service", "linked.service"}
	if err != nil || !slices.Equal(got, want) {
		t.Errorf("%q, %v; want %q", got, err, want)
	}
}

func TestLinksThatEnableUnits(t *testing.T) {
	root := t.TempDir()
	for _, name := range []string{
		"etc/systemd/system/multi-user.target.wants/a.service", "usr/lib/systemd/system/sockets.target.wants/b.socket",
		"usr/local/lib/systemd/system/a.service.requires/c@1.service", "etc/systemd/system/a.service.upholds/d.service",
		"etc/systemd/system/a.service.d/drop-ins.conf", "etc/systemd/system/dbus-x.service",
		"etc/systemd/system/other.links/x",
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

// A template is no unit of systemd's, which answers questions about one with an error.
func TestATemplateIsKnownByItsFile(t *testing.T) {
	root := t.TempDir()
	etc, lib := filepath.Join(root, "etc"), filepath.Join(root, "usr/lib")
	if err := errors.Join(os.MkdirAll(etc, 0o755), os.MkdirAll(lib, 0o755),
		os.WriteFile(filepath.Join(lib, "a@.service"), nil, 0o600),
		os.WriteFile(filepath.Join(lib, "b@.service"), nil, 0o600),
		os.Symlink("/dev/null", filepath.Join(etc, "b@.service")),
		os.Symlink("../usr/lib/a@.service", filepath.Join(etc, "alias@.service")),
		os.Symlink("absent", filepath.Join(lib, "dangling@.service"))); err != nil {
		t.Fatal(err)
	}
	got, err := templatesIn([]string{filepath.Join(root, "none"), etc, lib}, []string{
		"a@.service", "b@.service", "alias@.service", "dangling@.service", "typo@.service",
	})
	file, _ := impact.Resolve(filepath.Join(lib, "a@.service"))
	want := map[string]impact.Unit{
		"a@.service": {Name: "a@.service", Fragment: file}, "b@.service": {Name: "b@.service", Masked: true},
		"alias@.service": {Name: "alias@.service", Fragment: file},
	}
	if diff := cmp.Diff(want, got); diff != "" || err != nil {
		t.Errorf("%v; want -, got +:\n%s", err, diff)
	}
}

func TestSystemdIsNotAskedAboutTemplates(t *testing.T) {
	answered(t, func(call *dbus.Message, send func(...*dbus.Message) error) error {
		if path, _ := call.Headers[dbus.FieldPath].Value().(dbus.ObjectPath); path != dbus.ObjectPath(objectOf("absent.service")) {
			return send(answerTo(call, fmt.Errorf("asked about %s", path)))
		}
		answer := map[string]any{"ActiveState": "inactive", "LoadState": "not-found", "CanReload": false,
			"RefuseManualStop": false}[call.Body[1].(string)]
		if answer == nil {
			answer = []string{}
		}
		return send(answerTo(call, dbus.MakeVariant(answer)))
	})
	if facts, err := new(Manager).Facts(t.Context(),
		[]string{"sharedos-no-such@.service", "absent.service"}); err != nil || len(facts) != 0 {
		t.Errorf("%v, %v", facts, err)
	}
}
