package boot

import (
	"context"
	"errors"
	"fmt"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/etcmerge"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/mounts"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
)

// Carrier returns the carrier of the configuration of the system at root.
func Carrier(root string) etcmerge.Carrier {
	return etcmerge.Carrier{
		Root: root, Record: mounts.StateDir + "/undo",
		Skipped: func(c etcmerge.Conflict) { say("undo: %s", c) },
	}
}

// EndCarry ends the last carry to /etc of the system at root, when no refresh is in flight any more. The carry is
// settled if it was completed and leads to the stack that runs. Otherwise it is undone, also if a boot has failed to
// undo it.
func EndCarry(ctx context.Context, root string, stack release.Stack) error {
	return endCarry(ctx, Carrier(root), stack)
}

func endCarry(ctx context.Context, carrier etcmerge.Carrier, stack release.Stack) error {
	if err := undoCarry(ctx, carrier, stack); err != nil {
		return err
	}
	_, _, carried, err := carrier.Carried()
	if err != nil {
		return err
	}
	settled, _, err := carrier.Settled()
	if err != nil {
		return err
	}
	if !carried && leftBehind(settled, stack) {
		return takeBack(ctx, carrier)
	}
	return settleAt(carrier, stack)
}

// settleAt settles the last carry: /etc is at this stack. A carry that the last version settled names the stack
// otherwise.
func settleAt(carrier etcmerge.Carrier, stack release.Stack) error {
	settled, _, err := carrier.Settled()
	if err != nil {
		return err
	}
	if stack.HasKey(settled.To) {
		return carrier.Settle(settled.To)
	}
	return carrier.Settle(stack.Key())
}

// leftBehind reports whether the carry that was settled last led away from the stack that runs again now.
func leftBehind(settled etcmerge.Ends, stack release.Stack) bool {
	return stack.HasKey(settled.From) && !stack.HasKey(settled.To)
}

func takeBack(ctx context.Context, carrier etcmerge.Carrier) error {
	if err := carrier.TakeBack(ctx); err != nil {
		return fmt.Errorf("take back what was carried to /etc for the stack that ran before: %w", err)
	}
	return nil
}

// undoCarry undoes what a refresh carried to /etc, unless it was carried for this stack, and to its end. It
// happens before any service can read it, and needs no journal, which may be damaged.
func undoCarry(ctx context.Context, carrier etcmerge.Carrier, stack release.Stack) error {
	ends, complete, found, err := carrier.Carried()
	if err != nil {
		return err
	}
	if !found || complete && stack.HasKey(ends.To) {
		return nil
	}
	if err := carrier.Undo(ctx); err != nil {
		return fmt.Errorf("take back what a refresh carried to /etc: %w", err)
	}
	return nil
}

// etcAction is what a boot has to do with /etc.
type etcAction int

const (
	// etcStays: /etc belongs to the stack that boots, or the agent judges that stack and then settles /etc.
	etcStays etcAction = iota
	// etcBegins: nothing is committed yet, so /etc belongs to the stack that boots.
	etcBegins
	// etcGoesBack: the last carry led from the stack that boots to the committed one, and has to be undone.
	etcGoesBack
	// etcMoves: /etc has to be carried from the committed stack to the one that boots.
	etcMoves
)

// etcAction chooses the action. settled are the stacks of the carry that was settled last.
func (r privateRecords) etcAction(chosen release.Stack, settled etcmerge.Ends) etcAction {
	if r.flight.Tries(chosen) {
		return etcStays
	}
	if r.committed == nil {
		return etcBegins
	}
	switch {
	case r.committed.Stack.Same(chosen):
		if leftBehind(settled, chosen) {
			return etcGoesBack // the rollback was committed, and power was cut before the carry was undone
		}
		return etcStays
	case chosen.HasKey(settled.From) && r.committed.Stack.HasKey(settled.To):
		return etcGoesBack
	}
	return etcMoves
}

// settleEtc brings /etc of the root at newRoot to the stack that boots, before any service can read it, and commits
// that stack: /etc is at the committed one. When the committed stack does not boot, what was carried for it goes; when
// the host has moved on, what its stack brings comes.
//
// If it is interrupted anywhere, the next boot does it again. It returns nil if nothing had to be carried.
func (r privateRecords) settleEtc(ctx context.Context, chosen opened, configured release.Stack) (*Moved, error) {
	carrier := Carrier(newRoot)
	if err := undoCarry(ctx, carrier, chosen.stack); err != nil {
		return nil, err
	}
	settled, _, err := carrier.Settled()
	if err != nil {
		return nil, err
	}
	// A recorded carry is later than the settled one, which can then not be undone any more.
	if _, _, carried, err := carrier.Carried(); err != nil {
		return nil, err
	} else if carried {
		settled = etcmerge.Ends{}
	}
	next := CommittedRecord{Stack: chosen.stack, Generation: chosen.generation, Configured: configured}
	if r.committed != nil {
		next.Previous = &r.committed.Stack
	}
	switch r.etcAction(chosen.stack, settled) {
	case etcBegins:
		return nil, WriteCommitted(next)
	case etcGoesBack:
		if !r.committed.Stack.Same(chosen.stack) {
			if err := WriteCommitted(next); err != nil {
				return nil, err
			}
		}
		if err := takeBack(ctx, carrier); err != nil {
			return nil, err
		}
		renewLoaderCache(ctx)
	case etcMoves:
		return r.moveEtc(ctx, chosen, next)
	case etcStays:
	}
	return nil, nil //nolint:nilnil // nothing was carried
}

// moveEtc carries /etc from the committed stack to the one that boots. A carry that came to its end is not undone
// because of what fails then: the commit may be on the disk, and if it is not, the next boot carries again.
func (r privateRecords) moveEtc(ctx context.Context, chosen opened, next CommittedRecord) (*Moved, error) {
	outcome, err := carryBetween(ctx, r.committed.Stack, chosen)
	if err != nil {
		err = errors.Join(err, Carrier(newRoot).Undo(ctx))
		return nil, fmt.Errorf("/etc stays as it was for base %s: %w", r.committed.Stack.Base, err)
	}
	if err := WriteCommitted(next); err != nil {
		return nil, err
	}
	moved := &Moved{From: r.committed.Stack, Carried: outcome.Carried, Conflicts: append(etcmerge.Texts(outcome.Conflicts), generate(ctx, outcome.Generate)...)}
	return moved, settleAt(Carrier(newRoot), chosen.stack)
}

// renewLoaderCache makes the cache of the dynamic loader again, that this VM made for another stack. Programs run with
// an old one, too.
func renewLoaderCache(ctx context.Context) {
	if err := runIn(ctx, newRoot, "/usr/sbin/ldconfig"); err != nil {
		say("the loader's cache stays an old one: %v", err)
	}
}

// generate runs the tools that generate files below /etc again, and returns what failed. A system also starts with
// outdated files.
func generate(ctx context.Context, names []string) (failures []string) {
	for _, name := range names {
		generator := etcmerge.GeneratorNamed(name)
		if generator == nil {
			continue
		}
		// The programs are looked up in the new root.
		err := runIn(ctx, newRoot, "/usr/bin/env", generator.Command...)
		if err != nil {
			say("%s is not generated again: %v", name, err)
			failures = append(failures, generator.Failed(err).String())
		}
	}
	return failures
}

// carryBetween carries /etc from a stack to the one that boots. Both have to be attached.
func carryBetween(ctx context.Context, from release.Stack, chosen opened) (outcome etcmerge.Outcome, err error) {
	openCtx, cancel := context.WithTimeout(ctx, preferredTimeout)
	defer cancel()
	var layers []string
	for _, layer := range from.Layers {
		path, err := mounts.OpenLayer(openCtx, layer)
		if err != nil {
			return outcome, err
		}
		layers = append(layers, path)
	}
	old, err := mounts.BuildTree(layers, ".")
	if err != nil {
		return outcome, err
	}
	defer func() { err = errors.Join(err, old.Close()) }()
	next, err := mounts.BuildTree(chosen.layers, ".")
	if err != nil {
		return outcome, err
	}
	defer func() { err = errors.Join(err, next.Close()) }()
	differences, err := etcmerge.Compare(old.Path(), next.Path())
	if err != nil {
		return outcome, err
	}
	carrier := Carrier(newRoot)
	carrier.From, carrier.To = from.Key(), chosen.stack.Key()
	return carrier.Carry(ctx, differences, old.Path(), next.Path())
}
