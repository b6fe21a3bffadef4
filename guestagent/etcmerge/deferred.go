package etcmerge

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"unicode/utf8"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/fileio"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

const (
	// deferredName is the file next to the baseline that lists what could not be carried. Without
	// it, the next carry would compare this VM with a release that the path never had: the old file
	// would count as the administrator's, and an account would be missing for good.
	deferredName = "deferred"
	// beforeName is the file of a record with the list from before the carry, if there was one.
	beforeName = "deferred-before"
	// formerPath is where earlier versions had the list, in the VM's own /etc. A carry moves it from there.
	formerPath = "etc/.sharedos-deferred"
)

// deferredLater are the kinds of conflicts after which a path is tried again at each carry.
var deferredLater = []Kind{Mounted, Protected, Unreadable, OtherType, AccountsLocked}

// deferredEntry is a path that could not be carried.
type deferredEntry struct {
	Path string `json:"path"`
	// Old is what the VM had from a release; nil if the release added the path.
	Old *recordedEntry `json:"old,omitempty"`
	// Base is the content of Old, of an account file.
	Base string `json:"base,omitempty"`
}

// shownDeferred is how a conflict names the list.
const shownDeferred = "run/sharedos/private/sharedos/" + deferredName

// errDeferred means that the list of deferred paths is damaged.
var errDeferred = errors.New("the list of paths that earlier refreshes could not bring is damaged")

// deferredPath is the file of the list.
func (c Carrier) deferredPath() string { return filepath.Join(filepath.Dir(c.Record), deferredName) }

// readDeferred reads the list; errDeferred if it is damaged. Without a list there are no deferred paths.
func (c Carrier) readDeferred(live *os.Root) ([]deferredEntry, error) {
	data, err := fileio.Read(c.deferredPath(), maxRecord)
	if errors.Is(err, fs.ErrNotExist) {
		var former *tree.Entry
		if former, err = entryAt(live, formerPath); err != nil || former == nil || !isRegular(former) {
			return nil, err
		}
		data, err = readAt(live, formerPath)
	}
	if err != nil {
		return nil, err
	}
	var list []deferredEntry
	if err := json.Unmarshal(data, &list); err != nil {
		return nil, fmt.Errorf("%w: %w", errDeferred, err)
	}
	return list, nil
}

// saveDeferred copies the list to the record, from which an undo restores it. saved is false if there is none.
func (c Carrier) saveDeferred() (saved bool, err error) {
	data, err := fileio.Read(c.deferredPath(), maxRecord)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, os.WriteFile(filepath.Join(c.Record, beforeName), data, 0o600)
}

// restoreDeferred undoes writeDeferred.
func (c Carrier) restoreDeferred() error {
	data, err := fileio.Read(filepath.Join(c.Record, beforeName), maxRecord)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return c.placeDeferred(data)
}

// placeDeferred replaces the list; without data there is none afterwards.
func (c Carrier) placeDeferred(data []byte) error {
	if len(data) > 0 {
		return fileio.Replace(c.deferredPath(), data, 0o600)
	}
	if err := os.Remove(c.deferredPath()); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return err
	}
	return fileio.SyncDirectory(filepath.Dir(c.Record))
}

// withDeferred adds the paths that earlier carries could not bring to the differences: their old version is the one
// that this VM has.
func (p *planner) withDeferred(differences []Difference) ([]Difference, error) {
	var err error
	p.deferred, err = p.carrier.readDeferred(p.live)
	switch {
	case errors.Is(err, errDeferred): // one file never blocks all, and what is forgotten is reported
		p.conflict(shownDeferred, Unreadable,
			err.Error()+"; these paths stay as they are until the release changes them again")
	case err != nil:
		return nil, fmt.Errorf("read what earlier carries left: %w", err)
	}
	all := slices.Clone(differences)
	for _, entry := range p.deferred {
		old := entry.Old.entry()
		at := slices.IndexFunc(all, func(d Difference) bool { return d.Path == entry.Path })
		if at >= 0 {
			all[at].Old = old
			continue
		}
		next, err := entryAt(p.new, entry.Path)
		if err != nil {
			return nil, err
		}
		all = append(all, Difference{Path: entry.Path, Old: old, New: next})
	}
	slices.SortStableFunc(all, func(a, b Difference) int { return tree.Compare(a.Path, b.Path) })
	return all, nil
}

// toDefer returns the paths that the next carry has to try again.
func (p *planner) toDefer() []deferredEntry {
	var list []deferredEntry
	for _, d := range p.differences {
		later := slices.ContainsFunc(p.outcome.Conflicts, func(c Conflict) bool {
			return c.Path == d.Path && slices.Contains(deferredLater, c.Kind)
		})
		if base, left := p.leftBases[d.Path]; left && !later && d.New != nil {
			// All else of the file is the release's by now.
			list = append(list, deferredEntry{Path: d.Path, Old: recorded(d.New), Base: base})
			continue
		}
		if !later || !utf8.ValidString(d.Path) { // a JSON text cannot represent another name
			continue
		}
		entry := deferredEntry{Path: d.Path, Old: recorded(d.Old), Base: p.bases[d.Path]}
		if accountFiles[d.Path] == nil && p.ofOtherType[d.Path] {
			entry.Old = nil // once the VM's version is gone, the release's comes like a new path
		}
		list = append(list, entry)
	}
	return list
}

// recordedEntry is a tree.Entry as JSON: extended attributes are bytes, which a JSON text cannot represent.
type recordedEntry struct {
	tree.Entry

	Attributes map[string][]byte `json:"attributes"`
}

func recorded(e *tree.Entry) *recordedEntry {
	if e == nil {
		return nil
	}
	r := &recordedEntry{Entry: *e, Attributes: map[string][]byte{}}
	for name, value := range e.Xattrs {
		r.Attributes[name] = []byte(value)
	}
	r.Xattrs = nil
	return r
}

// entry returns the entry. Its attributes are nil if a version recorded it that did not know them.
func (r *recordedEntry) entry() *tree.Entry {
	if r == nil {
		return nil
	}
	e := r.Entry
	if r.Attributes != nil {
		e.Xattrs = map[string]string{}
	}
	for name, value := range r.Attributes {
		e.Xattrs[name] = string(value)
	}
	return &e
}
