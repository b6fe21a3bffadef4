package boot

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/etcmerge"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/mounts"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// Carrier returns the carrier of the configuration of the system at root.
func Carrier(root string) etcmerge.Carrier {
	return etcmerge.Carrier{
		Root: root, Record: mounts.StateDir + "/undo", Private: mounts.PrivateDir,
		Skipped: func(c etcmerge.Conflict) { say("undo: %s", c) },
	}
}

// EndCarry ends the last carry to /etc of the system at root, when no refresh is in flight any more. The carry is
// settled if it was completed and leads to the stack that runs. Otherwise it is undone, also if a boot has failed to
// undo it. Then it sees to the baseline of the stack that runs, whose layers are mounted.
func EndCarry(ctx context.Context, root string, stack release.Stack) error {
	return endCarry(ctx, Carrier(root), stack, func(use func(tree string) error) error {
		return withTree(ctx, stack, use)
	})
}

// endCarry is EndCarry. withTree has the tree of the stack used.
func endCarry(ctx context.Context, carrier etcmerge.Carrier, stack release.Stack,
	withTree func(use func(tree string) error) error) error {
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
		return takeBack(ctx, carrier, stack, withTree)
	}
	if err := settleAt(carrier, stack); err != nil {
		return err
	}
	_, err = keepBaseline(carrier, stack, withTree)
	return err
}

// keepBaseline makes sure that there is a baseline, once no carry is recorded, and returns its
// head. It is made from the tree of the stack that runs when an agent finds none: of a VM that an
// earlier version has run, in which the files of CarriedByOS may be of any release before. A
// baseline of another stack stays: /etc could not be carried from there yet.
func keepBaseline(carrier etcmerge.Carrier, stack release.Stack,
	withTree func(use func(tree string) error) error) (*etcmerge.Baseline, error) {
	baseline, err := carrier.BaselineHead()
	switch {
	case errors.Is(err, etcmerge.ErrBaseline):
		say("%v; it is made again from the stack that runs", err)
	case err != nil:
		return nil, err
	case !baseline.Unlisted || !stack.HasKey(baseline.Stack):
		return baseline, nil
	}
	err = withTree(func(tree string) (err error) {
		baseline, err = writeBaseline(carrier, tree, stack, true)
		return err
	})
	return baseline, err
}

// baselineBack writes the baseline of the stack to which /etc is going to be taken back. The record
// of the carry that is taken back stays until that is done, so an interruption in between is found.
func baselineBack(carrier etcmerge.Carrier, stack release.Stack,
	withTree func(use func(tree string) error) error) error {
	baseline, err := carrier.BaselineHead()
	if err != nil && !errors.Is(err, etcmerge.ErrBaseline) {
		return err
	}
	if err == nil && baseline.Unlisted {
		return nil
	}
	partial := err != nil || baseline.Partial
	return withTree(func(tree string) error {
		_, err := writeBaseline(carrier, tree, stack, partial)
		return err
	})
}

// writeBaseline writes the baseline of a stack that is read from its tree.
func writeBaseline(carrier etcmerge.Carrier, tree string, stack release.Stack,
	partial bool) (*etcmerge.Baseline, error) {
	baseline, err := etcmerge.ListTree(tree, stack.Key())
	if err != nil {
		return nil, err
	}
	baseline.Partial = partial
	return baseline, carrier.WriteBaseline(baseline)
}

// withTree mounts the tree of a stack whose layers are attached, for use.
func withTree(ctx context.Context, stack release.Stack, use func(tree string) error) (err error) {
	var layers []string
	for _, layer := range stack.Layers {
		path, err := mounts.OpenLayer(ctx, layer)
		if err != nil {
			return err
		}
		layers = append(layers, path)
	}
	return withLayers(layers, use)
}

func withLayers(layers []string, use func(tree string) error) (err error) {
	merged, err := mounts.BuildTree(layers, ".")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, merged.Close()) }()
	return use(merged.Path())
}

// withTrees is withLayers for the tree of a stack and that of its base, "" if the stack has no components.
func withTrees(layers, base []string, use func(tree, base string) error) error {
	return withLayers(layers, func(tree string) error {
		if len(base) == len(layers) {
			return use(tree, "")
		}
		return withLayers(base, func(below string) error { return use(tree, below) })
	})
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

// takeBack undoes the carry that was settled last: /etc goes back to this stack.
func takeBack(ctx context.Context, carrier etcmerge.Carrier, stack release.Stack,
	withTree func(use func(tree string) error) error) error {
	if err := baselineBack(carrier, stack, withTree); err != nil {
		return err
	}
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
func (r privateRecords) settleEtc(ctx context.Context, chosen opened, config agentapi.BootConfig) (*Moved, error) {
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
	next := CommittedRecord{Stack: chosen.stack, Generation: chosen.generation, Configured: config.Stack,
		Detaches: config.Detaches}
	if r.committed != nil {
		next.Previous = &r.committed.Stack
	}
	switch r.etcAction(chosen.stack, settled) {
	case etcBegins:
		return r.beginEtc(ctx, carrier, chosen, next)
	case etcGoesBack:
		if !r.committed.Stack.Same(chosen.stack) {
			if err := WriteCommitted(next); err != nil {
				return nil, err
			}
		}
		err := takeBack(ctx, carrier, chosen.stack,
			func(use func(string) error) error { return withLayers(chosen.layers, use) })
		if err == nil {
			renewLoaderCache(ctx)
		}
		return nil, err
	case etcMoves:
		return r.moveEtc(ctx, chosen, next)
	case etcStays:
		return r.completeEtc(ctx, chosen)
	}
	return nil, nil //nolint:nilnil // nothing was carried
}

// beginEtc brings the first /etc. The root shows that of the base, which the baseline is of at first. From there, what
// the components have is carried, as it is when they come to a running VM.
func (r privateRecords) beginEtc(ctx context.Context, carrier etcmerge.Carrier, chosen opened,
	next CommittedRecord) (*Moved, error) {
	_, err := carrier.BaselineHead()
	begins := errors.Is(err, etcmerge.ErrBaseline) // otherwise only the record of the commit was lost
	if begins {
		// It is there before the commit: with a commit and without a baseline, the whole stack would be the baseline.
		base := chosen.layers[:len(chosen.stack.OfBase())]
		err := withLayers(base, func(tree string) error {
			baseline, err := etcmerge.ListTree(tree, keyOfBase(chosen.stack))
			if err != nil {
				return err
			}
			return carrier.WriteBaseline(baseline)
		})
		if err != nil {
			return nil, err
		}
	}
	if err := WriteCommitted(next); err != nil {
		return nil, err
	}
	r.committed = &next
	moved, err := r.completeEtc(ctx, chosen)
	if begins {
		moved = nil // the VM has run no other stack
	}
	return moved, err
}

// keyOfBase names the base of a stack in baselines. It is the key of the stack if that is the base alone, and otherwise
// the key of no stack: no carry was ever settled there.
func keyOfBase(stack release.Stack) string {
	if len(stack.OfBase()) == len(stack.Layers) {
		return stack.Key()
	}
	return tree.Sum([]byte("the base of stack " + stack.Key())).Hex()
}

// completeEtc brings what an earlier boot or an earlier version has left out, when the committed
// stack boots: it was not known what the stack before had, or the agent did not carry files of
// CarriedByOS. What a refresh has carried and the agent has still to judge is left alone.
func (r privateRecords) completeEtc(ctx context.Context, chosen opened) (*Moved, error) {
	if r.flight.Tries(chosen.stack) {
		return nil, nil //nolint:nilnil // nothing was carried
	}
	carrier := Carrier(newRoot)
	if _, _, carried, err := carrier.Carried(); err != nil || carried {
		return nil, err
	}
	baseline, err := keepBaseline(carrier, chosen.stack,
		func(use func(string) error) error { return withLayers(chosen.layers, use) })
	if err != nil || !baseline.Partial && !baseline.Unlisted && chosen.stack.HasKey(baseline.Stack) {
		return nil, err
	}
	return r.moveEtc(ctx, chosen, *r.committed)
}

// ErrBehind means that /etc belongs to another stack than the one that runs, because it could not be carried.
var ErrBehind = errors.New("/etc, /opt and /usr/local could not follow the release")

// behind is ErrBehind with the stack at which /etc stands, and the way out.
func behind(stack string) error {
	return fmt.Errorf(
		"%w: they are those of stack %s, whose layers are not attached any more and which is not recorded here: "+
			"refresh this VM to that stack once, and then again to the newer one", ErrBehind, stack)
}

// Behind returns an error that matches ErrBehind if /etc of the running system belongs to another
// stack than the one that runs, and could not be carried.
func Behind(running release.Stack) error {
	baseline, err := Carrier("/").BaselineHead()
	switch {
	case errors.Is(err, etcmerge.ErrBaseline):
		return nil
	case err != nil:
		return err
	case running.HasKey(baseline.Stack) && baseline.Partial:
		return stale(Carrier("/"))
	case running.HasKey(baseline.Stack):
		return nil
	case baseline.Unlisted:
		return behind(baseline.Stack)
	}
	return fmt.Errorf(
		"%w: they are those of stack %s, because the last start failed to carry them: see the VM's console; "+
			"the next start or refresh tries again", ErrBehind, baseline.Stack)
}

// stale returns an error if files of CarriedByOS are not those of the release that runs, because an agent of an earlier
// version did not carry them.
func stale(carrier etcmerge.Carrier) error {
	baseline, err := carrier.Baseline()
	if err != nil {
		return err
	}
	files, err := carrier.Stale(baseline)
	if err != nil || len(files) == 0 {
		return err
	}
	return fmt.Errorf(
		"%w: %s and %d other files are not those of the release, because an earlier version did not update them; "+
			"the next start or refresh brings them", ErrBehind, files[0], len(files)-1)
}

// moveEtc carries /etc from the stack at which it stands to the one that boots. A carry that came to its end is not
// undone because of what fails then: the commit may be on the disk, and if it is not, the next boot carries again.
func (r privateRecords) moveEtc(ctx context.Context, chosen opened, next CommittedRecord) (*Moved, error) {
	outcome, err := r.carryTo(ctx, chosen)
	if err != nil {
		err = errors.Join(err, Carrier(newRoot).Undo(ctx))
		return nil, fmt.Errorf("/etc stays as it was for base %s: %w", r.committed.Stack.Base, err)
	}
	if err := WriteCommitted(next); err != nil {
		return nil, err
	}
	conflicts := append(outcome.Conflicts, generate(ctx, outcome.Generate)...)
	for _, conflict := range conflicts[min(len(conflicts), maxConflicts):] {
		say("%s", conflict)
	}
	moved := &Moved{From: r.committed.Stack, Carried: outcome.Carried,
		Conflicts: conflicts[:min(len(conflicts), maxConflicts)]}
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
func generate(ctx context.Context, names []string) (failures []etcmerge.Conflict) {
	for _, name := range names {
		generator := etcmerge.GeneratorNamed(name)
		if generator == nil {
			continue
		}
		// The programs are looked up in the new root.
		err := runIn(ctx, newRoot, "/usr/bin/env", generator.Command...)
		if err != nil {
			say("%s is not generated again: %v", name, err)
			failures = append(failures, generator.Failed(err))
		}
	}
	return failures
}

// carryTo carries /etc to the stack that boots.
func (r privateRecords) carryTo(ctx context.Context, chosen opened) (outcome etcmerge.Outcome, err error) {
	carrier := Carrier(newRoot)
	old, err := r.baseline(ctx, carrier, chosen.stack)
	if err != nil {
		return outcome, err
	}
	carrier.From, carrier.To = old.Stack, chosen.stack.Key()
	carrier.Upper = filepath.Join(mounts.PrivateDir, mounts.RootUpper)
	base := chosen.layers[:len(chosen.stack.OfBase())]
	err = withTrees(chosen.layers, base, func(tree, below string) (err error) {
		carrier.Base = below
		next, err := etcmerge.ListTree(tree, carrier.To)
		if err != nil {
			return err
		}
		if carrier.Keep, err = Kept(); err != nil {
			return err
		}
		if carrier.PurgeComponents, err = Purges(); err != nil {
			return err
		}
		foreign, err := etcmerge.ForeignFiles(newRoot, tree)
		if err != nil {
			return err
		}
		outcome, err = carrier.Carry(ctx, old, old.Differences(next), tree)
		outcome.Conflicts = append(outcome.Conflicts, foreign...)
		return err
	})
	return outcome, err
}

// baseline returns the baseline of the stack at which /etc stands. A VM that an earlier version has run has none:
// then it is read from the layers of that stack, if they are attached. If they are not, it is recorded at which
// stack /etc stands, so that a later carry does not start from another one, and the error matches ErrBehind.
func (r privateRecords) baseline(ctx context.Context, carrier etcmerge.Carrier,
	chosen release.Stack) (*etcmerge.Baseline, error) {
	at := r.committed.Stack
	old, err := carrier.Baseline()
	switch {
	case errors.Is(err, etcmerge.ErrBaseline):
		say("%v", err)
	case err != nil:
		return nil, err
	case !old.Unlisted:
		return old, nil
	case chosen.HasKey(old.Stack):
		at = chosen // /etc is its already
	case !at.HasKey(old.Stack):
		return nil, behind(old.Stack)
	}
	openCtx, cancel := context.WithTimeout(ctx, preferredTimeout)
	defer cancel()
	err = withTree(openCtx, at, func(tree string) (err error) {
		old, err = etcmerge.ListTree(tree, at.Key())
		return err
	})
	if err == nil {
		old.Partial = true
		return old, nil
	}
	return nil, errors.Join(behind(at.Key()), err,
		carrier.WriteBaseline(&etcmerge.Baseline{Stack: at.Key(), Unlisted: true}))
}
