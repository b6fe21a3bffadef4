package rootfs

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/rpmdb"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// The directories of rpm's database: below /usr (Fedora, openSUSE) or in /var (Red Hat Enterprise Linux 9 and its
// relatives), from where Normalise moves it.
const (
	sysimageRPM = "usr/lib/sysimage/rpm"
	varRPM      = "var/lib/rpm"
)

var rpmDirectories = []string{sysimageRPM, varRPM}

// maxRPMDatabase bounds rpm's database in bytes. That of a desktop with 3,000 packages has about a quarter of it.
const maxRPMDatabase = 512 << 20

// ErrUnsupported means that a database has a format that is not supported.
var ErrUnsupported = errors.New("not supported")

// rpmPackages lists the packages in rpm's database. If several packages have the same name, their architecture is
// appended, and their version if that is not enough: "kernel-core.x86_64", "kernel-core-6.12.1-1.fc40.x86_64".
func rpmPackages(t *tree.Tree) ([]release.Package, error) {
	for _, dir := range rpmDirectories {
		file, err := t.ReadFile(dir+"/rpmdb.sqlite", maxRPMDatabase)
		if errors.Is(err, fs.ErrNotExist) {
			if err := otherRPMDatabase(t, dir); err != nil {
				return nil, err
			}
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("read the package database: %w", err)
		}
		// If the database was not closed, its last changes are in a write-ahead log.
		if journal, err := t.Resolve(dir + "/rpmdb.sqlite-wal"); err == nil && journal.Size > 0 {
			return nil, fmt.Errorf(
				"read the package database: /%s/rpmdb.sqlite-wal is not empty: %w; run \"rpm -qa\" as root in the source, which completes the database",
				dir, ErrUnsupported)
		}
		installed, err := rpmdb.Packages(file)
		if err != nil {
			return nil, fmt.Errorf("read the package database: /%s/rpmdb.sqlite: %w", dir, err)
		}
		return uniqueNames(installed), nil
	}
	return nil, nil
}

// otherRPMDatabase returns an error if there is a database in one of rpm's earlier formats.
func otherRPMDatabase(t *tree.Tree, dir string) error {
	for _, name := range []string{"Packages", "Packages.db"} {
		if _, err := t.Resolve(dir + "/" + name); err == nil {
			return fmt.Errorf("read the package database: /%s/%s has an older format: %w; run "+
				"\"rpmdb --rebuilddb --define '_db_backend sqlite'\" in the source", dir, name, ErrUnsupported)
		}
	}
	return nil
}

// uniqueNames gives each package a unique name.
func uniqueNames(installed []rpmdb.Package) []release.Package {
	names, builds := map[string]int{}, map[string]int{}
	for _, p := range installed {
		names[p.Name]++
		builds[p.Name+"."+p.Arch]++
	}
	packages := make([]release.Package, len(installed))
	for i, p := range installed {
		name := p.Name
		switch {
		case builds[p.Name+"."+p.Arch] > 1:
			name += "-" + p.Version + "." + p.Arch
		case names[p.Name] > 1:
			name += "." + p.Arch
		}
		packages[i] = release.Package{Name: name, Version: p.Version}
	}
	slices.SortFunc(packages, func(a, b release.Package) int { return slices.Compare([]byte(a.Name), []byte(b.Name)) })
	return slices.Compact(packages)
}
