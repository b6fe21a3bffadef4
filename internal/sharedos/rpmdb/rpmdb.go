// Package rpmdb lists the packages in rpm's database, in the default format since rpm 4.16: an SQLite file with a table
// Packages, whose rows contain package headers. It reads that one table and no other part of SQLite.
//
// The file is not trusted: its size bounds memory and time, and every inconsistency is an error.
//
// The reader is code of ours. An SQLite library in Go has a hundred thousand lines or needs a C compiler, and would
// execute the schema that the file declares. Reading one table takes 200 lines.
package rpmdb

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
)

// ErrMalformed means that a file is not an rpm database of this format.
var ErrMalformed = errors.New("malformed rpm database")

// Package is an installed package.
type Package struct {
	Name, Arch string
	// Version has the form "[epoch:]version-release".
	Version string
}

// Packages returns the packages in a database file, sorted by name, architecture and version. It leaves out public
// keys, which rpm stores as packages named gpg-pubkey. The error wraps ErrMalformed.
func Packages(file []byte) ([]Package, error) {
	db, err := open(file)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	root, err := db.table("Packages")
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	var packages []Package
	err = db.rows(root, func(columns [][]byte) error {
		// hnum INTEGER PRIMARY KEY, blob BLOB
		if len(columns) != 2 {
			return fmt.Errorf("table Packages has %d columns instead of 2", len(columns))
		}
		p, err := readHeader(columns[1])
		if err == nil && p.Name != "gpg-pubkey" {
			packages = append(packages, p)
		}
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("%w: %w", ErrMalformed, err)
	}
	slices.SortFunc(packages, func(a, b Package) int {
		return cmp.Or(cmp.Compare(a.Name, b.Name), cmp.Compare(a.Arch, b.Arch), cmp.Compare(a.Version, b.Version))
	})
	return packages, nil
}
