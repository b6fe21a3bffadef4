package publish

import (
	"errors"
	"os"
	"slices"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store/storetest"
)

func TestVerifyNamesWhatIsMissingOrDamagedAndWhoNeedsIt(t *testing.T) {
	s := storetest.New(t)
	p := newPublisher(t, s)
	first := publish(t, p, newSystem())
	second := publish(t, p, newSystem().With("usr/bin/server", "version 2"))
	whole, err := p.Verify(t.Context(), "")
	must(t, err)
	if len(whole.Damaged) > 0 || whole.Objects < 6 || whole.Bytes < first.Manifest.Layers[0].Size {
		t.Fatalf("found %+v", whole)
	}
	flip := func(volume string, at int) {
		t.Helper()
		data, err := os.ReadFile(s.Path(volume))
		must(t, err)
		data[at] ^= 1
		must(t, os.WriteFile(s.Path(volume), data, 0o600))
	}
	layer, kernel := store.LayerName(first.Manifest.Layers[0].ID), store.BlobName(second.Manifest.Kernel.Image.Digest)
	contents, manifest := store.BlobName(first.Manifest.Contents.Digest), store.ReleaseName(second.ID)
	flip(layer, 5000)
	flip(kernel, 1)
	must(t, os.Remove(s.Path(contents)))
	found, err := p.Verify(t.Context(), "os")
	must(t, err)
	want := []string{kernel, contents, layer}
	slices.Sort(want)
	var got []string
	for _, damaged := range found.Damaged {
		got = append(got, damaged.Volume)
		if damaged.Volume == layer && !slices.Equal(damaged.Releases, []string{"os 2", "os 1"}) {
			t.Errorf("the layer is needed by %v", damaged.Releases)
		}
	}
	if !slices.Equal(got, want) {
		t.Errorf("damaged are %v, want %v", got, want)
	}
	must(t, os.Remove(s.Path(manifest)))
	if found, err = p.Verify(t.Context(), "os"); err != nil ||
		!slices.ContainsFunc(found.Damaged, func(d Damaged) bool { return d.Volume == manifest }) {
		t.Errorf("without a manifest: %+v, %v", found, err)
	}
	if _, err := p.Verify(t.Context(), "other"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("a base that is not there: %v", err)
	}
}
