package impact

import (
	"path"
	"strings"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// maxPaths is how many paths are named for one unit; all are counted.
const maxPaths = 20

// Changes is what differs between two stacks, of which it keeps what assessing needs.
type Changes struct {
	// content holds the paths whose content, type or existence differs, in either direction: going back is the
	// same set.
	content map[string]struct{}
	// count is the number of all differing paths, those that differ in metadata alone included.
	count uint64
	// scripts holds changed code by language.
	scripts map[language]*pathList
	// unitFiles holds, by unit name, changed unit files and drop-ins.
	unitFiles map[string]*pathList
	// busPolicy holds changed D-Bus configuration.
	busPolicy pathList
	// loader and bus hold the dynamic loader and the message bus itself.
	loader, bus pathList
	accounts    bool
	temporary   bool
}

// NewChanges returns a set without changes.
func NewChanges() *Changes {
	return &Changes{content: map[string]struct{}{}, scripts: map[language]*pathList{}, unitFiles: map[string]*pathList{}}
}

// pathList names the first paths and counts all.
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

// Accounts reports whether sysusers.d differs.
func (c *Changes) Accounts() bool { return c.accounts }

// Temporary reports whether tmpfiles.d differs.
func (c *Changes) Temporary() bool { return c.temporary }

// Differs reports whether the two stacks have different files at this path.
func (c *Changes) Differs(name string) bool {
	_, differs := c.content[name]
	return differs
}

// Add takes one difference as release.DiffContents tells it: old is nil for an added path, new for a removed one.
func (c *Changes) Add(name string, old, new *tree.Entry) {
	c.count++
	if old != nil && new != nil && sameContent(old, new) {
		return
	}
	if (old == nil || old.Type == tree.Directory) && (new == nil || new.Type == tree.Directory) {
		return
	}
	c.content[name] = struct{}{}
	if l := languageOf(name); l != "" {
		list := c.scripts[l]
		if list == nil {
			list = &pathList{}
			c.scripts[l] = list
		}
		list.add(name)
	}
	if unit := unitOfFile(name); unit != "" {
		list := c.unitFiles[unit]
		if list == nil {
			list = &pathList{}
			c.unitFiles[unit] = list
		}
		list.add(name)
	}
	base := path.Base(name)
	switch {
	case strings.HasPrefix(name, "usr/share/dbus-1/"), strings.HasPrefix(name, "etc/dbus-1/"):
		c.busPolicy.add(name)
	case name == "usr/bin/dbus-daemon", name == "usr/bin/dbus-broker", name == "usr/bin/dbus-broker-launch":
		c.bus.add(name)
	case strings.HasPrefix(name, "usr/lib") && old != nil && isLoader(base):
		c.loader.add(name)
	case strings.Contains(name, "/sysusers.d/"):
		c.accounts = true
	case strings.Contains(name, "/tmpfiles.d/"):
		c.temporary = true
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

// unitOfFile names the unit that a unit file or a drop-in belongs to, "" for other files. A drop-in of a template
// or of a type ("service.d") is one of every instance: the name is "x@.service" or "service" then.
func unitOfFile(name string) string {
	for _, directory := range []string{"usr/lib/systemd/system/", "etc/systemd/system/"} {
		rest, below := strings.CutPrefix(name, directory)
		if !below {
			continue
		}
		first, dropIn, nested := strings.Cut(rest, "/")
		if !nested {
			return first
		}
		unit, isDropIn := strings.CutSuffix(first, ".d")
		if !isDropIn || !strings.HasSuffix(dropIn, ".conf") {
			return "" // a link of an enabled unit: it starts nothing and stops nothing by itself
		}
		return unit
	}
	return ""
}

// namesOf lists the names under which files of a unit can stand: its own, its template's, those that systemd cuts
// at dashes ("foo-.service.d") and its type's (systemd.unit(5)).
func namesOf(unit string) []string {
	names := []string{unit}
	dot := strings.LastIndexByte(unit, '.')
	if dot < 0 {
		return names
	}
	prefix, suffix := unit[:dot], unit[dot:]
	if at := strings.IndexByte(prefix, '@'); at >= 0 {
		names = append(names, prefix[:at+1]+suffix)
		prefix = prefix[:at]
	}
	for i := len(prefix) - 1; i > 0; i-- {
		if prefix[i] == '-' && i < len(prefix)-1 {
			names = append(names, prefix[:i+1]+suffix)
		}
	}
	return append(names, suffix[1:])
}

// language is a programming language whose code is read by an interpreter.
type language string

// languageOf tells the language of a file of code, "" for all others.
func languageOf(name string) language {
	switch extension := path.Ext(name); {
	case extension == ".py", extension == ".pyc", strings.HasPrefix(name, "usr/lib/python"):
		return "python"
	case extension == ".pl", extension == ".pm", strings.HasPrefix(name, "usr/share/perl"), strings.HasPrefix(name, "usr/lib/") && strings.Contains(name, "/perl"):
		return "perl"
	case extension == ".rb", strings.HasPrefix(name, "usr/lib/ruby/"):
		return "ruby"
	case extension == ".js", extension == ".mjs", extension == ".cjs", strings.HasPrefix(name, "usr/share/nodejs/"):
		return "node"
	case extension == ".php":
		return "php"
	case extension == ".lua":
		return "lua"
	case extension == ".tcl":
		return "tcl"
	}
	return ""
}

// interpreters maps the beginning of a program's name to its language.
var interpreters = []struct {
	prefix   string
	language language
}{
	{"python", "python"}, {"perl", "perl"}, {"ruby", "ruby"}, {"node", "node"}, {"php", "php"},
	{"lua", "lua"}, {"tclsh", "tcl"}, {"bash", "shell"}, {"dash", "shell"}, {"sh", "shell"}, {"busybox", "shell"}, {"ksh", "shell"}, {"zsh", "shell"},
}

// interpreterOf tells the language that a program interprets, "" for all other programs.
func interpreterOf(program string) language {
	base := path.Base(program)
	for _, i := range interpreters {
		rest, starts := strings.CutPrefix(base, i.prefix)
		if starts && strings.Trim(rest, "0123456789.-") == "" {
			return i.language
		}
	}
	return ""
}
