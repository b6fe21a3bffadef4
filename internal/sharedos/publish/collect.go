package publish

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// decision returns what a history becomes. users are the VMs by the releases of the base that they use.
type decision func(history store.History, users map[tree.Digest][]string) (store.History, error)

// Retain implements Interface.
func (p *Publisher) Retain(ctx context.Context, name string, newest int, inUse InUse) ([]tree.Digest, error) {
	if newest < 1 {
		return nil, fmt.Errorf("retain %d releases of %s %q: at least the newest release is kept", newest, p.kind(),
			name)
	}
	of := store.Named{Kind: p.kind(), Name: name}
	dropped, err := p.collect(ctx, of, inUse,
		func(history store.History, users map[tree.Digest][]string) (store.History, error) {
			history.Retain = newest
			return asRecorded(history, users)
		})
	if err != nil {
		return dropped, fmt.Errorf("retain %d releases of %s %q: %w", newest, p.kind(), name, err)
	}
	return dropped, nil
}

// Collect deletes all unreferenced objects in the store, of all operators. Before that it removes
// from each history the releases that are older than the number to be retained, which is recorded
// in the store, and that no VM uses any more. inUse is as in Delete.
func (p *Publisher) Collect(ctx context.Context, inUse InUse) error {
	_, err := p.collect(ctx, store.Named{}, inUse, asRecorded)
	if err != nil {
		return fmt.Errorf("delete unreferenced objects: %w", err)
	}
	return nil
}

// asRecorded shortens a history to the number of releases that it says is to be retained.
func asRecorded(history store.History, users map[tree.Digest][]string) (store.History, error) {
	if history.Retain > 0 {
		history.Releases = retained(history.Releases, history.Retain, users)
	}
	return history, nil
}

// retained returns the newest releases of a history, and those that VMs refer to.
func retained(releases []store.Listed, newest int, users map[tree.Digest][]string) []store.Listed {
	var kept []store.Listed
	for i, one := range releases {
		if i < newest || len(users[one.ID]) > 0 {
			kept = append(kept, one)
		}
	}
	return kept
}

// collect is a garbage collection. It replaces the history of one base by what decide returns, shortens all other
// histories as recorded, and deletes all objects that neither a listed release nor a VM refers to. It returns the
// releases that were removed from the history of the one base. Nobody else can change the store or define a VM
// meanwhile. Everything that can forbid a deletion is checked before the first one.
func (p *Publisher) collect(ctx context.Context, of store.Named, ask InUse,
	decide decision) (dropped []tree.Digest, err error) {
	ctx, unlock, err := p.Store.Lock(ctx, store.Exclusive,
		func(step string) { p.log().InfoContext(ctx, step, "base", of.Name) })
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, unlock()) }()

	inUse, err := ask(ctx)
	if err != nil {
		return nil, err
	}
	if err := p.requireKnownVMs(ctx, inUse); err != nil {
		return nil, err
	}
	before, err := p.Store.Histories(ctx)
	if err != nil {
		return nil, fmt.Errorf("read the histories: %w", err)
	}
	if _, there := before[of]; !there && of.Name != "" {
		before[of] = store.History{} // VMs may still refer to its releases
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
		p.log().InfoContext(ctx, "deleted an unreferenced object", "volume", volume.Name, "bytes", volume.Allocation)
	}
	if err != nil {
		return dropped, fmt.Errorf("delete unreferenced objects (the next collection deletes the rest): %w", err)
	}
	return dropped, nil
}

// requireKnownVMs returns ErrUnknownVM if the store has the private disk of a VM that is not in inUse. It may be a VM
// of another host that uses the same pool.
func (p *Publisher) requireKnownVMs(ctx context.Context, inUse map[tree.Digest][]string) error {
	disks, err := p.Store.ListDisks(ctx)
	if err != nil {
		return fmt.Errorf("list the private disks: %w", err)
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
	return fmt.Errorf("%w: %s; if no VM on any host uses them, delete these volumes (virsh vol-delete)",
		ErrUnknownVM, strings.Join(unknown, ", "))
}

// decided decides on every history. At first, keep has what VMs refer to, and decided adds to keep what the remaining
// releases refer to.
func (p *Publisher) decided(ctx context.Context, before map[store.Named]store.History, of store.Named,
	users map[store.Named]map[tree.Digest][]string, decide decision, keep map[tree.Digest]bool,
) (map[store.Named]store.History, error) {
	after := make(map[store.Named]store.History, len(before))
	inUse := maps.Clone(keep)
	for named, history := range before {
		choose := asRecorded
		if named == of {
			choose = decide
		}
		remaining, err := choose(history, users[named])
		if err == nil && named.Kind.Derived() {
			remaining, err = p.derivedInUse(ctx, history, inUse)
		}
		if err != nil {
			return nil, err
		}
		for _, id := range remaining.IDs() {
			if err := p.keepRecorded(ctx, keep, id); err != nil {
				return nil, fmt.Errorf("find the objects of %s %q: %w", named.Kind, named.Name, err)
			}
		}
		// A component is of no use without the base release that it is built on.
		if on, err := p.builtOn(ctx, named, remaining); err != nil {
			return nil, err
		} else if !on.IsZero() {
			if err := p.keepRecorded(ctx, keep, on); err != nil {
				return nil, err
			}
		}
		after[named] = remaining
	}
	return after, nil
}

// setHistory writes a history if it has changed.
func (p *Publisher) setHistory(ctx context.Context, named store.Named, before, after store.History) error {
	if before.Retain == after.Retain && slices.Equal(before.Releases, after.Releases) {
		return nil
	}
	if err := p.Store.SetHistory(ctx, named.Kind, named.Name, after); err != nil {
		return fmt.Errorf("write the history of %s %q: %w", named.Kind, named.Name, err)
	}
	return nil
}

func sortedNames(histories map[store.Named]store.History) []store.Named {
	return slices.SortedFunc(maps.Keys(histories), func(a, b store.Named) int {
		return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Name, b.Name))
	})
}

// kept returns the objects that VMs refer to, directly or through a release, and for each base the VMs by the releases
// that they use.
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
