package release

import (
	"maps"
	"slices"
)

// HolderOf returns an account, other than name, that has a number in a map of names to numbers; "" if there is none.
func HolderOf(accounts map[string]uint32, number uint32, name string) string {
	for _, other := range slices.Sorted(maps.Keys(accounts)) {
		if other != name && accounts[other] == number {
			return other
		}
	}
	return ""
}
