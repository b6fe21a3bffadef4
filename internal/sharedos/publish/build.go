package publish

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/erofs"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/layer"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/rootfs"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// maxKernelImage bounds a kernel image in bytes.
const maxKernelImage = 512 << 20

// build reads the source and builds in the cache the release that follows before. The caller holds the lock of the
// base.
func (p *Publisher) build(ctx context.Context, spec Spec, before *previous, key cacheKey,
	progress source.Progress) (_ *cached, err error) {
	directory, err := p.begin(spec.Name)
	if err != nil {
		return nil, err
	}
	defer func() {
		// commit has renamed it.
		err = errors.Join(err, os.RemoveAll(directory))
	}()
	read, err := rootfs.Read(ctx, spec.Source, directory, progress, spec.SharedSecrets...)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, read.Close()) }()
	// The entry in the cache is named after the fingerprint, so what was read must have it.
	switch now, err := spec.Source.Fingerprint(ctx); {
	case err != nil:
		return nil, fmt.Errorf("identify the source again: %w", err)
	case now != key.Fingerprint:
		return nil, fmt.Errorf("%w: plan and apply again when nothing writes to the source", ErrSourceChanged)
	}
	b := &building{publisher: p, directory: directory, read: read, before: before,
		input: key.Fingerprint, progress: progress}
	var known *release.Manifest
	pin := spec.PinAccounts
	if before != nil {
		if known, err = p.withFormerAccounts(ctx, before.manifest); err != nil {
			return nil, err
		}
		// Components on the base have accounts of their own, so a new account of the base must not take their numbers.
		ledger, err := p.ledger(ctx, spec.Name)
		if err != nil {
			return nil, err
		}
		known.Users, known.Groups = withAccounts(known.Users, ledger.Users), withAccounts(known.Groups, ledger.Groups)
		pin = pin || !ledger.none()
	}
	if len(read.Secrets) > 0 {
		progress(fmt.Sprintf("leaving out secrets that the build has made: %s",
			strings.Join(rootfs.SecretsText(read.Secrets), ", ")), 0, 0)
	}
	if pin && before != nil {
		if b.pinned, err = pinAccounts(read, known); err != nil {
			return nil, err
		}
	}
	if err := layer.CheckTree(read.Tree.Entries); err != nil {
		return nil, err
	}
	b.tree = read.Tree
	if before != nil && before.whole {
		if err := b.keepData(ctx); err != nil {
			return nil, err
		}
	}
	manifest, err := b.describe(spec.Name)
	if err != nil {
		return nil, err
	}
	if before != nil {
		if err := checkAccounts(known, manifest); err != nil {
			return nil, err
		}
		if sameSystem(before.manifest, manifest) && before.whole {
			unchanged := record{Unchanged: &before.id, Secrets: read.Secrets, Notes: read.Notes}
			for _, name := range slices.Collect(maps.Keys(blobFiles(manifest))) {
				if err := os.Remove(filepath.Join(directory, name)); err != nil {
					return nil, err
				}
			}
			path, err := p.commit(directory, key, unchanged)
			return &cached{directory: path, record: unchanged, id: before.id}, err
		}
	}
	r, err := b.addLayer(ctx, manifest)
	if err != nil {
		return nil, err
	}
	r.Secrets, r.Notes = read.Secrets, read.Notes
	return p.complete(directory, key, manifest, r)
}

// building is a release that is being built.
type building struct {
	publisher *Publisher
	directory string
	read      *rootfs.System
	// tree is the release's: read.Tree, or that with data directories of the previous release.
	tree *tree.Tree
	// data are the data directories of the build (rootfs.DataDirectories), newData those that the previous release
	// lacks.
	data, newData []string
	before        *previous
	// contentsBefore is the contents list of the previous release, as previousContents returned it.
	contentsBefore []byte
	input          string
	pinned         []string
	progress       source.Progress
}

// describe writes the blobs of the release and returns its manifest without layers.
func (b *building) describe(name string) (*release.Manifest, error) {
	m := &release.Manifest{
		Schema: release.Schema, Kind: release.Base, Name: name, Sequence: 1,
		Architecture: b.read.Architecture, OS: b.read.OS, Packages: b.read.Packages,
		Users: b.read.Users, Groups: b.read.Groups, Input: b.input,
		Kernel: &release.Kernel{Release: b.read.Kernel.Release},
	}
	if b.before != nil {
		m.Sequence, m.Previous = b.before.manifest.Sequence+1, b.before.id
	}
	b.progress("listing contents", 0, 0)
	var err error
	if m.Contents, err = b.contents(); err != nil {
		return nil, err
	}
	m.Kernel.Image, err = b.blob(imageFile, func(w io.Writer) (err error) {
		image, err := b.read.OpenKernel()
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, image.Close()) }()
		n, err := io.Copy(w, io.LimitReader(image, maxKernelImage+1))
		if n > maxKernelImage {
			return fmt.Errorf("more than %d bytes", maxKernelImage)
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	b.progress("gathering kernel modules", 0, 0)
	m.Kernel.Modules, err = b.blob(modulesFile, func(w io.Writer) error {
		if b.publisher.Modules == nil {
			return errors.New("this publisher cannot pack modules")
		}
		archive, err := b.publisher.Modules(b.read.Full, b.read.Kernel.Release)
		if err != nil {
			return err
		}
		_, err = w.Write(archive)
		return err
	})
	return m, err
}

// contents writes the contents list.
func (b *building) contents() (release.Blob, error) {
	return b.blob(contentsFile, func(w io.Writer) error {
		_, err := release.WriteContents(w, b.tree.Entries)
		return err
	})
}

// previousContents returns the contents list of the previous release, nil if the store lacks it.
func (b *building) previousContents(ctx context.Context) ([]byte, error) {
	if b.contentsBefore != nil {
		return b.contentsBefore, nil
	}
	contents, err := b.publisher.Store.GetBlob(ctx, b.before.manifest.Contents)
	if errors.Is(err, store.ErrNotFound) || errors.Is(err, store.ErrCorrupt) {
		b.publisher.log().Warn("the contents list of the newest release is missing, so the next one will be full",
			"release", b.before.id)
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read the contents list of release %s: %w", b.before.id, err)
	}
	b.contentsBefore = contents
	return contents, nil
}

// blob writes a file of the release and returns its digest and size.
func (b *building) blob(name string, write func(io.Writer) error) (_ release.Blob, err error) {
	file, err := os.OpenFile(filepath.Join(b.directory, name), os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return release.Blob{}, fmt.Errorf("write the %s: %w", name, err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	sum := &summing{sum: sha256.New()}
	if err := write(io.MultiWriter(file, sum)); err != nil {
		return release.Blob{}, fmt.Errorf("write the %s: %w", name, err)
	}
	if err := file.Sync(); err != nil {
		return release.Blob{}, fmt.Errorf("write the %s: %w", name, err)
	}
	return sum.blob(), nil
}

// sameSystem reports whether two releases have the same content, whatever their layers are.
func sameSystem(a, b *release.Manifest) bool {
	return a.Contents == b.Contents && a.Architecture == b.Architecture && a.OS == b.OS &&
		*a.Kernel == *b.Kernel && slices.Equal(a.Packages, b.Packages) &&
		maps.Equal(a.Users, b.Users) && maps.Equal(a.Groups, b.Groups)
}

// addLayer writes a delta or a full layer, and completes the manifest.
func (b *building) addLayer(ctx context.Context, m *release.Manifest) (record, error) {
	if b.before == nil {
		top, err := b.writeLayer(ctx, b.read.Tree)
		m.Layers = []release.Layer{top}
		return record{Layer: true}, err
	}
	oldContents, err := b.previousContents(ctx)
	if err != nil {
		return record{}, err
	}
	change, err := b.change(m, oldContents)
	if err != nil {
		return record{}, err
	}
	change.Pinned = b.pinned
	r := record{Change: change}
	lower := b.before.manifest.Layers
	if m.Contents == b.before.manifest.Contents && b.before.whole {
		m.Layers = slices.Clone(lower) // only the kernel image or the description of the system differs
		return r, nil
	}
	r.Layer = true
	top, rebase, err := b.writeDelta(ctx, oldContents, lower)
	if err != nil {
		return record{}, err
	}
	if rebase == "" {
		m.Layers = append(slices.Clone(lower), top)
	} else {
		if change, err = b.withOwnData(m, change, oldContents); err != nil {
			return record{}, err
		}
		if top, err = b.writeLayer(ctx, b.read.Tree); err != nil {
			return record{}, err
		}
		m.Layers = []release.Layer{top}
	}
	change.LayerBytes, change.Rebase = top.Size, rebase
	return r, nil
}

// withOwnData has the release contain the data directories of this build, for a full layer. It returns the change anew.
func (b *building) withOwnData(m *release.Manifest, change *Change, oldContents []byte) (*Change, error) {
	if b.tree == b.read.Tree {
		return change, nil
	}
	b.tree = b.read.Tree
	if err := os.Remove(filepath.Join(b.directory, contentsFile)); err != nil {
		return nil, fmt.Errorf("write the contents list again: %w", err)
	}
	var err error
	if m.Contents, err = b.contents(); err != nil {
		return nil, err
	}
	anew, err := b.change(m, oldContents)
	if err == nil {
		anew.Pinned = change.Pinned
	}
	return anew, err
}

func (b *building) change(m *release.Manifest, oldContents []byte) (_ *Change, err error) {
	if oldContents == nil {
		return describeChange(b.before.manifest, m, nil, nil, nil)
	}
	contents, err := os.Open(filepath.Join(b.directory, contentsFile))
	if err != nil {
		return nil, fmt.Errorf("compare contents: %w", err)
	}
	defer func() { err = errors.Join(err, contents.Close()) }()
	return describeChange(b.before.manifest, m, bytes.NewReader(oldContents), contents, b.data)
}

// writeDelta writes a delta on top of the layers of the previous release, or returns why the next layer has to be a
// full one.
func (b *building) writeDelta(ctx context.Context, oldContents []byte,
	lower []release.Layer) (_ release.Layer, rebase string, _ error) {
	switch limit := b.publisher.maxChain(); {
	case !b.before.whole:
		return release.Layer{}, "the storage pool lacks a layer of the previous release", nil
	case oldContents == nil:
		return release.Layer{}, "the storage pool lacks the contents list of the previous release", nil
	case len(lower) >= limit:
		return release.Layer{}, fmt.Sprintf("the previous release has %d of at most %d layers", len(lower), limit), nil
	case len(b.newData) > 0:
		return release.Layer{},
			"packages have newly made data in /" + strings.Join(b.newData, ", /") + ", which no delta holds", nil
	}
	old, err := readContents(oldContents)
	if err != nil {
		return release.Layer{}, "", fmt.Errorf("read the contents list of release %s: %w", b.before.id, err)
	}
	delta := layer.Delta(old, b.tree.Entries)
	part, err := erofs.StoredBytes(ctx, &tree.Tree{Entries: delta, Content: b.tree.Content})
	if err != nil {
		return release.Layer{}, "", fmt.Errorf("measure the delta: %w", err)
	}
	whole, err := erofs.StoredBytes(ctx, b.tree)
	if err != nil {
		return release.Layer{}, "", fmt.Errorf("measure the tree: %w", err)
	}
	if limit := b.publisher.maxDelta(); part*100 > whole*int64(limit) {
		return release.Layer{},
			fmt.Sprintf("a delta would have %d%% of the content, and at most %d%% is allowed", part*100/whole, limit),
			nil
	}
	// Overlayfs does not accept a layer twice, and a change that was undone and is made again would be one. The time of
	// the root directory, which no comparison looks at, tells them apart.
	for again := range int64(len(lower)) + 1 {
		delta[0].ModTime = delta[0].ModTime.Add(time.Duration(min(again, 1)) * time.Second)
		top, err := b.writeLayer(ctx, &tree.Tree{Entries: delta, Content: b.tree.Content})
		if err != nil {
			return release.Layer{}, "", err
		}
		if !slices.ContainsFunc(lower, func(l release.Layer) bool { return l.ID == top.ID }) {
			top.Delta = true
			return top, "", nil
		}
		if err := os.Remove(filepath.Join(b.directory, layerFile)); err != nil {
			return release.Layer{}, "", fmt.Errorf("write the layer again: %w", err)
		}
	}
	return release.Layer{}, "the delta equals an earlier one", nil
}

func (b *building) writeLayer(ctx context.Context, t *tree.Tree) (_ release.Layer, err error) {
	file, err := os.OpenFile(filepath.Join(b.directory, layerFile), os.O_RDWR|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return release.Layer{}, fmt.Errorf("write the layer: %w", err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	counted := &tree.Tree{Entries: t.Entries, Content: &countedContent{
		Content: t.Content, total: erofs.BytesToRead(t.Entries),
		progress: func(done, total int64) { b.progress("writing the layer", done, total) },
	}}
	written, err := layer.Write(ctx, counted, file)
	if err != nil {
		return release.Layer{}, err
	}
	if err := file.Sync(); err != nil {
		return release.Layer{}, fmt.Errorf("write the layer: %w", err)
	}
	return written, nil
}
