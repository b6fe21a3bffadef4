package publish

import (
	"io"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// describeChange compares two releases by their manifests and contents lists. Entries are counted only if there is an
// old list.
func describeChange(old, new *release.Manifest, oldContents, newContents io.Reader) (*Change, error) {
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
		switch {
		case tree.OwnerOf(name) == tree.OwnedByVM:
			if change.VMOwned++; len(change.VMOwnedPaths) < MaxVMOwnedPaths {
				change.VMOwnedPaths = append(change.VMOwnedPaths, name)
			}
		case old == nil:
			change.Added.add(new.Size)
		case new == nil:
			change.Removed.add(old.Size)
		default:
			change.Changed.add(new.Size)
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	return change, nil
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
