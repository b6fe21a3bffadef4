package publish

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// Retain implements Interface.
func (p *Publisher) Retain(ctx context.Context, name string, newest int, inUse InUse) ([]tree.Digest, error) {
	if newest < 1 {
		return nil, fmt.Errorf("retain %d releases of base %q: the newest release always stays", newest, name)
	}
	dropped, err := p.collect(ctx, name, inUse, func(history []tree.Digest, users map[tree.Digest][]string) ([]tree.Digest, error) {
		return retained(history, newest, users), nil
	})
	if err != nil {
		return dropped, fmt.Errorf("retain %d releases of base %q: %w", newest, name, err)
	}
	return dropped, nil
}

// retained returns what stays of a history: its newest releases, and those that VMs refer to.
func retained(history []tree.Digest, newest int, users map[tree.Digest][]string) []tree.Digest {
	var stay []tree.Digest
	for i, id := range history {
		if i < newest || len(users[id]) > 0 {
			stay = append(stay, id)
		}
	}
	return stay
}

// collect shortens the history of a base to what decide makes of it, and deletes what then neither a release nor a VM
// refers to, whoever put it there. It returns the releases that left the history. Nobody else can change the pool meanwhile,
// nor define a VM; what may not be deleted is found out before anything is.
func (p *Publisher) collect(ctx context.Context, name string, ask InUse,
	decide func(history []tree.Digest, users map[tree.Digest][]string) ([]tree.Digest, error),
) (dropped []tree.Digest, err error) {
	ctx, unlock, err := p.Store.Lock(ctx, store.Exclusive, func(step string) { p.log().InfoContext(ctx, step, "base", name) })
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, unlock()) }()

	inUse, err := ask(ctx)
	if err != nil {
		return nil, err
	}
	histories, err := p.Store.Histories(ctx)
	if err != nil {
		return nil, fmt.Errorf("list what the store holds: %w", err)
	}
	of := store.Named{Kind: release.Base, Name: name}
	keep, users, err := p.kept(ctx, of, histories[of], inUse)
	if err != nil {
		return nil, err
	}
	stay, err := decide(histories[of], users)
	if err != nil {
		return nil, err
	}
	history := histories[of]
	histories[of] = stay
	for named, ids := range histories {
		for _, id := range ids {
			if err := p.keepRecorded(ctx, keep, id); err != nil {
				return nil, fmt.Errorf("find what %s %q needs: %w", named.Kind, named.Name, err)
			}
		}
	}
	if !slices.Equal(stay, history) {
		if err := p.Store.SetHistory(ctx, release.Base, name, stay); err != nil {
			return nil, fmt.Errorf("write the record of its releases: %w", err)
		}
	}
	for _, id := range history {
		if !slices.Contains(stay, id) {
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

// kept returns what VMs refer to, with all that those releases refer to in turn, and the VMs by the releases of one base.
func (p *Publisher) kept(ctx context.Context, of store.Named, history []tree.Digest, inUse map[tree.Digest][]string) (
	keep map[tree.Digest]bool, users map[tree.Digest][]string, err error,
) {
	keep, users = map[tree.Digest]bool{}, map[tree.Digest][]string{}
	for _, id := range sortedIDs(inUse) {
		m, err := p.keepInUse(ctx, keep, id, inUse[id])
		if err != nil {
			return nil, nil, err
		}
		if slices.Contains(history, id) || m != nil && m.Kind == of.Kind && m.Name == of.Name {
			users[id] = inUse[id]
		}
	}
	return keep, users, nil
}
