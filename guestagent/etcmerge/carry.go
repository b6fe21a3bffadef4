package etcmerge

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/failpoint"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// loaderCache is generated from the libraries in the system.
const loaderCache = "etc/ld.so.cache"

// Outcome is the result of a carry.
type Outcome struct {
	// Carried counts the paths that were changed.
	Carried int
	// Conflicts are the paths that were left unchanged, each with the reason, sorted.
	Conflicts []string
	// LoaderCache is true when the cache of the dynamic loader was generated in this VM, so that it has to be generated
	// again.
	LoaderCache bool
}

// Carrier carries the configuration of one system.
type Carrier struct {
	// Root of the system: "/".
	Root string
	// Record is a directory on the private disk for what undoes the last carry. Once the carry is settled, the record
	// is moved to a second directory, for TakeBack.
	Record string
	// From and To identify the stacks of a carry. Carried and Settled return them.
	From, To string

	sync syncer
}

// step is one planned change.
type step struct {
	Path string `json:"path"`
	// Before and After are nil for a path that does not exist.
	Before *tree.Entry `json:"before,omitempty"`
	After  *tree.Entry `json:"after,omitempty"`
	// Saved is the file of the record with the content of Before.
	Saved string `json:"saved,omitempty"`

	// content returns the content of After, if it is a regular file.
	content func() ([]byte, error)
}

// Carry changes every differing path to the new release's version, unless this VM changed it. old and new are the roots
// of the two stacks' trees, read-only. It first undoes a carry that is already recorded, and records how to undo this
// one.
func (c Carrier) Carry(ctx context.Context, differences []Difference, old, new string) (outcome Outcome, err error) {
	if err := c.Undo(ctx); err != nil {
		return Outcome{}, err
	}
	roots := map[string]*os.Root{}
	for _, name := range []string{c.Root, old, new} {
		root, err := os.OpenRoot(name)
		if err != nil {
			return Outcome{}, fmt.Errorf("carry /etc: %w", err)
		}
		defer func() { err = errors.Join(err, root.Close()) }()
		roots[name] = root
	}
	p := planner{placing: placing{root: roots[c.Root], sync: c.sync}, live: roots[c.Root], old: roots[old], new: roots[new]}
	p.seeds.rule.Delivered = asIn(p.live, p.old)
	if slices.ContainsFunc(differences, func(d Difference) bool { return accountFiles[d.Path] != nil }) {
		unlock, err := lockAccounts(ctx, p.live)
		if err != nil {
			return Outcome{}, err
		}
		defer func() { err = errors.Join(err, unlock()) }()
	}
	if err := p.plan(ctx, differences); err != nil {
		return Outcome{}, fmt.Errorf("carry /etc: %w", err)
	}
	if err := c.record(ctx, p.live, p.steps); err != nil {
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
	slices.Sort(p.outcome.Conflicts)
	return p.outcome, nil
}

// planner decides about every path before anything is changed.
type planner struct {
	placing
	live, old, new *os.Root
	steps          []step
	outcome        Outcome
	accounts       Accounts
	seeds          seeds
}

func (p *planner) conflict(name, reason string) {
	p.outcome.Conflicts = append(p.outcome.Conflicts, "/"+name+": "+reason)
}

func (p *planner) plan(ctx context.Context, differences []Difference) error {
	rank := func(d Difference) int { return slices.Index(AccountOrder, d.Path) } // -1 for other files, which come first
	ordered := slices.Clone(differences)
	slices.SortStableFunc(ordered, func(a, b Difference) int { return cmp.Compare(rank(a), rank(b)) })
	for _, d := range ordered {
		if err := ctx.Err(); err != nil {
			return err
		}
		if !utf8.ValidString(d.Path) || d.New != nil && !utf8.ValidString(d.New.Link) {
			p.conflict(d.Path, "its name is not UTF-8, which the record for the rollback cannot represent")
			continue
		}
		if tree.OwnerOf(d.Path) == tree.OwnedByVM {
			if err := p.seed(d); err != nil {
				return err
			}
			continue
		}
		ours, err := entryAt(p.live, d.Path)
		if errors.Is(err, errTooLarge) {
			p.conflict(d.Path, err.Error())
			continue
		}
		if err != nil {
			return err
		}
		switch action, reason := Decide(d, ours); action {
		case Keep:
		case Conflict:
			if d.Path == loaderCache {
				p.outcome.LoaderCache = true
				continue
			}
			p.conflict(d.Path, reason)
		case Remove:
			p.steps = append(p.steps, step{Path: d.Path, Before: ours})
		case Write:
			if err := p.write(d, ours); err != nil {
				return err
			}
		case Merge:
			if err := p.merge(d, ours); err != nil {
				return err
			}
		}
	}
	p.outcome.Conflicts = append(p.outcome.Conflicts, p.seeds.conflicts()...)
	return nil
}

func (p *planner) write(d Difference, ours *tree.Entry) error {
	if d.New.Type != tree.Directory && d.New.Type != tree.Regular && d.New.Type != tree.Symlink {
		p.conflict(d.Path, "the release has a "+d.New.Type.String()+" there, which is not carried into a running system")
		return nil
	}
	after := clone(d.New)
	p.steps = append(p.steps, step{Path: d.Path, Before: ours, After: after, content: func() ([]byte, error) {
		data, err := readAt(p.new, d.Path)
		if err == nil && tree.Sum(data) != after.Digest {
			err = fmt.Errorf("the layers do not have at %s what the contents list says", d.Path)
		}
		return data, err
	}})
	return nil
}

func (p *planner) merge(d Difference, ours *tree.Entry) error {
	var texts [3]string
	for i, root := range []*os.Root{p.old, p.live, p.new} {
		data, err := readAt(root, d.Path)
		if err != nil {
			return err
		}
		texts[i] = string(data)
	}
	merged, conflicts := p.accounts.Merge(d.Path, texts[0], texts[1], texts[2])
	p.outcome.Conflicts = append(p.outcome.Conflicts, conflicts...)
	after := clone(ours)
	if ours.Mode == d.Old.Mode && ours.UID == d.Old.UID && ours.GID == d.Old.GID {
		after.Mode, after.UID, after.GID = d.New.Mode, d.New.UID, d.New.GID
	}
	after.Size, after.Digest = int64(len(merged)), tree.Sum([]byte(merged))
	// What is as it was, and not as in the new release, is written, too: a file that nobody here ever changed lies in
	// the release that runs, and the next boot would show the new one's.
	if !same(ours, after) || !same(after, d.New) {
		p.steps = append(p.steps, step{Path: d.Path, Before: ours, After: after, content: func() ([]byte, error) { return []byte(merged), nil }})
	}
	return nil
}

// act carries out the steps: first it removes paths, deepest first, then it creates paths, parents first. When it
// returns nil all of it is on the disk.
func (p *planner) act(ctx context.Context) error {
	blocked := map[string]bool{}
	var removed []string
	for _, s := range slices.Backward(p.steps) {
		removes := s.After == nil || s.Before != nil && (s.Before.Type == tree.Directory) != (s.After.Type == tree.Directory)
		if !removes {
			continue
		}
		err := p.live.Remove(s.Path)
		switch {
		case errors.Is(err, unix.ENOTEMPTY), errors.Is(err, unix.EEXIST):
			blocked[s.Path] = true
			if s.After != nil {
				p.conflict(s.Path, "a directory with files of this VM here, a "+s.After.Type.String()+" in the release")
			}
		case err != nil && !errors.Is(err, fs.ErrNotExist):
			return err
		default:
			removed = append(removed, s.Path)
			if s.After == nil {
				p.outcome.Carried++
			}
		}
	}
	for i := range p.steps {
		s := &p.steps[i]
		if s.After == nil || blocked[s.Path] {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		parent, err := entryAt(p.live, path.Dir(s.Path))
		if err != nil {
			return err
		}
		if parent == nil || parent.Type != tree.Directory {
			p.conflict(s.Path, "its parent is not a directory here")
			continue
		}
		if err := p.prepare(s.After, s.content); err != nil {
			return err
		}
		if !same(s.Before, s.After) {
			p.outcome.Carried++
		}
	}
	if err := p.finish(ctx); err != nil {
		return err
	}
	return p.syncDirectories(ctx, removed)
}
