package etcmerge

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

const (
	// replacedName is the directory, next to the record, for files of this VM that a release has replaced. It has a set
	// for each carry that replaced any, and the newest maxReplaced sets are kept.
	replacedName = "replaced"
	maxReplaced  = 3
)

// ErrRoom means that the private disk has no room for what a carry brings.
var ErrRoom = errors.New("the private disk is too full")

// decideCarried decides about a path of CarriedByOS: where the release changed it, the release
// wins. Kind and Reason are set where that goes over a change of this VM.
func decideCarried(d Difference, ours *tree.Entry) Decision {
	replace := func(reason string) Decision { return Decision{Replace, Replaced, reason} }
	unchanged := same(ours, d.Old) && (ours == nil || alike(withoutLabels(ours, d), d.Old))
	switch {
	case alike(withoutLabels(ours, d), d.New):
		return Decision{Action: Keep}
	case d.New == nil && unchanged:
		return Decision{Action: Remove}
	case unchanged, ours == nil && (d.Old == nil || alike(d.Old, d.New)):
		return Decision{Action: Write}
	case ours == nil:
		return replace("removed here, changed by the release; the release's version is there again")
	case ours.Type == tree.Directory && d.New == nil:
		return Decision{Action: Remove} // it goes unless this VM has files in it
	case ours.Type == tree.Directory && d.New.Type == tree.Directory:
		return Decision{Action: Write} // nothing but mode, owner and attributes
	case d.New == nil:
		return replace("changed here, removed by the release")
	case d.Old != nil && alike(d.Old, d.New): // the baseline is partial
		return replace("changed here, or of an earlier release; the release's version is in place")
	case d.Old == nil:
		return replace("created here, added by the release; the release's version is in place")
	default:
		return replace("changed here and by the release; the release's version is in place")
	}
}

// CarryFrom is Carry for a refresh. differences are those between the stacks that run before and
// after it. They are what has to be carried only if /etc belongs to the first of them: otherwise
// that is found by comparing the baseline with the new stack.
func (c Carrier) CarryFrom(ctx context.Context, old *Baseline, differences []Difference, new string) (Outcome, error) {
	if old.Stack == c.From && !old.Partial && !old.Unlisted {
		return c.Carry(ctx, old, differences, new)
	}
	next, err := ListTree(new, c.To)
	if err != nil {
		return Outcome{}, err
	}
	all := []Difference{}
	switch {
	case old.Unlisted && old.Stack == c.To:
		old = &Baseline{Stack: c.To, Partial: true, entries: next.entries,
			contents: next.contents} // back where /etc stands
	case old.Unlisted:
		// What this VM's files below /etc were before is not known. Those that it has from the
		// release that runs follow.
		all = slices.DeleteFunc(slices.Clone(differences),
			func(d Difference) bool { return tree.OwnerOf(d.Path) == tree.CarriedByOS })
		known := &Baseline{Partial: true}
		for _, d := range known.Differences(next) {
			if tree.OwnerOf(d.Path) == tree.CarriedByOS {
				all = append(all, d)
			}
		}
	}
	if !old.Unlisted {
		all = append(all, old.Differences(next)...)
	}
	slices.SortFunc(all, func(a, b Difference) int { return tree.Compare(a.Path, b.Path) })
	return c.Carry(ctx, old, all, new)
}

// Stale returns the files of CarriedByOS that this VM does not have as the stack of the baseline
// has them, by the paths that administrators know.
func (c Carrier) Stale(baseline *Baseline) (files []string, err error) {
	live, err := os.OpenRoot(c.Root)
	if err != nil {
		return nil, fmt.Errorf("look for outdated files: %w", err)
	}
	defer func() { err = errors.Join(err, live.Close()) }()
	for i := range baseline.entries {
		entry := &baseline.entries[i]
		if tree.OwnerOf(entry.Path) != tree.CarriedByOS || entry.Type == tree.Directory {
			continue
		}
		here, err := entryAt(live, entry.Path)
		if err != nil {
			return nil, fmt.Errorf("look for outdated files: %w", err)
		}
		if here == nil || here.Digest != entry.Digest || here.Link != entry.Link {
			files = append(files, shown(entry.Path))
		}
	}
	return files, nil
}

// maxReread bounds how much is read of files that nobody has touched since the last carry, in bytes: an emulated
// processor takes a second for it.
const maxReread = 8 << 20

// changedHere notes the files of CarriedByOS that the release has not changed and that are not as it has them: what was
// changed here stays, and the package database says otherwise.
func (p *planner) changedHere(ctx context.Context) error {
	if p.old.Partial || p.old.Unlisted {
		return nil // all of them are among the differences
	}
	differs := make(map[string]bool, len(p.differences))
	for _, d := range p.differences {
		differs[d.Path] = true
	}
	var since int64
	if info, err := os.Stat(p.carrier.baselinePath()); err == nil {
		since = changeTime(info)
	}
	left := int64(maxReread)
	for i := range p.old.entries {
		entry := &p.old.entries[i]
		if tree.OwnerOf(entry.Path) != tree.CarriedByOS || entry.Type == tree.Directory ||
			differs[entry.Path] || p.kept(entry.Path) {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		same, err := p.asReleased(entry, since, &left)
		if o := asObstacle(err); o != nil {
			same, err = false, nil
		}
		if err != nil {
			return err
		}
		if !same {
			p.seeds.kept = append(p.seeds.kept, entry.Path)
		}
	}
	return nil
}

// asReleased reports whether this VM has a path as the release has it. A file of the same size that was not touched
// since a moment is read only as long as there is something left to be read.
func (p *planner) asReleased(entry *tree.Entry, since int64, left *int64) (bool, error) {
	info, err := lstatBelow(p.live, entry.Path)
	if err != nil || info == nil {
		return false, err
	}
	if entry.Type == tree.Regular {
		if !info.Mode().IsRegular() || info.Size() != entry.Size {
			return false, nil
		}
		if changeTime(info) < since {
			if *left < entry.Size {
				return true, nil
			}
			*left -= entry.Size
		}
	}
	here, err := entryAt(p.live, entry.Path)
	if err != nil || here == nil {
		return false, err
	}
	d := Difference{Path: entry.Path, Old: p.before.asHere(entry, here), New: entry}
	return same(here, d.Old) && alike(withoutLabels(here, d), d.Old), nil
}

// changeTime is the ctime of a file in nanoseconds; 0 if unknown.
func changeTime(info fs.FileInfo) int64 {
	if stat, ok := info.Sys().(*syscall.Stat_t); ok {
		return stat.Ctim.Nano()
	}
	return 0
}

// planCarried plans what becomes of a path of CarriedByOS.
func (p *planner) planCarried(d Difference, ours *tree.Entry) error {
	decision := Decide(d, ours)
	if decision.Action == Keep {
		return nil
	}
	if err := p.carrier.checkMounts(p.live, d.Path); err != nil {
		return err
	}
	if plain, err := p.parents(d); err != nil || !plain {
		return err
	}
	planned := len(p.steps)
	if d.New == nil {
		p.steps = append(p.steps, step{Path: d.Path, before: ours})
	} else {
		p.write(d, ours)
	}
	if len(p.steps) == planned {
		return nil // the release has something there that is not carried
	}
	s := &p.steps[planned]
	replacesDirectory := ours != nil && ours.Type == tree.Directory && d.New != nil && d.New.Type != tree.Directory
	if replacesDirectory || decision.Action == Replace && ours != nil {
		s.Aside = path.Join(p.aside, strings.TrimPrefix(shown(d.Path), "/"))
		decision.Reason += "; this VM's is kept as " + p.carrier.asidePath(s.Aside)
	}
	if decision.Action == Replace {
		p.conflict(d.Path, decision.Kind, decision.Reason)
	}
	return nil
}

// parents plans the directories of the release above a path that this VM has removed. It returns false, and reports it,
// if the path cannot be reached because a parent is no directory here.
func (p *planner) parents(d Difference) (plain bool, err error) {
	var missing []string
	for parent := path.Dir(d.Path); parent != "var" && parent != "."; parent = path.Dir(parent) {
		if p.planned(parent) {
			break
		}
		info, err := p.live.Lstat(parent)
		switch {
		case err == nil && info.IsDir():
			continue
		case err == nil:
			if d.New != nil {
				p.conflict(d.Path, OtherType, "it is not brought, because "+shown(parent)+" is no directory here")
			}
			return false, nil
		case errors.Is(err, unix.ENOTDIR):
			continue // a parent further up is no directory
		case !errors.Is(err, fs.ErrNotExist):
			return false, err
		}
		missing = append(missing, parent)
	}
	if d.New == nil {
		return len(missing) == 0, nil
	}
	for _, parent := range slices.Backward(missing) {
		entry, err := entryAt(p.new, parent)
		if err != nil {
			return false, err
		}
		if entry == nil || entry.Type != tree.Directory {
			return false, fmt.Errorf("the layers have no directory %s", parent)
		}
		p.steps = append(p.steps, step{Path: parent, after: p.after.apply(entry)})
	}
	return true, nil
}

// planned reports whether a path is going to be there.
func (p *planner) planned(name string) bool {
	return slices.ContainsFunc(p.steps, func(s step) bool { return s.Path == name && s.after != nil })
}

// shown is the path by which an admin knows a file: /opt and /usr/local are links to below /var.
func shown(name string) string {
	for at, to := range map[string]string{"var/opt/": "/opt/", "var/usrlocal/": "/usr/local/"} {
		if rest, below := strings.CutPrefix(name, at); below {
			return to + rest
		}
	}
	return "/" + name
}

// room checks that the private disk has room for what the steps write.
func (c Carrier) room(steps []step) error {
	var need int64
	for _, s := range steps {
		if isRegular(s.after) {
			need += s.after.Size
		}
		if isRegular(s.before) && tree.OwnerOf(s.Path) != tree.CarriedByOS {
			need += s.before.Size // the record has a copy
		}
	}
	return c.hasRoom(need)
}

// Room checks that the private disk has room for what the releases changed, before anything is changed.
func (c Carrier) Room(differences []Difference) error {
	var need int64
	for _, d := range differences {
		if isRegular(d.New) && (tree.OwnerOf(d.Path) != tree.OwnedByVM || d.Old == nil) {
			need += d.New.Size
		}
	}
	return c.hasRoom(need)
}

func (c Carrier) hasRoom(need int64) error {
	var stat unix.Statfs_t
	if err := unix.Statfs(filepath.Dir(c.Record), &stat); err != nil {
		return fmt.Errorf("look for room on the private disk: %w", err)
	}
	if free := int64(stat.Bavail) * stat.Bsize; need > free {
		return fmt.Errorf(
			"%w: the new files below /etc, /opt and /usr/local take %d bytes and %d are free: make room, or "+
				"enlarge the disk", ErrRoom, need, free)
	}
	return nil
}

// asideName is the name of the set of replaced files of a carry that starts now. Names sort by time.
func asideName(to string) string {
	return time.Now().UTC().Format("20060102T150405.000Z") + "-" + to[:min(12, len(to))]
}

func (c Carrier) replaced() string { return filepath.Join(filepath.Dir(c.Record), replacedName) }

// asidePath is where a replaced file is kept.
func (c Carrier) asidePath(name string) string { return filepath.Join(c.replaced(), name) }

// keepAside gives the saved version of a replaced file a second name among the replaced files.
func (c Carrier) keepAside(s step) error {
	if s.before.Type == tree.Directory {
		return nil // moveAside
	}
	target := c.asidePath(s.Aside)
	if err := os.MkdirAll(filepath.Dir(target), 0o700); err != nil {
		return err
	}
	if err := os.Link(filepath.Join(c.Record, s.Saved), target); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("keep %s: %w", shown(s.Path), err)
	}
	return nil
}

// moveAside moves a directory of this VM that has files of its own among the replaced files.
func (c Carrier) moveAside(s step) (err error) {
	target := c.asidePath(s.Aside)
	if err := os.MkdirAll(filepath.Dir(target), 0o700); err != nil {
		return err
	}
	directory, err := c.directoryOf(s.Path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unix.Close(directory)) }()
	if err := unix.Renameat2(directory, path.Base(s.Path), unix.AT_FDCWD, target, unix.RENAME_NOREPLACE); err != nil {
		return fmt.Errorf("keep %s: %w", shown(s.Path), err)
	}
	return nil
}

// returnAside moves a directory that moveAside moved back to its place. It returns false if there is none.
func (c Carrier) returnAside(s step) (returned bool, err error) {
	directory, err := c.directoryOf(s.Path)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	defer func() { err = errors.Join(err, unix.Close(directory)) }()
	err = unix.Renameat2(unix.AT_FDCWD, c.asidePath(s.Aside), directory, path.Base(s.Path), unix.RENAME_NOREPLACE)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// dropAside removes what a carry that is undone has kept of a path, and directories that are empty then.
func (c Carrier) dropAside(s step) error {
	name := s.Aside
	if err := os.Remove(c.asidePath(name)); err != nil && !errors.Is(err, fs.ErrNotExist) &&
		!errors.Is(err, unix.ENOTEMPTY) && !errors.Is(err, unix.ENOTDIR) {
		return err
	}
	for name = path.Dir(name); name != "."; name = path.Dir(name) {
		err := os.Remove(c.asidePath(name))
		if errors.Is(err, unix.ENOTEMPTY) {
			return nil
		}
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
	return nil
}

// pruneReplaced removes all but the newest sets of replaced files.
func (c Carrier) pruneReplaced() error {
	entries, err := os.ReadDir(c.replaced())
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	for len(entries) > maxReplaced { // sorted by name, so by time
		if err := os.RemoveAll(filepath.Join(c.replaced(), entries[0].Name())); err != nil {
			return err
		}
		entries = entries[1:]
	}
	return nil
}

// directoryOf opens the directory of a carried path where a link to the record reaches: on the
// private disk's own mount. It follows no symbolic link.
func (c Carrier) directoryOf(name string) (fd int, err error) {
	top := c.Private
	if top == "" {
		top = c.Root
	}
	root, err := unix.Open(top, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return -1, fmt.Errorf("open %s: %w", top, err)
	}
	defer func() { err = errors.Join(err, unix.Close(root)) }()
	fd, err = unix.Openat2(root, path.Dir(name), &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
	})
	if err != nil {
		return -1, fmt.Errorf("open %s: %w", shown(path.Dir(name)), err)
	}
	return fd, nil
}

// saveLink saves a file by another name for it in the record.
func (c Carrier) saveLink(s step) (err error) {
	directory, err := c.directoryOf(s.Path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unix.Close(directory)) }()
	if err := unix.Linkat(directory, path.Base(s.Path), unix.AT_FDCWD,
		filepath.Join(c.Record, s.Saved), 0); err != nil {
		return fmt.Errorf("save %s: %w", shown(s.Path), err)
	}
	return nil
}

// restoreLink gives a saved file its temporary name again.
func (c Carrier) restoreLink(s step) (err error) {
	directory, err := c.directoryOf(s.Path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unix.Close(directory)) }()
	if err := unix.Linkat(unix.AT_FDCWD, filepath.Join(c.Record, s.Saved), directory,
		path.Base(temporaryName(s.Path)), 0); err != nil {
		return fmt.Errorf("restore %s: %w", shown(s.Path), err)
	}
	return nil
}
