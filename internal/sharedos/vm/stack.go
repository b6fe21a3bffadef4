package vm

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/machine"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// signed is a release as the store holds it, its signature and id checked.
type signed struct {
	id       tree.Digest
	note     []byte
	manifest *release.Manifest
}

// release reads a release from the store and checks that it is what its name says and that the operator signed it.
func (f *Fleet) release(ctx context.Context, id tree.Digest) (signed, error) {
	note, err := f.Store.GetManifest(ctx, id)
	if errors.Is(err, store.ErrNotFound) && f.Offer != nil {
		note, _, err = f.Offer(ctx, id)
	}
	if err != nil {
		return signed{}, fmt.Errorf("read release %s: %w", id, err)
	}
	manifest, actual, err := release.Open(note, []ed25519.PublicKey{f.publicKey()})
	if err != nil {
		return signed{}, fmt.Errorf("check release %s: %w", id, err)
	}
	if actual != id {
		return signed{}, fmt.Errorf("check release %s: the store holds %s under its name; publish the base again", id, actual)
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

// releases reads the releases of a stack, the base's first.
func (f *Fleet) releases(ctx context.Context, base tree.Digest, components []tree.Digest) ([]signed, error) {
	found := make([]signed, 0, 1+len(components))
	for _, id := range append([]tree.Digest{base}, components...) {
		one, err := f.release(ctx, id)
		if err != nil {
			return nil, err
		}
		found = append(found, one)
	}
	return found, nil
}

// stack tells what a VM of these releases runs, and the base's manifest.
func (f *Fleet) stack(ctx context.Context, base tree.Digest, components []tree.Digest) (release.Stack, *release.Manifest, error) {
	found, err := f.releases(ctx, base, components)
	if err != nil {
		return release.Stack{}, nil, err
	}
	stack, err := stackOf(found)
	return stack, found[0].manifest, err
}

func stackOf(found []signed) (release.Stack, error) {
	if found[0].manifest.Kind != release.Base {
		return release.Stack{}, fmt.Errorf("release %s is a %s, not a base", found[0].id, found[0].manifest.Kind)
	}
	if found[0].manifest.Kernel == nil {
		return release.Stack{}, fmt.Errorf("base release %s has no kernel", found[0].id)
	}
	components := make([]release.Identified, 0, len(found)-1)
	for _, component := range found[1:] {
		components = append(components, release.Identified{ID: component.id, Manifest: component.manifest})
	}
	return release.StackOf(found[0].manifest, found[0].id, components...), nil
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

// bootImage is what a VM of a base boots, as paths on the host.
type bootImage struct {
	kernel, initramfs string
	digest            tree.Digest // of the initramfs
}

// bootImage finds kernel and initramfs in the store, or in files of their own if it keeps them on devices. The initramfs is the agent and the base's modules: it is
// made once per pair, and kept on this machine and in the store.
func (f *Fleet) bootImage(ctx context.Context, base *release.Manifest, progress Progress) (bootImage, error) {
	f.images.Lock()
	defer f.images.Unlock()
	kernel, err := f.Store.BlobPath(ctx, base.Kernel.Image.Digest)
	if err != nil {
		return bootImage{}, fmt.Errorf("find kernel %s: %w", base.Kernel.Release, err)
	}
	initramfs, err := f.initramfs(ctx, base, progress)
	if err != nil {
		return bootImage{}, fmt.Errorf("make the initramfs for kernel %s: %w", base.Kernel.Release, err)
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
	if kernel, err = f.bootFile(ctx, kernel, base.Kernel.Image.Digest, func() ([]byte, error) { return f.Store.GetBlob(ctx, base.Kernel.Image) }); err != nil {
		return bootImage{}, fmt.Errorf("keep kernel %s as a file: %w", base.Kernel.Release, err)
	}
	if path, err = f.bootFile(ctx, path, digest, func() ([]byte, error) { return initramfs, nil }); err != nil {
		return bootImage{}, fmt.Errorf("keep the initramfs as a file: %w", err)
	}
	return bootImage{kernel: kernel, initramfs: path, digest: digest}, nil
}

func (f *Fleet) initramfs(ctx context.Context, base *release.Manifest, progress Progress) ([]byte, error) {
	agent, err := f.AgentBinary()
	if err != nil {
		return nil, err
	}
	inputs := sha256.New()
	own := sha256.Sum256(agent)
	inputs.Write(own[:])
	inputs.Write(base.Kernel.Modules.Digest[:])
	cached := filepath.Join(f.Cache, "initramfs", fmt.Sprintf("%x", inputs.Sum(nil)))
	if image, err := os.ReadFile(cached); err == nil {
		return image, nil
	} else if !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	progress("making the initramfs")
	modules, err := f.Store.GetBlob(ctx, base.Kernel.Modules)
	if err != nil {
		return nil, fmt.Errorf("read the kernel's modules: %w", err)
	}
	image, err := f.Initramfs(agent, modules)
	if err != nil {
		return nil, err
	}
	// The cache is this process's user's, and not on the machine of the VMs.
	return image, machine.Local{}.WriteFile(ctx, cached, image)
}

// sameReleases reports whether two stacks are of the same releases.
func sameReleases(a, b release.Stack) bool {
	return a.Base == b.Base && slices.Equal(a.Components, b.Components)
}
