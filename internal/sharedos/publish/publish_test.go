package publish

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store/storetest"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

var errCutOff = errors.New("cut off")

// Wherever Publish is interrupted, the newest release is the old or the new one, and it is complete. The next Publish
// completes the new one.
func TestPublishCanBeInterruptedAnywhere(t *testing.T) {
	for step := 0; ; step++ {
		if step > 100 {
			t.Fatal("publishing never ends")
		}
		s := storetest.New(t)
		p := newPublisher(t, s)
		first := publish(t, p, newSystem())
		second := prepare(t, p, sourceOf(t, newSystem().With("usr/bin/server", "version 2")))
		calls := 0
		s.Fail = func(string, string) error {
			if calls++; calls > step {
				return errCutOff
			}
			return nil
		}
		err := p.Publish(t.Context(), second, nil)
		s.Fail = nil
		id, m, newestErr := p.Newest(t.Context(), "os")
		if newestErr != nil || id != first.ID && id != second.ID {
			t.Fatalf("cut off after %d calls: the newest release is %s, %v", step, id, newestErr)
		}
		requireWhole(t, s, m)
		if err == nil {
			if id != second.ID {
				t.Fatalf("published, but the newest release is %s", id)
			}
			return
		}
		if !errors.Is(err, errCutOff) {
			t.Fatalf("cut off after %d calls: %v", step, err)
		}
		for range 2 {
			if err := p.Publish(t.Context(), second, nil); err != nil {
				t.Fatalf("again after %d calls: %v", step, err)
			}
		}
		history, err := s.History(t.Context(), release.Base, "os")
		if err != nil || !slices.Equal(history.IDs(), []tree.Digest{second.ID, first.ID}) {
			t.Fatalf("the record is %v, %v", history, err)
		}
	}
}

func TestPublishStoresObjectsBeforeReferencesToThem(t *testing.T) {
	s := storetest.New(t)
	publish(t, newPublisher(t, s), newSystem())
	var kinds []string
	for _, call := range s.Calls() {
		method, _, _ := strings.Cut(call, " ")
		kinds = append(kinds, method)
	}
	want := []string{"PutLayer", "PutBlob", "PutManifest", "SetHistory"}
	if got := slices.Compact(kinds)[:4]; !slices.Equal(got, want) {
		t.Errorf("order %v, want %v", got, want)
	}
}

func TestPublishSeesThatAnotherWasFaster(t *testing.T) {
	s := storetest.New(t)
	a, b := newPublisher(t, s), newPublisher(t, s)
	mine := prepare(t, a, sourceOf(t, newSystem().With("usr/bin/server", "mine")))
	theirs := publish(t, b, newSystem().With("usr/bin/server", "theirs"))
	requireMoved := func(what string, err error) {
		t.Helper()
		if id, _, newestErr := a.Newest(t.Context(), "os"); !errors.Is(err, ErrMoved) ||
			newestErr != nil || id != theirs.ID {
			t.Errorf("%s: got %v, want ErrMoved; the newest release is %s, %v", what, err, id, newestErr)
		}
	}
	requireMoved("first release", a.Publish(t.Context(), mine, nil))

	mine = prepare(t, a, sourceOf(t, newSystem().With("usr/bin/server", "mine")))
	theirs = publish(t, b, newSystem().With("usr/bin/server", "theirs 2"))
	requireMoved("second release", a.Publish(t.Context(), mine, nil))

	mine = prepare(t, a, sourceOf(t, newSystem().With("usr/bin/server", "mine")))
	must(t, b.Delete(t.Context(), "os", used(nil)))
	if err := a.Publish(t.Context(), mine, nil); !errors.Is(err, ErrMoved) {
		t.Errorf("the base is gone: got %v, want ErrMoved", err)
	}
	publish(t, a, newSystem().With("usr/bin/server", "mine"))
}

func TestNewestDistinguishesGoneFromDamaged(t *testing.T) {
	s := storetest.New(t)
	p := newPublisher(t, s)
	if _, _, err := p.Newest(t.Context(), "os"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("no base: got %v, want ErrNotFound", err)
	}
	first := publish(t, p, newSystem())
	other := newPublisher(t, s)
	other.Key = testKey(2)
	if _, _, err := other.Newest(t.Context(), "os"); !errors.Is(err, release.ErrSignature) ||
		errors.Is(err, store.ErrNotFound) {
		t.Errorf("another operator's: got %v, want ErrSignature", err)
	}
	other.Trusted = []ed25519.PublicKey{p.Key.Public().(ed25519.PublicKey)}
	if id, _, err := other.Newest(t.Context(), "os"); err != nil || id != first.ID {
		t.Errorf("a trusted operator's: got %s, %v", id, err)
	}
	must(t, os.Remove(s.Path(store.ReleaseName(first.ID))))
	if _, _, err := p.Newest(t.Context(), "os"); !errors.Is(err, ErrDamagedStore) || errors.Is(err, store.ErrNotFound) {
		t.Errorf("no manifest: got %v, want ErrDamagedStore and not ErrNotFound", err)
	}
}

func TestAnotherOperatorContinuesABase(t *testing.T) {
	s := storetest.New(t)
	p := newPublisher(t, s)
	first := publish(t, p, newSystem())
	other := newPublisher(t, s)
	other.Key, other.Trusted = testKey(2), []ed25519.PublicKey{p.Key.Public().(ed25519.PublicKey)}
	second := publish(t, other, newSystem().With("usr/bin/server", "version 2"))
	if second.Manifest.Previous != first.ID {
		t.Errorf("%+v", second.Manifest)
	}
}

func volumes(t testing.TB, s *storetest.Store) []string {
	t.Helper()
	list, err := s.Volumes(t.Context())
	must(t, err)
	var names []string
	for _, v := range list {
		names = append(names, v.Name)
	}
	slices.Sort(names)
	return names
}

func TestDeleteLeavesNothingOfABaseAndAllOfTheOthers(t *testing.T) {
	s := storetest.New(t)
	p := newPublisher(t, s)
	shared, err := p.Prepare(t.Context(), Spec{Name: "other", Source: sourceOf(t, newSystem())}, nil)
	must(t, err)
	must(t, p.Publish(t.Context(), shared, nil))
	before := volumes(t, s)

	// The first release has the same tree and layer as the other base, the second one a layer of its own.
	publish(t, p, newSystem())
	publish(t, p, newSystem().With("usr/bin/server", "version 2"))
	for range 2 {
		must(t, p.Delete(t.Context(), "os", used(nil)))
		if diff := cmp.Diff(before, volumes(t, s)); diff != "" {
			t.Fatalf("-before +after:\n%s", diff)
		}
	}
	requireWhole(t, s, shared.Manifest)
	must(t, p.Delete(t.Context(), "other", used(nil)))
	if left := volumes(t, s); len(left) != 0 {
		t.Errorf("left: %v", left)
	}
	publish(t, p, newSystem()) // from the cache
}

func TestABaseInUseIsNotDeleted(t *testing.T) {
	s := storetest.New(t)
	p := newPublisher(t, s)
	first := publish(t, p, newSystem())
	publish(t, p, newSystem().With("usr/bin/server", "version 2"))
	before := volumes(t, s)
	err := p.Delete(t.Context(), "os", used(map[tree.Digest][]string{first.ID: {"web-a", "web-b"}}))
	if !errors.Is(err, store.ErrInUse) || !strings.Contains(err.Error(), "web-a, web-b") {
		t.Errorf("got %v, want ErrInUse with the VMs", err)
	}
	if diff := cmp.Diff(before, volumes(t, s)); diff != "" {
		t.Errorf("-before +after:\n%s", diff)
	}
}

func TestDeleteKeepsWhatVMsReferTo(t *testing.T) {
	s := storetest.New(t)
	p := newPublisher(t, s)
	other, err := p.Prepare(t.Context(),
		Spec{Name: "other", Source: sourceOf(t, newSystem().With("usr/bin/server", "other"))}, nil)
	must(t, err)
	must(t, p.Publish(t.Context(), other, nil))
	initramfs := []byte("initramfs")
	blob := release.Blob{Digest: tree.Sum(initramfs), Size: int64(len(initramfs))}
	must(t, s.PutBlob(t.Context(), blob, bytes.NewReader(initramfs), nil))
	// The other base has no history any more, but a VM still runs its release.
	must(t, s.SetHistory(t.Context(), release.Base, "other", store.History{}))
	publish(t, p, newSystem())
	must(t, p.Delete(t.Context(), "os", used(map[tree.Digest][]string{other.ID: {"web"}, blob.Digest: {"web"}})))
	requireWhole(t, s, other.Manifest)
	if _, err := s.GetBlob(t.Context(), blob); err != nil {
		t.Error(err)
	}
}

func TestDeleteStopsAtWhatItCannotKnow(t *testing.T) {
	for name, test := range map[string]struct {
		inUse map[tree.Digest][]string
		fail  string
		want  error
	}{
		"a VM runs what the store does not hold": {map[tree.Digest][]string{{1}: {"web"}}, "", ErrDamagedStore},
		"the records cannot be listed":           {nil, "Histories", store.ErrUnreachable},
		"a release cannot be read":               {nil, "GetManifest", store.ErrUnreachable},
	} {
		t.Run(name, func(t *testing.T) {
			s := storetest.New(t)
			p := newPublisher(t, s)
			publish(t, p, newSystem())
			other, err := p.Prepare(t.Context(), Spec{Name: "other", Source: sourceOf(t, newSystem())}, nil)
			must(t, err)
			must(t, p.Publish(t.Context(), other, nil))
			before := volumes(t, s)
			s.Fail = func(method, _ string) error {
				if method == test.fail {
					return fmt.Errorf("ask: %w", store.ErrUnreachable)
				}
				return nil
			}
			err = p.Delete(t.Context(), "os", used(test.inUse))
			s.Fail = nil
			if !errors.Is(err, test.want) {
				t.Errorf("got %v, want %v", err, test.want)
			}
			if diff := cmp.Diff(before, volumes(t, s)); diff != "" {
				t.Errorf("-before +after:\n%s", diff)
			}
		})
	}
}

// used returns an InUse with this result.
func used(by map[tree.Digest][]string) InUse {
	return func(context.Context) (map[tree.Digest][]string, error) { return by, nil }
}
