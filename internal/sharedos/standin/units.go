package standin

import (
	"fmt"
	"path"
	"slices"
	"strconv"
	"strings"
	"unicode"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/standin/paths"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// unitDirectories are the directories of unit files, the one that wins first (systemd.unit(5)). /usr/local is a link to
// /var/usrlocal in a tree.
var unitDirectories = []string{"etc/systemd/system", "var/usrlocal/lib/systemd/system", "usr/lib/systemd/system"}

// dependencies are the ends of the names of directories with links to units that are started with another one.
var dependencies = []string{".wants", ".requires", ".upholds"}

// waiting reports whether a unit waits for something and then starts a service. Such a unit works
// without the component.
func waiting(unit string) bool {
	return slices.Contains([]string{".socket", ".timer", ".path"}, path.Ext(unit))
}

// addUnits adds to paths.Units what systemd has to know of the component's units.
func (m *making) addUnits() error {
	files := m.unitFiles()
	// Links to another name come last: they need to know whether there is a stand-in of what they lead to.
	aliases := map[string]string{}
	for _, unit := range files.names {
		at := files.at[unit]
		if other := m.aliasOf(unit, at); other != "" {
			aliases[unit] = other
			continue
		}
		if err := m.addUnit(unit, at); err != nil {
			return err
		}
	}
	for unit, other := range aliases {
		for range tree.MaxLinks {
			if further, is := aliases[other]; is {
				other = further
			}
		}
		if _, is := aliases[other]; !is && m.stoodIn(other) {
			m.addLink(paths.Units+"/"+unit, other)
		}
	}
	return m.addUnitDirectories()
}

// unitFiles are the unit files that systemd uses of the component, and that the base does not have.
type unitFiles struct {
	names []string
	// at has the paths of the files by the names of the units.
	at map[string]string
}

func (m *making) unitFiles() unitFiles {
	files := unitFiles{at: map[string]string{}}
	for _, directory := range unitDirectories {
		for _, e := range children(m.component.Tree, directory) {
			unit := path.Base(e.Path)
			if e.Type != tree.Regular && e.Type != tree.Symlink || files.at[unit] != "" || m.baseHasUnit(unit) {
				continue
			}
			if path.Ext(unit) == ".service" || waiting(unit) {
				files.at[unit] = e.Path
				files.names = append(files.names, unit)
			}
		}
	}
	slices.Sort(files.names)
	return files
}

func (m *making) baseHasUnit(unit string) bool {
	return slices.ContainsFunc(unitDirectories, func(directory string) bool {
		_, has := m.base.Tree.Lookup(directory + "/" + unit)
		return has
	})
}

// children are the entries directly in a directory.
func children(t *tree.Tree, directory string) []tree.Entry {
	at, ok := t.Index(directory)
	if !ok {
		return nil
	}
	var found []tree.Entry
	for _, e := range t.Entries[at+1:] {
		if tree.Parent(e.Path) == directory {
			found = append(found, e)
		} else if !strings.HasPrefix(e.Path, directory) {
			break
		}
	}
	return found
}

// aliasOf returns the name of the unit that a unit file is a link to; "" if it is none, or one to a file of the same
// name or to one that is in no directory of unit files.
func (m *making) aliasOf(unit, at string) string {
	if e, has := m.component.Tree.Lookup(at); !has || e.Type != tree.Symlink {
		return ""
	}
	file, err := m.component.Tree.Resolve(at)
	if err != nil || file.Type != tree.Regular || !slices.Contains(unitDirectories, tree.Parent(file.Path)) {
		return ""
	}
	other := path.Base(file.Path)
	if other == unit || path.Ext(other) != path.Ext(unit) {
		return ""
	}
	return other
}

// addUnit adds the stand-in of one unit.
func (m *making) addUnit(unit, at string) error {
	text, err := m.read(at)
	if err != nil || len(text) == 0 { // an empty file masks a unit, as a link to /dev/null does
		return err
	}
	if waiting(unit) {
		m.addFile(paths.Units+"/"+unit, m.numbered(string(text)), 0o644)
		return nil
	}
	m.addFile(paths.Units+"/"+unit, m.service(unit, string(text)), 0o644)
	return nil
}

// service is the stand-in of a service, whose unit file has this text.
func (m *making) service(unit, text string) string {
	description := description(text)
	if description == "" {
		description = plain(unit)
	}
	return fmt.Sprintf(`# Stands in for a unit of component %q, which is attached when the unit is started.
[Unit]
Description=%s (attaches component %s)
After=%s
StartLimitIntervalSec=10min
StartLimitBurst=5

[Service]
Type=oneshot
ExecStart=%s %s %s
TimeoutStartSec=infinity
`, m.name, description, m.name, paths.AgentUnit, paths.Agent, paths.UseVerb, m.name)
}

// maxDescription bounds a description in characters.
const maxDescription = 200

// description returns the last Description= of a unit file, in a form in which it can be a part of one.
func description(text string) string {
	found := ""
	for _, s := range settings(text) {
		if s.section == "Unit" && s.key == "Description" {
			found = plain(s.value)
		}
	}
	return found
}

// plain is a text on one line and without specifiers (systemd.unit(5)).
func plain(text string) string {
	text = strings.Map(func(r rune) rune {
		if r == unicode.ReplacementChar || !unicode.IsPrint(r) {
			return ' '
		}
		return r
	}, text)
	if runes := []rune(text); len(runes) > maxDescription {
		text = string(runes[:maxDescription]) + "…"
	}
	return strings.ReplaceAll(strings.Join(strings.Fields(text), " "), "%", "%%")
}

// setting is one assignment of a unit file.
type setting struct{ section, key, value string }

// settings returns the assignments of a unit file (systemd.syntax(7)).
func settings(text string) (all []setting) {
	section, line := "", ""
	for next := range strings.Lines(text) {
		next = strings.TrimRight(next, "\r\n")
		if trimmed := strings.TrimSpace(next); line != "" && trimmed != "" &&
			strings.ContainsRune("#;", rune(trimmed[0])) {
			continue // a comment between the lines of one value
		}
		if continued, is := strings.CutSuffix(next, `\`); is {
			line += continued + " "
			continue
		}
		line = strings.TrimSpace(line + next)
		switch key, value, is := strings.Cut(line, "="); {
		case line == "", strings.ContainsRune("#;", rune(line[0])):
		case line[0] == '[' && line[len(line)-1] == ']':
			section = line[1 : len(line)-1]
		case is:
			all = append(all, setting{section, strings.TrimSpace(key), strings.TrimSpace(value)})
		}
		line = ""
	}
	return all
}

// accountKeys are the settings of waiting units whose value is an account, and whether it is a user.
var accountKeys = map[string]bool{"SocketUser": true, "User": true, "SocketGroup": false, "Group": false}

// numbered returns the text of a unit file with numbers instead of the names of accounts that only
// the component has: as long as it is not attached, nobody knows these names.
func (m *making) numbered(text string) string {
	var out strings.Builder
	for line := range strings.Lines(text) {
		key, value, _ := strings.Cut(line, "=")
		if number, only := m.onlyComponents(strings.TrimSpace(key), strings.TrimSpace(value)); only {
			line = fmt.Sprintf("%s=%s\n", strings.TrimSpace(key), strconv.FormatUint(uint64(number), 10))
		}
		out.WriteString(line)
	}
	return out.String()
}

// onlyComponents returns the number of the account that a setting names, if the component has it and the base does not.
func (m *making) onlyComponents(key, name string) (uint32, bool) {
	user, is := accountKeys[key]
	if !is {
		return 0, false
	}
	inBase, inComponent := m.base.Groups, m.component.Groups
	if user {
		inBase, inComponent = m.base.Users, m.component.Users
	}
	number, has := inComponent[name]
	_, known := inBase[name]
	return number, has && !known
}

// addUnitDirectories adds what enables waiting units, and their drop-ins. What enables services is left out: they would
// attach the component when the VM boots.
func (m *making) addUnitDirectories() error {
	for _, directory := range unitDirectories {
		for _, e := range children(m.component.Tree, directory) {
			if e.Type != tree.Directory {
				continue
			}
			name := path.Base(e.Path)
			if of, is := strings.CutSuffix(name, ".d"); is && waiting(of) &&
				(m.stoodIn(of) || m.stoodIn(template(of))) {
				if err := m.addDropIns(e.Path, name); err != nil {
					return err
				}
			}
			if slices.Contains(dependencies, path.Ext(name)) {
				m.addDependencies(e.Path, name)
			}
		}
	}
	return nil
}

// stoodIn reports whether a unit has a stand-in.
func (m *making) stoodIn(unit string) bool {
	_, has := m.added[paths.Units+"/"+unit] // no entry ends in a slash
	return has
}

func (m *making) addDropIns(directory, name string) error {
	for _, e := range children(m.component.Tree, directory) {
		if !strings.HasSuffix(e.Path, ".conf") {
			continue
		}
		text, err := m.read(e.Path)
		if err != nil {
			return err
		}
		// One that masks another is copied, too: it has no content.
		m.addFile(paths.Units+"/"+name+"/"+path.Base(e.Path), m.numbered(string(text)), 0o644)
	}
	return nil
}

func (m *making) addDependencies(directory, name string) {
	for _, e := range children(m.component.Tree, directory) {
		unit := path.Base(e.Path)
		if e.Type != tree.Symlink || !waiting(unit) || e.Link == "/dev/null" {
			continue
		}
		file := unit
		if !m.stoodIn(file) {
			file = template(unit)
		}
		if m.stoodIn(file) {
			m.addLink(paths.Units+"/"+name+"/"+unit, "../"+file)
		}
	}
}

// template is the template of a unit that is an instance; "" if it is none.
func template(unit string) string {
	extension := path.Ext(unit)
	prefix, _, is := strings.Cut(strings.TrimSuffix(unit, extension), "@")
	if !is {
		return ""
	}
	return prefix + "@" + extension
}
