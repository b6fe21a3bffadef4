package compose

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/layer"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// withStandIns returns the contents list of the whole stack. rest is the merged list of what the stack has without the
// stand-ins; nil if that is the list of a release.
//
// What a layer hides below it depends on all entries of a directory. So we compute what the layers
// show in the directories with stand-ins, and add the stand-ins among that to the rest.
func (p Parts) withStandIns(lists Lists, rest []byte) ([]byte, error) {
	if p.Joining != nil && p.Joining.Release.Manifest == nil {
		return nil, errors.New("compose a stack with stand-ins: the release of the joining layer is not given")
	}
	made, err := p.standIns(lists)
	if err != nil {
		return nil, err
	}
	shows, err := p.shown(lists, made)
	if err != nil {
		return nil, err
	}
	if rest != nil {
		return insert(bytes.NewReader(rest), made, shows)
	}
	var list []byte
	err = opened(lists, p.Top(), func(r io.Reader) (err error) {
		list, err = insert(r, made, shows)
		return err
	})
	return list, err
}

// Top is the release whose contents list is that of the stack without the stand-ins, unless the list has to be merged.
func (p Parts) Top() release.Identified {
	switch {
	case p.Joining != nil:
		return p.Joining.Release
	case len(p.Components) > 0:
		return p.Components[0]
	}
	return p.Base
}

// opened calls use with the contents list of a release.
func opened(lists Lists, one release.Identified, use func(io.Reader) error) error {
	list, err := lists(one)
	if err != nil {
		return fmt.Errorf("open the contents list of release %s: %w", one.ID, err)
	}
	return errors.Join(use(release.Verified(list, one.Manifest.Contents)), list.Close())
}

// madeBy are stand-ins by their paths, each with the component that it is of.
type madeBy map[string]standIn

type standIn struct {
	entry tree.Entry
	of    string
}

// standIns returns what the layers of the stand-ins show, laid over each other, of what the base does not have.
func (p Parts) standIns(lists Lists) (madeBy, error) {
	made := madeBy{}
	for _, one := range p.StandIns {
		name := one.Component.Manifest.Name
		err := opened(lists, p.Base, func(base io.Reader) error {
			return opened(lists, one.Release, func(own io.Reader) error {
				return release.DiffContents(base, own, func(path string, was, is *tree.Entry) error {
					if was != nil {
						return fmt.Errorf("it changes %s of the base, which stand-ins do not", shown(path))
					}
					if below, has := made[path]; has &&
						(below.entry.Type == tree.Directory) != (is.Type == tree.Directory) {
						return &Conflict{
							What: shown(path), First: below.of, Second: name,
							FirstMakes: EntryText(&below.entry), SecondMakes: EntryText(is),
						}
					}
					made[path] = standIn{copied(is), name}
					return nil
				})
			})
		})
		if err != nil {
			return nil, fmt.Errorf("find the stand-ins of component %q in release %s: %w", name, one.Release.ID, err)
		}
	}
	return made, nil
}

// copied is an entry that stays valid when its list is read on.
func copied(e *tree.Entry) tree.Entry {
	c := *e
	c.Path, c.Link, c.Xattrs = strings.Clone(e.Path), strings.Clone(e.Link), maps.Clone(e.Xattrs)
	return c
}

// shown returns what the layers show of the directories that stand-ins are in. It returns a Conflict if they hide a
// stand-in and have nothing in its place.
func (p Parts) shown(lists Lists, made madeBy) (map[string]tree.Entry, error) {
	directories := map[string]bool{}
	for path := range made {
		for at := path; at != tree.Root; {
			at = tree.Parent(at)
			directories[at] = true
		}
	}
	part := func(of release.Identified) (found []tree.Entry, err error) {
		err = opened(lists, of, func(r io.Reader) error {
			for list := release.NewContentsReader(r); ; {
				e, err := list.Next()
				switch {
				case errors.Is(err, io.EOF) && !errors.Is(err, release.ErrContents):
					return nil
				case err != nil:
					return err
				case directories[tree.Parent(e.Path)]:
					found = append(found, copied(&e))
				}
			}
		})
		if err != nil {
			err = fmt.Errorf("read the contents list of release %s: %w", of.ID, err)
		}
		return found, err
	}
	base, err := part(p.Base)
	if err != nil {
		return nil, err
	}
	shows := slices.Clone(base)
	for _, one := range made {
		shows = append(shows, one.entry)
	}
	slices.SortFunc(shows, func(a, b tree.Entry) int { return tree.Compare(a.Path, b.Path) })
	under := base // what the layers show without the stand-ins
	lay := func(of release.Identified, name string, below []tree.Entry) error {
		own, err := part(of)
		if err != nil {
			return err
		}
		delta := layer.Delta(below, own)
		shows, under = layer.Apply(shows, delta), layer.Apply(under, delta)
		return made.checkHidden(shows, name)
	}
	var names []string
	for _, component := range p.Components {
		names = append(names, component.Manifest.Name)
		if err := lay(component, component.Manifest.Name, base); err != nil {
			return nil, err
		}
	}
	if p.Joining != nil {
		if err := lay(p.Joining.Release, strings.Join(names, " and "), under); err != nil {
			return nil, err
		}
	}
	found := make(map[string]tree.Entry, len(shows))
	for _, e := range shows {
		found[e.Path] = e
	}
	return found, nil
}

// checkHidden returns a Conflict if the layers show nothing at the path of a stand-in, since the
// last component was laid over them.
func (m madeBy) checkHidden(shows []tree.Entry, by string) error {
	t := tree.Tree{Entries: shows}
	for _, path := range slices.Sorted(maps.Keys(m)) {
		if _, has := t.Lookup(path); has {
			continue
		}
		directory := shown(tree.Parent(path))
		makes := "no " + directory
		if _, has := t.Lookup(tree.Parent(path)); has {
			makes = "its own " + directory + ", which hides that"
		}
		return &Conflict{What: shown(path), First: m[path].of, Second: by,
			FirstMakes: "a stand-in, because it is on demand", SecondMakes: makes}
	}
	return nil
}

// insert writes a contents list with the stand-ins that the layers show, in addition to the rest of the stack.
func insert(rest io.Reader, made madeBy, shows map[string]tree.Entry) ([]byte, error) {
	var list bytes.Buffer
	out, in := release.NewContentsWriter(&list), release.NewContentsReader(rest)
	paths := slices.SortedFunc(maps.Keys(made), tree.Compare)
	// next adds the stand-ins before a path; all that are left if it is "".
	next := func(until string) error {
		for len(paths) > 0 && (until == "" || tree.Compare(paths[0], until) <= 0) {
			// A path that the rest has, too, is of a component that was laid over the stand-ins.
			if e := shows[paths[0]]; paths[0] != until {
				if err := out.Add(&e); err != nil {
					return err
				}
			}
			paths = paths[1:]
		}
		return nil
	}
	for {
		e, err := in.Next()
		if errors.Is(err, io.EOF) && !errors.Is(err, release.ErrContents) {
			break
		}
		if err != nil {
			return nil, err
		}
		if err := errors.Join(next(e.Path), out.Add(&e)); err != nil {
			return nil, err
		}
	}
	if err := next(""); err != nil {
		return nil, err
	}
	if _, err := out.Close(); err != nil {
		return nil, err
	}
	return list.Bytes(), nil
}
