package publish

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
)

// checkAccounts returns an error that matches ErrAccounts and names every account that both releases have with
// different numbers.
func checkAccounts(old, new *release.Manifest) error {
	moved := append(movedAccounts("user", old.Users, new.Users), movedAccounts("group", old.Groups, new.Groups)...)
	if len(moved) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %s; files of VMs in /var and /home would change their owner; "+
		"set pin_accounts = true to give these accounts their old numbers, change them in the source, or start a new base under another name",
		ErrAccounts, strings.Join(moved, ", "))
}

func movedAccounts(what string, old, new map[string]uint32) []string {
	var moved []string
	for _, name := range slices.Sorted(maps.Keys(new)) {
		if before, ok := old[name]; ok && before != new[name] {
			moved = append(moved, fmt.Sprintf("%s %s from %d to %d", what, name, before, new[name]))
		}
	}
	return moved
}
