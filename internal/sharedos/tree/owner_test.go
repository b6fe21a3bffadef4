package tree_test

import (
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

func TestOwnerOf(t *testing.T) {
	t.Parallel()
	for path, want := range map[string]tree.Owner{
		"usr":                     tree.OwnedByOS,
		"usr/lib/libssl.so.3":     tree.OwnedByOS,
		"usr/local":               tree.OwnedByOS, // a symbolic link
		"opt":                     tree.OwnedByOS,
		"variable":                tree.OwnedByOS,
		"etc":                     tree.OwnedByOS,
		"etc/passwd":              tree.Merged,
		"etcetera/x":              tree.OwnedByOS,
		"var":                     tree.OwnedByVM,
		"var/lib/acme/db":         tree.OwnedByVM,
		"var/opt":                 tree.OwnedByVM,
		"var/optional/x":          tree.OwnedByVM,
		"var/opt/acme/bin/acmed":  tree.CarriedByOS,
		"var/usrlocal/bin/script": tree.CarriedByOS,
		"home/user/.profile":      tree.OwnedByVM,
		"root/.bashrc":            tree.OwnedByVM,
		"srv/www/index.html":      tree.OwnedByVM,
	} {
		if got := tree.OwnerOf(path); got != want {
			t.Errorf("OwnerOf(%q) = %v, want %v", path, got, want)
		}
	}
}
