// Package standin makes the stand-ins of a component: what a VM has of a component that it can
// attach by itself, while the component is not attached. They are unit files, commands and files of
// D-Bus that have the agent attach the component when one of them is used.
//
// The stand-ins are a function of two trees, the base's and the component's. Package publish makes a layer of them, and
// package compose lays it over the base.
package standin

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path"
	"slices"
	"strings"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/standin/paths"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// Version changes whenever the same trees yield other stand-ins than before.
const Version = 1

// ErrTaken means that the base has a path that stand-ins need.
var ErrTaken = errors.New("the base has a path that only stand-ins of components may have")

// maxCopied bounds a file that is copied or read, in bytes. Larger ones are passed over: no unit file is as large.
const maxCopied = 1 << 20

// System is a tree, and the numbers of its accounts by name.
type System struct {
	Tree          *tree.Tree
	Users, Groups map[string]uint32
}

// On returns the tree of the base with the stand-ins of a component, whose tree is the base's with the component in it.
// name is the component's, in the form of release.ValidName. Nothing that the base has is changed, and nothing is added
// below /etc and /var. Equal trees yield equal results. The error matches ErrTaken if the base cannot have stand-ins.
//
// A component has no stand-in of a command in /usr/local or /opt: these are on the private disk of the VM.
func On(name string, base, component System) (*tree.Tree, error) {
	m := &making{name: name, base: base, component: component, added: map[string]tree.Entry{}, texts: texts{}}
	for _, add := range []func() error{m.addOwn, m.addUnits, m.addCommands, m.addBus} {
		if err := add(); err != nil {
			return nil, fmt.Errorf("make stand-ins of component %q: %w", name, err)
		}
	}
	entries := slices.Clone(base.Tree.Entries)
	for _, e := range m.added {
		entries = append(entries, e)
	}
	made, err := tree.New(entries, contents{m.texts, component.Tree.Content, base.Tree.Content})
	if err != nil {
		return nil, fmt.Errorf("make stand-ins of component %q: %w", name, err)
	}
	return made, nil
}

// making is a set of stand-ins that is being made.
type making struct {
	name            string
	base, component System
	// added are the entries that the base does not have.
	added map[string]tree.Entry
	texts texts
}

// texts are contents that were made here.
type texts map[tree.Digest]string

// Open implements tree.Content.
func (t texts) Open(digest tree.Digest) (io.ReadCloser, error) {
	text, has := t[digest]
	if !has {
		return nil, fmt.Errorf("no stand-in has content %s: %w", digest, fs.ErrNotExist)
	}
	return io.NopCloser(strings.NewReader(text)), nil
}

// contents are those of several trees.
type contents []tree.Content

// Open implements tree.Content.
func (c contents) Open(digest tree.Digest) (io.ReadCloser, error) {
	var failures []error
	for _, one := range c {
		if one == nil {
			continue
		}
		file, err := one.Open(digest)
		if err == nil {
			return file, nil
		}
		failures = append(failures, err)
	}
	return nil, errors.Join(failures...)
}

// has reports whether the base has a path, or a stand-in was added there.
func (m *making) has(at string) bool {
	_, inBase := m.base.Tree.Lookup(at)
	_, added := m.added[at]
	return inBase || added
}

// add adds an entry with the directories above it, unless something is there. It adds nothing below
// what is no directory.
func (m *making) add(e tree.Entry) {
	if m.has(e.Path) || !m.addDirectory(tree.Parent(e.Path)) {
		return
	}
	m.added[e.Path] = e
}

// addDirectory adds a directory unless it is there. It returns false if something else is.
func (m *making) addDirectory(at string) bool {
	if e, has := m.base.Tree.Lookup(at); has {
		return e.Type == tree.Directory
	}
	if e, has := m.added[at]; has {
		return e.Type == tree.Directory
	}
	if !m.addDirectory(tree.Parent(at)) {
		return false
	}
	// Whatever the component's is: the stand-ins of all components have the same.
	m.added[at] = tree.Entry{Path: at, Type: tree.Directory, Mode: 0o755}
	return true
}

func (m *making) addFile(at, text string, mode uint32) {
	digest := tree.Sum([]byte(text))
	m.texts[digest] = text
	m.add(tree.Entry{Path: at, Type: tree.Regular, Mode: mode, Size: int64(len(text)), Digest: digest})
}

func (m *making) addLink(at, target string) {
	m.add(tree.Entry{Path: at, Type: tree.Symlink, Mode: 0o777, Link: target})
}

// addOwn adds what all stand-ins have.
func (m *making) addOwn() error {
	for _, at := range []string{paths.Generator, paths.OnDemand} {
		if m.has(at) {
			return fmt.Errorf("%w: /%s; remove it from the base", ErrTaken, at)
		}
	}
	m.addLink(paths.Generator, paths.Agent)
	m.addFile(paths.Components+"/"+m.name, "", 0o644)
	if !m.addDirectory(paths.Units) {
		return fmt.Errorf("%w: /%s is below what is no directory; mend the base", ErrTaken, paths.Units)
	}
	// /usr/sbin may be a link to /usr/bin.
	if directory, err := m.base.Tree.Resolve(path.Dir(paths.Command)); err == nil {
		if at := path.Join(directory.Path, path.Base(paths.Command)); tree.OwnerOf(at) == tree.OwnedByOS {
			m.addLink(at, paths.Agent)
		}
	} else {
		m.addLink(paths.Command, paths.Agent)
	}
	return nil
}

// commandDirectories are where a component's commands are. Those of the name /bin and /sbin are links to them.
var commandDirectories = []string{"usr/bin", "usr/sbin", "usr/games"}

// addCommands adds a script for each command.
func (m *making) addCommands() error {
	script := "#!" + paths.Agent + " " + paths.CallVerb + " " + m.name + "\n"
	for i := range m.component.Tree.Entries {
		e := &m.component.Tree.Entries[i]
		if !slices.Contains(commandDirectories, tree.Parent(e.Path)) ||
			e.Type != tree.Regular && e.Type != tree.Symlink {
			continue
		}
		file, err := m.component.Tree.Resolve(e.Path)
		if err != nil || file.Type != tree.Regular || file.Mode&0o111 == 0 {
			continue // it cannot be executed in a VM with the component, either
		}
		m.addFile(e.Path, script, 0o755)
	}
	return nil
}

// The directories of the message bus (dbus-daemon(1)).
const (
	busServices = "usr/share/dbus-1/system-services"
	busPolicy   = "usr/share/dbus-1/system.d"
	busLocal    = "etc/dbus-1/system.d"
)

// standInMark ends a policy file, so that it is another file than the component's. The bus reads
// its files again when one changes.
const standInMark = "<!-- stand-in -->\n"

// addBus adds the names that the component can be started by on the message bus, and who may use them.
func (m *making) addBus() error {
	for i := range m.component.Tree.Entries {
		e := &m.component.Tree.Entries[i]
		directory, name := tree.Parent(e.Path), path.Base(e.Path)
		service := directory == busServices && strings.HasSuffix(name, ".service")
		policy := (directory == busPolicy || directory == busLocal) && strings.HasSuffix(name, ".conf")
		if _, inBase := m.base.Tree.Lookup(e.Path); inBase || !service && !policy {
			continue
		}
		text, err := m.read(e.Path)
		switch {
		case err != nil:
			return err
		case text == nil:
		case service:
			m.addFile(e.Path, string(text), 0o644)
		default:
			at := busPolicy + "/" + name
			if m.has(at) { // the other directory has this name, too
				at = busPolicy + "/" + m.name + "-" + name
			}
			if len(text) > 0 && !bytes.HasSuffix(text, []byte("\n")) {
				text = append(text, '\n')
			}
			m.addFile(at, string(text)+standInMark, 0o644)
		}
	}
	return nil
}

// read returns the content of a regular file of the component, at a path or where the links there lead to. It is nil if
// there is none, or if it is too large.
func (m *making) read(at string) ([]byte, error) {
	e, err := m.component.Tree.Resolve(at)
	if err != nil || e.Type != tree.Regular || e.Size > maxCopied {
		return nil, nil //nolint:nilerr // a link that leads nowhere
	}
	return m.component.Tree.ReadFile(e.Path, maxCopied)
}
