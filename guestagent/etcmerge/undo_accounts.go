package etcmerge

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// resultSuffix is appended to the name of a saved account file for the content that the carry gave it.
const resultSuffix = "-result"

// saveResult saves the content that a step gives an account file: others, systemd-sysusers among
// them, add accounts to it before the carry is undone.
func (c Carrier) saveResult(s *step, name string) error {
	if accountFiles[s.Path] == nil || !isRegular(s.after) || s.content == nil {
		return nil
	}
	s.Result = name + resultSuffix
	return c.saveCopy(s.Result, s.content)
}

// accountBack is an account file without what a carry brought.
type accountBack struct {
	entry *tree.Entry
	text  string
}

// accountsBack returns, by path, what the account files become that a carry has changed, if one of
// them was changed since: then they are undone by entry, and otherwise each as a whole.
func (c Carrier) accountsBack(live *os.Root, steps []step) (map[string]accountBack, error) {
	before, after, now := AccountTexts{}, AccountTexts{}, AccountTexts{}
	changed, all := false, map[string]accountBack{}
	for _, s := range steps {
		if s.Result == "" {
			continue
		}
		entry, err := entryAt(live, s.Path)
		if asObstacle(err) != nil || err == nil && !isRegular(entry) {
			continue // takeAway says what is wrong
		}
		if err != nil {
			return nil, err
		}
		data, err := readAt(live, s.Path)
		if err != nil {
			return nil, err
		}
		now[s.Path] = string(data)
		if after[s.Path], err = c.savedText(s.Result); err != nil {
			return nil, err
		}
		if s.Saved != "" {
			if before[s.Path], err = c.savedText(s.Saved); err != nil {
				return nil, err
			}
		}
		all[s.Path] = accountBack{entry: attributesBack(s.before, s.after, entry)}
		changed = changed || !isAt(entry, s.after) && !isAt(entry, s.before)
	}
	if _, users := now[passwdPath]; len(all) > 0 && !users {
		// A user that was made since may have a group that goes.
		data, err := readAt(live, passwdPath)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, err
		}
		text := string(data)
		before[passwdPath], after[passwdPath], now[passwdPath], changed = text, text, text, true
	}
	if !changed {
		return map[string]accountBack{}, nil
	}
	texts, conflicts := undoAccounts(before, after, now)
	for _, conflict := range conflicts {
		c.skipped(conflict)
	}
	for path, back := range all {
		back.text = texts[path]
		back.entry.Size, back.entry.Digest = int64(len(back.text)), tree.Sum([]byte(back.text))
		all[path] = back
	}
	return all, nil
}

func (c Carrier) savedText(name string) (text string, err error) {
	data, err := readRecord(filepath.Join(c.Record, name))
	return string(data), err
}

// attributesBack returns an entry with the attributes from before, as far as they are as the carry left them.
func attributesBack(before, after, now *tree.Entry) *tree.Entry {
	back := clone(now)
	if before == nil || after == nil {
		return back
	}
	if now.Mode == after.Mode {
		back.Mode = before.Mode
	}
	if now.UID == after.UID {
		back.UID = before.UID
	}
	if now.GID == after.GID {
		back.GID = before.GID
	}
	if maps.Equal(carriedOnly(now.Xattrs), carriedOnly(after.Xattrs)) {
		back.Xattrs = maps.Clone(before.Xattrs)
	}
	return back
}

// undoAccounts returns the account files of now without what led from before to after. An account
// that was added goes with all that belongs to it, unless it was changed since: then it stays
// without the memberships that were added, and is reported. What was added or changed since stays.
func undoAccounts(before, after, now AccountTexts) (AccountTexts, []Conflict) {
	u := accountUndo{
		before: before, after: after, gone: map[string]map[string]bool{}, stays: map[string]map[string]bool{},
		primary: map[uint64]bool{}, texts: AccountTexts{},
	}
	// A group stays if a user has it that stays.
	for _, path := range []string{passwdPath, groupPath, shadowPath, gshadowPath, subuidPath, subgidPath} {
		if text, exists := now[path]; exists {
			u.file(path, text)
		}
	}
	return u.texts, u.conflicts
}

// accountUndo undoes a merge of all account files.
type accountUndo struct {
	before, after AccountTexts
	// gone and stays are the accounts of passwd and group that the merge had added, and that are removed now or stay.
	gone, stays map[string]map[string]bool
	// primary are the primary groups of users.
	primary   map[uint64]bool
	texts     AccountTexts
	conflicts []Conflict
}

func (u *accountUndo) file(path, now string) {
	kind := accountFiles[path]
	before, after := byName(kind.parse(u.before[path])), byName(kind.parse(u.after[path]))
	u.gone[path], u.stays[path] = map[string]bool{}, map[string]bool{}
	var lines []accountLine
	for _, line := range kind.parse(now) {
		was, had := before[line.name]
		brought, added := after[line.name]
		switch {
		case !line.entry || !added || had && was.text == brought.text:
		case had:
			line = u.changed(path, was, brought, line)
		default:
			var goes bool
			if line, goes = u.added(path, brought, line); goes {
				u.gone[path][line.name] = true
				continue
			}
			u.stays[path][line.name] = true
		}
		lines = append(lines, line)
		if group, err := strconv.ParseUint(line.field(primaryIndex), 10, 32); path == passwdPath && err == nil {
			u.primary[group] = true
		}
	}
	u.texts[path] = textOf(lines)
}

// primaryIndex is the field of passwd with the number of the primary group.
const primaryIndex = 3

// added undoes an entry that the merge has added. It reports whether the entry goes.
func (u *accountUndo) added(path string, brought, now accountLine) (accountLine, bool) {
	kind := accountFiles[path]
	if u.gone[kind.of][now.account()] {
		return now, true
	}
	blank := brought
	blank.fields = slices.Clone(brought.fields)
	rest := now
	rest.fields = slices.Clone(now.fields)
	for i := range rest.fields {
		if kind.fields[i] == setField {
			rest.fields[i] = setBack("", brought.field(i), now.field(i))
			if i < len(blank.fields) {
				blank.fields[i] = ""
			}
		}
	}
	number, _ := now.number()
	switch same := slices.Equal(rest.fields, blank.fields); {
	case u.stays[kind.of][now.account()]: // it belongs to that account
	case path == groupPath && same && u.primary[number]:
		u.left(path, now.name, "it is the primary group of a user")
	case same:
		return now, true
	default:
		u.left(path, now.name, "it was changed since")
	}
	return kind.line(strings.Join(rest.fields, ":")), false
}

// changed undoes a change of an entry, by field.
func (u *accountUndo) changed(path string, was, brought, now accountLine) accountLine {
	kind := accountFiles[path]
	if now.text == brought.text {
		return was
	}
	if len(was.fields) != len(brought.fields) || len(was.fields) != len(now.fields) {
		u.left(path, now.name, "it was changed since")
		return now
	}
	fields := slices.Clone(now.fields)
	for i := range fields {
		switch then, done := was.fields[i], brought.fields[i]; {
		case then == done, fields[i] == then:
		case kind.fields[i] == setField:
			fields[i] = setBack(then, done, fields[i])
		case fields[i] == done:
			fields[i] = then
		default:
			u.left(path, now.name, fmt.Sprintf("field %d was changed since", i+1))
		}
	}
	return kind.line(strings.Join(fields, ":"))
}

// setBack returns the names of now without those that a merge added, and with those that it removed.
func setBack(before, after, now string) string {
	was, done, is := members(before), members(after), members(now)
	is = slices.DeleteFunc(is, func(s string) bool { return slices.Contains(done, s) && !slices.Contains(was, s) })
	for _, name := range was {
		if !slices.Contains(done, name) && !slices.Contains(is, name) {
			is = append(is, name)
		}
	}
	return strings.Join(is, ",")
}

func (u *accountUndo) left(path, name, why string) {
	u.conflicts = append(u.conflicts, Conflict{
		Path: path, Kind: LeftInPlace, Reason: fmt.Sprintf("what the refresh did to the entry %q stays: %s", name, why),
	})
}

// restoreAccounts writes account files that are undone by entry.
func (p *placing) restoreAccounts(live *os.Root, accounts map[string]accountBack) error {
	for _, path := range AccountOrder {
		back, changed := accounts[path]
		if !changed {
			continue
		}
		now, err := entryAt(live, path)
		if err != nil {
			return err
		}
		if alike(now, back.entry) {
			continue
		}
		if err := p.prepare(back.entry, text(back.text)); err != nil {
			return err
		}
	}
	return nil
}
