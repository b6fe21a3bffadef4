package source_test

import (
	"errors"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/rpmdb"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/rpmdb/rpmtest"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
)

func TestPackagesOfRpm(t *testing.T) {
	database := string(rpmtest.Database(t,
		rpmtest.Spec("nginx", "1.26", "3", "Epoch: 2\n"), rpmtest.Spec("kernel", "6.12.1", "1", ""), rpmtest.Spec("kernel", "6.12.2", "1", "")))
	want := []release.Package{
		{Name: "kernel-6.12.1-1.noarch", Version: "6.12.1-1"}, {Name: "kernel-6.12.2-1.noarch", Version: "6.12.2-1"}, {Name: "nginx", Version: "2:1.26-3"},
	}
	for _, dir := range []string{"usr/lib/sysimage/rpm", "var/lib/rpm"} {
		got, err := source.Packages(readTar(t, makeTar(t, fileItem(dir+"/rpmdb.sqlite", database), fileItem(dir+"/rpmdb.sqlite-wal", ""))))
		if err != nil {
			t.Fatal(err)
		}
		if diff := cmp.Diff(want, got); diff != "" {
			t.Errorf("%s, -want +got:\n%s", dir, diff)
		}
	}
	for name, test := range map[string]struct {
		item item
		want error
		says string
	}{
		"cut off":     {fileItem("var/lib/rpm/rpmdb.sqlite", database[:4096]), rpmdb.ErrMalformed, "rpmdb.sqlite"},
		"of rpm 4.13": {fileItem("var/lib/rpm/Packages", "x"), source.ErrUnsupported, "--rebuilddb"},
		"of SUSE":     {fileItem("usr/lib/sysimage/rpm/Packages.db", "x"), source.ErrUnsupported, "--rebuilddb"},
	} {
		_, err := source.Packages(readTar(t, makeTar(t, test.item)))
		if !errors.Is(err, test.want) || !strings.Contains(err.Error(), test.says) {
			t.Errorf("%s: got %v, want %v that says %q", name, err, test.want, test.says)
		}
	}
	open := makeTar(t, fileItem("var/lib/rpm/rpmdb.sqlite", database), fileItem("var/lib/rpm/rpmdb.sqlite-wal", "x"))
	if _, err := source.Packages(readTar(t, open)); !errors.Is(err, source.ErrUnsupported) || !strings.Contains(err.Error(), "rpm -qa") {
		t.Errorf("with a journal: got %v", err)
	}
}
