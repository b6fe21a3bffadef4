package etcmerge

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"slices"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/failpoint"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// Outcome is the result of a carry.
type Outcome struct {
	// Carried counts the paths that were changed.
	Carried int
	// Conflicts are the paths that are not as in the release, or that were merged by a rule that may surprise, sorted.
	Conflicts []Conflict
	// Generate names the Generators that have to run once the new /usr is mounted.
	Generate []string
}

// Carrier carries the configuration of one system.
type Carrier struct {
	// Root of the system: "/".
	Root string
	// Record is a directory on the private disk for what undoes the last carry. Once the carry is settled, the record
	// is moved to a second directory, for TakeBack.
	Record string
	// Private is the mount point of the private disk that Record is on. Files below /var are linked there, since a link
	// does not reach from one mount to another. "" if Root and Record are on one mount.
	Private string
	// Upper is the upper directory of the overlay at Root, if that shows the new stack already: at
	// a boot. What is not in it is not this VM's. "" if the old stack is below.
	Upper string
	// Base is the root of the tree of the new stack's base, read-only; "" if the new stack has no components.
	Base string
	// From and To identify the stacks of a carry. Carried and Settled return them.
	From, To string
	// Keep are patterns (path.Match) of absolute paths below /etc that a carry leaves as this VM has them. A pattern
	// also stands for everything below the directories that it matches.
	Keep []string
	// PurgeComponents has what a component brought below /etc and in the VM's own trees be removed
	// by the method Purge, if the new stack does not have it and nobody has changed it.
	PurgeComponents bool
	// Skipped is called for each path that Undo cannot restore while it restores the others. It may be nil.
	Skipped func(Conflict)

	sync syncer
	// lockLimit replaces the limit of the wait for the account lock in tests.
	lockLimit time.Duration
}

// step is one planned change.
type step struct {
	Path string `json:"path"`
	// Before and After are nil for a path that does not exist.
	Before *recordedEntry `json:"before,omitempty"`
	After  *recordedEntry `json:"after,omitempty"`
	// Saved is the file of the record with the content of Before.
	Saved string `json:"saved,omitempty"`
	// Result is the file of the record with the content of After, of an account file.
	Result string `json:"result,omitempty"`
	// Always is true for a file that something else than the carry writes later. An undo restores
	// it, whatever it is then.
	Always bool `json:"always,omitempty"`
	// Linked is true if Saved is another name of the file itself: it is too large to be copied.
	Linked bool `json:"linked,omitempty"`
	// Aside is where this VM's version is kept, below the directory of replaced files; "" if it is not kept.
	Aside string `json:"aside,omitempty"`

	// before and after are Before and After.
	before, after *tree.Entry
	// content writes the content of after, if it is a regular file, and file identifies it in the release, if it has
	// several names there that are to be names of one file here, too.
	content content
	file    inode
	// previous writes the content of before, if the root does not have it; nil otherwise.
	previous content
}

// content writes the content of a regular file.
type content func(to io.Writer) error

// text is the content of a file that is in memory.
func text(data string) content {
	return func(to io.Writer) error {
		_, err := io.WriteString(to, data)
		return err
	}
}

// Carry changes every differing path to the new release's version, by the rules of Decide. old is the
// baseline from which the differences lead, new the root of the new stack's tree, read-only. It first undoes
// a carry that is already recorded, and records how to undo this one, and the baseline of the new stack.
func (c Carrier) Carry(ctx context.Context, old *Baseline, differences []Difference,
	new string) (outcome Outcome, err error) {
	if err := c.Undo(ctx); err != nil {
		return Outcome{}, err
	}
	roots := map[string]*os.Root{}
	for _, name := range []string{c.Root, new, c.Base} {
		if name == "" {
			continue
		}
		root, err := os.OpenRoot(name)
		if err != nil {
			return Outcome{}, fmt.Errorf("carry /etc: %w", err)
		}
		defer func() { err = errors.Join(err, root.Close()) }()
		roots[name] = root
	}
	p := newPlanner(c, roots[c.Root], old, roots[new])
	if p.differences, err = p.withDeferred(differences); err != nil {
		return Outcome{}, fmt.Errorf("carry /etc: %w", err)
	}
	if slices.ContainsFunc(p.differences, func(d Difference) bool { return accountFiles[d.Path] != nil }) {
		unlock, err := p.lockAccounts(ctx, c.lockLimit)
		if err != nil {
			return Outcome{}, err
		}
		defer func() { err = errors.Join(err, unlock()) }()
	}
	if err := p.plan(ctx); err != nil {
		return Outcome{}, fmt.Errorf("carry /etc: %w", err)
	}
	if err := c.room(p.steps); err != nil {
		return Outcome{}, fmt.Errorf("carry /etc: %w", err)
	}
	next, err := old.after(differences, p.new, roots[c.Base], c.To, p.left, p.purge)
	if err != nil {
		return Outcome{}, fmt.Errorf("carry /etc: %w", err)
	}
	if err := c.record(ctx, p.live, p.steps, next); err != nil {
		return Outcome{}, fmt.Errorf("carry /etc: record how to undo it: %w", err)
	}
	if failpoint.Built {
		if err := failpoint.Hit("after the record of what undoes /etc"); err != nil {
			return Outcome{}, fmt.Errorf("carry /etc: %w", err)
		}
	}
	if err := p.act(ctx); err != nil {
		return Outcome{}, fmt.Errorf("carry /etc: %w", err)
	}
	if err := c.complete(); err != nil {
		return Outcome{}, fmt.Errorf("carry /etc: record that it is complete: %w", err)
	}
	p.outcome.Conflicts = sortConflicts(p.outcome.Conflicts)
	return p.outcome, nil
}

// act carries out the steps: first it removes paths, deepest first, then it creates paths, parents first. When it
// returns nil all of it is on the disk.
func (p *planner) act(ctx context.Context) error {
	c := p.carrier
	blocked := map[string]bool{}
	var removed []string
	for _, s := range slices.Backward(p.steps) {
		if s.Aside != "" {
			if err := c.keepAside(s); err != nil {
				return err
			}
		}
		removes := s.after == nil ||
			s.before != nil && (s.before.Type == tree.Directory) != (s.after.Type == tree.Directory)
		if !removes || s.Always {
			continue
		}
		err := p.live.Remove(s.Path)
		if (errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EEXIST)) && s.Aside != "" {
			err = c.moveAside(s)
		}
		switch {
		case errors.Is(err, unix.ENOTEMPTY), errors.Is(err, unix.EEXIST):
			blocked[s.Path] = true
			if s.after != nil {
				p.conflict(s.Path, OtherType,
					"a directory with files of this VM here, a "+s.after.Type.String()+" in the release")
			}
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			o := asObstacle(err)
			if o == nil {
				return err
			}
			blocked[s.Path] = true
			p.skip(s.Path, o)
		default:
			removed = append(removed, s.Path)
			if s.after == nil {
				p.outcome.Carried++
			}
		}
	}
	changes := map[string]bool{}
	for i := range p.steps {
		s := &p.steps[i]
		if s.after == nil || blocked[s.Path] || s.Always {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		parent, err := entryAt(p.live, path.Dir(s.Path))
		if o := asObstacle(err); o != nil {
			p.skip(s.Path, o)
			continue
		}
		if err != nil {
			return err
		}
		if parent == nil || parent.Type != tree.Directory {
			p.conflict(s.Path, OtherType, "its parent is not a directory here")
			continue
		}
		if err := p.prepareName(s.after, s.file, s.content); err != nil {
			return err
		}
		changes[s.Path] = !alike(s.before, s.after)
	}
	if err := p.finish(ctx); err != nil {
		return err
	}
	for _, name := range p.done {
		if changes[name] {
			p.outcome.Carried++
		}
	}
	if err := p.writeDeferred(); err != nil {
		return err
	}
	return p.syncDirectories(ctx, removed)
}
