package etcmerge

import (
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// The account files; see passwd(5), group(5), shadow(5), gshadow(5), subuid(5).
const (
	passwdPath  = "etc/passwd"
	groupPath   = "etc/group"
	shadowPath  = "etc/shadow"
	gshadowPath = "etc/gshadow"
	subuidPath  = "etc/subuid"
	subgidPath  = "etc/subgid"
)

// accountFile describes how the entries of an account file are merged.
type accountFile struct {
	// wholeLine is true if the whole line identifies an entry: subuid may have several entries for a user.
	wholeLine bool
	// fields are the fields that are not merged as plain text, by their index.
	fields map[int]fieldRule
	// of is the file that has the accounts of the entries; "" if it is this one.
	of string
}

// fieldRule is how a field is merged that both sides changed.
type fieldRule int

const (
	plainField fieldRule = iota
	// numberField is the number of the account. It never changes in a VM: files of the account have it.
	numberField
	// groupField is the number of a group. A release's number is replaced by the number that the group has here.
	groupField
	// passwordField is a password. A locked one wins.
	passwordField
	// shellField is a login shell. One that refuses logins wins.
	shellField
	// expiryField is a day. The earlier one wins.
	expiryField
	// setField is a list of names. Names that one side adds or removes are added or removed.
	setField
)

// accountFiles by path.
var accountFiles = map[string]*accountFile{
	groupPath:   {fields: map[int]fieldRule{1: passwordField, 2: numberField, 3: setField}},
	passwdPath:  {fields: map[int]fieldRule{1: passwordField, 2: numberField, 3: groupField, 6: shellField}},
	shadowPath:  {fields: map[int]fieldRule{1: passwordField, 7: expiryField}, of: passwdPath},
	gshadowPath: {fields: map[int]fieldRule{1: passwordField, 2: setField, 3: setField}, of: groupPath},
	subuidPath:  {wholeLine: true, of: passwdPath},
	subgidPath:  {wholeLine: true, of: passwdPath},
}

// AccountOrder is the order in which account files are merged: users refer to groups, and the other files to both.
var AccountOrder = []string{groupPath, passwdPath, shadowPath, gshadowPath, subuidPath, subgidPath}

// numberIndex is the field of passwd and group with the number of the account.
const numberIndex = 2

// AccountTexts are account files by path. A file that does not exist is absent.
type AccountTexts map[string]string

// AccountMerge is the result of MergeAccounts.
type AccountMerge struct {
	// Texts are the merged files: those of this VM.
	Texts     AccountTexts
	Conflicts []Conflict
	// Left are, by path, the files of the release without the entries that were left out: the base of the next merge,
	// so that it tries them again. A file of which nothing was left out is absent.
	Left AccountTexts
	// Users and Groups map the numbers of the new release to those that its accounts have in this VM.
	Users, Groups Numbers
}

// MergeAccounts merges the account files of the old release (base), this VM (ours) and the new release (theirs).
//
// Entries are merged by field. What only one side changed is taken; where both changed a field, ours stays, unless the
// release's value allows less. No entry of this VM is removed: files of the account may be anywhere. An entry that was
// removed here stays removed.
//
// An account that the release adds gets a free number if another account has its number here. Nothing that the
// release says about a name is applied to a local account that happens to have that name: the release's is left
// out until the local one has another name or is gone. What would give an account what another one has here is
// left out, too: an account without a free number or whose primary group is not here while another group has that
// number, a range of subordinate numbers that overlaps. New entries come before the first line that refers to NIS
// (nsswitch.conf(5), compat mode), since lookups end there. Lines that are no entries stay where they are.
func MergeAccounts(base, ours, theirs AccountTexts) AccountMerge {
	m := newAccountMerging(base, ours, theirs)
	m.all()
	if absent := m.left[passwdPath]; len(absent) > 0 {
		// Groups are merged before users are left out: once more, without these as members.
		m = newAccountMerging(base, ours, theirs)
		m.absent = absent
		m.all()
	}
	return m.result
}

// accountMerging is a merge of all account files.
type accountMerging struct {
	base, ours, theirs AccountTexts
	// added are the accounts of passwd and group that the merge added, by path and name.
	added map[string]map[string]bool
	// left are the entries that were left out, by path and name.
	left map[string]map[string]bool
	// refused are the members of the release that a group did not get, by path and name of the group.
	refused map[string]map[string][]string
	// absent are users that are known to be left out.
	absent map[string]bool
	// parsed are entries by the text that they are of.
	parsed map[string]map[string]accountLine
	result AccountMerge
}

func newAccountMerging(base, ours, theirs AccountTexts) *accountMerging {
	return &accountMerging{
		base: base, ours: ours, theirs: theirs,
		added: map[string]map[string]bool{}, left: map[string]map[string]bool{},
		refused: map[string]map[string][]string{},
		parsed:  map[string]map[string]accountLine{},
		result:  AccountMerge{Texts: AccountTexts{}, Left: AccountTexts{}},
	}
}

// all merges all files.
func (m *accountMerging) all() {
	for _, path := range AccountOrder {
		if _, exists := m.ours[path]; !exists {
			continue
		}
		m.file(path)
		switch path {
		case groupPath:
			m.result.Groups = m.renumbering(path, m.result.Texts[path])
		case passwdPath:
			m.result.Users = m.renumbering(path, m.result.Texts[path])
		}
	}
}

// renumbering compares the numbers of the release's accounts with those in here, this VM's passwd
// or group. A local account of the same name is not the release's.
func (m *accountMerging) renumbering(path, here string) Numbers {
	return renumbering(m.theirs[path], here, func(name string) bool { return m.local(path, name) })
}

// entries returns the entries of a file by name.
func (m *accountMerging) entries(path, text string) map[string]accountLine {
	key := path + ":" + text
	if _, known := m.parsed[key]; !known {
		m.parsed[key] = byName(accountFiles[path].parse(text))
	}
	return m.parsed[key]
}

func (m *accountMerging) conflict(path string, kind Kind, format string, arguments ...any) {
	m.result.Conflicts = append(m.result.Conflicts,
		Conflict{Path: path, Kind: kind, Reason: fmt.Sprintf(format, arguments...)})
}

// file merges one file.
func (m *accountMerging) file(path string) {
	kind := accountFiles[path]
	base, theirs := kind.parse(m.base[path]), kind.parse(m.theirs[path])
	before, after := byName(base), byName(theirs)
	ours := kind.parse(m.ours[path])
	taken := numbersOf(path, ours, theirs)
	m.added[path], m.left[path], m.refused[path] = map[string]bool{}, map[string]bool{}, map[string][]string{}
	for _, line := range theirs {
		// An account of this VM's own stays without what the release says about the name, and so
		// does what belongs to an account that is left out.
		if line.entry && (kind.of == "" && m.local(path, line.name) || m.left[kind.of][m.accountOf(line)]) {
			m.left[path][line.name] = true
		}
	}
	present := map[string]bool{}
	for i, line := range ours {
		if !line.entry || present[line.name] {
			continue
		}
		present[line.name] = true
		then, was := before[line.name]
		next, is := after[line.name]
		switch {
		case m.left[path][line.name]:
			m.sameName(path, line, next)
		case was && is && then.text != next.text && line.text != next.text:
			ours[i] = m.entry(path, then, line, next)
		}
	}
	at := slices.IndexFunc(ours, func(line accountLine) bool { return line.compat })
	if at < 0 {
		at = len(ours)
	}
	var added []accountLine
	for _, line := range theirs {
		if !line.entry || present[line.name] || m.left[path][line.name] {
			continue
		}
		if _, was := before[line.name]; was || !m.wanted(path, line) {
			continue // an entry that was removed here stays removed
		}
		present[line.name] = true
		here, ok := m.add(path, line, ours, theirs, taken)
		if !ok || m.overlaps(path, here, ours) {
			m.left[path][line.name] = true
			continue
		}
		added = append(added, here)
		m.added[path][line.name] = true
	}
	if len(m.left[path]) > 0 || len(m.refused[path]) > 0 {
		m.result.Left[path] = textOf(m.withoutLeft(path, theirs))
	}
	m.otherLines(path, base, ours, theirs)
	m.result.Texts[path] = textOf(slices.Insert(ours, at, added...))
}

// withoutLeft returns the lines of the release without what was left out.
func (m *accountMerging) withoutLeft(path string, theirs []accountLine) []accountLine {
	kind := accountFiles[path]
	rest := slices.DeleteFunc(slices.Clone(theirs),
		func(line accountLine) bool { return line.entry && m.left[path][line.name] })
	for at, line := range rest {
		refused := m.refused[path][line.name]
		if !line.entry || len(refused) == 0 {
			continue
		}
		fields := slices.Clone(line.fields)
		for i := range fields {
			if kind.fields[i] == setField {
				kept := slices.DeleteFunc(members(fields[i]),
					func(name string) bool { return slices.Contains(refused, name) })
				fields[i] = strings.Join(kept, ",")
			}
		}
		rest[at] = kind.line(strings.Join(fields, ":"))
	}
	return rest
}

func textOf(lines []accountLine) string {
	var text strings.Builder
	for _, line := range lines {
		text.WriteString(line.text + "\n")
	}
	return text.String()
}

// accountOf is the name of the account that an entry of the release belongs to. An entry of subuid(5) may have its
// number instead.
func (m *accountMerging) accountOf(line accountLine) string {
	name := line.account()
	number, err := strconv.ParseUint(name, 10, 32)
	if err != nil {
		return name
	}
	for account, of := range accountNumbers(m.theirs[passwdPath]) {
		if uint64(of) == number {
			return account
		}
	}
	return name
}

// sameName reports an account that the release adds, and that this VM has made itself.
func (m *accountMerging) sameName(path string, ours, theirs accountLine) {
	if accountFiles[path].of != "" {
		return
	}
	m.conflict(path, AccountName,
		"the release adds %q with the number %s, and this VM has an account of this name of its own, "+
			"with the number %s: nothing of the release is applied to it", theirs.name,
		theirs.field(numberIndex), ours.field(numberIndex))
}

// local reports whether this VM made an account itself: what a release says about an account of the same name is not
// about this one.
func (m *accountMerging) local(of, name string) bool {
	here, exists := m.entries(of, m.ours[of])[name]
	_, was := m.entries(of, m.base[of])[name]
	if !exists || was {
		return false
	}
	next, is := m.entries(of, m.theirs[of])[name]
	return !is || !sameAccount(of, here, next)
}

// sameAccount reports whether an account that this VM did not get with the old release is the new
// release's of the same name nevertheless: a system account with that number, which systemd-sysusers
// or a component that has gone since has made. A user must have the release's shell, too.
func sameAccount(of string, here, next accountLine) bool {
	const shellIndex = 6
	number, known := here.number()
	theirs, ofRelease := next.number()
	return known && ofRelease && number == theirs && number < firstUser &&
		(of != passwdPath || here.field(shellIndex) == next.field(shellIndex))
}

// wanted reports whether an entry of the release belongs to an account that this VM has from the release.
func (m *accountMerging) wanted(path string, line accountLine) bool {
	of := accountFiles[path].of
	if _, known := m.result.Texts[of]; of == "" || !known {
		return true
	}
	name := m.accountOf(line)
	if m.added[of][name] {
		return true
	}
	_, here := m.entries(of, m.ours[of])[name]
	return here && !m.local(of, name)
}

// add returns an entry of the release as this VM gets it: with a free number, if another account has its number here.
// It returns false if no number is free, or if its primary group is not here and another group has that number.
func (m *accountMerging) add(path string, line accountLine, ours, theirs []accountLine,
	taken map[uint64]bool) (accountLine, bool) {
	kind := accountFiles[path]
	fields := slices.Clone(line.fields)
	for i := range fields {
		if kind.fields[i] != groupField {
			continue
		}
		group, known := m.groupHere(fields[i])
		if !known {
			m.conflict(path, AccountLeft,
				"the release adds %q with the primary group %s, and this VM has another group of that number",
				line.name, fields[i])
			return line, false
		}
		fields[i] = group
	}
	for i := range fields {
		switch kind.fields[i] {
		case setField:
			fields[i] = m.members(path, line.name, "", "", fields[i])
		case numberField:
			number, known := line.number()
			holder := otherHolder(line, ours, theirs)
			if holder == "" {
				holder = m.subordinateOf(path, number)
			}
			if holder == "" {
				continue
			}
			free, ok := freeNumber(number, func(n uint64) bool { return taken[n] || m.subordinateOf(path, n) != "" })
			if !known || !ok {
				m.conflict(path, AccountLeft,
					"the release adds %q with the number %s, which %q has here, and no number is free",
					line.name, fields[i], holder)
				return line, false
			}
			taken[free] = true
			m.conflict(path, AccountNumber,
				"the release adds %q with the number %s, which %q has here, so %q got the number %d",
				line.name, fields[i], holder, line.name, free)
			fields[i] = strconv.FormatUint(free, 10)
		case plainField, passwordField, shellField, expiryField, groupField:
		}
	}
	if number, err := strconv.ParseUint(fields[0], 10, 32); kind.wholeLine && err == nil {
		fields[0] = strconv.FormatUint(uint64(m.result.Users.Of(uint32(number))), 10)
	}
	return kind.line(strings.Join(fields, ":")), true
}

// otherHolder returns the account here that has the number of an account of the release; "" if there is none. Accounts
// that share a number in the release may share it here.
func otherHolder(line accountLine, ours, theirs []accountLine) string {
	number, known := line.number()
	has := func(l accountLine) bool {
		n, is := l.number()
		return l.entry && known && is && n == number
	}
	shares := func(name string) bool {
		return slices.ContainsFunc(theirs, func(l accountLine) bool { return l.name == name && has(l) })
	}
	for _, other := range ours {
		if has(other) && !shares(other.name) {
			return other.name
		}
	}
	return ""
}

// subordinateOf returns the account here that may act as a number of passwd or group, since that is in its range of
// subuid or subgid; "" if there is none. A range that the release has, too, does not count.
func (m *accountMerging) subordinateOf(path string, number uint64) string {
	ranges := map[string]string{passwdPath: subuidPath, groupPath: subgidPath}[path]
	for text, line := range m.entries(ranges, m.ours[ranges]) {
		first, last, ok := line.subordinates()
		if _, shared := m.entries(ranges, m.theirs[ranges])[text]; ok && !shared && first <= number && number <= last {
			return line.account()
		}
	}
	return ""
}

// overlaps reports whether a range of subordinate numbers that the release adds has numbers of another account here,
// its own or those of its range. The release's account would be able to act as that account or as its subordinates.
func (m *accountMerging) overlaps(path string, line accountLine, ours []accountLine) bool {
	if !accountFiles[path].wholeLine {
		return false
	}
	first, last, ok := line.subordinates()
	for _, other := range ours {
		from, to, valid := other.subordinates()
		if ok && valid && other.account() != line.account() && first <= to && from <= last {
			m.conflict(path, AccountLeft, "the release adds the range %s, which overlaps %s", line.text, other.text)
			return true
		}
	}
	of := map[string]string{subuidPath: passwdPath, subgidPath: groupPath}[path]
	here, theirs := m.entries(of, m.ours[of]), m.entries(of, m.theirs[of])
	for _, name := range slices.Sorted(maps.Keys(here)) {
		number, known := here[name].number()
		next, shares := theirs[name].number()
		if ok && known && first <= number && number <= last && (!shares || next != number) {
			m.conflict(path, AccountLeft,
				"the release adds the range %s, which has the number %d of %q", line.text, number, name)
			return true
		}
	}
	return false
}

// entry merges one entry by field.
func (m *accountMerging) entry(path string, base, ours, theirs accountLine) accountLine {
	kind := accountFiles[path]
	if len(base.fields) != len(ours.fields) || len(base.fields) != len(theirs.fields) {
		m.conflict(path, Changed, "entry %q changed here and by the release", ours.name)
		return ours
	}
	merged := slices.Clone(ours.fields)
	for i := range merged {
		was, here, next := base.fields[i], ours.fields[i], theirs.fields[i]
		rule := kind.fields[i]
		if was == next {
			continue
		}
		if rule == groupField {
			group, known := m.groupHere(next)
			if !known {
				m.conflict(path, AccountLeft,
					"the release changes the primary group of %q to %s, and this VM has another group of that number: it keeps %s",
					ours.name, next, here)
				continue
			}
			next = group
		}
		switch {
		case here == next:
		case rule == setField:
			merged[i] = m.members(path, ours.name, was, here, next)
		case rule == numberField:
			m.conflict(path, AccountNumber,
				"the release changes the number of %q from %s to %s, and it keeps %s here, since files of this VM have it",
				ours.name, was, next, here)
		case here == was:
			merged[i] = next
		default:
			var kind Kind
			merged[i], kind = rule.restrict(here, next)
			m.conflict(path, kind, "entry %q: field %d changed here and by the release", ours.name, i+1)
		}
	}
	return kind.line(strings.Join(merged, ":"))
}

// restrict returns the value of a field that both sides changed: what allows less, or else ours.
func (r fieldRule) restrict(ours, theirs string) (string, Kind) {
	switch r {
	case passwordField:
		locked := func(s string) bool { return strings.HasPrefix(s, "!") || strings.HasPrefix(s, "*") }
		switch {
		case locked(ours):
			return ours, Restricted
		case locked(theirs):
			return "!" + ours, Restricted
		case ours == "": // no password is asked for
			return theirs, Restricted
		}
	case shellField:
		refuses := func(s string) bool { return strings.HasSuffix(s, "/nologin") || strings.HasSuffix(s, "/false") }
		if refuses(theirs) && !refuses(ours) {
			return theirs, Restricted
		}
	case expiryField:
		day, err := strconv.ParseInt(theirs, 10, 64)
		if other, otherErr := strconv.ParseInt(ours, 10, 64); err == nil && (otherErr != nil || day < other) {
			return theirs, Restricted
		}
	case plainField, numberField, groupField, setField:
	}
	return ours, Changed
}

// members merges lists of names. The release's additions are for its own accounts: a local account of the same name
// gets no membership.
func (m *accountMerging) members(path, name, base, ours, theirs string) string {
	was, is, next := members(base), members(ours), members(theirs)
	is = slices.DeleteFunc(is, func(s string) bool { return slices.Contains(was, s) && !slices.Contains(next, s) })
	for _, member := range next {
		if slices.Contains(was, member) || slices.Contains(is, member) {
			continue
		}
		local := m.local(passwdPath, member)
		if local || m.absent[member] {
			m.refused[path][name] = append(m.refused[path][name], member)
		}
		if local {
			m.conflict(path, AccountName,
				"the release adds %q to %q, and this VM has an account %q of its own, which was not added", member,
				name, member)
			continue
		}
		if !m.absent[member] {
			is = append(is, member)
		}
	}
	return strings.Join(is, ",")
}

// otherLines reports lines that a release adds and that are no entries. They are not taken: a line that refers to NIS
// would let in all its users.
func (m *accountMerging) otherLines(path string, base, ours, theirs []accountLine) {
	for _, line := range theirs {
		same := func(other accountLine) bool { return other.text == line.text }
		if line.entry || strings.TrimSpace(line.text) == "" || strings.HasPrefix(line.text, "#") ||
			slices.ContainsFunc(base, same) || slices.ContainsFunc(ours, same) {
			continue
		}
		m.conflict(path, Changed, "the release adds a line that is no account")
	}
}

// groupHere returns the number that a group of the release has in this VM. It returns false if the group
// is not here and another one has its number: root's, which files get then, would be a membership.
func (m *accountMerging) groupHere(number string) (here string, known bool) {
	n, err := strconv.ParseUint(number, 10, 32)
	if err != nil || n == 0 {
		return number, true
	}
	if mapped, is := m.result.Groups[uint32(n)]; is {
		return strconv.FormatUint(uint64(mapped), 10), mapped != nobodyHere
	}
	has := func(text string) bool {
		return slices.Contains(slices.Collect(maps.Values(accountNumbers(text))), uint32(n))
	}
	return number, has(m.theirs[groupPath]) || !has(m.result.Texts[groupPath])
}

func members(list string) []string {
	return slices.DeleteFunc(strings.Split(list, ","), func(s string) bool { return s == "" })
}

// accountLine is a line of an account file.
type accountLine struct {
	text string
	// entry is true if the line describes an account, and compat if it refers to NIS.
	entry, compat bool
	// name identifies an entry.
	name   string
	fields []string
}

func (l accountLine) field(i int) string {
	if i >= len(l.fields) {
		return ""
	}
	return l.fields[i]
}

// number is the number of an account of passwd or group.
func (l accountLine) number() (number uint64, known bool) {
	number, err := strconv.ParseUint(l.field(numberIndex), 10, 32)
	return number, err == nil
}

// account is the name of the account that the entry belongs to.
func (l accountLine) account() string { return l.field(0) }

// subordinates returns the first and the last number of a line of subuid(5).
func (l accountLine) subordinates() (first, last uint64, ok bool) {
	first, err := strconv.ParseUint(l.field(1), 10, 32)
	count, countErr := strconv.ParseUint(l.field(2), 10, 32)
	return first, first + count - 1, err == nil && countErr == nil && count > 0
}

// parse splits a file into lines.
func (k *accountFile) parse(text string) []accountLine {
	if text == "" {
		return nil
	}
	var all []accountLine
	for line := range strings.SplitSeq(strings.TrimSuffix(text, "\n"), "\n") {
		all = append(all, k.line(line))
	}
	return all
}

func (k *accountFile) line(text string) accountLine {
	line := accountLine{text: text, fields: strings.Split(text, ":")}
	line.compat = strings.HasPrefix(text, "+") || strings.HasPrefix(text, "-")
	line.entry = !line.compat && len(line.fields) > 1 && strings.TrimSpace(line.fields[0]) != "" &&
		!strings.HasPrefix(text, "#")
	if k.fields[numberIndex] == numberField {
		_, err := strconv.ParseUint(line.field(numberIndex), 10, 32)
		line.entry = line.entry && err == nil
	}
	if line.name = line.fields[0]; k.wholeLine {
		line.name = text
	}
	return line
}

// byName has the first entry of each name, which lookups find.
func byName(lines []accountLine) map[string]accountLine {
	all := map[string]accountLine{}
	for _, line := range lines {
		if _, found := all[line.name]; line.entry && !found {
			all[line.name] = line
		}
	}
	return all
}

// numbersOf returns all account numbers in files of passwd or group.
func numbersOf(path string, files ...[]accountLine) map[uint64]bool {
	taken := map[uint64]bool{}
	if accountFiles[path].fields[numberIndex] != numberField {
		return taken
	}
	for _, line := range slices.Concat(files...) {
		if n, known := line.number(); line.entry && known {
			taken[n] = true
		}
	}
	return taken
}

// The numbers of accounts that are given: those of system accounts are below firstUser
// (sysusers.d(5), adduser.conf(5)).
const firstSystem, firstUser, lastUser = 100, 1000, 59_999

// freeNumber returns a free number of the same kind: for system accounts the highest below 1000, as systemd-sysusers
// does, and for others the lowest from 1000.
func freeNumber(number uint64, taken func(uint64) bool) (uint64, bool) {
	if number < firstUser {
		for n := uint64(firstUser - 1); n >= firstSystem; n-- {
			if !taken(n) {
				return n, true
			}
		}
		return 0, false
	}
	for n := uint64(firstUser); n <= lastUser; n++ {
		if !taken(n) {
			return n, true
		}
	}
	return 0, false
}
