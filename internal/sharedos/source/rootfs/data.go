package rootfs

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// maxDpkgList bounds the list of one package's files, in bytes. Those of the largest packages have a few megabytes.
const maxDpkgList = 64 << 20

// dataMarkers are files by which the data directory of a database is recognised, whatever its owner is.
var dataMarkers = []string{
	"PG_VERSION", // PostgreSQL
	"ibdata1",    // MySQL and MariaDB
	"aria_log_control",
	"data.mdb", // LMDB: OpenLDAP
}

// DataDirectories returns the directories below /var/lib of a normalised tree that a package has initialised while the
// tree was made, such as the cluster of a database: topmost ones only, sorted. Each build initialises them again, with
// other content.
//
// A data directory contains a file of dataMarkers, or it does not belong to root and contains a file that dpkg's lists
// (dpkg-query(1)) name for no package. Files of root that no package names, such as the state of debconf or of ucf,
// describe the installed packages; they are no data.
func DataDirectories(t *tree.Tree) ([]string, error) {
	const top = "var/lib"
	listed, err := listedBelow(t, top)
	if err != nil {
		return nil, err
	}
	var found []string
	for i := range t.Entries {
		e := &t.Entries[i]
		if e.Type != tree.Regular || !below(e.Path, top) || tree.OwnerOf(e.Path) != tree.OwnedByVM ||
			tree.Parent(e.Path) == top {
			continue
		}
		directory, _ := t.Lookup(tree.Parent(e.Path))
		made := listed != nil && !listed[e.Path] && directory.UID != 0
		if !made && !slices.Contains(dataMarkers, path.Base(e.Path)) {
			continue
		}
		found = append(found, directory.Path)
	}
	slices.Sort(found)
	found = slices.Compact(found)
	return slices.DeleteFunc(found, func(one string) bool {
		return slices.ContainsFunc(found, func(other string) bool { return below(one, other) })
	}), nil
}

// listedBelow returns the paths below a directory that dpkg's lists name; nil if the tree has no such lists.
func listedBelow(t *tree.Tree, directory string) (map[string]bool, error) {
	const lists = sysimageDpkg + "/info/"
	first, _ := t.Index(lists)
	var listed map[string]bool
	prefix := []byte("/" + directory + "/")
	for _, e := range t.Entries[first:] {
		if !strings.HasPrefix(e.Path, lists) {
			break
		}
		if e.Type != tree.Regular || path.Ext(e.Path) != ".list" || e.Size > maxDpkgList {
			continue
		}
		if listed == nil {
			listed = map[string]bool{}
		}
		err := eachLine(t, e.Path, func(line []byte) {
			if bytes.HasPrefix(line, prefix) {
				listed[string(line[1:])] = true
			}
		})
		if err != nil {
			return nil, fmt.Errorf("read the package lists: %w", err)
		}
	}
	return listed, nil
}

func eachLine(t *tree.Tree, name string, visit func(line []byte)) (err error) {
	file, _, err := t.OpenFile(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	lines := bufio.NewReader(file)
	for {
		line, err := lines.ReadBytes('\n')
		if len(line) > 0 {
			visit(bytes.TrimSuffix(line, []byte("\n")))
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}
