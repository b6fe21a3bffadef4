package impact

import (
	"path"
	"slices"
	"strings"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// maxPaths is how many paths are named for one unit. All paths are counted.
const maxPaths = 20

// Changes is what differs between two stacks, as far as the assessment needs it.
type Changes struct {
	// content are the paths whose content, type or existence differs. A rollback has the same set. Contents lists are
	// sorted, so content mostly needs no sorting.
	content  []string
	unsorted bool
	// vmOwned are the paths of the same kind that are the VM's own (tree.OwnedByVM). A refresh does
	// not replace them, so they concern only a unit for which the user declared them.
	vmOwned []string
	// count is the number of all differing paths, including those that differ in metadata alone, without those that are
	// the VM's own.
	count uint64
	// scripts are the changed files of code, by language.
	scripts map[language]*pathList
	// unitFiles are the changed unit files and drop-ins, by unit name. removed are those that the new stack does not
	// have.
	unitFiles map[string]*pathList
	removed   map[string]struct{}
	// busPolicy are the changed files of D-Bus configuration.
	busPolicy pathList
	// loader and bus are the changed files of the dynamic loader and of the message bus itself.
	loader, bus pathList
	manager     bool
	// temporary and accounts are the names of the files of tmpfiles.d and sysusers.d that differ.
	temporary, accounts []string
	// configuration is true when something below /etc differs.
	configuration bool
	// enabled are the units that the new stack enables and the old one does not.
	enabled []Enabled
	// scriptsBefore are the units of scripts that links of the old stack enabled.
	scriptsBefore []string
	// appeared are the names of the unit files that the new stack has and the old one has not, or has masked.
	appeared map[string]struct{}
	// aliases are the links that the new stack has instead of a unit's file, by name, and what they lead to.
	aliases map[string]string
	// broughtScripts are the units that systemd makes of scripts of System V init which only the new stack has.
	broughtScripts []string
	// boot are the files that are loaded at boot, and bootBefore those that earlier refreshes have changed.
	boot       []bootChange
	bootBefore []BootFile
	// interpreted is the code of earlier stacks that processes have read, by PID.
	interpreted map[int][]Interpreted
}

// NewChanges returns a set without changes.
func NewChanges() *Changes {
	return &Changes{
		scripts: map[language]*pathList{}, unitFiles: map[string]*pathList{}, removed: map[string]struct{}{},
		appeared: map[string]struct{}{}, aliases: map[string]string{},
	}
}

// Remember adds the code of earlier stacks that processes have read: it stays old code for as long
// as the process lives.
func (c *Changes) Remember(all []Interpreted) {
	c.interpreted = make(map[int][]Interpreted, len(all))
	for _, one := range all {
		c.interpreted[one.PID] = append(c.interpreted[one.PID], one)
	}
}

// removes reports whether the file of a unit is removed, and the unit with it, because no file of
// the same name replaces it.
func (c *Changes) removes(unit Unit) bool {
	fragment := unit.Fragment
	if name, generated := strings.CutPrefix(fragment, generatedUnits); generated {
		for _, from := range unit.DropIns {
			if _, removed := c.removed[from]; removed && strings.HasPrefix(from, initScripts) {
				return true
			}
		}
		fragment = standInUnits + name
	}
	_, removed := c.removed[fragment]
	_, moved := c.appeared[path.Base(fragment)]
	return removed && !moved
}

// takesOver reports whether a unit is a stand-in (standInUnits), and the new stack has the unit itself.
func (c *Changes) takesOver(unit Unit) bool {
	name, generated := strings.CutPrefix(unit.Fragment, generatedUnits)
	_, removed := c.removed[standInUnits+name]
	_, appeared := c.appeared[name]
	return generated && removed && appeared
}

// Where systemd-sysv-generator(8) and the generator of stand-ins write units, and the scripts that
// the former makes them of.
const (
	generatedUnits = "run/systemd/generator.late/"
	initScripts    = "etc/init.d/"
)

// scriptUnit returns the unit that systemd-sysv-generator(8) makes of an init script; "" for other files.
func scriptUnit(name string) string {
	script, is := strings.CutPrefix(name, initScripts)
	if !is || script == "" || strings.Contains(script, "/") {
		return ""
	}
	return strings.TrimSuffix(script, ".sh") + ".service"
}

// Removed returns the units whose files or init scripts the new stack does not have. It does not
// know the instances of a template.
func (c *Changes) Removed() (names []string) {
	for name := range c.removed {
		switch unit := path.Base(name); {
		case scriptUnit(name) != "":
			names = append(names, scriptUnit(name))
		case unitOfFile(name) == unit && !strings.Contains(unit, "@."):
			names = append(names, unit)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// names reports whether the changes bring, change or remove files of a unit or of its template, or
// the script that systemd makes it of.
func (c *Changes) names(unit string) bool {
	return c.unitFiles[unit] != nil || c.unitFiles[Template(unit)] != nil || slices.Contains(c.broughtScripts, unit)
}

// Brought returns the units whose files or init scripts only the new stack has, but for templates.
func (c *Changes) Brought() (names []string) {
	names = slices.Clone(c.broughtScripts)
	for name := range c.appeared {
		if !strings.Contains(name, "@.") {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// RemovedTemplates returns the templates ("x@.service") whose files the new stack does not have.
func (c *Changes) RemovedTemplates() (names []string) {
	for name := range c.removed {
		if unit := path.Base(name); unitOfFile(name) == unit && strings.Contains(unit, "@.") {
			names = append(names, unit)
		}
	}
	slices.Sort(names)
	return slices.Compact(names)
}

// Enabled is a unit that a release enables: by a symbolic link in a directory of what wants, requires or upholds it.
type Enabled struct {
	Unit string
	// By is the unit that wants, requires or upholds it, Path the link, relative to the root.
	By, Path string
	// Before is true if the link was there before, and the release brings the unit, or removes the link that masked it.
	Before bool
	// User is true for a unit of users' own managers.
	User bool
	// Script is true for a script of System V init, of which systemd makes a unit
	// (systemd-sysv-generator(8)), unless there is a unit file of that name.
	Script bool
}

// Enabled returns the units that the new stack enables, each once.
func (c *Changes) Enabled() (enabled []Enabled) {
	for _, one := range c.enabled {
		_, native := c.appeared[one.Unit]
		if !one.Script || !native && !slices.Contains(c.scriptsBefore, one.Unit) {
			enabled = append(enabled, one)
		}
	}
	return enabled
}

// runlevels are the directories with the links of scripts that runlevels start, and the targets that want these then.
var runlevels = map[string]string{
	"rc2.d": "multi-user.target", "rc3.d": "multi-user.target", "rc4.d": "multi-user.target",
	"rc5.d": "graphical.target",
}

// scriptLink reads the path of a link that enables a script, such as etc/rc2.d/S01acme; false if it is none.
func scriptLink(name string) (e Enabled, ok bool) {
	parts := strings.Split(name, "/")
	if len(parts) != 3 || parts[0] != "etc" || runlevels[parts[1]] == "" {
		return e, false
	}
	link := parts[2]
	if len(link) < 4 || link[0] != 'S' || strings.Trim(link[1:3], "0123456789") != "" {
		return e, false
	}
	return Enabled{Unit: strings.TrimSuffix(link[3:], ".sh") + ".service", By: runlevels[parts[1]],
		Path: name, Script: true}, true
}

// userUnitDirectories are the directories of unit files of users' own managers.
var userUnitDirectories = []string{"usr/lib/systemd/user/", "etc/systemd/user/"}

// Link reads the path of a symbolic link that enables a unit; false if it is none.
func Link(name string) (e Enabled, ok bool) {
	if script, is := scriptLink(name); is {
		return script, true
	}
	for i, directory := range slices.Concat(unitDirectories, userUnitDirectories) {
		rest, below := strings.CutPrefix(name, directory)
		if !below {
			continue
		}
		by, unit, _ := strings.Cut(rest, "/")
		for _, relation := range []string{".wants", ".requires", ".upholds"} {
			if wants, is := strings.CutSuffix(by, relation); is && unit != "" && !strings.Contains(unit, "/") {
				return Enabled{Unit: unit, By: wants, Path: name, User: i >= len(unitDirectories)}, true
			}
		}
		return e, false
	}
	return e, false
}

// enable notes a link that enables a unit. The link that an alias is, and one that was there before, enable none.
func (c *Changes) enable(name string, old, new *tree.Entry) {
	if script, is := scriptLink(name); is && old != nil && old.Type == tree.Symlink {
		c.scriptsBefore = append(c.scriptsBefore, script.Unit) // another link of it may only have another number
	}
	if new == nil || new.Type != tree.Symlink || old != nil && old.Type == tree.Symlink {
		return
	}
	if enabled, ok := Link(name); ok {
		c.addEnabled(enabled)
	}
}

func (c *Changes) addEnabled(one Enabled) {
	known := func(e Enabled) bool {
		return e.Unit == one.Unit && e.By == one.By && e.User == one.User && e.Script == one.Script
	}
	if !slices.ContainsFunc(c.enabled, known) {
		c.enabled = append(c.enabled, one)
	}
}

// unitFile notes a unit file that the release brings, or from which it takes the mask.
func (c *Changes) unitFile(name string, old, new *tree.Entry) {
	usable := func(e *tree.Entry) bool { return e != nil && (e.Type != tree.Symlink || e.Link != "/dev/null") }
	if strings.HasPrefix(name, standInUnits) {
		return // a unit that becomes a stand-in goes
	}
	if new != nil && new.Type == tree.Symlink && usable(new) {
		c.aliases[path.Base(name)] = new.Link
	}
	masked := old != nil && !usable(old)
	if !usable(old) && (usable(new) || masked && new == nil) {
		c.appeared[path.Base(name)] = struct{}{}
	}
}

// Appeared reports whether a unit file appeared that links of before may enable.
func (c *Changes) Appeared() bool { return len(c.appeared) > 0 }

// EnableAppeared adds the units that links of before enable by now, since their files appeared. links are all links of
// this VM.
func (c *Changes) EnableAppeared(links []Enabled) {
	for _, link := range links {
		appeared := slices.ContainsFunc(NamesOf(link.Unit), func(name string) bool {
			_, is := c.appeared[name]
			return is && (name == link.Unit || strings.HasSuffix(strings.TrimSuffix(name, path.Ext(name)), "@"))
		})
		if appeared && !link.User && !c.Differs(link.Path) {
			link.Before = true
			c.addEnabled(link)
		}
	}
}

// pathList names the first paths and counts all of them.
type pathList struct {
	paths []string
	count int64
}

func (l *pathList) add(name string) {
	l.count++
	if len(l.paths) < maxPaths {
		l.paths = append(l.paths, name)
	}
}

func (l *pathList) merge(other *pathList) {
	if other == nil {
		return
	}
	l.count += other.count
	l.paths = append(l.paths, other.paths[:min(len(other.paths), maxPaths-len(l.paths))]...)
}

// Count is the number of paths that differ.
func (c *Changes) Count() uint64 { return c.count }

// Accounts returns the names of the files in sysusers.d that differ, sorted. Some may be there no more.
func (c *Changes) Accounts() []string {
	slices.Sort(c.accounts)
	return slices.Compact(c.accounts)
}

// Temporary returns the names of the files in tmpfiles.d that differ, sorted. Some may no longer exist.
func (c *Changes) Temporary() []string {
	slices.Sort(c.temporary)
	return slices.Compact(c.temporary)
}

// Manager reports whether a file differs that systemd or one of its own generators reads.
func (c *Changes) Manager() bool { return c.manager }

// Configuration reports whether a file below /etc differs that a generator of another program may read.
func (c *Changes) Configuration() bool { return c.configuration }

// managerReads are the files that systemd and its own generators read: systemd.unit(5), systemd-fstab-generator(8),
// systemd-cryptsetup-generator(8), systemd-veritysetup-generator(8), systemd-integritysetup-generator(8),
// systemd-sysv-generator(8), systemd-rc-local-generator(8). Those of systemd-networkd lie among them.
var managerReads = struct{ files, directories []string }{
	files: []string{"etc/fstab", "etc/crypttab", "etc/veritytab", "etc/integritytab", "etc/rc.local"},
	directories: []string{"usr/lib/systemd/", standInUnits, "var/usrlocal/lib/systemd/", "etc/systemd/",
		"etc/init.d/", "etc/rc"},
}

func readByManager(name string) bool {
	if strings.HasPrefix(name, "etc/systemd/network/") || strings.HasPrefix(name, "usr/lib/systemd/network/") {
		return false
	}
	return slices.Contains(managerReads.files, name) ||
		slices.ContainsFunc(managerReads.directories, func(d string) bool { return strings.HasPrefix(name, d) })
}

// generated are files below /etc that are made from others, or merged, and that no generator reads.
var generated = []string{
	"etc/ld.so.cache", "etc/passwd", "etc/group", "etc/shadow", "etc/gshadow", "etc/subuid", "etc/subgid",
}

// Differs reports whether a refresh brings another file to this path: the two stacks have different files there, and
// the path is not the VM's own.
func (c *Changes) Differs(name string) bool {
	_, differs := slices.BinarySearch(c.paths(), name)
	return differs
}

// paths returns the paths whose content differs, sorted and without duplicates.
func (c *Changes) paths() []string {
	if c.unsorted {
		slices.Sort(c.content)
		slices.Sort(c.vmOwned)
		c.content, c.vmOwned, c.unsorted = slices.Compact(c.content), slices.Compact(c.vmOwned), false
	}
	return c.content
}

// matching returns the changed paths that match a pattern (glob(7)).
func (c *Changes) matching(pattern string) []string { return matching(c.paths(), pattern) }

func matching(paths []string, pattern string) []string {
	if !strings.ContainsAny(pattern, `*?[\`) {
		if _, found := slices.BinarySearch(paths, pattern); found {
			return []string{pattern}
		}
		return nil
	}
	var found []string
	for _, name := range paths {
		if matches, err := path.Match(pattern, name); err == nil && matches {
			found = append(found, name)
		}
	}
	return found
}

// declared returns the changed paths at a path that the user declared, below it, or matching it as a pattern. They
// include those that are the VM's own.
func (c *Changes) declared(name string) *pathList {
	list := &pathList{}
	var found []string
	prefix := strings.TrimSuffix(name, "/") + "/"
	for _, paths := range [][]string{c.paths(), c.vmOwned} {
		found = append(found, matching(paths, name)...)
		first, _ := slices.BinarySearch(paths, prefix)
		for _, changed := range paths[first:] {
			if !strings.HasPrefix(changed, prefix) {
				break
			}
			found = append(found, changed)
		}
	}
	slices.Sort(found)
	for _, changed := range slices.Compact(found) {
		list.add(changed)
	}
	return list
}

// Add adds one difference, as release.DiffContents reports it: old is nil for an added path, new for a removed one.
func (c *Changes) Add(name string, old, new *tree.Entry) {
	owner := tree.OwnerOf(name)
	if owner != tree.OwnedByVM {
		c.count++
	}
	if old != nil && new != nil && sameContent(old, new) {
		return
	}
	if (old == nil || old.Type == tree.Directory) && (new == nil || new.Type == tree.Directory) {
		return
	}
	list := &c.content
	if owner == tree.OwnedByVM {
		list = &c.vmOwned
	}
	c.unsorted = c.unsorted || len(*list) > 0 && (*list)[len(*list)-1] >= name
	*list = append(*list, name)
	if owner == tree.OwnedByVM {
		return
	}
	if l := languageOf(name); l != "" {
		list := c.scripts[l]
		if list == nil {
			list = &pathList{}
			c.scripts[l] = list
		}
		list.add(name)
	}
	switch {
	case strings.HasPrefix(name, "usr/share/"):
		if strings.HasPrefix(name, "usr/share/dbus-1/") {
			c.busPolicy.add(name)
		}
	case strings.HasPrefix(name, "usr/"), owner == tree.Merged, owner == tree.CarriedByOS:
		c.system(name, old, new)
	}
}

// system notes a changed path that systemd, the message bus or the dynamic loader may read.
func (c *Changes) system(name string, old, new *tree.Entry) {
	c.manager = c.manager || readByManager(name)
	c.enable(name, old, new)
	if kindOf(name) != nil {
		c.boot = append(c.boot, bootChange{name, identity(old), identity(new)})
	}
	c.configuration = c.configuration || strings.HasPrefix(name, "etc/") && !slices.Contains(generated, name)
	if unit := unitOfFile(name); unit != "" {
		if path.Base(name) == unit {
			c.unitFile(name, old, new)
		}
		list := c.unitFiles[unit]
		if list == nil {
			list = &pathList{}
			c.unitFiles[unit] = list
		}
		list.add(name)
		if new == nil {
			c.removed[name] = struct{}{}
		}
	}
	switch {
	case strings.HasPrefix(name, "etc/dbus-1/"):
		c.busPolicy.add(name)
	case name == "usr/bin/dbus-daemon", name == "usr/bin/dbus-broker", name == "usr/bin/dbus-broker-launch":
		c.bus.add(name)
	case strings.HasPrefix(name, "usr/lib") && old != nil && isLoader(path.Base(name)):
		c.loader.add(name)
	case path.Base(path.Dir(name)) == "sysusers.d":
		c.accounts = append(c.accounts, path.Base(name))
	case path.Base(path.Dir(name)) == "tmpfiles.d":
		c.temporary = append(c.temporary, path.Base(name))
	case scriptUnit(name) != "" && new == nil:
		c.removed[name] = struct{}{}
	case scriptUnit(name) != "" && old == nil:
		c.broughtScripts = append(c.broughtScripts, scriptUnit(name))
	}
}

func sameContent(a, b *tree.Entry) bool {
	if a.Type != b.Type {
		return false
	}
	switch a.Type {
	case tree.Regular:
		return a.Digest == b.Digest
	case tree.Symlink:
		return a.Link == b.Link
	case tree.CharDevice, tree.BlockDevice:
		return a.Major == b.Major && a.Minor == b.Minor
	default:
		return true
	}
}

// isLoader reports whether a file is the dynamic loader: ld-linux-x86-64.so.2, ld-linux-aarch64.so.1.
func isLoader(base string) bool {
	return strings.HasPrefix(base, "ld-linux") && strings.Contains(base, ".so")
}
