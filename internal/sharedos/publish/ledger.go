package publish

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/rootfs"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
)

// Numbers of accounts follow the order in which packages are installed: two components that are built alone give the
// same number to different accounts. So each base has a ledger of accounts: the number of every account that a
// component on it, or a release of it after that, has ever had. It is in the history of the base (store.History), and
// grows when a release is published. What plans have built and no apply has published yet is in a file of the cache, so
// that two components of one plan agree. An account gets its number after the packages are installed (pinAccounts): a
// maintainer script that finds its account in place would leave out what belongs to it, such as its home directory.

const ledgersDir = "accounts"

// accounts are the numbers of users and groups by name.
type accounts struct{ Users, Groups map[string]uint32 }

// add adds accounts whose name and number are new.
func (a *accounts) add(others accounts) {
	a.Users, a.Groups = withAccounts(a.Users, others.Users), withAccounts(a.Groups, others.Groups)
}

// manifest returns the accounts in the form in which pinAccounts and checkAccounts take those of releases before.
func (a accounts) manifest() *release.Manifest {
	return &release.Manifest{Users: a.Users, Groups: a.Groups}
}

func (a accounts) none() bool { return len(a.Users)+len(a.Groups) == 0 }

// ledger returns the ledger of a base, and the accounts that plans of this machine have added to it.
func (p *Publisher) ledger(ctx context.Context, base string) (accounts, error) {
	history, err := p.Store.History(ctx, release.Base, base)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return accounts{}, fmt.Errorf("read the accounts of base %q: %w", base, err)
	}
	known := accounts{maps.Clone(history.Users), maps.Clone(history.Groups)}
	text, err := os.ReadFile(p.plannedAccounts(base))
	if errors.Is(err, fs.ErrNotExist) {
		return known, nil
	}
	var planned accounts
	if err == nil {
		err = json.Unmarshal(text, &planned)
	}
	if err != nil {
		p.log().Warn("what plans noted about accounts cannot be read", "base", base, "error", err)
		return known, nil
	}
	known.add(planned)
	return known, nil
}

func (p *Publisher) plannedAccounts(base string) string {
	return filepath.Join(p.Cache, ledgersDir, base+".json")
}

// assign gives the accounts of a component the numbers of the ledger, and those that the ledger does not have a number
// of their own, which it notes in the cache. It returns what it has changed.
func (p *Publisher) assign(ctx context.Context, base *release.Manifest, read *rootfs.System,
	progress source.Progress) (pinned []string, err error) {
	unlock, err := lock(ctx, p.plannedAccounts(base.Name)+".lock", func() {
		progress("waiting for another process that gives numbers to accounts of base "+base.Name, 0, 0)
	})
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	ledger, err := p.ledger(ctx, base.Name)
	if err != nil {
		return nil, err
	}
	known := accounts{base.Users, base.Groups}
	known.add(ledger)
	if pinned, err = pinAccounts(read, known.manifest()); err != nil {
		return nil, err
	}
	ledger.add(ofComponent(base, read.Users, read.Groups))
	text, err := json.Marshal(ledger)
	if err != nil {
		return nil, err
	}
	return pinned, writeFile(p.plannedAccounts(base.Name), text)
}

// ofComponent returns the accounts that a component has and its base has not.
func ofComponent(base *release.Manifest, users, groups map[string]uint32) accounts {
	own := func(all, base map[string]uint32) map[string]uint32 {
		added := map[string]uint32{}
		for name, number := range all {
			if _, has := base[name]; !has {
				added[name] = number
			}
		}
		return added
	}
	return accounts{own(users, base.Users), own(groups, base.Groups)}
}

// enter adds the accounts of a component that is being published to the ledger of its base. The caller holds the lock
// of the records. ErrMoved if another component has a name or a number meanwhile.
func (p *Publisher) enter(ctx context.Context, prepared *Prepared, base *release.Manifest) error {
	history, err := p.Store.History(ctx, release.Base, base.Name)
	if err != nil {
		return fmt.Errorf("read the accounts of base %q: %w", base.Name, err)
	}
	added := ofComponent(base, prepared.Manifest.Users, prepared.Manifest.Groups)
	users, moreUsers, err := entered("user", history.Users, added.Users)
	if err != nil {
		return err
	}
	groups, moreGroups, err := entered("group", history.Groups, added.Groups)
	if err != nil || !moreUsers && !moreGroups {
		return err
	}
	history.Users, history.Groups = users, groups
	if err := p.Store.SetHistory(ctx, release.Base, base.Name, history); err != nil {
		return fmt.Errorf("record the accounts of base %q: %w", base.Name, err)
	}
	return nil
}

// entered returns a ledger with accounts added, and whether there were any new ones.
func entered(what string, ledger, added map[string]uint32) (_ map[string]uint32, more bool, _ error) {
	all := maps.Clone(ledger)
	if all == nil {
		all = map[string]uint32{}
	}
	for _, name := range slices.Sorted(maps.Keys(added)) {
		number := added[name]
		known, there := all[name]
		switch holder := release.HolderOf(all, number, name); {
		case there && known == number:
			continue
		case there:
			return nil, false, fmt.Errorf("%s %s has the number %d since, and %d was planned: %w; plan and apply again",
				what, name, known, number, ErrMoved)
		case holder != "":
			return nil, false, fmt.Errorf(
				"%s %s has the number %d since, which was planned for %s: %w; plan and apply again", what,
				holder, number, name, ErrMoved)
		}
		all[name], more = number, true
	}
	return all, more, nil
}
