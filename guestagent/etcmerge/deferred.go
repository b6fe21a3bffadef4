package etcmerge

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"unicode/utf8"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// deferredPath is the file that lists what could not be carried, in the VM's own /etc so that it is undone and kept
// with the rest. Without it, the next carry would compare this VM with a release that the path never had: the old
// file would count as the administrator's, and an account would be missing for good.
const deferredPath = "etc/.sharedos-deferred"

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

// errDeferred means that the list of deferred paths is damaged.
var errDeferred = errors.New("the list of paths that earlier refreshes could not bring is damaged")

// readDeferred reads the list; errDeferred if it is damaged. Without a list there are no deferred paths.
func readDeferred(live *os.Root) ([]deferredEntry, error) {
	entry, err := entryAt(live, deferredPath)
	switch {
	case err != nil || entry == nil:
		return nil, err
	case !isRegular(entry):
		return nil, fmt.Errorf("%w: it is a %s", errDeferred, entry.Type)
	}
	data, err := readAt(live, deferredPath)
	if err != nil {
		return nil, err
	}
	var list []deferredEntry
	if err := json.Unmarshal(data, &list); err != nil {
		return nil, fmt.Errorf("%w: %w", errDeferred, err)
	}
	return list, nil
}

// withDeferred adds the paths that earlier carries could not bring to the differences: their old version is the one
// that this VM has.
func (p *planner) withDeferred(differences []Difference) ([]Difference, error) {
	var err error
	p.deferred, err = readDeferred(p.live)
	switch {
	case errors.Is(err, errDeferred): // one file never blocks all, and what is forgotten is reported
		p.conflict(deferredPath, Unreadable, err.Error()+"; these paths stay as they are until the release changes them again")
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
		later := slices.ContainsFunc(p.outcome.Conflicts, func(c Conflict) bool { return c.Path == d.Path && slices.Contains(deferredLater, c.Kind) })
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
