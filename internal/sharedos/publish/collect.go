package publish

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// decision is what a history is to become, of a base whose releases these VMs use.
type decision func(history store.History, users map[tree.Digest][]string) (store.History, error)

// Retain implements Interface.
func (p *Publisher) Retain(ctx context.Context, name string, newest int, inUse InUse) ([]tree.Digest, error) {
	if newest < 1 {
		return nil, fmt.Errorf("retain %d releases of base %q: the newest release always stays", newest, name)
	}
	of := store.Named{Kind: release.Base, Name: name}
	dropped, err := p.collect(ctx, of, inUse, func(history store.History, users map[tree.Digest][]string) (store.History, error) {
		history.Retain = newest
		return asRecorded(history, users)
	})
	if err != nil {
		return dropped, fmt.Errorf("retain %d releases of base %q: %w", newest, name, err)
	}
	return dropped, nil
}

// Collect deletes what nothing refers to any more, whoever put it there. Of the releases of a base, be it one that this process
// never heard of, go those that only a VM kept that does not use them now: the pool records how many are to be retained. inUse
// is as in Delete.
func (p *Publisher) Collect(ctx context.Context, inUse InUse) error {
	_, err := p.collect(ctx, store.Named{}, inUse, asRecorded)
	if err != nil {
		return fmt.Errorf("delete what nothing needs any more: %w", err)
	}
	return nil
}

// asRecorded keeps of a history what its own record says.
func asRecorded(history store.History, users map[tree.Digest][]string) (store.History, error) {
	if history.Retain > 0 {
		history.Releases = retained(history.Releases, history.Retain, users)
	}
	return history, nil
}

// retained returns what stays of a history: its newest releases, and those that VMs refer to.
func retained(releases []store.Listed, newest int, users map[tree.Digest][]string) []store.Listed {
	var stay []store.Listed
	for i, one := range releases {
		if i < newest || len(users[one.ID]) > 0 {
			stay = append(stay, one)
		}
	}
	return stay
}

// collect shortens the history of a base to what decide makes of it, and those of all others to what their records say, and
// deletes what then neither a release nor a VM refers to, whoever put it there. It returns the releases that left the history
// of the one. Nobody else can change the pool meanwhile, nor define a VM; what may not be deleted is found out before anything is.
func (p *Publisher) collect(ctx context.Context, of store.Named, ask InUse, decide decision) (dropped []tree.Digest, err error) {
	ctx, unlock, err := p.Store.Lock(ctx, store.Exclusive, func(step string) { p.log().InfoContext(ctx, step, "base", of.Name) })
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, unlock()) }()

	inUse, err := ask(ctx)
	if err != nil {
		return nil, err
	}
	if err := p.knowsAll(ctx, inUse); err != nil {
		return nil, err
	}
	before, err := p.Store.Histories(ctx)
	if err != nil {
		return nil, fmt.Errorf("list what the store holds: %w", err)
	}
	if _, there := before[of]; !there && of.Name != "" {
		before[of] = store.History{} // VMs may refer to its releases all the same
	}
	keep, users, err := p.kept(ctx, before, inUse)
	if err != nil {
		return nil, err
	}
	after, err := p.decided(ctx, before, of, users, decide, keep)
	if err != nil {
		return nil, err
	}
	for _, named := range sortedNames(after) {
		if err := p.setHistory(ctx, named, before[named], after[named]); err != nil {
			return dropped, err
		}
	}
	for _, id := range before[of].IDs() {
		if !slices.Contains(after[of].IDs(), id) {
			dropped = append(dropped, id)
		}
	}
	swept, err := p.Store.Sweep(ctx, keep)
	for _, volume := range swept {
		p.log().InfoContext(ctx, "deleted from the store", "volume", volume.Name, "bytes", volume.Allocation)
	}
	if err != nil {
		return dropped, fmt.Errorf("delete what nothing refers to (it goes on the next time): %w", err)
	}
	return dropped, nil
}

// knowsAll fails with ErrUnknownVM if the pool has the private disk of a VM of which nobody tells what it refers to: one of
// another host that has the pool, too.
func (p *Publisher) knowsAll(ctx context.Context, inUse map[tree.Digest][]string) error {
	disks, err := p.Store.ListDisks(ctx)
	if err != nil {
		return fmt.Errorf("list what the store holds: %w", err)
	}
	known := map[string]bool{}
	for _, names := range inUse {
		for _, name := range names {
			known[name] = true
		}
	}
	var unknown []string
	for _, disk := range disks {
		if name, _ := store.ParseVolumeName(disk.Name); !known[name.VM] {
			unknown = append(unknown, disk.Name)
		}
	}
	if len(unknown) == 0 {
		return nil
	}
	slices.Sort(unknown)
	return fmt.Errorf("%w: %s; if they are of no VM on any host any more, delete these volumes (virsh vol-delete)",
		ErrUnknownVM, strings.Join(unknown, ", "))
}

// decided decides on every history, and keeps what the releases that stay refer to.
func (p *Publisher) decided(ctx context.Context, before map[store.Named]store.History, of store.Named,
	users map[store.Named]map[tree.Digest][]string, decide decision, keep map[tree.Digest]bool,
) (map[store.Named]store.History, error) {
	after := make(map[store.Named]store.History, len(before))
	for named, history := range before {
		choose := asRecorded
		if named == of {
			choose = decide
		}
		stay, err := choose(history, users[named])
		if err != nil {
			return nil, err
		}
		for _, id := range stay.IDs() {
			if err := p.keepRecorded(ctx, keep, id); err != nil {
				return nil, fmt.Errorf("find what %s %q needs: %w", named.Kind, named.Name, err)
			}
		}
		after[named] = stay
	}
	return after, nil
}

// setHistory writes a history if it changed.
func (p *Publisher) setHistory(ctx context.Context, named store.Named, before, after store.History) error {
	if before.Retain == after.Retain && slices.Equal(before.Releases, after.Releases) {
		return nil
	}
	if err := p.Store.SetHistory(ctx, named.Kind, named.Name, after); err != nil {
		return fmt.Errorf("write the record of the releases of %s %q: %w", named.Kind, named.Name, err)
	}
	return nil
}

func sortedNames(histories map[store.Named]store.History) []store.Named {
	return slices.SortedFunc(maps.Keys(histories), func(a, b store.Named) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name))
	})
}

// kept returns what VMs refer to, with all that those releases refer to in turn, and the VMs by what they use of each base.
func (p *Publisher) kept(ctx context.Context, histories map[store.Named]store.History, inUse map[tree.Digest][]string) (
	keep map[tree.Digest]bool, users map[store.Named]map[tree.Digest][]string, err error,
) {
	keep, users = map[tree.Digest]bool{}, map[store.Named]map[tree.Digest][]string{}
	for named := range histories {
		users[named] = map[tree.Digest][]string{}
	}
	for _, id := range sortedIDs(inUse) {
		m, err := p.keepInUse(ctx, keep, id, inUse[id])
		if err != nil {
			return nil, nil, err
		}
		for named, history := range histories {
			if slices.Contains(history.IDs(), id) || m != nil && m.Kind == named.Kind && m.Name == named.Name {
				users[named][id] = inUse[id]
			}
		}
	}
	return keep, users, nil
}
