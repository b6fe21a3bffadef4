// Package rpmdb lists the packages in rpm's database, in the form that rpm has by default since 4.16: an SQLite file
// with a table Packages, whose rows hold package headers. It reads that one table and nothing else of SQLite.
//
// What it reads may have been made to do harm: memory and time are bounded by the size of the file, and whatever is
// amiss is an error.
package rpmdb

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
)

// ErrMalformed means that bytes are no rpm database of this form.
var ErrMalformed = errors.New("malformed rpm database")

// Package is an installed package.
type Package struct {
	Name, Arch string
	// Version has the form "[epoch:]version-release".
	Version string
}

// Packages returns the packages in a database file, sorted by name, architecture and version. Public keys, which rpm
// keeps as packages called gpg-pubkey, are not among them. Errors match ErrMalformed.
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
