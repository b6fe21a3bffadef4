package publish

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store/storetest"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

func TestRetainKeepsTheNewestReleasesAndThoseInUse(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		var history []store.Listed
		users := map[tree.Digest][]string{}
		for i := range rapid.IntRange(0, 12).Draw(t, "releases") {
			id := tree.Digest{byte(i + 1)}
			history = append(history, store.Listed{ID: id})
			if rapid.Bool().Draw(t, "in use") {
				users[id] = []string{"web"}
			}
		}
		newest := rapid.IntRange(1, 12).Draw(t, "newest")
		stay := retained(history, newest, users)
		for i, one := range history {
			if want := i < newest || users[one.ID] != nil; slices.Contains(stay, one) != want {
				t.Fatalf("release %d of %d: stays %v, want %v", i, len(history), !want, want)
			}
		}
		if !slices.IsSortedFunc(stay, func(a, b store.Listed) int { return int(a.ID[0]) - int(b.ID[0]) }) {
			t.Fatalf("the order changed: %v", stay)
		}
	})
}

func TestRetainDeletesWhatNothingRefersToAnyMore(t *testing.T) {
	s := storetest.New(t)
	p := newPublisher(t, s)
	p.MaxChain = 1 // each release has one full layer
	var published []*Prepared
	for _, version := range []string{"1", "2", "3", "4"} {
		published = append(published, publish(t, p, newSystem().With("usr/bin/server", "version "+version)))
	}
	garbage := []byte("the initramfs of an agent that nobody runs any more")
	must(t, s.PutBlob(t.Context(), release.Blob{Digest: tree.Sum(garbage), Size: int64(len(garbage))},
		strings.NewReader(string(garbage)), nil))

	// A VM runs the first release.
	dropped, err := p.Retain(t.Context(), "os", 2, used(map[tree.Digest][]string{published[0].ID: {"web"}}))
	must(t, err)
	if !slices.Equal(dropped, []tree.Digest{published[1].ID}) {
		t.Errorf("dropped %v", dropped)
	}
	history, err := s.History(t.Context(), release.Base, "os")
	must(t, err)
	if want := []tree.Digest{published[3].ID, published[2].ID, published[0].ID}; !slices.Equal(history.IDs(), want) {
		t.Errorf("the history is %v, want %v", history, want)
	}
	for i, one := range published {
		if i != 1 {
			requireWhole(t, s, one.Manifest)
		}
	}
	gone := published[1].Manifest
	if _, err := s.LayerPath(t.Context(), gone.Layers[0].ID); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("the layer of the dropped release: %v", err)
	}
	for what, blob := range map[string]tree.Digest{"contents list": gone.Contents.Digest,
		"garbage": tree.Sum(garbage)} {
		if _, err := s.BlobPath(t.Context(), blob); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("%s: %v", what, err)
		}
	}
	// The collection does not change what the next release follows.
	next := publish(t, p, newSystem().With("usr/bin/server", "version 5"))
	if next.Manifest.Previous != published[3].ID || next.Manifest.Sequence != 5 {
		t.Errorf("the next release is %d after %s", next.Manifest.Sequence, next.Manifest.Previous)
	}
}

// A release that was retained only for a VM is removed when no VM uses it any more. Nothing else is removed.
func TestReleasesThatNoVMUsesAnyMoreAreCollected(t *testing.T) {
	s := storetest.New(t)
	p := newPublisher(t, s)
	p.MaxChain = 1
	var published []*Prepared
	for _, version := range []string{"1", "2", "3"} {
		published = append(published, publish(t, p, newSystem().With("usr/bin/server", "version "+version)))
	}
	other, err := p.Prepare(t.Context(),
		Spec{Name: "other", Source: sourceOf(t, newSystem().With("usr/bin/other", "1"))}, nil)
	must(t, err)
	must(t, p.Publish(t.Context(), other, nil))
	web := used(map[tree.Digest][]string{published[0].ID: {"web"}})
	must(t, p.Collect(t.Context(), web))
	if history, err := s.History(t.Context(), release.Base, "os"); err != nil || len(history.Releases) != 3 {
		t.Fatalf("without a number of releases to retain, the history is %v, %v", history, err)
	}
	_, err = p.Retain(t.Context(), "os", 1, web)
	must(t, err)
	must(t, p.Collect(t.Context(), web))
	history, err := s.History(t.Context(), release.Base, "os")
	if want := []tree.Digest{published[2].ID, published[0].ID}; err != nil || !slices.Equal(history.IDs(), want) {
		t.Fatalf("while a VM uses it, the history is %v, %v, want %v", history, err, want)
	}
	// Publishing keeps the recorded number of releases to retain.
	next := publish(t, p, newSystem().With("usr/bin/server", "version 4"))
	must(t, p.Collect(t.Context(), used(nil)))
	history, err = s.History(t.Context(), release.Base, "os")
	if err != nil || !slices.Equal(history.IDs(), []tree.Digest{next.ID}) || history.Retain != 1 {
		t.Errorf("afterwards the history is %v, %v", history, err)
	}
	if _, err := s.LayerPath(t.Context(), published[0].Manifest.Layers[0].ID); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("the layer that the VM no longer uses: %v", err)
	}
	requireWhole(t, s, next.Manifest)
	requireWhole(t, s, other.Manifest)
}

// This host does not know what a VM of another host refers to, because the other host has the VM's definition.
func TestNothingIsDeletedWhileThePoolHasVMsOfAnotherHost(t *testing.T) {
	s := storetest.New(t)
	p := newPublisher(t, s)
	p.MaxChain = 1
	first := publish(t, p, newSystem())
	last := publish(t, p, newSystem().With("usr/bin/server", "version 2"))
	for _, name := range []string{"here", "there"} {
		_, err := s.CreatePrivateDisk(t.Context(), "vm-"+name, 1<<20)
		must(t, err)
	}
	here := used(map[tree.Digest][]string{last.ID: {"here"}})
	_, err := p.Retain(t.Context(), "os", 1, here)
	for what, err := range map[string]error{"retain": err, "collect": p.Collect(t.Context(), here),
		"delete": p.Delete(t.Context(), "os", here)} {
		if !errors.Is(err, ErrUnknownVM) || !strings.Contains(err.Error(), "vm-there") ||
			strings.Contains(err.Error(), "vm-here") {
			t.Errorf("%s: got error %v, want %v", what, err, ErrUnknownVM)
		}
	}
	requireWhole(t, s, first.Manifest)
	must(t, s.DeletePrivateDisk(t.Context(), "vm-there"))
	dropped, err := p.Retain(t.Context(), "os", 1, here)
	must(t, err)
	if !slices.Equal(dropped, []tree.Digest{first.ID}) {
		t.Errorf("without the other VM, dropped %v", dropped)
	}
}

func TestRetainKeepsLayersOfLaterReleases(t *testing.T) {
	s := storetest.New(t)
	p := newPublisher(t, s)
	publish(t, p, newSystem())
	publish(t, p, newSystem().With("usr/bin/server", "version 2"))
	last := publish(t, p, newSystem().With("usr/bin/server", "version 3"))
	if len(last.Manifest.Layers) < 3 {
		t.Fatalf("%d layers are no chain", len(last.Manifest.Layers))
	}
	dropped, err := p.Retain(t.Context(), "os", 1, used(nil))
	must(t, err)
	if len(dropped) != 2 {
		t.Errorf("dropped %v", dropped)
	}
	requireWhole(t, s, last.Manifest)
}

func TestRetainKeepsAtLeastTheNewestRelease(t *testing.T) {
	s := storetest.New(t)
	p := newPublisher(t, s)
	publish(t, p, newSystem())
	if _, err := p.Retain(t.Context(), "os", 0, used(nil)); err == nil {
		t.Error("retaining nothing was accepted")
	}
}

// Equal trees have the same layer, also if different operators publish them.
func TestEqualLayersAreStoredOnce(t *testing.T) {
	s := storetest.New(t)
	publish(t, newPublisher(t, s), newSystem())
	before := volumes(t, s)
	other := newPublisher(t, s)
	other.Key = testKey(2)
	prepared, err := other.Prepare(t.Context(), Spec{Name: "theirs", Source: sourceOf(t, newSystem())}, nil)
	must(t, err)
	must(t, other.Publish(t.Context(), prepared, nil))
	for _, name := range volumes(t, s) {
		parsed, _ := store.ParseVolumeName(name)
		shared := parsed.Kind == store.LayerVolume || parsed.Kind == store.BlobVolume
		if shared && !slices.Contains(before, name) {
			t.Errorf("another operator's equal base added %s", name)
		}
	}
}
