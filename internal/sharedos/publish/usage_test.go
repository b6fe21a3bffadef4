package publish

import (
	"errors"
	"testing"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store/storetest"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

func TestUsageCountsWhatIsSharedOnce(t *testing.T) {
	s := storetest.New(t)
	p := newPublisher(t, s)
	first := publish(t, p, newSystem())
	second := publish(t, p, newSystem().With("usr/bin/server", "version 2"))
	// Another base with the tree of the first release.
	twin, err := p.Prepare(t.Context(), Spec{Name: "twin", Source: sourceOf(t, newSystem())}, nil)
	must(t, err)
	must(t, p.Publish(t.Context(), twin, nil))
	_, err = s.CreatePrivateDisk(t.Context(), "vm-web", 1<<20)
	must(t, err)
	_, err = s.CreatePrivateDisk(t.Context(), "vm-orphan", 1<<20)
	must(t, err)

	usage, err := p.Usage(t.Context(), used(map[tree.Digest][]string{second.ID: {"web"}}))
	must(t, err)
	allocated := map[string]int64{}
	var all int64
	list, err := s.Volumes(t.Context())
	must(t, err)
	for _, volume := range list {
		allocated[volume.Name] = volume.Allocation
		all += volume.Allocation
	}
	if usage.Stored != all || all == 0 {
		t.Errorf("stored are %d bytes, and the volumes have %d", usage.Stored, all)
	}
	full := func(m *release.Manifest) int64 {
		size, err := p.fullSize(t.Context(), m)
		must(t, err)
		return size
	}
	if len(usage.Releases) != 3 || usage.Releases[0].ID != second.ID || usage.Releases[1].ID != first.ID ||
		usage.Releases[2].ID != twin.ID {
		t.Fatalf("releases %+v", usage.Releases)
	}
	delta := second.Manifest.Layers[len(second.Manifest.Layers)-1]
	own := allocated[store.LayerName(delta.ID)] + allocated[store.BlobName(second.Manifest.Contents.Digest)] +
		allocated[store.ReleaseName(second.ID)]
	if got := usage.Releases[0]; got.Own != own || got.Full != full(second.Manifest) {
		t.Errorf("the second release has %+v, and its own volumes %d", got, own)
	}
	if got := usage.Releases[1]; got.Own != allocated[store.ReleaseName(first.ID)] || got.Stored <= got.Own {
		t.Errorf("the first release shares all but its manifest with the twin, and has %+v", got)
	}
	if len(usage.Bases) != 2 || usage.Bases[0].Name != "os" || usage.Bases[0].Releases != 2 ||
		usage.Bases[0].Stored != usage.Releases[1].Stored+own ||
		usage.Bases[0].Full != full(first.Manifest)+full(second.Manifest) {
		t.Errorf("bases %+v", usage.Bases)
	}
	if len(usage.VMs) != 2 || usage.VMs[0] != (VMUsage{Name: "orphan"}) ||
		usage.VMs[1] != (VMUsage{Name: "web", Release: second.ID, Full: full(second.Manifest)}) {
		t.Errorf("VMs %+v", usage.VMs)
	}
	if want := 2*full(first.Manifest) + 2*full(second.Manifest); usage.Full != want {
		t.Errorf("full copies would take %d, want %d", usage.Full, want)
	}
}

func TestUsageOfAnEmptyPoolIsNothing(t *testing.T) {
	usage, err := newPublisher(t, storetest.New(t)).Usage(t.Context(), used(nil))
	if err != nil || usage.Stored != 0 || usage.Full != 0 || len(usage.Releases) != 0 {
		t.Errorf("%+v, %v", usage, err)
	}
}

func TestHistoryHasTheSizeThatEachReleaseAdded(t *testing.T) {
	s := storetest.New(t)
	p := newPublisher(t, s)
	clock := time.Date(2026, 11, 25, 1, 2, 3, 999, time.FixedZone("east", 3600))
	p.Now = func() time.Time { clock = clock.Add(time.Minute); return clock }
	first := publish(t, p, newSystem())
	second := publish(t, p, newSystem().With("usr/bin/server", "version 2"))
	history, err := p.History(t.Context(), "os")
	must(t, err)
	if len(history) != 2 || history[0].ID != second.ID || history[1].ID != first.ID {
		t.Fatalf("history %+v", history)
	}
	added := Added(history)
	if added[1] != history[1].Bytes() || added[0] != history[0].Bytes()-history[1].Bytes() || added[0] == 0 {
		t.Errorf("added %v of %d and %d bytes", added, history[0].Bytes(), history[1].Bytes())
	}
	for i, want := range []string{"2026-11-25T00:04:03Z", "2026-11-25T00:03:03Z"} {
		if got := history[i].Published.Format(time.RFC3339); got != want {
			t.Errorf("release %d was published at %s, want %s", i, got, want)
		}
	}
	if _, err := p.History(t.Context(), "other"); !errors.Is(err, store.ErrNotFound) {
		t.Errorf("another base: %v", err)
	}
}

func TestUsageOfAComponent(t *testing.T) {
	s := storetest.New(t)
	p := newPublisher(t, s)
	base := publish(t, p, newSystem())
	made := component(t, p, base, pack(t, "redis", "7", ""))
	usage, err := p.Usage(t.Context(), used(map[tree.Digest][]string{base.ID: {"a", "b", "c"}, made.ID: {"a", "b"}}))
	must(t, err)
	allocated := map[string]int64{}
	list, err := s.Volumes(t.Context())
	must(t, err)
	for _, volume := range list {
		allocated[volume.Name] = volume.Allocation
	}
	layer := allocated[store.LayerName(made.Manifest.Layers[0].ID)]
	want := ComponentUsage{
		Name: "redis", Releases: 1, VMs: 2, Full: 2 * layer,
		Stored: layer + allocated[store.BlobName(made.Manifest.Contents.Digest)] +
			allocated[store.ReleaseName(made.ID)],
	}
	if len(usage.Components) != 1 || usage.Components[0] != want || layer == 0 || len(usage.Bases) != 1 ||
		len(usage.Releases) != 1 {
		t.Errorf("%+v, want the component %+v", usage, want)
	}
	full, err := p.fullSize(t.Context(), base.Manifest)
	must(t, err)
	if usage.Full != 4*full+want.Full {
		t.Errorf("full copies take %d bytes, want %d", usage.Full, 4*full+want.Full)
	}
}
