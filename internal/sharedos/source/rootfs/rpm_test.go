package rootfs_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/rpmdb"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/rpmdb/rpmtest"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/rootfs"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/sourcetest"
)

func TestPackagesOfRpm(t *testing.T) {
	database := string(rpmtest.Database(t,
		rpmtest.Spec("nginx", "1.26", "3", "Epoch: 2\n"), rpmtest.Spec("kernel", "6.12.1", "1", ""),
		rpmtest.Spec("kernel", "6.12.2", "1", "")))
	want := []release.Package{
		{Name: "kernel-6.12.1-1.noarch", Version: "6.12.1-1"}, {Name: "kernel-6.12.2-1.noarch", Version: "6.12.2-1"}, {Name: "nginx", Version: "2:1.26-3"},
	}
	for _, dir := range []string{"usr/lib/sysimage/rpm", "var/lib/rpm"} {
		got, err := rootfs.Packages(sourcetest.ReadTar(t,
			sourcetest.Tar(t, sourcetest.File(dir+"/rpmdb.sqlite", database),
				sourcetest.File(dir+"/rpmdb.sqlite-wal", ""))))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s, -want +got:\n%s", dir, diff)
		}
	}
	for name, test := range map[string]struct {
		item sourcetest.Item
		want error
		says string
	}{
		"cut off": {sourcetest.File("var/lib/rpm/rpmdb.sqlite", database[:4096]),
			rpmdb.ErrMalformed, "rpmdb.sqlite"},
		"of rpm 4.13": {sourcetest.File("var/lib/rpm/Packages", "x"), rootfs.ErrUnsupported, "--rebuilddb"},
		"of SUSE":     {sourcetest.File("usr/lib/sysimage/rpm/Packages.db", "x"), rootfs.ErrUnsupported, "--rebuilddb"},
	} {
		_, err := rootfs.Packages(sourcetest.ReadTar(t, sourcetest.Tar(t, test.item)))
		if !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: got %v, want %v that says %q", name, err, test.want, test.says)
		}
	}
	open := sourcetest.Tar(t, sourcetest.File("var/lib/rpm/rpmdb.sqlite", database),
		sourcetest.File("var/lib/rpm/rpmdb.sqlite-wal", "x"))
	if _, err := rootfs.Packages(sourcetest.ReadTar(t, open)); !errors.Is(err, rootfs.ErrUnsupported) ||
		!strings.Contains(err.Error(), "rpm -qa") {
		t.Errorf("with a journal: got %v", err)
	}
}
