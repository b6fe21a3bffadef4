package publish

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/layer"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store/storetest"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

func TestTheFirstReleaseIsOneFullLayer(t *testing.T) {
	p := newPublisher(t, storetest.New(t))
	prepared := publish(t, p, newSystem())
	m := prepared.Manifest
	if len(m.Layers) != 1 || m.Layers[0].Delta || m.Sequence != 1 || !m.Previous.IsZero() ||
		prepared.Change != nil || prepared.Unchanged {
		t.Errorf("%+v", m)
	}
	if m.OS != "Test GNU/Linux 13" || m.Architecture != "amd64" || m.Kernel.Release != "6.12.1-cloud-amd64" ||
		m.Users["www-data"] != 33 || m.Input != sourceOf(t, newSystem()).fingerprint ||
		!cmp.Equal(m.Packages, []release.Package{{Name: "server", Version: "1"}}) {
		t.Errorf("%+v", m)
	}
	opened, id, err := release.Open(prepared.Signed, []ed25519.PublicKey{p.Key.Public().(ed25519.PublicKey)})
	if err != nil || id != prepared.ID || !cmp.Equal(opened, m) {
		t.Errorf("the signed manifest is %s, %v", id, err)
	}
}

func TestAPatchIsADelta(t *testing.T) {
	p := newPublisher(t, storetest.New(t))
	first := publish(t, p, newSystem())
	patched := newSystem().With("usr/bin/server", "version 2", "usr/bin/new", "new", "etc/server.conf", "",
		"var/lib/dpkg/status", "")
	patched.Install("library", "5")
	patched.Install("server", "2")
	second := publish(t, p, patched)
	m := second.Manifest
	if m.Sequence != 2 || m.Previous != first.ID || len(m.Layers) != 2 ||
		m.Layers[0] != first.Manifest.Layers[0] || !m.Layers[1].Delta {
		t.Fatalf("%+v", m)
	}
	// The package database changed, too.
	want := &Change{
		Added:      Count{Entries: 1, Bytes: int64(len("new"))},
		Changed:    Count{Entries: 2, Bytes: int64(len("version 2") + len(patched["var/lib/dpkg/status"]))},
		Removed:    Count{Entries: 1, Bytes: int64(len("port 80"))},
		Packages:   []PackageChange{{Name: "library", To: "5"}, {Name: "server", From: "1", To: "2"}},
		KernelFrom: "6.12.1-cloud-amd64", KernelTo: "6.12.1-cloud-amd64",
		LayerBytes: m.Layers[1].Size,
	}
	if diff := cmp.Diff(want, second.Change); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}

func TestOneInputYieldsOneIDOnEveryMachine(t *testing.T) {
	var ids [2][]tree.Digest
	for i := range ids {
		p := newPublisher(t, storetest.New(t))
		p.Key = testKey(byte(i))
		ids[i] = append(ids[i], publish(t, p, newSystem()).ID,
			publish(t, p, newSystem().With("usr/bin/server", "2")).ID)
	}
	if diff := cmp.Diff(ids[0], ids[1]); diff != "" {
		t.Error(diff)
	}
}

func TestAnUnchangedSourceIsNotReadTwice(t *testing.T) {
	p := newPublisher(t, storetest.New(t))
	src := sourceOf(t, newSystem())
	first := prepare(t, p, src)
	if again := prepare(t, p, src); again.ID != first.ID || again.Unchanged || src.opened.Load() != 1 {
		t.Errorf("before it is published: %s, unchanged %t, read %d times", again.ID,
			again.Unchanged, src.opened.Load())
	}
	if err := p.Publish(t.Context(), first, nil); err != nil {
		t.Fatal(err)
	}
	if again := prepare(t, p, src); again.ID != first.ID || !again.Unchanged || src.opened.Load() != 1 {
		t.Errorf("after it is published: %s, unchanged %t, read %d times", again.ID, again.Unchanged, src.opened.Load())
	}
}

func TestAnotherSourceOfTheSameTreeIsUnchanged(t *testing.T) {
	p := newPublisher(t, storetest.New(t))
	first := publish(t, p, newSystem())
	src := sourceOf(t, newSystem())
	src.fingerprint = "another"
	for range 2 {
		prepared := prepare(t, p, src)
		if prepared.ID != first.ID || !prepared.Unchanged || prepared.Change != nil ||
			!cmp.Equal(prepared.Manifest, first.Manifest) {
			t.Errorf("%+v", prepared)
		}
		if err := p.Publish(t.Context(), prepared, nil); err != nil {
			t.Error(err)
		}
	}
	if src.opened.Load() != 1 {
		t.Errorf("it was read %d times", src.opened.Load())
	}
}

func TestAccountsMustKeepTheirNumbers(t *testing.T) {
	p := newPublisher(t, storetest.New(t))
	first := publish(t, p, newSystem())
	moved := newSystem().With("etc/passwd",
		"root:x:0:0::/root:/bin/sh\nwww-data:x:34:33::/:/bin/false\nnew:x:33:5::/:/bin/false\n",
		"etc/group", "root:x:0:\nwww-data:x:35:\n")
	_, err := p.Prepare(t.Context(), Spec{Name: "os", Source: sourceOf(t, moved)}, nil)
	if !errors.Is(err, ErrAccounts) {
		t.Fatalf("got %v, want ErrAccounts", err)
	}
	for _, want := range []string{"user www-data from 33 to 34", "group www-data from 33 to 35", "pin_accounts"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q is not in: %v", want, err)
		}
	}
	if id, _, err := p.Newest(t.Context(), "os"); err != nil || id != first.ID {
		t.Errorf("the newest release is %s, %v", id, err)
	}
}

func TestAChainEndsInAFullLayer(t *testing.T) {
	p := newPublisher(t, storetest.New(t))
	p.MaxChain = 3
	var lengths []int
	var rebases []string
	for _, version := range []string{"1", "2", "3", "4", "5"} {
		prepared := publish(t, p, newSystem().With("usr/bin/server", version))
		lengths = append(lengths, len(prepared.Manifest.Layers))
		if prepared.Change != nil {
			rebases = append(rebases, prepared.Change.Rebase)
		}
	}
	if want := []int{1, 2, 3, 1, 2}; !slices.Equal(lengths, want) {
		t.Errorf("layers of releases: %v, want %v", lengths, want)
	}
	if want := []string{"", "", "the previous release has 3 of at most 3 layers", ""}; !slices.Equal(rebases, want) {
		t.Errorf("reasons for a full layer: %q, want %q", rebases, want)
	}
}

func TestHowMuchADeltaMayHoldIsAChoice(t *testing.T) {
	// Most of the system's content is one file of 120,000 bytes. The patch adds a tenth of that.
	patched := newSystem().With("usr/share/more", strings.Repeat("m", 12_000))
	for limit, rebase := range map[int]string{0: "", 10: "",
		9: "a delta would have 9% of the content, and at most 9% is allowed"} {
		p := newPublisher(t, storetest.New(t))
		p.MaxDelta = limit
		publish(t, p, newSystem())
		second := publish(t, p, patched)
		if second.Change.Rebase != rebase || (rebase == "") != (len(second.Manifest.Layers) == 2) {
			t.Errorf("at most %d%%: %d layers, %q", limit, len(second.Manifest.Layers), second.Change.Rebase)
		}
	}
}

func TestALargeChangeIsAFullLayer(t *testing.T) {
	p := newPublisher(t, storetest.New(t))
	publish(t, p, newSystem())
	second := publish(t, p, newSystem().With("usr/share/weight", strings.Repeat("other", 20_000)))
	if m := second.Manifest; len(m.Layers) != 1 || m.Sequence != 2 || second.Change.LayerBytes != m.Layers[0].Size ||
		!strings.Contains(second.Change.Rebase, "at most 50% is allowed") {
		t.Errorf("%+v, %+v", m, second.Change)
	}
}

// Holes take no room in a layer, so that they do not make a delta a large one.
func TestAFileThatIsAHoleMakesNoFullLayer(t *testing.T) {
	p := newPublisher(t, storetest.New(t))
	publish(t, p, newSystem())
	second := publish(t, p, newSystem().With("usr/share/image", strings.Repeat("\x00", 4<<20)+"end"))
	if m := second.Manifest; len(m.Layers) != 2 || second.Change.LayerBytes > 64<<10 {
		t.Errorf("%d layers, the last of %d bytes: %s", len(m.Layers), second.Change.LayerBytes, second.Change.Rebase)
	}
	if third := publish(t, p,
		newSystem().With("usr/share/image", strings.Repeat("\x00", 5<<20)+"end")); len(third.Manifest.Layers) != 3 {
		t.Errorf("%d layers: %s", len(third.Manifest.Layers), third.Change.Rebase)
	}
}

func TestNoReleaseHasALayerTwice(t *testing.T) {
	p := newPublisher(t, storetest.New(t))
	for i := range 6 {
		m := publish(t, p, newSystem().With("usr/bin/server", []string{"version 1", "version 2"}[i%2])).Manifest
		ids := layerIDs(m)
		slices.SortFunc(ids, func(a, b tree.Digest) int { return slices.Compare(a[:], b[:]) })
		if len(slices.Compact(ids)) != len(m.Layers) || m.Sequence != uint64(i+1) {
			t.Fatalf("release %d: %+v", i+1, m)
		}
	}
}

func TestAKernelImageAloneNeedsNoLayer(t *testing.T) {
	p := newPublisher(t, storetest.New(t))
	first := publish(t, p, newSystem())
	second := publish(t, p, newSystem().With("boot/vmlinuz-6.12.1-cloud-amd64", "another image"))
	if second.Unchanged || second.ID == first.ID || !cmp.Equal(second.Manifest.Layers, first.Manifest.Layers) ||
		second.Change.LayerBytes != 0 {
		t.Errorf("%+v", second.Manifest)
	}
}

func TestWithoutALowerLayerTheNextReleaseIsFull(t *testing.T) {
	s := storetest.New(t)
	p := newPublisher(t, s)
	first := publish(t, p, newSystem())
	patched := newSystem().With("usr/bin/server", "version 2")
	if delta := prepare(t, p, sourceOf(t, patched)); len(delta.Manifest.Layers) != 2 {
		t.Fatalf("%+v", delta.Manifest)
	}
	if err := os.Remove(s.Path(store.LayerName(first.Manifest.Layers[0].ID))); err != nil {
		t.Fatal(err)
	}
	if full := publish(t, p, patched); len(full.Manifest.Layers) != 1 || full.Manifest.Sequence != 2 ||
		full.Change.Rebase != "the storage pool lacks a layer of the previous release" {
		t.Errorf("%+v", full.Manifest)
	}
}

// The manifest of the newest release is gone. The next release is complete, and its sequence is higher than that of any
// before.
func TestAfterALostManifestTheNextReleaseIsComplete(t *testing.T) {
	for name, c := range map[string]struct {
		lose     int // how many of three releases, newest first
		sequence uint64
	}{"the newest": {1, 4}, "two": {2, 4}, "all": {3, 1_000_004}} {
		s := storetest.New(t)
		p := newPublisher(t, s)
		var made []*Prepared
		for _, version := range []string{"1", "2", "3"} {
			made = append(made, publish(t, p, newSystem().With("usr/bin/server", "version "+version)))
		}
		for i := range c.lose {
			if err := os.Remove(s.Path(store.ReleaseName(made[2-i].ID))); err != nil {
				t.Fatal(err)
			}
		}
		next := publish(t, p, newSystem().With("usr/bin/server", "version 4"))
		if m := next.Manifest; len(m.Layers) != 1 || m.Sequence != c.sequence || m.Previous != made[2].ID {
			t.Errorf("%s: sequence %d after %s with %d layers", name, m.Sequence, m.Previous, len(m.Layers))
		}
		if again := publish(t, p, newSystem().With("usr/bin/server", "version 5")); len(again.Manifest.Layers) != 2 ||
			again.Manifest.Sequence != c.sequence+1 {
			t.Errorf("%s: the next one has sequence %d and %d layers", name, again.Manifest.Sequence,
				len(again.Manifest.Layers))
		}
	}
}

func TestPrepareCachedBuildsNothing(t *testing.T) {
	p := newPublisher(t, storetest.New(t))
	src := sourceOf(t, newSystem())
	spec := Spec{Name: "os", Source: src}
	if _, err := p.PrepareCached(t.Context(), spec); !errors.Is(err, ErrNotCached) || src.opened.Load() != 0 {
		t.Fatalf("got %v, want ErrNotCached; read %d times", err, src.opened.Load())
	}
	built := prepare(t, p, src)
	cached, err := p.PrepareCached(t.Context(), spec)
	if err != nil || cached.ID != built.ID {
		t.Fatalf("got %+v, %v", cached, err)
	}
	if src.opened.Load() != 1 {
		t.Errorf("the source was read %d times", src.opened.Load())
	}
}

// A plan builds, and may be cut off: what it left is no release, and the next one builds anew.
func TestABuildThatWasCutOffLeavesNothingBehind(t *testing.T) {
	p := newPublisher(t, storetest.New(t))
	src := sourceOf(t, newSystem())
	src.block = true
	ctx, cancel := context.WithTimeout(t.Context(), 50*time.Millisecond)
	defer cancel()
	if _, err := p.Prepare(ctx, Spec{Name: "os", Source: src}, nil); !errors.Is(err, context.DeadlineExceeded) ||
		errors.Is(err, ErrNotCached) {
		t.Fatalf("got %v", err)
	}
	left, err := os.ReadDir(p.baseDir("os"))
	if err != nil || len(left) != 0 {
		t.Errorf("it left %v, %v", left, err)
	}
	src.block = false
	prepare(t, p, src)
}

// Plans of two processes at the same time build the release once.
func TestPlansAtTheSameTimeBuildOnce(t *testing.T) {
	store := storetest.New(t)
	one, other := newPublisher(t, store), newPublisher(t, store)
	other.Cache, other.Key = one.Cache, one.Key
	src := sourceOf(t, newSystem())
	ids := make(chan tree.Digest, 8)
	for i := range cap(ids) {
		publisher := one
		if i%2 == 1 {
			publisher = other
		}
		go func() {
			made, err := publisher.Prepare(t.Context(), Spec{Name: "os", Source: src}, nil)
			if err != nil {
				t.Error(err)
				ids <- tree.Digest{}
				return
			}
			ids <- made.ID
		}()
	}
	first := <-ids
	for range cap(ids) - 1 {
		if id := <-ids; id != first {
			t.Errorf("one has %s, another %s", first, id)
		}
	}
	if src.opened.Load() != 1 {
		t.Errorf("it was built %d times", src.opened.Load())
	}
}

func TestOfferYieldsWhatWasPreparedHere(t *testing.T) {
	p := newPublisher(t, storetest.New(t))
	prepared := prepare(t, p, sourceOf(t, newSystem()))
	signed, contents, err := p.Offer(t.Context(), prepared.ID)
	if err != nil || !bytes.Equal(signed, prepared.Signed) || tree.Sum(contents) != prepared.Manifest.Contents.Digest {
		t.Errorf("a manifest of %d bytes, contents of %d bytes, %v", len(signed), len(contents), err)
	}
	must(t, p.Publish(t.Context(), prepared, nil))
	unchanged := prepare(t, p, sourceOf(t, newSystem()))
	for _, id := range []tree.Digest{unchanged.ID, {1}} {
		if _, _, err := p.Offer(t.Context(), id); !errors.Is(err, store.ErrNotFound) {
			t.Errorf("%s: got %v, want ErrNotFound", id, err)
		}
	}
}

func TestPrepareRefusesABadSpec(t *testing.T) {
	p := newPublisher(t, storetest.New(t))
	for _, spec := range []Spec{{Name: "../os", Source: sourceOf(t, newSystem())},
		{Name: "", Source: sourceOf(t, newSystem())}, {Name: "os"}} {
		if _, err := p.Prepare(t.Context(), spec, nil); err == nil {
			t.Errorf("%q: no error", spec.Name)
		}
	}
	if entries, err := os.ReadDir(p.Cache); err != nil || len(entries) != 0 {
		t.Errorf("the cache holds %v, %v", entries, err)
	}
}

func TestAnUnreadableStoreIsNoFirstRelease(t *testing.T) {
	s := storetest.New(t)
	p := newPublisher(t, s)
	publish(t, p, newSystem())
	for _, method := range []string{"History", "GetManifest", "LayerPath"} {
		s.Fail = func(called, _ string) error {
			if called == method {
				return store.ErrUnreachable
			}
			return nil
		}
		if prepared, err := p.Prepare(t.Context(), Spec{Name: "os", Source: sourceOf(t, newSystem())},
			nil); !errors.Is(err, store.ErrUnreachable) {
			t.Errorf("%s fails: got %+v, %v", method, prepared, err)
		}
	}
}

func TestADamagedCacheNeverYieldsAWrongRelease(t *testing.T) {
	damages := map[string]func(t *testing.T, path string){
		"gone": func(t *testing.T, path string) { must(t, os.Remove(path)) },
		"cut off": func(t *testing.T, path string) {
			info, err := os.Stat(path)
			must(t, err)
			must(t, os.Truncate(path, info.Size()/2))
		},
		"empty": func(t *testing.T, path string) { must(t, os.Truncate(path, 0)) },
		"another byte": func(t *testing.T, path string) {
			data, err := os.ReadFile(path)
			must(t, err)
			data[len(data)/3] ^= 1
			must(t, os.WriteFile(path, data, 0o600))
		},
	}
	for _, name := range []string{recordFile, manifestFile, layerFile, contentsFile, imageFile, modulesFile} {
		for damage, do := range damages {
			t.Run(name+" "+damage, func(t *testing.T) {
				p := newPublisher(t, storetest.New(t))
				src := sourceOf(t, newSystem())
				good := prepare(t, p, src)
				do(t, filepath.Join(good.entry, name))
				again := prepare(t, p, src)
				if again.ID != good.ID {
					t.Fatalf("release %s came out instead of %s", again.ID, good.ID)
				}
				if err := p.Publish(t.Context(), again, nil); err != nil {
					if !errors.Is(err, layer.ErrDamaged) {
						t.Fatal(err)
					}
					// The upload found the damage. It published nothing, and the next Prepare builds the release again.
					if _, _, err := p.Newest(t.Context(), "os"); !errors.Is(err, store.ErrNotFound) {
						t.Fatalf("got %v, want ErrNotFound", err)
					}
				}
				publish(t, p, newSystem())
			})
		}
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestTheCacheKeepsTheNewestOnly(t *testing.T) {
	p := newPublisher(t, storetest.New(t))
	must(t, os.MkdirAll(filepath.Join(p.baseDir("os"), newPrefix+"left-over"), 0o700))
	for _, version := range []string{"1", "2", "3", "4", "5", "6", "7"} {
		prepare(t, p, sourceOf(t, newSystem().With("usr/bin/server", version)))
	}
	entries, err := os.ReadDir(p.baseDir("os"))
	if err != nil || len(entries) != keepBuilt {
		t.Errorf("%d entries, %v", len(entries), err)
	}
}

func TestOneWriterAtATime(t *testing.T) {
	path := filepath.Join(t.TempDir(), "lock")
	unlock, err := lock(t.Context(), path, func() { t.Error("it waited for a free lock") })
	must(t, err)
	waiting := make(chan struct{})
	done := make(chan error, 1)
	go func() {
		unlock, err := lock(t.Context(), path, func() { close(waiting) })
		if err == nil {
			err = unlock()
		}
		done <- err
	}()
	<-waiting
	select {
	case err := <-done:
		t.Fatalf("a second writer got the lock: %v", err)
	default:
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := lock(ctx, path, func() {}); !errors.Is(err, context.Canceled) {
		t.Errorf("a cancelled wait: %v", err)
	}
	must(t, unlock())
	must(t, <-done)
}

func TestPackageChanges(t *testing.T) {
	old := []release.Package{{Name: "a", Version: "1"}, {Name: "b", Version: "1"}, {Name: "d", Version: "1"}}
	new := []release.Package{{Name: "b", Version: "2"}, {Name: "c", Version: "1"}, {Name: "d", Version: "1"},
		{Name: "e", Version: "1"}}
	want := []PackageChange{{"a", "1", ""}, {"b", "1", "2"}, {"c", "", "1"}, {"e", "", "1"}}
	if diff := cmp.Diff(want, packageChanges(old, new), cmpopts.EquateEmpty()); diff != "" {
		t.Errorf("-want +got:\n%s", diff)
	}
}
