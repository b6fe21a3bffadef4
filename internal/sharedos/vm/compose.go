package vm

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/compose"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/machine"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// signed is a release from the store whose signature and id were checked.
type signed struct {
	id       tree.Digest
	note     []byte
	manifest *release.Manifest
}

// MissingReleaseError means that neither the pool nor the cache has a release. It matches store.ErrNotFound.
type MissingReleaseError struct {
	ID    tree.Digest
	cause error
}

func (e *MissingReleaseError) Error() string {
	return fmt.Sprintf("there is no release %s: %v", e.ID, e.cause)
}

func (e *MissingReleaseError) Unwrap() error { return e.cause }

// release reads a release from the store, and checks its id and that the operator signed it.
func (f *Fleet) release(ctx context.Context, id tree.Digest) (signed, error) {
	note, err := f.Store.GetManifest(ctx, id)
	if errors.Is(err, store.ErrNotFound) && f.Offer != nil {
		note, _, err = f.Offer(ctx, id)
	}
	if errors.Is(err, store.ErrNotFound) {
		return signed{}, &MissingReleaseError{id, err}
	}
	if err != nil {
		return signed{}, fmt.Errorf("read release %s: %w", id, err)
	}
	manifest, actual, err := release.Open(note, []ed25519.PublicKey{f.publicKey()})
	if err != nil {
		return signed{}, fmt.Errorf("check release %s: %w", id, err)
	}
	if actual != id {
		return signed{}, fmt.Errorf("check release %s: the store holds %s under its name; publish the base again", id,
			actual)
	}
	return signed{id, note, manifest}, nil
}

// contents reads the contents list of a release.
func (f *Fleet) contents(ctx context.Context, one signed) ([]byte, error) {
	contents, err := f.Store.GetBlob(ctx, one.manifest.Contents)
	if errors.Is(err, store.ErrNotFound) && f.Offer != nil {
		_, contents, err = f.Offer(ctx, one.id)
	}
	if err != nil {
		return nil, fmt.Errorf("read the contents list of release %s: %w", one.id, err)
	}
	return contents, nil
}

// read reads the releases of these ids.
func (f *Fleet) read(ctx context.Context, ids []tree.Digest) (found []release.Identified, err error) {
	for _, id := range ids {
		one, err := f.release(ctx, id)
		if err != nil {
			return nil, err
		}
		found = append(found, release.Identified{ID: one.id, Manifest: one.manifest})
	}
	return found, nil
}

// composed is a stack, composed of releases and signed.
type composed struct {
	release.Stack
	manifest *release.StackManifest
	note     []byte
	// derived are the releases of the layers that are made of others: the joining layer and stand-ins.
	derived []tree.Digest
	// unused are the preferences that settle nothing.
	unused []release.Preference
	// list is the release whose contents list is the stack's; merged is the list if it is none of a release's.
	list   signed
	merged []byte
}

// recipe is what a stack is composed of.
type recipe struct {
	base tree.Digest
	// components are ordered bottom to top. offered are those that the VM can attach by itself.
	components, offered []tree.Digest
	prefer              []release.Preference
	// cached is true if nothing may be built.
	cached bool
}

// recipeOf is that of a stack on record.
func recipeOf(stack release.Stack) recipe {
	return recipe{base: stack.Base, components: stack.Components, offered: stack.Offered, prefer: stack.Prefer}
}

// releases returns the ids of all releases, the base's first.
func (r recipe) releases() []tree.Digest {
	return slices.Concat([]tree.Digest{r.base}, r.components, r.offered)
}

// maxComposed is how many stacks are kept whose contents lists were merged.
const maxComposed = 16

// stacks are those that were composed of several components, or with stand-ins: to merge their
// contents lists, or to make their joining layer, takes time.
type stacks struct {
	mu   sync.Mutex
	kept map[string]*composed
	// making has a channel for each stack that is being composed now. It is closed at the end.
	making map[string]chan struct{}
}

// get returns the stack of these releases, or has it composed. Of several callers that need the same one, only one
// composes it, and the others wait for as long as their contexts allow.
func (s *stacks) get(ctx context.Context, of recipe, compose func() (*composed, error)) (*composed, error) {
	if len(of.components) < 2 && len(of.offered) == 0 {
		return compose()
	}
	key := fmt.Sprint(of)
	for {
		known, made := s.begin(key)
		switch {
		case known != nil:
			return known, nil
		case made == nil:
			return s.make(key, compose)
		}
		select {
		case <-made:
		case <-ctx.Done():
			return nil, fmt.Errorf("wait for another VM's stack of the same releases: %w", context.Cause(ctx))
		}
	}
}

// begin returns a stack that is known, or else a channel that is closed when another caller has made it. If both are
// nil, the caller is to make it.
func (s *stacks) begin(key string) (known *composed, made <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if known := s.kept[key]; known != nil {
		return known, nil
	}
	if made, ok := s.making[key]; ok {
		return nil, made
	}
	if s.making == nil {
		s.making = map[string]chan struct{}{}
	}
	s.making[key] = make(chan struct{})
	return nil, nil
}

// forget has all stacks composed again.
func (s *stacks) forget() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.kept = nil
}

func (s *stacks) make(key string, compose func() (*composed, error)) (*composed, error) {
	made, err := compose()
	s.mu.Lock()
	defer s.mu.Unlock()
	close(s.making[key])
	delete(s.making, key)
	if err != nil {
		return nil, err
	}
	if s.kept == nil || len(s.kept) >= maxComposed {
		s.kept = map[string]*composed{}
	}
	s.kept[key] = made
	return made, nil
}

// stack composes the stack of these releases. The error matches compose.ErrStack if they do not make one.
func (f *Fleet) stack(ctx context.Context, of recipe) (*composed, error) {
	return f.stacks.get(ctx, of, func() (*composed, error) { return f.compose(ctx, of) })
}

func (f *Fleet) compose(ctx context.Context, of recipe) (*composed, error) {
	found, err := f.read(ctx, of.releases())
	if err != nil {
		return nil, err
	}
	first := 1 + len(of.components)
	parts := compose.Parts{Base: found[0], Components: found[1:first], Prefer: of.prefer}
	for _, component := range found[first:] {
		parts.StandIns = append(parts.StandIns, compose.StandIn{Component: component})
	}
	if err := parts.Check(); err != nil { // before anything is built
		return nil, err
	}
	lists := func(one release.Identified) (io.ReadCloser, error) {
		list, err := f.contents(ctx, signed{id: one.ID, manifest: one.Manifest})
		return io.NopCloser(bytes.NewReader(list)), err
	}
	used, unused, err := parts.Preferences(lists)
	if err != nil {
		return nil, err
	}
	made := composed{unused: unused}
	for i := range parts.StandIns {
		one := &parts.StandIns[i]
		if one.Release, err = f.standIn(ctx, of, one.Component); err != nil {
			return nil, err
		}
		made.derived = append(made.derived, one.Release.ID)
	}
	if parts.Joining, err = f.joining(ctx, of, used); err != nil {
		return nil, err
	}
	if parts.Joining != nil {
		made.derived = append(made.derived, parts.Joining.Release.ID)
	}
	top := parts.Top()
	made.list = signed{id: top.ID, manifest: top.Manifest}
	made.manifest, made.merged, err = compose.Compose(parts, lists)
	if err != nil {
		return nil, err
	}
	var id tree.Digest
	if made.note, id, err = release.SignStack(made.manifest, f.Key); err != nil {
		return nil, err
	}
	made.Stack = made.manifest.Record(id)
	return &made, nil
}

// joining returns the joining layer of components on a base; nil if they need none.
func (f *Fleet) joining(ctx context.Context, of recipe, prefer []release.Preference) (*compose.Joining, error) {
	if f.Deriver == nil || len(of.components) < 2 {
		return nil, nil //nolint:nilnil // the contract: there is none
	}
	join := f.Deriver.Join
	if of.cached {
		join = f.Deriver.JoinCached
	}
	id, err := join(ctx, of.base, of.components, prefer)
	if err != nil || id.IsZero() {
		return nil, err
	}
	found, err := f.derived(ctx, id, release.Joining, of.base)
	if err != nil {
		return nil, err
	}
	m := found.Manifest
	return &compose.Joining{
		Release: found, Layer: m.Layers[0], Contents: m.Contents, Packages: m.Packages,
		Users: m.Users, Groups: m.Groups,
	}, nil
}

// standIn returns the release of a component's stand-in layer.
func (f *Fleet) standIn(ctx context.Context, of recipe, component release.Identified) (release.Identified, error) {
	if f.Deriver == nil {
		return release.Identified{}, fmt.Errorf("component %q: %w", component.Manifest.Name, errNoDeriver)
	}
	makeStandIn := f.Deriver.StandIn
	if of.cached {
		makeStandIn = f.Deriver.StandInCached
	}
	id, err := makeStandIn(ctx, component.ID)
	if err != nil {
		return release.Identified{}, fmt.Errorf("make the stand-ins of component %q: %w", component.Manifest.Name, err)
	}
	return f.derived(ctx, id, release.StandIn, of.base)
}

// errNoDeriver means that a fleet has no Deriver.
var errNoDeriver = errors.New("no stand-ins can be made")

// derived reads a release of one layer that was made of others.
func (f *Fleet) derived(ctx context.Context, id tree.Digest, kind release.Kind,
	base tree.Digest) (release.Identified, error) {
	found, err := f.release(ctx, id)
	if err != nil {
		return release.Identified{}, err
	}
	if m := found.manifest; m.Kind != kind || m.BuiltOn != base || len(m.Layers) != 1 {
		return release.Identified{},
			fmt.Errorf("release %s is of %s %q, and not the %s of these components", id, m.Kind, m.Name, kind)
	}
	return release.Identified{ID: found.id, Manifest: found.manifest}, nil
}

// stackContents reads the contents list of a stack.
func (f *Fleet) stackContents(ctx context.Context, stack *composed) ([]byte, error) {
	if stack.merged != nil {
		return stack.merged, nil
	}
	return f.contents(ctx, stack.list)
}

// Check implements Interface.
func (f *Fleet) Check(ctx context.Context, spec Spec, build bool) (Checked, error) {
	of, err := f.recipe(ctx, spec)
	if err != nil {
		return Checked{}, fmt.Errorf("compose the stack of VM %q: %w", spec.Name, err)
	}
	of.cached = !build
	stack, err := f.stack(ctx, of)
	var offered *offer
	if err == nil {
		offered, err = f.offer(ctx, spec, of.cached)
	}
	if err != nil {
		return Checked{}, fmt.Errorf("compose the stack of VM %q: %w", spec.Name, err)
	}
	return Checked{Stack: stack.Stack, Unused: offered.unused(stack.unused)}, nil
}

// layerDevices finds the layers in the store.
func (f *Fleet) layerDevices(ctx context.Context, layers []release.Layer) ([]hypervisor.LayerDevice, error) {
	disks := make([]hypervisor.LayerDevice, 0, len(layers))
	for _, layer := range layers {
		path, err := f.Store.LayerPath(ctx, layer.ID)
		if err != nil {
			return nil, fmt.Errorf("find layer %s: %w", layer.ID, err)
		}
		disks = append(disks, hypervisor.LayerDevice{ID: layer.ID, Path: path})
	}
	return disks, nil
}

// bootImage is the kernel and the initramfs that a VM boots, as paths on the host.
type bootImage struct {
	kernel, initramfs string
	digest            tree.Digest // of the initramfs
}

// bootImage finds a kernel and its initramfs in the store, or copies them to files if the store
// keeps them on devices. The initramfs consists of the agent and the kernel's modules. It is made
// once per pair and kept on this machine and in the store.
func (f *Fleet) bootImage(ctx context.Context, wanted release.Kernel, progress Progress) (bootImage, error) {
	f.images.Lock()
	defer f.images.Unlock()
	kernel, err := f.Store.BlobPath(ctx, wanted.Image.Digest)
	if err != nil {
		return bootImage{}, fmt.Errorf("find kernel %s: %w", wanted.Release, err)
	}
	initramfs, err := f.initramfs(ctx, wanted, progress)
	if err != nil {
		return bootImage{}, fmt.Errorf("make the initramfs for kernel %s: %w", wanted.Release, err)
	}
	digest := tree.Sum(initramfs)
	path, err := f.Store.BlobPath(ctx, digest)
	if errors.Is(err, store.ErrNotFound) {
		progress("uploading the initramfs")
		blob := release.Blob{Digest: digest, Size: int64(len(initramfs))}
		if err := f.Store.PutBlob(ctx, blob, bytes.NewReader(initramfs), nil); err != nil {
			return bootImage{}, fmt.Errorf("upload the initramfs: %w", err)
		}
		path, err = f.Store.BlobPath(ctx, digest)
	}
	if err != nil {
		return bootImage{}, fmt.Errorf("find the initramfs: %w", err)
	}
	if kernel, err = f.bootFile(ctx, kernel, wanted.Image.Digest,
		func() ([]byte, error) { return f.Store.GetBlob(ctx, wanted.Image) }); err != nil {
		return bootImage{}, fmt.Errorf("keep kernel %s as a file: %w", wanted.Release, err)
	}
	if path, err = f.bootFile(ctx, path, digest, func() ([]byte, error) { return initramfs, nil }); err != nil {
		return bootImage{}, fmt.Errorf("keep the initramfs as a file: %w", err)
	}
	return bootImage{kernel: kernel, initramfs: path, digest: digest}, nil
}

func (f *Fleet) initramfs(ctx context.Context, kernel release.Kernel, progress Progress) ([]byte, error) {
	agent, err := f.AgentBinary()
	if err != nil {
		return nil, err
	}
	inputs := sha256.New()
	own := sha256.Sum256(agent)
	inputs.Write(own[:])
	inputs.Write(kernel.Modules.Digest[:])
	cached := filepath.Join(f.Cache, "initramfs", fmt.Sprintf("%x", inputs.Sum(nil)))
	if image, err := os.ReadFile(cached); err == nil {
		return image, nil
	} else if !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	progress("making the initramfs")
	modules, err := f.Store.GetBlob(ctx, kernel.Modules)
	if err != nil {
		return nil, fmt.Errorf("read the kernel's modules: %w", err)
	}
	image, err := f.Initramfs(agent, modules)
	if err != nil {
		return nil, err
	}
	// The cache belongs to the user of this process, and may be on another machine than the VMs.
	return image, machine.Local{}.WriteFile(ctx, cached, image)
}
