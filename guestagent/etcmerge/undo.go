package etcmerge

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/fileio"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

const (
	// startedName is the list of steps of a carry that may have been interrupted, carriedName the same file once the
	// carry was completed.
	startedName = "steps.json"
	carriedName = "carried.json"
	// endsName is the file with Carrier.From and Carrier.To.
	endsName = "ends.json"
	// settledSuffix is appended to Carrier.Record for the record of the carry that was settled last.
	settledSuffix = "-settled"
	// maxRecord bounds the list of steps, in bytes. One step takes about 600.
	maxRecord = 64 << 20
	// lockLimit is how long lckpwdf(3) waits.
	lockLimit = 15 * time.Second
	lockPause = 50 * time.Millisecond
	lockPath  = "etc/.pwd.lock"
)

// record saves what undoes the steps. When it returns nil, all of it is on the disk except the last rename. That
// reaches the disk before anything that the steps change, since ext4 commits changes of directories in their order.
func (c Carrier) record(ctx context.Context, live *os.Root, steps []step, next *Baseline) error {
	if err := os.RemoveAll(c.Record); err != nil {
		return err
	}
	if err := os.MkdirAll(c.Record, 0o700); err != nil {
		return err
	}
	for i := range steps {
		steps[i].Before, steps[i].After = recorded(steps[i].before), recorded(steps[i].after)
		if err := errors.Join(c.save(live, &steps[i], strconv.Itoa(i)),
			c.saveResult(&steps[i], strconv.Itoa(i))); err != nil {
			return err
		}
	}
	deferred, err := c.saveDeferred()
	if err != nil {
		return err
	}
	baseline, err := next.encode()
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(c.Record, baselineName), baseline, 0o600); err != nil {
		return err
	}
	named, err := json.Marshal(Ends{From: c.From, To: c.To})
	if err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(c.Record, endsName), named, 0o600); err != nil {
		return err
	}
	data, err := json.Marshal(steps)
	if err != nil {
		return err
	}
	// The list is renamed to its name once all files that it refers to are on the disk: without it there is no record.
	temporary := filepath.Join(c.Record, startedName+temporarySuffix)
	if err := os.WriteFile(temporary, data, 0o600); err != nil {
		return err
	}
	more := []string{endsName, baselineName}
	if deferred {
		more = append(more, beforeName)
	}
	if err := c.syncRecord(ctx, steps, more); err != nil {
		return err
	}
	return os.Rename(temporary, filepath.Join(c.Record, startedName))
}

// save saves what a step replaces or removes under a name in the record. A file of CarriedByOS, which
// may be large, gets a second name, unless something is mounted there, and other files are copied.
func (c Carrier) save(live *os.Root, s *step, name string) error {
	if s.before == nil || s.before.Type == tree.Directory {
		return nil
	}
	if tree.OwnerOf(s.Path) == tree.CarriedByOS {
		s.Saved, s.Linked = name, true
		err := c.saveLink(*s)
		if !errors.Is(err, fs.ErrNotExist) && !errors.Is(err, unix.EXDEV) && !errors.Is(err, unix.EMLINK) {
			return err
		}
		s.Saved, s.Linked = "", false
	}
	if s.before.Type != tree.Regular {
		return nil
	}
	s.Saved = name
	previous := s.previous
	if previous == nil {
		previous = present(live, s.Path)
	}
	return c.saveCopy(s.Saved, previous)
}

func (c Carrier) saveCopy(name string, previous content) (err error) {
	to, err := os.OpenFile(filepath.Join(c.Record, name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	return previous(to)
}

// saved writes the saved content of a step.
func (c Carrier) saved(s step) content {
	return func(to io.Writer) (err error) {
		file, err := os.Open(filepath.Join(c.Record, s.Saved))
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, file.Close()) }()
		_, err = io.Copy(to, file)
		return err
	}
}

// syncRecord syncs the files of the record, those of the steps and more, and their directories.
func (c Carrier) syncRecord(ctx context.Context, steps []step, more []string) (err error) {
	parent, err := os.OpenRoot(filepath.Dir(c.Record))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, parent.Close()) }()
	var names []string
	for _, s := range steps {
		if s.Saved != "" && !s.Linked {
			names = append(names, s.Saved)
		}
		if s.Result != "" {
			names = append(names, s.Result)
		}
	}
	names = append(append(names, more...), startedName+temporarySuffix)
	for i := range names {
		names[i] = filepath.Join(filepath.Base(c.Record), names[i])
	}
	if err := c.sync.files(ctx, parent, names); err != nil {
		return err
	}
	return c.sync.directories(ctx, parent, []string{filepath.Base(c.Record)})
}

// complete records that all steps were carried out.
func (c Carrier) complete() error {
	if err := os.Rename(filepath.Join(c.Record, startedName), filepath.Join(c.Record, carriedName)); err != nil {
		return err
	}
	return fileio.SyncDirectory(c.Record)
}

// Ends identify the stacks of a carry.
type Ends struct {
	From string `json:"from"`
	To   string `json:"to"`
}

// Settle makes the last carry final: Undo cannot undo it any more, and TakeBack can until a later carry is settled. to
// identifies the stack that /etc belongs to now. Without a carry, a settled carry to another stack is dropped. Settle
// can be repeated.
func (c Carrier) Settle(to string) error {
	settled := c.settled()
	_, state, err := c.recorded()
	if err != nil {
		return fmt.Errorf("settle /etc: %w", err)
	}
	ends, _, err := settled.recorded()
	if err != nil {
		return fmt.Errorf("settle /etc: %w", err)
	}
	if state == none {
		if err := errors.Join(c.drop(), c.placeBaseline()); err != nil || ends.To == to {
			return err
		}
		return settled.drop()
	}
	if err := errors.Join(c.placeBaseline(), settled.drop(), c.pruneReplaced()); err != nil {
		return fmt.Errorf("settle /etc: %w", err)
	}
	if err := os.Rename(c.Record, settled.Record); err != nil {
		return fmt.Errorf("settle /etc: %w", err)
	}
	if err := fileio.SyncDirectory(filepath.Dir(c.Record)); err != nil {
		return fmt.Errorf("settle /etc: %w", err)
	}
	// Until it is in its place, the baseline is read from the record.
	if err := c.placeBaseline(); err != nil {
		return fmt.Errorf("settle /etc: %w", err)
	}
	return nil
}

// settled returns a carrier for the record of the carry that was settled last.
func (c Carrier) settled() Carrier {
	c.Record += settledSuffix
	return c
}

// Settled returns the stacks of the carry that TakeBack would undo; false if there is none.
func (c Carrier) Settled() (Ends, bool, error) {
	ends, state, err := c.settled().recorded()
	if err != nil {
		return Ends{}, false, fmt.Errorf("look for a settled carry of /etc: %w", err)
	}
	return ends, state != none, nil
}

// TakeBack undoes the carry that was settled last.
func (c Carrier) TakeBack(ctx context.Context) error { return c.settled().Undo(ctx) }

// drop removes the record, its list first.
func (c Carrier) drop() error {
	for _, name := range []string{startedName, carriedName} {
		if err := os.Remove(filepath.Join(c.Record, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("drop the record of /etc: %w", err)
		}
	}
	if err := os.RemoveAll(c.Record); err != nil {
		return fmt.Errorf("drop the record of /etc: %w", err)
	}
	return nil
}

// state is the state of a record.
type state int

const (
	none state = iota
	// started means that the carry may have been interrupted.
	started
	// carried means that the carry was completed.
	carried
)

// recorded reads which carry is recorded.
func (c Carrier) recorded() (ends Ends, found state, err error) {
	for name, is := range map[string]state{startedName: started, carriedName: carried} {
		switch _, err := os.Stat(filepath.Join(c.Record, name)); {
		case err == nil:
			found = is
		case !errors.Is(err, fs.ErrNotExist):
			return Ends{}, none, err
		}
	}
	if found == none {
		return Ends{}, none, nil
	}
	data, err := readRecord(filepath.Join(c.Record, endsName))
	if err != nil {
		return Ends{}, none, err
	}
	if err := json.Unmarshal(data, &ends); err != nil {
		return Ends{}, none, fmt.Errorf("decode %s: %w", endsName, err)
	}
	return ends, found, nil
}

// Carried returns the stacks of the recorded carry, and whether it was completed; false if none is recorded.
func (c Carrier) Carried() (ends Ends, complete, found bool, err error) {
	ends, state, err := c.recorded()
	if err != nil {
		return Ends{}, false, false, fmt.Errorf("look for a carry of /etc: %w", err)
	}
	return ends, state == carried, state != none, nil
}

// Undo restores content, mode, owner and time of the paths that the recorded carry changed, whether it was completed
// or interrupted. A path that was changed again since stays as it is, and is reported if the carry was completed; of
// such an account file, what the carry brought is undone. Without a record Undo does nothing. It can be repeated.
func (c Carrier) Undo(ctx context.Context) (err error) {
	data, err := c.steps()
	if err != nil {
		return fmt.Errorf("undo /etc: %w", err)
	}
	if data == nil {
		return c.drop() // a power cut may have left a record without its list
	}
	var steps []step
	if err := json.Unmarshal(data, &steps); err != nil {
		return fmt.Errorf("undo /etc: decode the record: %w", err)
	}
	live, err := os.OpenRoot(c.Root)
	if err != nil {
		return fmt.Errorf("undo /etc: %w", err)
	}
	defer func() { err = errors.Join(err, live.Close()) }()
	for i := range steps {
		steps[i].before, steps[i].after = steps[i].Before.entry(), steps[i].After.entry()
	}
	if slices.ContainsFunc(steps, func(s step) bool { return accountFiles[s.Path] != nil }) {
		unlock, err := lockAccounts(ctx, live, c.lockLimit)
		switch {
		case err == nil:
			defer func() { err = errors.Join(err, unlock()) }()
		case asObstacle(err) != nil && ctx.Err() == nil:
			// Without the lock, the files are restored all the same: otherwise none would be.
			c.skipped(Conflict{Path: lockPath, Kind: AccountsLocked, Reason: err.Error()})
		default:
			return err
		}
	}
	if err := errors.Join(c.restore(ctx, live, steps), c.restoreDeferred()); err != nil {
		return fmt.Errorf("undo /etc: %w", err)
	}
	return c.drop()
}

// steps reads the list of steps; nil if none is recorded.
func (c Carrier) steps() ([]byte, error) {
	for _, name := range []string{startedName, carriedName} {
		data, err := readRecord(filepath.Join(c.Record, name))
		if !errors.Is(err, fs.ErrNotExist) {
			return data, err
		}
	}
	return nil, nil
}

func (c Carrier) skipped(conflict Conflict) {
	if c.Skipped != nil {
		c.Skipped(conflict)
	}
}

// isAt reports whether a path is as it was recorded. Attributes that the kernel sets do not count, nor do any if the
// version that recorded it did not know them.
func isAt(now, entry *tree.Entry) bool {
	if entry == nil || entry.Xattrs == nil {
		return same(now, entry)
	}
	return alike(withoutLabels(now, Difference{Old: entry}), entry)
}

// restore removes what the carry created, deepest first, and then restores what it replaced or removed, parents first.
// When it returns nil all of it is on the disk, except paths that cannot be written and were reported.
func (c Carrier) restore(ctx context.Context, live *os.Root, steps []step) error {
	skip := func(name string, o *obstacle) {
		conflict := obstacleConflict(name, o)
		c.skipped(Conflict{Path: name, Kind: LeftInPlace,
			Reason: "it stays as the refresh left it: " + conflict.Reason})
	}
	_, state, err := c.recorded()
	if err != nil {
		return err
	}
	var accounts map[string]accountBack
	if state == carried {
		if accounts, err = c.accountsBack(live, steps); err != nil {
			return err
		}
	}
	var back []step
	var removed []string
	for _, s := range slices.Backward(steps) {
		if _, changed := accounts[s.Path]; changed {
			continue // restoreAccounts
		}
		undone, err := c.takeAway(live, s)
		if o := asObstacle(err); o != nil {
			skip(s.Path, o)
			continue
		}
		if err != nil {
			return err
		}
		if undone.changed {
			back = append(back, s)
		}
		if undone.kept && state == carried {
			c.skipped(Conflict{Path: s.Path, Kind: LeftInPlace,
				Reason: "it stays as it is, since it was changed after the refresh"})
		}
		if undone.removed {
			removed = append(removed, s.Path)
		}
	}
	p := placing{root: live, sync: c.sync, skip: skip}
	for _, s := range slices.Backward(back) {
		if s.before == nil {
			continue
		}
		plain, err := plainParents(live, s.Path)
		if err != nil {
			return err
		}
		if !plain {
			continue // this VM has removed its directory, or replaced it by a link
		}
		if s.Aside != "" && s.before.Type == tree.Directory {
			if returned, err := c.returnAside(s); err != nil {
				return err
			} else if returned {
				p.done = append(p.done, s.Path)
				continue
			}
		}
		if s.Linked {
			err = c.restoreLink(s)
			p.ready = append(p.ready, s.before)
		} else {
			err = p.prepare(s.before, c.saved(s))
		}
		if err != nil {
			return err
		}
	}
	if err := p.restoreAccounts(live, accounts); err != nil {
		return err
	}
	if err := p.finish(ctx); err != nil {
		return err
	}
	for _, s := range back {
		if s.before == nil || s.before.Type != tree.Regular && s.before.Type != tree.Directory ||
			!slices.Contains(p.done, s.Path) {
			continue
		}
		if err := live.Chtimes(s.Path, s.before.ModTime, s.before.ModTime); err != nil {
			return err
		}
	}
	return p.syncDirectories(ctx, removed)
}

// takenAway is the result of takeAway.
type takenAway struct {
	// changed is true if the path is as the carry left it, and has to be restored.
	changed bool
	// removed is true if the path does not exist any more.
	removed bool
	// kept is true if the path was changed since.
	kept bool
}

// takeAway removes what the carry created, and what a file or a directory cannot replace.
func (c Carrier) takeAway(live *os.Root, s step) (takenAway, error) {
	plain, err := plainParents(live, s.Path)
	if err != nil {
		return takenAway{}, err
	}
	if plain {
		if err := live.Remove(temporaryName(s.Path)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return takenAway{}, err
		}
	}
	if s.Aside != "" {
		if err := c.dropAside(s); err != nil {
			return takenAway{}, err
		}
	}
	now, err := entryAt(live, s.Path)
	if err != nil {
		return takenAway{}, err
	}
	ours := now != nil && !isAt(now, s.after) && !s.Always
	if isAt(now, s.before) || ours {
		return takenAway{kept: !isAt(now, s.before)}, nil // as it was, or changed by this VM since
	}
	if now == nil || s.before != nil && (s.before.Type == tree.Directory) == (now.Type == tree.Directory) {
		return takenAway{changed: true}, nil
	}
	err = live.Remove(s.Path)
	if errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EEXIST) {
		return takenAway{changed: true}, nil // the directory contains files of this VM
	}
	return takenAway{changed: err == nil, removed: err == nil}, err
}

func readRecord(name string) (data []byte, err error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	data, err = io.ReadAll(io.LimitReader(file, maxRecord+1))
	if err == nil && len(data) > maxRecord {
		err = fmt.Errorf("read %s: more than %d bytes", name, maxRecord)
	}
	return bytes.Clone(data), err
}

// lockAccounts takes the lock that useradd(8) and similar tools take (lckpwdf(3)).
// If another program holds it for longer than the limit, or it cannot be taken at all, the error is an obstacle. limit
// is lockLimit if it is 0.
func lockAccounts(ctx context.Context, live *os.Root, limit time.Duration) (unlock func() error, err error) {
	file, err := live.OpenFile(lockPath, os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the account files: %w", err)
	}
	if limit == 0 {
		limit = lockLimit
	}
	over := time.After(limit)
	for {
		lock := unix.Flock_t{Type: unix.F_WRLCK}
		err := unix.FcntlFlock(file.Fd(), unix.F_SETLK, &lock)
		if err == nil {
			return file.Close, nil // closing the file releases the lock
		}
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EACCES) {
			return nil, errors.Join(fmt.Errorf("lock the account files: %w", err), file.Close())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("lock the account files: another program holds /etc/.pwd.lock: %w",
				ctx.Err()), file.Close())
		case <-over:
			err := fmt.Errorf("lock the account files: another program has held /etc/.pwd.lock for %s", limit)
			return nil, errors.Join(&obstacle{AccountsLocked, err}, file.Close())
		case <-time.After(lockPause):
		}
	}
}
