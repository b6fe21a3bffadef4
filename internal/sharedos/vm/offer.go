package vm

import (
	"context"
	"fmt"
	"slices"
	"sync"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/compose"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// offer is what a VM can attach by itself: each combination of its components on demand is a stack (design/0058).
type offer struct {
	id         tree.Digest
	components []release.Member
	stacks     []*composed
	// layer is that of the offer itself.
	layer release.Layer
}

// record is what the definition of a VM records of its offer; nil for none.
func (o *offer) record() *hypervisor.Offer {
	if o == nil {
		return nil
	}
	record := &hypervisor.Offer{Components: o.components}
	for _, layer := range o.layers() {
		record.Layers = append(record.Layers, layer.ID)
	}
	return record
}

// layers are those of all stacks, each once, and the offer's own.
func (o *offer) layers() (all []release.Layer) {
	if o == nil {
		return nil
	}
	seen := map[tree.Digest]bool{}
	for _, stack := range o.stacks {
		for _, layer := range stack.Layers {
			if !seen[layer.ID] {
				seen[layer.ID] = true
				all = append(all, layer)
			}
		}
	}
	return append(all, o.layer)
}

// unused returns those of these preferences that settle nothing in any of the stacks.
func (o *offer) unused(of []release.Preference) []release.Preference {
	if o == nil {
		return of
	}
	return slices.DeleteFunc(slices.Clone(of), func(one release.Preference) bool {
		return slices.ContainsFunc(o.stacks, func(stack *composed) bool { return !slices.Contains(stack.unused, one) })
	})
}

// derived are the releases that are made of others, the offer's own included.
func (o *offer) derived() (all []tree.Digest) {
	if o == nil {
		return nil
	}
	for _, stack := range o.stacks {
		all = append(all, stack.derived...)
	}
	return append(all, o.id)
}

// offers are those that were composed already.
type offers struct {
	mu   sync.Mutex
	kept map[string]*offer
}

func (o *offers) get(key string) *offer {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.kept[key]
}

func (o *offers) forget() {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.kept = nil
}

func (o *offers) put(key string, made *offer) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if o.kept == nil || len(o.kept) >= maxComposed {
		o.kept = map[string]*offer{}
	}
	o.kept[key] = made
}

// recipe is that of the stack that spec wants.
func (f *Fleet) recipe(ctx context.Context, spec Spec) (recipe, error) {
	of := recipe{base: spec.Base, components: slices.Clone(spec.Components), prefer: spec.Prefer}
	for _, id := range spec.OnDemand {
		attached := false
		if len(spec.Attached) > 0 && !spec.DetachUsed { // only then its name matters
			component, err := f.release(ctx, id)
			if err != nil {
				return recipe{}, err
			}
			attached = slices.Contains(spec.Attached, component.manifest.Name)
		}
		if attached {
			of.components = append(of.components, id)
		} else {
			of.offered = append(of.offered, id)
		}
	}
	return of, nil
}

// wanted composes the stack that spec wants.
func (f *Fleet) wanted(ctx context.Context, spec Spec) (*composed, error) {
	of, err := f.recipe(ctx, spec)
	if err != nil {
		return nil, err
	}
	return f.stack(ctx, of)
}

// offer composes all stacks that a VM can move to by itself; nil if it has no components on demand. If cached is true,
// nothing is built. The error matches compose.ErrStack if one of them is none.
func (f *Fleet) offer(ctx context.Context, spec Spec, cached bool) (*offer, error) {
	if len(spec.OnDemand) == 0 {
		return nil, nil //nolint:nilnil // the contract: there is none
	}
	if n := len(spec.OnDemand); n > release.MaxOnDemand {
		return nil, fmt.Errorf("%w: it has %d components on demand, and a VM can have %d",
			compose.ErrTooMany, n, release.MaxOnDemand)
	}
	key := fmt.Sprint(spec.Base, spec.Components, spec.OnDemand, spec.Prefer)
	if known := f.offers.get(key); known != nil {
		return known, nil
	}
	// Of several VMs that need the same offer, each composes it: its stacks are composed once, and
	// what it has on disk is made once.
	made, err := f.composeOffer(ctx, spec, cached)
	if err != nil {
		return nil, err
	}
	f.offers.put(key, made)
	return made, nil
}

func (f *Fleet) composeOffer(ctx context.Context, spec Spec, cached bool) (*offer, error) {
	made := &offer{}
	components, err := f.read(ctx, spec.OnDemand)
	if err != nil {
		return nil, err
	}
	for _, one := range components {
		made.components = append(made.components,
			release.Member{ID: one.ID, Name: one.Manifest.Name, Sequence: one.Manifest.Sequence})
	}
	var stacks []compose.OfferedStack
	for chosen := range 1 << len(spec.OnDemand) {
		of := recipe{base: spec.Base, components: slices.Clone(spec.Components), prefer: spec.Prefer, cached: cached}
		for i, id := range spec.OnDemand {
			if chosen&(1<<i) != 0 {
				of.components = append(of.components, id)
			} else {
				of.offered = append(of.offered, id)
			}
		}
		stack, err := f.stack(ctx, of)
		if err != nil {
			return nil, err
		}
		list, err := f.stackContents(ctx, stack)
		if err != nil {
			return nil, err
		}
		made.stacks = append(made.stacks, stack)
		stacks = append(stacks,
			compose.OfferedStack{ID: stack.ID, Signed: stack.note, Contents: stack.manifest.Contents, List: list})
	}
	makeOffer := f.Deriver.MakeOffer
	if cached {
		makeOffer = f.Deriver.MakeOfferCached
	}
	if made.id, err = makeOffer(ctx, spec.Base, stacks); err != nil {
		return nil, fmt.Errorf("make the offer of its components on demand: %w", err)
	}
	found, err := f.derived(ctx, made.id, release.Offer, spec.Base)
	if err != nil {
		return nil, err
	}
	made.layer = found.Manifest.Layers[0]
	if n := len(made.layers()); n > release.MaxStackLayers {
		return nil, fmt.Errorf(
			"%w: with all combinations of its components on demand it has %d layers attached, and a VM can have %d; "+
				"offer fewer of them", compose.ErrTooMany, n, release.MaxStackLayers)
	}
	return made, nil
}

// offerDevices are the devices of an offer that a stack does not have itself.
func (f *Fleet) offerDevices(ctx context.Context, o *offer, stack release.Stack) ([]hypervisor.LayerDevice, error) {
	if o == nil {
		return nil, nil
	}
	further := slices.DeleteFunc(o.layers(), func(l release.Layer) bool {
		return slices.ContainsFunc(stack.Layers, func(own release.Layer) bool { return own.ID == l.ID })
	})
	devices, err := f.layerDevices(ctx, further)
	for i := range devices {
		devices[i].Offer = devices[i].ID == o.layer.ID
	}
	return devices, err
}

// stackSpec is what a VM's definition says about its stack.
type stackSpec struct {
	Base                 tree.Digest
	Components, OnDemand []tree.Digest
	Attached             []string
	Prefer               []release.Preference
}

// target is what makes the stack, whatever is attached.
func (s stackSpec) target() Target { return Target{s.Base, s.Components, s.OnDemand, s.Prefer} }

// specOf returns what a definition says about the stack of its VM.
func specOf(domain hypervisor.Domain) stackSpec {
	stack := domain.Metadata.Stack
	spec := stackSpec{Base: stack.Base, Prefer: stack.Prefer}
	spec.Components, spec.Attached = domain.Metadata.Offer.Split(stack.Components)
	if offer := domain.Metadata.Offer; offer != nil {
		for _, one := range offer.Components {
			spec.OnDemand = append(spec.OnDemand, one.ID)
		}
	}
	return spec
}

// movedByUse reports whether a guest runs the stack of its definition, but for components on demand
// that it has attached or detached by itself. names are those that are attached.
func movedByUse(domain hypervisor.Domain, running release.Stack) (names []string, moved bool) {
	defined, offer := domain.Metadata.Stack, domain.Metadata.Offer
	if offer == nil || running.Base != defined.Base || !slices.Equal(running.Prefer, defined.Prefer) {
		return nil, false
	}
	was, _ := offer.Split(defined.Components)
	is, names := offer.Split(running.Components)
	return names, slices.Equal(was, is) && len(names)+len(running.Offered) == len(offer.Components)
}

// setStack has the spec want another stack, with nothing on demand attached or detached.
func (s *Spec) setStack(stack release.Stack) {
	s.Base, s.Components, s.OnDemand, s.Attached, s.Prefer = stack.Base, stack.Components,
		stack.Offered, nil, stack.Prefer
}

// withAttached returns spec with the components on demand that a running VM has attached, as its
// agent says. If progress is not nil, it waits until the VM does not attach or detach one. If the
// agent does not answer, spec stays as it is.
func (f *Fleet) withAttached(ctx context.Context, domain hypervisor.Domain, spec Spec, progress Progress) Spec {
	if len(spec.OnDemand) == 0 || domain.Metadata.Offer == nil {
		return spec
	}
	status, err := f.status(ctx, domain)
	if err == nil && progress != nil && inFlight(status) && !waitsForHost(status) {
		status, err = f.settled(ctx, domain.Name, progress)
	}
	var running release.Stack
	if err == nil {
		running, err = agentapi.ParseStack(status.GetStack())
	}
	if err != nil {
		f.Log.WarnContext(ctx, "it is not known which components the VM has attached by itself", "vm",
			domain.Name, "error", err)
		return spec
	}
	_, spec.Attached = domain.Metadata.Offer.Split(running.Components)
	return spec
}

// detachAtStart records that the next definition of the VM detaches what the VM has attached by itself, if spec says
// so: the stack of the definition may be the same as before, and the guest boots what it has attached since.
// Afterwards the VM can attach it again, and keeps that. A refresh that detaches in the running guest needs no record.
func (f *Fleet) detachAtStart(ctx context.Context, spec Spec) error {
	if !spec.DetachUsed {
		return nil
	}
	domain, _, err := f.Hypervisor.Lookup(ctx, spec.Name)
	if err != nil || domain.Metadata.Offer == nil {
		return err
	}
	return f.setMetadata(ctx, spec.Name, func(m *hypervisor.Metadata) { m.Detaches++ })
}

// definedAs returns spec as a definition is to have it when the guest runs the stack of spec already. If that is the
// defined stack but for what the guest has attached by itself, the definition keeps its stack: the guest compares the
// stack that it is configured with with the one that the host has moved it to.
func definedAs(domain hypervisor.Domain, spec Spec) Spec {
	known := specOf(domain)
	same := spec.Base == known.Base && slices.Equal(spec.Components, known.Components) &&
		slices.Equal(spec.OnDemand, known.OnDemand) &&
		slices.Equal(spec.Prefer, known.Prefer)
	if same && !spec.DetachUsed {
		spec.Attached = known.Attached
	}
	return spec
}
