package publish

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/layer"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// Publish implements Interface. It stores the layer first, then the blobs, the manifest and the history. So nothing in
// the store refers to something incomplete, wherever an earlier call was interrupted. If it returns ErrMoved, it has
// published nothing.
func (p *Publisher) Publish(ctx context.Context, prepared *Prepared, progress source.Progress) error {
	if prepared.Unchanged {
		return nil
	}
	if progress == nil {
		progress = func(string, int64, int64) {}
	}
	if err := p.publish(ctx, prepared, progress); err != nil {
		return fmt.Errorf("publish release %s of %s %q: %w", prepared.ID, p.kind(), prepared.Manifest.Name, err)
	}
	return nil
}

func (p *Publisher) publish(ctx context.Context, prepared *Prepared, progress source.Progress) (err error) {
	if prepared.entry == "" {
		return errors.New("it was not prepared by this publisher")
	}
	// The lock keeps others from deleting new objects before the history refers to them.
	ctx, unlock, err := p.Store.Lock(ctx, store.Shared, reportStep(progress))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	return p.publishLocked(ctx, prepared, progress)
}

// publishLocked is publish for a caller that holds a lock of the store.
func (p *Publisher) publishLocked(ctx context.Context, prepared *Prepared, progress source.Progress) error {
	history, err := p.historyBefore(ctx, prepared)
	if err != nil {
		return err
	}
	if err := p.own(&history, prepared.Owner); err != nil {
		return err
	}
	if err := p.upload(ctx, prepared, progress); err != nil {
		return err
	}
	if err := p.Store.PutManifest(ctx, prepared.ID, prepared.Signed); err != nil {
		return fmt.Errorf("store the manifest: %w", err)
	}
	if err := p.record(ctx, prepared, progress); err != nil {
		return err
	}
	if !p.kind().Derived() {
		p.noteUnchanged(ctx, prepared)
	}
	return nil
}

// record adds a release to the history of its base, as the newest. A storage pool has no compare-and-swap, so a lock is
// needed.
func (p *Publisher) record(ctx context.Context, prepared *Prepared, progress source.Progress) (err error) {
	ctx, unlock, err := p.Store.Lock(ctx, store.Record, reportStep(progress))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unlock()) }()

	history, err := p.historyBefore(ctx, prepared)
	if err != nil || slices.Contains(history.IDs(), prepared.ID) {
		return err
	}
	if err := p.own(&history, prepared.Owner); err != nil {
		return err
	}
	if p.kind() == release.Component {
		base, err := p.Get(ctx, prepared.Manifest.BuiltOn)
		if err != nil {
			return fmt.Errorf("read the base that it is built on: %w", err)
		}
		if err := p.enter(ctx, prepared, base); err != nil {
			return err
		}
	}
	newest := store.Listed{ID: prepared.ID, Published: p.now()}
	history.Releases = append([]store.Listed{newest}, history.Releases...)
	if err := p.Store.SetHistory(ctx, p.kind(), prepared.Manifest.Name, history); err != nil {
		return fmt.Errorf("record the release: %w", err)
	}
	return nil
}

// reportStep reports a step without numbers.
func reportStep(progress source.Progress) func(step string) {
	return func(step string) { progress(step, 0, 0) }
}

// historyBefore returns the history of the base; ErrMoved unless its newest release is the one that the prepared
// release follows, or the prepared release itself.
func (p *Publisher) historyBefore(ctx context.Context, prepared *Prepared) (store.History, error) {
	history, err := p.Store.History(ctx, p.kind(), prepared.Manifest.Name)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return store.History{}, fmt.Errorf("read its history: %w", err)
	}
	var newest tree.Digest
	if len(history.Releases) > 0 {
		newest = history.Releases[0].ID
	}
	if newest == prepared.ID || newest == prepared.Manifest.Previous {
		return history, nil
	}
	if newest.IsZero() {
		return store.History{},
			fmt.Errorf("it follows %s, and the %s is gone: %w; plan and apply again",
				prepared.Manifest.Previous, p.kind(), ErrMoved)
	}
	return store.History{}, fmt.Errorf("the newest release is %s, and this one follows %s: %w; plan and apply again",
		newest, describePrevious(prepared.Manifest.Previous), ErrMoved)
}

func describePrevious(id tree.Digest) string {
	if id.IsZero() {
		return "none"
	}
	return id.String()
}

// upload uploads the layers and blobs of the release that the store lacks.
func (p *Publisher) upload(ctx context.Context, prepared *Prepared, progress source.Progress) error {
	m := prepared.Manifest
	lower := m.Layers
	if prepared.layer {
		lower = m.Layers[:len(m.Layers)-1]
		if err := p.uploadLayer(ctx, prepared, m.Layers[len(m.Layers)-1], progress); err != nil {
			return err
		}
	}
	for _, below := range lower {
		_, err := p.Store.LayerPath(ctx, below.ID)
		if errors.Is(err, store.ErrNotFound) {
			return fmt.Errorf("layer %s below it is missing: %w; plan and apply again", below.ID, ErrDamagedStore)
		}
		if err != nil {
			return fmt.Errorf("find layer %s below it: %w", below.ID, err)
		}
	}
	files := blobFiles(m)
	for _, file := range slices.Sorted(maps.Keys(files)) {
		if err := p.uploadBlob(ctx, prepared, file, files[file], progress); err != nil {
			return err
		}
	}
	return nil
}

func (p *Publisher) uploadLayer(ctx context.Context, prepared *Prepared, top release.Layer,
	progress source.Progress) (err error) {
	_, err = p.Store.LayerPath(ctx, top.ID)
	if err != nil && !errors.Is(err, store.ErrNotFound) {
		return fmt.Errorf("find layer %s: %w", top.ID, err)
	}
	missing := err != nil
	file, err := os.Open(filepath.Join(prepared.entry, layerFile))
	if err != nil {
		return fmt.Errorf("read the layer from the cache (plan and apply again to build it again): %w", err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	if missing {
		progress("verifying the layer", 0, 0)
		if err := layer.Verify(file, top); err != nil {
			return errors.Join(fmt.Errorf("the cache is damaged; plan and apply again to build it again: %w", err),
				os.RemoveAll(prepared.entry))
		}
	}
	// PutLayer skips the upload if the store has all of it.
	if _, err := p.Store.PutLayer(ctx, top, file, func(done, total int64) {
		progress("uploading the layer", done, total)
	}); err != nil {
		return fmt.Errorf("upload layer %s: %w", top.ID, err)
	}
	return nil
}

func (p *Publisher) uploadBlob(ctx context.Context, prepared *Prepared, name string, blob release.Blob,
	progress source.Progress) (err error) {
	path := filepath.Join(prepared.entry, name)
	if err := checkFile(path, blob); err != nil {
		return errors.Join(fmt.Errorf("the cache is damaged; plan and apply again to build it again: %w", err),
			os.RemoveAll(prepared.entry))
	}
	file, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("read the %s from the cache: %w", name, err)
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	if err := p.Store.PutBlob(ctx, blob, file, func(done, total int64) {
		progress("uploading the "+name, done, total)
	}); err != nil {
		return fmt.Errorf("upload the %s: %w", name, err)
	}
	return nil
}

// noteUnchanged records in the cache that the source yields what is now the newest release. Without it, the next
// Prepare has to read the source. So a failure is only logged.
func (p *Publisher) noteUnchanged(ctx context.Context, prepared *Prepared) {
	name := prepared.Manifest.Name
	unlock, err := p.lockBase(ctx, name, func(string, int64, int64) {})
	if err == nil {
		key := p.key(prepared.spec, prepared.Fingerprint, &previous{id: prepared.ID})
		err = errors.Join(p.rememberUnchanged(ctx, key), unlock())
	}
	if err != nil {
		p.log().Warn("unable to record in the cache that the source is published", "name", name, "error", err)
	}
}
