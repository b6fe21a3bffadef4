package publish

import (
	"io"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// describeChange compares two releases by their manifests and contents lists. Entries are counted only if there is an
// old list. What is in the data directories is not counted: each build makes it anew, and it reaches no existing VM.
func describeChange(old, new *release.Manifest, oldContents, newContents io.Reader, data []string) (*Change, error) {
	change := &Change{Packages: packageChanges(old.Packages, new.Packages)}
	if old.Kernel != nil {
		change.KernelFrom = old.Kernel.Release
	}
	if new.Kernel != nil {
		change.KernelTo = new.Kernel.Release
	}
	if oldContents == nil {
		return change, nil
	}
	err := release.DiffContents(oldContents, newContents, func(name string, old, new *tree.Entry) error {
		if !inAny(name, data) {
			change.count(old, new)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return change, nil
}

// count counts an entry that differs; nil if it is not there.
func (c *Change) count(old, new *tree.Entry) {
	either := old
	if either == nil {
		either = new
	}
	switch {
	case tree.OwnerOf(either.Path) == tree.OwnedByVM:
		if c.VMOwned++; len(c.VMOwnedPaths) < MaxVMOwnedPaths {
			c.VMOwnedPaths = append(c.VMOwnedPaths, either.Path)
		}
	case old == nil:
		c.Added.add(new.Size)
	case new == nil:
		c.Removed.add(old.Size)
	default:
		c.Changed.add(new.Size)
	}
}

// packageChanges merges two lists that are sorted by name.
func packageChanges(old, new []release.Package) []PackageChange {
	var changes []PackageChange
	for len(old) > 0 || len(new) > 0 {
		switch {
		case len(new) == 0 || len(old) > 0 && old[0].Name < new[0].Name:
			changes = append(changes, PackageChange{Name: old[0].Name, From: old[0].Version})
			old = old[1:]
		case len(old) == 0 || new[0].Name < old[0].Name:
			changes = append(changes, PackageChange{Name: new[0].Name, To: new[0].Version})
			new = new[1:]
		default:
			if old[0].Version != new[0].Version {
				changes = append(changes, PackageChange{Name: new[0].Name, From: old[0].Version, To: new[0].Version})
			}
			old, new = old[1:], new[1:]
		}
	}
	return changes
}
