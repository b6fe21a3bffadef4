package etcmerge

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"slices"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/failpoint"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// Purged is what Purge did.
type Purged struct {
	// Removed counts the paths that were removed.
	Removed int
	// Kept are the paths that stay since they were changed here. A directory in the VM's own trees
	// stands for all of it.
	Kept []Conflict
}

// purgeable reports whether a path that the new stack does not have is to be removed once the carry
// is settled: what only a component had below /etc and in the VM's own trees.
func (p *planner) purgeable(d Difference) bool {
	owner := tree.OwnerOf(d.Path)
	return p.carrier.PurgeComponents && d.Old != nil && d.New == nil && p.old.ofComponents[d.Path] &&
		(owner == tree.Merged || owner == tree.OwnedByVM) &&
		!p.kept(d.Path)
}

// lstatOwner returns an entry with no more than the owner of a path; nil if there is none. It does not read the file.
func lstatOwner(root *os.Root, name string) (*tree.Entry, error) {
	info, err := lstatBelow(root, name)
	if err != nil || info == nil {
		return nil, err
	}
	entry := &tree.Entry{Path: name}
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		entry.UID, entry.GID = stat.Uid, stat.Gid
	}
	return entry, nil
}

// toPurge returns what is to be removed once a carry to next is settled: what waits for that since earlier,
// and what goes with this carry. What the new stack has stays, and so does data in a directory that a
// component still has: it may be data that the component uses, of which only another build had this file.
func (b *Baseline) toPurge(next *Baseline, differences []Difference, going []*tree.Entry) map[string]tree.Entry {
	purge := map[string]tree.Entry{}
	maps.Copy(purge, b.purge)
	for _, entry := range going {
		purge[entry.Path] = *entry
	}
	for _, d := range differences {
		if d.New != nil {
			delete(purge, d.Path)
		}
	}
	maps.DeleteFunc(purge, func(name string, _ tree.Entry) bool {
		if tree.OwnerOf(name) != tree.OwnedByVM {
			return false
		}
		for at := path.Dir(name); at != "."; at = path.Dir(at) {
			if next.ofComponents[at] {
				return true
			}
		}
		return false
	})
	return purge
}

// Purge removes what components that are gone have brought and nobody has changed, as the carry recorded it that was
// settled last. From then on that carry cannot be taken back: a boot onto the stack from before carries what that stack
// has. An interrupted Purge is completed by the next one. Without anything to remove it does nothing.
func (c Carrier) Purge(ctx context.Context) (done Purged, err error) {
	head, err := c.BaselineHead()
	if errors.Is(err, ErrBaseline) || err == nil && len(head.purge) == 0 {
		return Purged{}, nil
	}
	if err != nil {
		return Purged{}, fmt.Errorf("purge what components have left: %w", err)
	}
	baseline, err := c.Baseline()
	if err != nil {
		return Purged{}, fmt.Errorf("purge what components have left: %w", err)
	}
	if err := c.settled().drop(); err != nil {
		return Purged{}, fmt.Errorf("purge what components have left: %w", err)
	}
	live, err := os.OpenRoot(c.Root)
	if err != nil {
		return Purged{}, fmt.Errorf("purge what components have left: %w", err)
	}
	defer func() { err = errors.Join(err, live.Close()) }()
	p := &purger{carrier: c, live: live, purge: baseline.purge}
	if err := p.carryOut(ctx); err != nil {
		return p.done, fmt.Errorf("purge what components have left: %w", err)
	}
	if err := c.sync.directories(ctx, live, p.removed); err != nil {
		return p.done, fmt.Errorf("purge what components have left: %w", err)
	}
	for _, name := range p.removed {
		delete(baseline.left, name)
	}
	baseline.purge = nil
	sortConflicts(p.done.Kept)
	return p.done, c.WriteBaseline(baseline)
}

// purger removes what is listed and unchanged.
type purger struct {
	carrier Carrier
	live    *os.Root
	purge   map[string]tree.Entry
	removed []string
	done    Purged
}

func (p *purger) carryOut(ctx context.Context) error {
	names := slices.SortedFunc(maps.Keys(p.purge), tree.Compare)
	stays := map[string]bool{}
	for _, name := range names {
		directory := path.Dir(name)
		if _, below := p.purge[directory]; below && !shared(directory) || shared(name) ||
			tree.OwnerOf(name) != tree.OwnedByVM {
			continue
		}
		// Part of a program's data may depend on the rest: it goes whole, or not at all.
		why, err := p.changedBelow(name)
		if err != nil {
			return err
		}
		if why != "" {
			stays[name] = true
			p.keep(name, why)
		}
	}
	for _, name := range slices.Backward(names) { // what is in a directory before the directory
		if err := ctx.Err(); err != nil {
			return err
		}
		if p.among(name, stays) {
			continue
		}
		if err := p.remove(name); err != nil {
			return err
		}
	}
	return nil
}

// among reports whether a path is one of these, or below one.
func (p *purger) among(name string, tops map[string]bool) bool {
	for at := name; at != "."; at = path.Dir(at) {
		if tops[at] {
			return true
		}
	}
	return false
}

func (p *purger) keep(name, why string) {
	p.done.Kept = append(p.done.Kept,
		Conflict{Path: name, Kind: Unpurged, Reason: "it stays although the component that brought it is gone: " + why})
}

// changedBelow says why a path of the VM's own, with all that is below it, is not as a component
// brought it; "" if it is. Something may be missing: an earlier purge may have been interrupted.
func (p *purger) changedBelow(top string) (why string, err error) {
	if mounted, err := p.carrier.foreignMount(p.live, top); err != nil || mounted != "" {
		return "it is on a mount of its own", err
	}
	pending := []string{top}
	for len(pending) > 0 {
		name := pending[0]
		pending = pending[1:]
		was, brought := p.purge[name]
		if !brought {
			return fmt.Sprintf("/%s was made here", name), nil
		}
		same, err := p.unchanged(was)
		if o := asObstacle(err); o != nil {
			return fmt.Sprintf("/%s cannot be read: %v", name, o), nil
		}
		if err != nil {
			return "", err
		}
		if !same {
			return fmt.Sprintf("/%s was changed here", name), nil
		}
		if was.Type != tree.Directory {
			continue
		}
		inside, err := namesIn(p.live, name)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return "", err
		}
		for _, one := range inside {
			pending = append(pending, path.Join(name, one))
		}
	}
	return "", nil
}

// unchanged reports whether a path is as a component brought it, or is gone.
func (p *purger) unchanged(was tree.Entry) (bool, error) {
	info, err := lstatBelow(p.live, was.Path)
	if err != nil || info == nil {
		return err == nil, err
	}
	if info.Mode().IsRegular() && (was.Type != tree.Regular || info.Size() != was.Size || info.Size() > maxFile) {
		return false, nil
	}
	now, err := entryAt(p.live, was.Path)
	if err != nil || now == nil {
		return false, err
	}
	return alike(withoutLabels(now, Difference{Old: &was}), &was), nil
}

// remove removes a path if it is as the component brought it. A directory goes once it is empty.
func (p *purger) remove(name string) error {
	same, err := p.unchanged(p.purge[name])
	if err == nil && !same {
		if p.purge[name].Type != tree.Directory {
			p.keep(name, "it was changed here")
		}
		return nil
	}
	if err == nil {
		err = p.carrier.checkMounts(p.live, name)
	}
	if err == nil {
		if failpoint.Built {
			if err := failpoint.Hit("before a path is purged"); err != nil {
				return err
			}
		}
		err = p.live.Remove(name)
	}
	switch o := asObstacle(err); {
	case err == nil:
		p.done.Removed++
		p.removed = append(p.removed, name)
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTEMPTY), errors.Is(err, unix.EEXIST),
		errors.Is(err, unix.ENOTDIR):
	case o != nil:
		p.keep(name, strings.TrimSpace(obstacleConflict(name, o).Reason))
	default:
		return err
	}
	return nil
}
