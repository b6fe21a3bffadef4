package rootfs_test

import (
	"slices"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/rootfs"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/sourcetest"
)

func TestDataDirectoriesAreThoseThatPackagesInitialise(t *testing.T) {
	of := func(uid int, item sourcetest.Item) sourcetest.Item {
		item.Uid, item.Gid = uid, uid
		return item
	}
	items := []sourcetest.Item{
		// PostgreSQL's cluster is known by its marker; what is above it is not a part of it.
		of(100, sourcetest.Dir("var/lib/postgresql")), of(100, sourcetest.Dir("var/lib/postgresql/17")),
		of(100, sourcetest.Dir("var/lib/postgresql/17/main")),
		of(100, sourcetest.File("var/lib/postgresql/17/main/PG_VERSION", "17")),
		of(100, sourcetest.File("var/lib/postgresql/17/main/base/1/PG_VERSION", "17")),
		of(0, sourcetest.File("var/lib/mysql/ibdata1", "data")),
		// A daemon's own data, without a marker.
		of(101, sourcetest.Dir("var/lib/acme")), of(101, sourcetest.File("var/lib/acme/db", "data")),
		of(101, sourcetest.File("var/lib/acme/sub/db", "data")),
		// What a package brings is no data, whoever owns it, and neither is the state of the package manager's helpers.
		of(102, sourcetest.Dir("var/lib/shipped")), of(102, sourcetest.File("var/lib/shipped/file", "file")),
		sourcetest.File("var/lib/ucf/hashfile", "state"), sourcetest.File("var/lib/pam/seen", "state"),
		of(103, sourcetest.Dir("var/lib/empty")), of(104, sourcetest.File("srv/PG_VERSION", "17")),
		of(104, sourcetest.File("usr/lib/app/PG_VERSION", "17")),
		of(104, sourcetest.File("opt/app/data/PG_VERSION", "17")),
		sourcetest.File("var/lib/dpkg/status", ""),
	}
	lists := sourcetest.File("var/lib/dpkg/info/shipped.list",
		"/.\n/var/lib/shipped\n/var/lib/shipped/file\n/var/lib/acme\n")
	for _, test := range []struct {
		items []sourcetest.Item
		want  []string
	}{
		{append(slices.Clone(items), lists), []string{"var/lib/acme", "var/lib/mysql", "var/lib/postgresql/17/main"}},
		// Without lists nothing is known of who brought what.
		{items, []string{"var/lib/mysql", "var/lib/postgresql/17/main"}},
	} {
		got, err := rootfs.DataDirectories(normalise(t, test.items...))
		if err != nil || !slices.Equal(got, test.want) {
			t.Errorf("got %v, %v, want %v", got, err, test.want)
		}
	}
}
