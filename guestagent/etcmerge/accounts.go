package etcmerge

import (
	"fmt"
	"slices"
	"strings"
)

// accountFile describes how the entries of an account file are merged; see passwd(5), group(5), shadow(5),
// gshadow(5), subuid(5).
type accountFile struct {
	// wholeLine is true if the whole line identifies an entry: subuid may have several entries for a user.
	wholeLine bool
	// id is the field with the account's number, 0 for none.
	id int
	// members is the field with a list of names to merge, 0 for none.
	members int
	// of is the file whose refused entries are refused in this file, too.
	of string
}

// accountFiles by path.
var accountFiles = map[string]*accountFile{
	"etc/passwd":  {id: 2},
	"etc/group":   {id: 2, members: 3},
	"etc/shadow":  {of: "etc/passwd"},
	"etc/gshadow": {of: "etc/group", members: 3},
	"etc/subuid":  {wholeLine: true},
	"etc/subgid":  {wholeLine: true},
}

// AccountOrder is the order in which account files have to be merged, so that an entry that is refused in one file is
// refused in the files that belong to it.
var AccountOrder = []string{"etc/passwd", "etc/group", "etc/shadow", "etc/gshadow", "etc/subuid", "etc/subgid"}

// Accounts merges the account files of one system. Merge them in AccountOrder.
type Accounts struct {
	refused map[string]map[string]bool
}

// Merge merges one file by entry. An entry of ours takes the release's change if it was not changed here, and stays
// otherwise. Entries that the release adds are appended, except those whose number another entry has here. Entries that
// the release removes stay: files of these accounts may be anywhere.
func (a *Accounts) Merge(path string, base, ours, theirs string) (merged string, conflicts []string) {
	kind := accountFiles[path]
	if kind == nil {
		return ours, []string{path + ": not an account file"}
	}
	if a.refused == nil {
		a.refused = map[string]map[string]bool{}
	}
	refused := map[string]bool{}
	a.refused[path] = refused
	before, after := kind.entries(base), kind.entries(theirs)
	result := []string{}
	present := map[string]bool{}
	ids := map[string]string{}
	for _, line := range lines(ours) {
		name := kind.name(line)
		then, wasThere := before[name]
		next, isThere := after[name]
		if wasThere && isThere && !present[name] && next != then {
			switch merged, ok := kind.mergeEntry(then, line, next); {
			case ok:
				line = merged
			default:
				conflicts = append(conflicts, fmt.Sprintf("/%s: entry %q changed here and by the release", path, name))
			}
		}
		present[name] = true
		if number := kind.number(line); number != "" {
			ids[number] = name
		}
		result = append(result, line)
	}
	for _, line := range lines(theirs) {
		name := kind.name(line)
		if _, wasThere := before[name]; wasThere || present[name] || name == "" {
			continue // an entry that was removed here stays removed
		}
		if a.refused[kind.of][name] {
			continue
		}
		if number := kind.number(line); number != "" && ids[number] != "" {
			refused[name] = true
			conflicts = append(conflicts, fmt.Sprintf("/%s: the release adds %q with the number %s, which %q has here", path, name, number, ids[number]))
			continue
		} else if number != "" {
			ids[number] = name
		}
		present[name] = true
		result = append(result, line)
	}
	if len(result) == 0 {
		return "", conflicts
	}
	return strings.Join(result, "\n") + "\n", conflicts
}

// mergeEntry merges one entry that differs between the releases. It fails if this VM changed the same field.
func (k *accountFile) mergeEntry(base, ours, theirs string) (string, bool) {
	if ours == base || ours == theirs {
		return theirs, true
	}
	if k.members == 0 {
		return ours, false
	}
	b, o, t := strings.Split(base, ":"), strings.Split(ours, ":"), strings.Split(theirs, ":")
	if len(b) <= k.members || len(o) != len(b) || len(t) != len(b) {
		return ours, false
	}
	merged := slices.Clone(o)
	for i := range o {
		switch {
		case i == k.members:
			merged[i] = mergeMembers(b[i], o[i], t[i])
		case o[i] == b[i]:
			merged[i] = t[i]
		case t[i] != b[i] && t[i] != o[i]:
			return ours, false
		}
	}
	return strings.Join(merged, ":"), true
}

// mergeMembers keeps our members and adds those that the release adds.
func mergeMembers(base, ours, theirs string) string {
	was, is := members(base), members(ours)
	for _, name := range members(theirs) {
		if !slices.Contains(was, name) && !slices.Contains(is, name) {
			is = append(is, name)
		}
	}
	return strings.Join(is, ",")
}

func members(list string) []string {
	return slices.DeleteFunc(strings.Split(list, ","), func(s string) bool { return s == "" })
}

func lines(text string) []string {
	return slices.DeleteFunc(strings.Split(text, "\n"), func(s string) bool { return s == "" })
}

// name returns what identifies an entry.
func (k *accountFile) name(line string) string {
	if k.wholeLine {
		return line
	}
	name, _, _ := strings.Cut(line, ":")
	return name
}

func (k *accountFile) number(line string) string {
	if k.id == 0 {
		return ""
	}
	fields := strings.Split(line, ":")
	if len(fields) <= k.id {
		return ""
	}
	return fields[k.id]
}

func (k *accountFile) entries(text string) map[string]string {
	entries := map[string]string{}
	for _, line := range lines(text) {
		if name := k.name(line); entries[name] == "" {
			entries[name] = line
		}
	}
	return entries
}
