package publish

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
)

// withFormerAccounts returns the manifest of the newest release with the accounts that earlier releases of the base
// had, as far as the history has them. VMs keep an account that a release no longer has, since files of theirs have its
// number.
func (p *Publisher) withFormerAccounts(ctx context.Context, newest *release.Manifest) (*release.Manifest, error) {
	history, err := p.History(ctx, newest.Name)
	if err != nil {
		return nil, err
	}
	all := *newest
	all.Users, all.Groups = withAccounts(nil, newest.Users), withAccounts(nil, newest.Groups)
	for _, one := range history { // newest first
		if one.Manifest != nil {
			all.Users, all.Groups = withAccounts(all.Users, one.Manifest.Users),
				withAccounts(all.Groups, one.Manifest.Groups)
		}
	}
	return &all, nil
}

// withAccounts adds the accounts of an earlier release whose name and number a later one does not have.
func withAccounts(later, earlier map[string]uint32) map[string]uint32 {
	all := maps.Clone(later)
	if all == nil {
		return maps.Clone(earlier)
	}
	taken := map[uint32]bool{}
	for _, number := range later {
		taken[number] = true
	}
	for name, number := range earlier {
		if _, known := all[name]; !known && !taken[number] {
			all[name] = number
		}
	}
	return all
}

// checkAccounts returns an error that matches ErrAccounts and names every account that has another number than before,
// and every account that has the number of another account that VMs may have. old has the accounts of all releases
// before.
func checkAccounts(old, new *release.Manifest) error {
	var problems []string
	if moved := append(movedAccounts("user", old.Users, new.Users),
		movedAccounts("group", old.Groups, new.Groups)...); len(moved) > 0 {
		problems = append(problems,
			strings.Join(moved, ", ")+"; files of VMs in /var and /home would change their owner")
	}
	if reused := append(reusedNumbers("user", old.Users, new.Users),
		reusedNumbers("group", old.Groups, new.Groups)...); len(reused) > 0 {
		problems = append(problems, strings.Join(reused, ", ")+
			"; VMs keep the earlier account, since files of theirs have its number, so it could read the files of the new one")
	}
	if len(problems) == 0 {
		return nil
	}
	return fmt.Errorf("%w: %s; set pin_accounts = true to give accounts their old numbers and new accounts free ones, "+
		"change them in the source, or start a new base under another name", ErrAccounts, strings.Join(problems, "; "))
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

// reusedNumbers describes accounts that are new and have the number of an account that is gone.
func reusedNumbers(what string, old, new map[string]uint32) []string {
	former := map[uint32]string{}
	for _, name := range slices.Sorted(maps.Keys(old)) {
		if _, stays := new[name]; !stays {
			former[old[name]] = name
		}
	}
	// An account may share the number with one that stays.
	for name, number := range old {
		if is, stays := new[name]; stays && is == number {
			delete(former, number)
		}
	}
	var reused []string
	for _, name := range slices.Sorted(maps.Keys(new)) {
		if _, known := old[name]; known {
			continue
		}
		if before, ok := former[new[name]]; ok {
			reused = append(reused, fmt.Sprintf("%s %s has the number %d, which %s had", what, name, new[name], before))
		}
	}
	return reused
}
