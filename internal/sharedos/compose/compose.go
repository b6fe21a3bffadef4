// Package compose puts stacks together: a base and the components on it become one tree, which one manifest describes.
//
// It is a function of manifests and contents lists: equal releases yield one stack, with one id, on any host. Whatever
// does not go together is found here, before anything is attached to a VM. Package release defines the manifests;
// package vm signs the result and hands it to guests.
package compose

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

var (
	// ErrStack means that releases do not make a stack. Each error below matches it, too.
	ErrStack = errors.New("these releases do not make a stack")
	// ErrKind means that a component stands where a base belongs, or a base where a component does.
	ErrKind = kind("a release is of the wrong kind")
	// ErrBuiltOn means that a component was built on another base release than the stack's.
	ErrBuiltOn = kind("a component was built on another base release")
	// ErrTwice means that a component is in the list twice, or in the stack and on demand.
	ErrTwice = kind("a component stands twice")
	// ErrArchitecture means that a component is for another architecture than the base.
	ErrArchitecture = kind("a component is for another architecture")
	// ErrTooMany means that the stack has more layers or components than a VM can have.
	ErrTooMany = kind("the stack is larger than a VM can have")
	// ErrPrefer means that a preference names a component that the stack does not have.
	ErrPrefer = kind("a preference names no component of the stack")
	// ErrNeeds means that a file of a component needs a program or a library that nothing in the stack has.
	ErrNeeds = kind("a component needs what the stack does not have")
	// ErrConflict means that two components want different things in one place; see Conflict.
	ErrConflict = kind("two components conflict")
)

// kindError is an error that matches ErrStack.
type kindError struct{ text string }

func kind(text string) error              { return &kindError{text} }
func (k *kindError) Error() string        { return k.text }
func (k *kindError) Is(target error) bool { return target == ErrStack }

// Conflict is one place of which two components make different things. It matches ErrConflict and ErrStack.
type Conflict struct {
	// What is the place: "/usr/bin/app", "package openssl", "user 101".
	What string
	// First and Second are the names of the components, and what each makes of the place.
	First, Second           string
	FirstMakes, SecondMakes string
}

func (c *Conflict) Error() string {
	return fmt.Sprintf("%s: component %q has %s, component %q has %s", c.What, c.First,
		c.FirstMakes, c.Second, c.SecondMakes)
}

// Unwrap implements errors.Is.
func (c *Conflict) Unwrap() error { return ErrConflict }

// Parts is what a stack is made of.
type Parts struct {
	Base release.Identified
	// Components in the order in which they are laid over the base.
	Components []release.Identified
	// Prefer is sorted by path. A joining layer has what it says.
	Prefer []release.Preference
	// Joining is laid over all of them; nil if there is none.
	Joining *Joining
	// StandIns are of components that the VM can attach by itself. They are laid over the base, in
	// this order, and below Components, so that a component wins. Where two have a file, the last
	// one is shown: the file is one of a package that both components have, and any of them brings
	// it. (What is not the same in both is a conflict in the stack that has both.)
	StandIns []StandIn
}

// StandIn is what a stack has of a component on demand while it is not attached.
type StandIn struct {
	// Component is the release that is attached when the component is used.
	Component release.Identified
	// Release is the release of its stand-in layer, whose contents list is that of the base with
	// the stand-ins. It may be zero for Check, as long as it is not made.
	Release release.Identified
}

// OfferedStack is a stack that a VM can move to by itself.
type OfferedStack struct {
	ID tree.Digest
	// Signed is the signed stack manifest.
	Signed []byte
	// Contents is the blob that the manifest names, and List is the contents list itself.
	Contents release.Blob
	List     []byte
}

// Joining is the top layer of a stack: it holds what components write together, such as the package database. It
// settles all conflicts between them.
type Joining struct {
	// Release is the release of the layer. Its contents list is opened if the stack has stand-ins.
	Release release.Identified
	Layer   release.Layer
	// Contents is the list of the whole tree with the layer on top; Packages, Users and Groups are of that tree.
	Contents      release.Blob
	Packages      []release.Package
	Users, Groups map[string]uint32
}

// Lists opens the contents list of a release.
type Lists func(release.Identified) (io.ReadCloser, error)

// Compose checks that the parts go together and describes the stack that they make. If the contents list
// of the stack is none of the parts', it is returned, too. Lists are opened only for two components or
// more, for stand-ins, and for what a component needs. Errors that the user can mend match ErrStack.
func Compose(parts Parts, lists Lists) (_ *release.StackManifest, merged []byte, err error) {
	if err := parts.Check(); err != nil {
		return nil, nil, err
	}
	for _, one := range parts.StandIns {
		if one.Release.Manifest == nil {
			return nil, nil, fmt.Errorf("compose a stack: the stand-in layer of component %q is not given",
				one.Component.Manifest.Name)
		}
	}
	if err := parts.checkNeeds(lists); err != nil {
		return nil, nil, err
	}
	base := parts.Base.Manifest
	stack := &release.StackManifest{
		Schema: release.StackSchema, Base: member(parts.Base), Architecture: base.Architecture, OS: base.OS,
		Layers: parts.layers(), Kernel: *base.Kernel, Prefer: parts.Prefer,
	}
	for _, component := range parts.Components {
		stack.Components = append(stack.Components, member(component))
	}
	for _, one := range parts.StandIns {
		stack.Offered = append(stack.Offered, member(one.Component))
	}
	if of := len(base.Layers); of < len(stack.Layers) {
		stack.BaseLayers = of
	}
	top := base
	if len(parts.Components) > 0 {
		top = parts.Components[0].Manifest
	}
	switch {
	case parts.Joining != nil:
		j := parts.Joining
		stack.Contents, stack.Packages, stack.Users, stack.Groups = j.Contents, j.Packages, j.Users, j.Groups
	case len(parts.Components) <= 1:
		// The list of a component is of the whole tree, the base's included.
		stack.Contents, stack.Packages, stack.Users, stack.Groups = top.Contents, top.Packages, top.Users, top.Groups
	default:
		if err := parts.mergeSystem(stack); err != nil {
			return nil, nil, err
		}
		var list bytes.Buffer
		if stack.Contents, err = parts.mergeContents(lists, &list); err != nil {
			return nil, nil, err
		}
		merged = list.Bytes()
	}
	if len(parts.StandIns) > 0 {
		if merged, err = parts.withStandIns(lists, merged); err != nil {
			return nil, nil, err
		}
		stack.Contents = release.Blob{Digest: tree.Sum(merged), Size: int64(len(merged))}
	}
	if _, err := stack.Encode(); err != nil {
		return nil, nil, err
	}
	return stack, merged, nil
}

func member(one release.Identified) release.Member {
	return release.Member{ID: one.ID, Name: one.Manifest.Name, Sequence: one.Manifest.Sequence}
}

// layers are those of all parts, bottom to top. A layer that two parts share stands once, where it comes first:
// overlayfs refuses a lower directory that stands twice.
func (p Parts) layers() []release.Layer {
	var all []release.Layer
	seen := map[tree.Digest]bool{}
	add := func(layers []release.Layer) {
		for _, layer := range layers {
			if !seen[layer.ID] {
				seen[layer.ID] = true
				all = append(all, layer)
			}
		}
	}
	add(p.Base.Manifest.Layers)
	for _, one := range p.StandIns {
		if one.Release.Manifest != nil {
			add(one.Release.Manifest.Layers)
		}
	}
	for _, component := range p.Components {
		add(component.Manifest.Layers)
	}
	if p.Joining != nil {
		add([]release.Layer{p.Joining.Layer})
	}
	return all
}

// Check finds what the manifests alone show. The stand-in layers need not be made yet.
func (p Parts) Check() error {
	base := p.Base.Manifest
	if base.Kind != release.Base {
		return fmt.Errorf("%w: release %s is release %d of %s %q; give a release of a base as the base", ErrKind,
			p.Base.ID, base.Sequence, base.Kind, base.Name)
	}
	if base.Kernel == nil {
		return fmt.Errorf("%w: base release %s has no kernel", ErrStack, p.Base.ID)
	}
	if n := len(p.Components); n > release.MaxComponents {
		return fmt.Errorf("%w: it has %d components, and a VM can have %d", ErrTooMany, n, release.MaxComponents)
	}
	if n := len(p.StandIns); n > release.MaxOnDemand {
		return fmt.Errorf("%w: it has %d components on demand, and a VM can have %d; attach some of them always",
			ErrTooMany, n, release.MaxOnDemand)
	}
	all := slices.Clone(p.Components)
	for _, one := range p.StandIns {
		all = append(all, one.Component)
	}
	for i, component := range all {
		if err := p.checkComponent(component, all[:i]); err != nil {
			return err
		}
	}
	toMake := 0 // layers
	for _, one := range p.StandIns {
		if one.Release.Manifest == nil {
			toMake++
			continue
		}
		if err := p.checkStandIn(one); err != nil {
			return err
		}
	}
	for _, one := range p.Prefer {
		if !slices.ContainsFunc(all, func(c release.Identified) bool { return c.Manifest.Name == one.Component }) {
			return fmt.Errorf("%w: component %q is preferred at %s, and is not among the components",
				ErrPrefer, one.Component, one.Path)
		}
	}
	if n := len(p.layers()) + toMake; n > release.MaxStackLayers {
		return fmt.Errorf(
			"%w: base, components and stand-ins have %d layers together, and a VM can have %d; a smaller max_layers of the provider has the next release of the base stand on fewer layers",
			ErrTooMany, n, release.MaxStackLayers)
	}
	return nil
}

// checkStandIn checks that a release is a stand-in layer on the base. Its maker takes care that it is the component's.
func (p Parts) checkStandIn(one StandIn) error {
	base, m := p.Base.Manifest, one.Release.Manifest
	if m.Kind != release.StandIn || m.BuiltOn != p.Base.ID ||
		m.Architecture != base.Architecture || len(m.Layers) != 1 {
		return fmt.Errorf(
			"%w: release %s is of %s %q on %s for %s, and not the stand-in layer of component %q on base release %s for %s",
			ErrKind, one.Release.ID, m.Kind, m.Name, m.BuiltOn, m.Architecture, one.Component.Manifest.Name,
			p.Base.ID, base.Architecture)
	}
	return nil
}

// checkComponent checks a component that is laid over others.
func (p Parts) checkComponent(one release.Identified, below []release.Identified) error {
	base, m := p.Base.Manifest, one.Manifest
	switch {
	case m.Kind != release.Component:
		return fmt.Errorf("%w: release %s is release %d of %s %q; give releases of components as components", ErrKind,
			one.ID, m.Sequence, m.Kind, m.Name)
	case m.BuiltOn != p.Base.ID:
		return fmt.Errorf(
			"%w: release %d of component %q was built on base release %s, and the stack has release %d of base %q, "+
				"%s; build the component on this release, or give the base release that it was built on",
			ErrBuiltOn, m.Sequence, m.Name, m.BuiltOn, base.Sequence, base.Name, p.Base.ID)
	case m.Architecture != base.Architecture:
		return fmt.Errorf("%w: component %q is for %s, and base %q for %s", ErrArchitecture, m.Name, m.Architecture,
			base.Name, base.Architecture)
	}
	twice := slices.IndexFunc(below,
		func(other release.Identified) bool { return other.ID == one.ID || other.Manifest.Name == m.Name })
	if twice >= 0 {
		return fmt.Errorf("%w: component %q, releases %s and %s", ErrTwice, m.Name, below[twice].ID, one.ID)
	}
	return nil
}
