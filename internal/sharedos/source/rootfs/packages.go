package rootfs

import (
	"bufio"
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// The directories of dpkg's database: in a normalised tree, and in a tree as Debian makes it.
const (
	sysimageDpkg = "usr/lib/sysimage/dpkg"
	debianDpkg   = "var/lib/dpkg"
)

// maxStatus bounds the package database in bytes. That of a full desktop has about a tenth of it.
const maxStatus = 64 << 20

// Packages lists the installed packages of a tree, sorted by name, from dpkg's database or else from rpm's. The name of
// a Debian package for a foreign architecture has that architecture as a suffix: "libc6:i386". A tree without a
// database has no packages.
func Packages(t *tree.Tree) ([]release.Package, error) {
	status, err := readFirst(t, maxStatus, sysimageDpkg+"/status", debianDpkg+"/status")
	if errors.Is(err, fs.ErrNotExist) || err == nil && len(bytes.TrimSpace(status)) == 0 {
		return rpmPackages(t)
	}
	if err != nil {
		return nil, fmt.Errorf("read the package database: %w", err)
	}
	stanzas, err := parseStatus(status)
	if err != nil {
		return nil, fmt.Errorf("read the package database: %w", err)
	}
	native := ""
	for _, s := range stanzas {
		// The architecture of the package dpkg is the native one.
		if s["Package"] == "dpkg" && installed(s) {
			native = s["Architecture"]
		}
	}
	var packages []release.Package
	for _, s := range stanzas {
		if !installed(s) {
			continue
		}
		name, version, arch := s["Package"], s["Version"], s["Architecture"]
		if name == "" || version == "" {
			return nil, fmt.Errorf("read the package database: package %q has no name or version: %w",
				name, source.ErrMalformed)
		}
		if native != "" && arch != "" && arch != native && arch != "all" {
			name += ":" + arch
		}
		packages = append(packages, release.Package{Name: name, Version: version})
	}
	slices.SortFunc(packages, func(a, b release.Package) int { return cmp.Compare(a.Name, b.Name) })
	for i := 1; i < len(packages); i++ {
		if packages[i].Name == packages[i-1].Name {
			return nil, fmt.Errorf("read the package database: package %q is listed twice: %w",
				packages[i].Name, source.ErrMalformed)
		}
	}
	return packages, nil
}

// readFirst reads the first of several paths that exists.
func readFirst(t *tree.Tree, limit int64, paths ...string) ([]byte, error) {
	for _, p := range paths {
		data, err := t.ReadFile(p, limit)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		return data, err
	}
	return nil, fmt.Errorf("%s: %w", strings.Join(paths, ", "), fs.ErrNotExist)
}

// installed reports whether a package's files are in place and configured (dpkg(1), "Package states").
func installed(stanza map[string]string) bool {
	state := strings.Fields(stanza["Status"])
	return len(state) == 3 && slices.Contains([]string{"installed", "triggers-awaited", "triggers-pending"}, state[2])
}

// parseStatus reads the relevant fields of each paragraph (deb822(5)).
func parseStatus(data []byte) ([]map[string]string, error) {
	var all []map[string]string
	stanza := map[string]string{}
	lines := bufio.NewScanner(bytes.NewReader(data))
	lines.Buffer(nil, maxStatus)
	for number := 1; lines.Scan(); number++ {
		line := lines.Text()
		if strings.TrimSpace(line) == "" {
			if len(stanza) > 0 {
				all = append(all, stanza)
				stanza = map[string]string{}
			}
			continue
		}
		if line[0] == ' ' || line[0] == '\t' || line[0] == '#' {
			continue
		}
		key, value, ok := strings.Cut(line, ":")
		if !ok {
			return nil, fmt.Errorf("line %d: %q: %w", number, source.Shorten(line), source.ErrMalformed)
		}
		switch key {
		case "Package", "Status", "Version", "Architecture":
			stanza[key] = strings.TrimSpace(value)
		}
	}
	if err := lines.Err(); err != nil {
		return nil, err
	}
	if len(stanza) > 0 {
		all = append(all, stanza)
	}
	return all, nil
}
