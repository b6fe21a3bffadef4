package publish

import (
	"errors"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	goerofs "github.com/erofs/go-erofs"
	"github.com/google/go-cmp/cmp"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/compose"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/standin/paths"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store/storetest"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

func TestTheStandInLayerOfAComponent(t *testing.T) {
	s := storetest.New(t)
	p := newPublisher(t, s)
	base := publish(t, p, newSystem())
	redis := component(t, p, base, pack(t, "redis", "7", "redis"))
	before := volumes(t, s)
	id, err := p.StandIn(t.Context(), redis.ID)
	must(t, err)
	if diff := cmp.Diff(before, volumes(t, s)); diff != "" {
		t.Errorf("it changes the store before it is published: %s", diff)
	}
	m := p.Offered(id)
	if m == nil || m.Kind != release.StandIn || m.BuiltOn != base.ID || len(m.Layers) != 1 || !m.Layers[0].Delta ||
		!slices.Equal(m.Packages, base.Manifest.Packages) || !maps.Equal(m.Users, base.Manifest.Users) {
		t.Fatalf("it is %+v", m)
	}
	_, list, err := p.Offer(t.Context(), id)
	must(t, err)
	whole, err := readContents(list)
	must(t, err)
	found := tree.Tree{Entries: whole}
	for _, at := range []string{"usr/bin/redis", paths.Components + "/redis", paths.Generator} {
		if _, has := found.Lookup(at); !has {
			t.Errorf("its list lacks /%s", at)
		}
	}
	must(t, p.PublishDerived(t.Context(), id))
	must(t, p.PublishDerived(t.Context(), id))
	if got, err := p.Get(t.Context(), id); err != nil || !cmp.Equal(got, m) {
		t.Errorf("published it is %+v, %v", got, err)
	}
	requireWhole(t, s, m)

	elsewhere := newPublisher(t, s)
	if again, err := elsewhere.StandIn(t.Context(), redis.ID); err != nil || again != id ||
		elsewhere.Offered(id) != nil {
		t.Errorf("found in the store: %s, %v", again, err)
	}
	must(t, elsewhere.PublishDerived(t.Context(), id))
	for _, volume := range []string{store.LayerName(m.Layers[0].ID),
		store.BlobName(m.Contents.Digest), store.ReleaseName(id)} {
		must(t, os.Remove(s.Path(volume)))
		anew := newPublisher(t, s)
		again, err := anew.StandIn(t.Context(), redis.ID)
		if err != nil || again != id {
			t.Fatalf("without %s: %s, %v", volume, again, err)
		}
		must(t, anew.PublishDerived(t.Context(), id))
		requireWhole(t, s, m)
		if _, err := anew.Get(t.Context(), id); err != nil {
			t.Errorf("without %s, published again: %v", volume, err)
		}
	}
}

// A component that is only prepared has a stand-in layer, too, so that a plan can compose its stacks.
func TestTheStandInLayerOfAPreparedComponent(t *testing.T) {
	p := newPublisher(t, storetest.New(t))
	base := prepare(t, p, sourceOf(t, newSystem()))
	redis, err := p.Components().Prepare(t.Context(),
		Spec{Name: "redis", BuiltOn: base.ID, Addition: pack(t, "redis", "7", "redis")}, nil)
	must(t, err)
	first, err := p.StandIn(t.Context(), redis.ID)
	must(t, err)
	if again, err := p.StandIn(t.Context(), redis.ID); err != nil || again != first {
		t.Errorf("from the cache: %s, %v", again, err)
	}
	must(t, p.Publish(t.Context(), base, nil))
	must(t, p.Components().Publish(t.Context(), redis, nil))
	must(t, p.PublishDerived(t.Context(), first))
	patched := component(t, p, base, pack(t, "redis", "8", "redis"))
	second, err := p.StandIn(t.Context(), patched.ID)
	must(t, err)
	if second == first {
		t.Error("two releases have one stand-in layer's release")
	}
	if _, err := p.StandIn(t.Context(), base.ID); !errors.Is(err, ErrComponent) {
		t.Errorf("of a base: %v", err)
	}
	if _, err := p.StandIn(t.Context(), tree.Sum([]byte("none"))); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("of no release: %v", err)
	}
}

// stackOf is the stack of a base and components, as an offer has it.
func stackOf(t *testing.T, p *Publisher, base *Prepared, components ...*Prepared) compose.OfferedStack {
	t.Helper()
	parts := compose.Parts{Base: release.Identified{ID: base.ID, Manifest: base.Manifest}}
	top := base.Manifest
	for _, one := range components {
		parts.Components = append(parts.Components, release.Identified{ID: one.ID, Manifest: one.Manifest})
		top = one.Manifest
	}
	m, _, err := compose.Compose(parts, nil)
	must(t, err)
	signed, id, err := release.SignStack(m, p.Key)
	must(t, err)
	list, err := p.Store.GetBlob(t.Context(), top.Contents)
	must(t, err)
	return compose.OfferedStack{ID: id, Signed: signed, Contents: m.Contents, List: list}
}

// readImage returns the files of an EROFS image.
func readImage(image io.ReaderAt, size int64) (map[string]string, error) {
	root, err := goerofs.Open(io.NewSectionReader(image, 0, size))
	if err != nil {
		return nil, err
	}
	found := map[string]string{}
	return found, fs.WalkDir(root, ".", func(at string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		data, err := fs.ReadFile(root, at)
		found[at] = string(data)
		return err
	})
}

func TestAnOfferOfStacks(t *testing.T) {
	s := storetest.New(t)
	p := newPublisher(t, s)
	base := publish(t, p, newSystem())
	redis := component(t, p, base, pack(t, "redis", "7", "redis"))
	alone, both := stackOf(t, p, base), stackOf(t, p, base, redis)
	id, err := p.MakeOffer(t.Context(), base.ID, []compose.OfferedStack{alone, both})
	must(t, err)
	if again, err := newPublisher(t, s).MakeOffer(t.Context(), base.ID,
		[]compose.OfferedStack{both, alone}); err != nil || again != id {
		t.Errorf("made elsewhere: %s, %v", again, err)
	}
	m := p.Offered(id)
	if m == nil || m.Kind != release.Offer || m.BuiltOn != base.ID || len(m.Layers) != 1 || m.Layers[0].Delta ||
		len(m.Packages)+len(m.Users) > 0 {
		t.Fatalf("it is %+v", m)
	}
	must(t, p.PublishDerived(t.Context(), id))
	requireWhole(t, s, m)
	image, err := os.Open(s.Path(store.LayerName(m.Layers[0].ID)))
	must(t, err)
	defer func() { must(t, image.Close()) }()
	found, err := readImage(image, m.Layers[0].DataSize)
	must(t, err)
	want := map[string]string{
		paths.OfferStack(alone.ID): string(alone.Signed), paths.OfferStack(both.ID): string(both.Signed),
		paths.OfferList(alone.Contents.Digest): string(alone.List),
		paths.OfferList(both.Contents.Digest):  string(both.List),
	}
	if !maps.Equal(want, found) {
		t.Errorf("it has %v", slices.Sorted(maps.Keys(found)))
	}

	must(t, os.Remove(s.Path(store.LayerName(m.Layers[0].ID))))
	anew := newPublisher(t, s)
	if again, err := anew.MakeOffer(t.Context(), base.ID, []compose.OfferedStack{alone, both}); err != nil ||
		again != id {
		t.Fatalf("without its layer: %s, %v", again, err)
	}
	must(t, anew.PublishDerived(t.Context(), id))
	requireWhole(t, s, m)

	one, err := p.MakeOffer(t.Context(), base.ID, []compose.OfferedStack{both})
	if err != nil || one == id {
		t.Errorf("an offer of other stacks: %s, %v", one, err)
	}
	otherID, otherList, otherBlob, unsigned := both, both, both, both
	otherID.ID, otherList.List, otherBlob.Contents, unsigned.Signed = alone.ID, alone.List,
		alone.Contents, both.Signed[1:]
	for name, stacks := range map[string][]compose.OfferedStack{
		"none": nil, "one twice": {both, both}, "too many": slices.Repeat([]compose.OfferedStack{both}, 9), "another id": {otherID},
		"another list": {otherList}, "another blob": {otherBlob}, "no signature": {unsigned},
	} {
		if _, err := p.MakeOffer(t.Context(), base.ID, stacks); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if _, err := p.MakeOffer(t.Context(), redis.ID, []compose.OfferedStack{both}); err == nil ||
		!strings.Contains(err.Error(), base.ID.String()) {
		t.Errorf("on another release: %v", err)
	}
}

// Stand-ins and offers stay for as long as a VM has their layers attached, and go with the next collection after that.
func TestStandInsAndOffersStayWhileAVMHasThem(t *testing.T) {
	s := storetest.New(t)
	p := newPublisher(t, s)
	base := publish(t, p, newSystem())
	redis := component(t, p, base, pack(t, "redis", "7", ""))
	standIn, err := p.StandIn(t.Context(), redis.ID)
	must(t, err)
	offer, err := p.MakeOffer(t.Context(), base.ID, []compose.OfferedStack{stackOf(t, p, base, redis)})
	must(t, err)
	for _, id := range []tree.Digest{standIn, offer} {
		t.Run(string(p.Offered(id).Kind), func(t *testing.T) {
			m := p.Offered(id)
			must(t, p.PublishDerived(t.Context(), id))
			attached := map[tree.Digest][]string{m.Layers[0].ID: {"web"}}
			must(t, p.Collect(t.Context(), used(attached)))
			requireWhole(t, s, m)
			if _, err := p.Get(t.Context(), id); err != nil {
				t.Errorf("while a VM has its layer: %v", err)
			}
			must(t, p.Collect(t.Context(), used(nil)))
			if _, err := p.Get(t.Context(), id); !errors.Is(err, store.ErrNotFound) {
				t.Errorf("when no VM has its layer: %v", err)
			}
			if _, err := s.History(t.Context(), m.Kind, m.Name); !errors.Is(err, store.ErrNotFound) {
				t.Errorf("its record: %v", err)
			}
			if _, err := s.LayerPath(t.Context(), m.Layers[0].ID); !errors.Is(err, store.ErrNotFound) {
				t.Errorf("its layer: %v", err)
			}
			must(t, p.PublishDerived(t.Context(), id))
			requireWhole(t, s, m)
		})
	}
}

// Each derived release has a name of its own, so that the cache would grow with every patch.
func TestTheCacheKeepsTheDerivedReleasesThatWereUsedLast(t *testing.T) {
	p := newPublisher(t, storetest.New(t)).of(release.Offer)
	for i, age := range map[int]time.Duration{0: 100 * time.Hour, 1: 50 * time.Hour, 2: time.Hour} {
		for j := range 10 {
			directory := p.baseDir(strings.Repeat(string(rune('a'+i)), j+1))
			must(t, os.MkdirAll(filepath.Join(directory, "entry"), 0o700))
			then := time.Now().Add(-age)
			must(t, os.Chtimes(filepath.Join(directory, "entry"), then, then))
			must(t, os.Chtimes(directory, then, then))
		}
	}
	must(t, os.WriteFile(p.baseDir("a.lock"), nil, 0o600))
	must(t, p.pruneDerived())
	left, err := os.ReadDir(p.baseDir(""))
	must(t, err)
	count := map[byte]int{}
	for _, one := range left {
		if one.IsDir() {
			count[one.Name()[0]]++
		}
	}
	if want := map[byte]int{'b': 6, 'c': 10}; !maps.Equal(count, want) || len(left) != 17 {
		t.Errorf("it keeps %v", left)
	}
	must(t, newPublisher(t, storetest.New(t)).pruneDerived())
}
