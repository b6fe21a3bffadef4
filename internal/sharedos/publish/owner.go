package publish

import (
	"context"
	"encoding/base64"
	"errors"
	"fmt"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
)

var (
	// ErrOwner means that a base belongs to another Terraform state.
	ErrOwner = errors.New("it belongs to another Terraform state")
	// ErrMaking means that another process makes the base.
	ErrMaking = errors.New("another process makes it")
)

// Ownership says whom a base belongs to.
type Ownership struct {
	// Owner identifies the Terraform state; "" if an earlier version made the base.
	Owner string
	// Interrupted is true if this operator's process that made the base was killed, and no state is
	// known to have the base. A base that was made completely may well be in a state, so it counts
	// only if it was made from the same workspace.
	Interrupted bool
	// Unrecorded is true until it is certain that a state has the base (Interface.SetOwner).
	Unrecorded bool
}

// Owner implements Interface.
func (p *Publisher) Owner(ctx context.Context, name string) (Ownership, error) {
	history, err := p.Store.History(ctx, p.kind(), name)
	if err != nil {
		return Ownership{}, fmt.Errorf("find the owner of %s %q: %w", p.kind(), name, err)
	}
	owned := Ownership{Owner: history.Owner}
	if history.Making == nil {
		return owned, nil
	}
	owned.Unrecorded = true
	operator, err := p.operator()
	if err != nil || operator != history.Making.Operator {
		return owned, err
	}
	here, err := store.ThisWorkspace()
	if err != nil || history.Making.Finished != "" && history.Making.Finished != here {
		return owned, err
	}
	if owned.Interrupted, err = store.MakerEnded(history.Making.Process, history.Making.Began); err != nil {
		return Ownership{}, fmt.Errorf("find out who makes %s %q: %w", p.kind(), name, err)
	}
	if !owned.Interrupted {
		return owned, fmt.Errorf(
			"%s %q: %w since %s (process %s); wait until it has ended; if there is none, import it",
			p.kind(), name, ErrMaking, history.Making.Began.Format(time.RFC3339), history.Making.Process)
	}
	return owned, nil
}

// SetOwner implements Interface.
func (p *Publisher) SetOwner(ctx context.Context, name, owner string) error {
	return p.changeOwner(ctx, name, func(history *store.History) bool {
		changed := history.Owner != owner || history.Making != nil
		history.Owner, history.Making = owner, nil
		return changed
	})
}

// Made implements Interface.
func (p *Publisher) Made(ctx context.Context, name, owner string) error {
	here, err := store.ThisWorkspace()
	if err != nil {
		return err
	}
	return p.changeOwner(ctx, name, func(history *store.History) bool {
		if history.Owner != owner || history.Making == nil {
			return false
		}
		history.Making.Finished = here
		return true
	})
}

// Abandon implements Interface.
func (p *Publisher) Abandon(ctx context.Context, name, owner string) error {
	err := p.changeOwner(ctx, name, func(history *store.History) bool {
		if history.Owner != owner || history.Making == nil {
			return false
		}
		history.Making.Process = "ended"
		return true
	})
	if errors.Is(err, store.ErrNotFound) {
		return nil
	}
	return err
}

// changeOwner changes the record of a base, if change says that it has changed.
func (p *Publisher) changeOwner(ctx context.Context, name string, change func(*store.History) bool) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("record the owner of %s %q: %w", p.kind(), name, err)
		}
	}()
	ctx, unlock, err := p.Store.Lock(ctx, store.Shared,
		func(step string) { p.log().InfoContext(ctx, step, "base", name) })
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	ctx, unlockRecord, err := p.Store.Lock(ctx, store.Record,
		func(step string) { p.log().InfoContext(ctx, step, "base", name) })
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlockRecord()) }()
	history, err := p.Store.History(ctx, p.kind(), name)
	if err != nil {
		return err
	}
	if !change(&history) {
		return nil
	}
	return p.Store.SetHistory(ctx, p.kind(), name, history)
}

// own makes the owner of a prepared release the owner of a history that has no release yet;
// ErrOwner if the history belongs to another.
func (p *Publisher) own(history *store.History, owner string) error {
	switch {
	case len(history.Releases) == 0 && owner != "":
		operator, err := p.operator()
		if err != nil {
			return err
		}
		process, err := store.ThisProcess()
		if err != nil {
			return err
		}
		history.Owner, history.Making = owner, &store.Making{Operator: operator, Process: process, Began: p.now()}
	case len(history.Releases) > 0 && history.Owner != "" && history.Owner != owner:
		return ErrOwner
	}
	return nil
}

// operator is this operator's public key, base64.
func (p *Publisher) operator() (string, error) {
	trusted, err := p.trusted()
	if err != nil {
		return "", err
	}
	return base64.StdEncoding.EncodeToString(trusted[0]), nil
}
