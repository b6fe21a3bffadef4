package refresh

import (
	"bytes"
	"crypto/ed25519"
	"encoding/json"
	"errors"
	"io"
	"os"
	"slices"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/compose"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// componentOn makes a component of a release of the world: it brings one file below /usr and another text of the
// settings.
func (w *world) componentOn(base *made, name string, sequence uint64,
	settingsText string) (release.Identified, []byte) {
	w.t.Helper()
	entries := entriesOf(w.t, base.contents)
	for i := range entries {
		if entries[i].Path == settings {
			entries[i].Digest = tree.Sum([]byte(settingsText))
		}
	}
	entries = append(entries,
		tree.Entry{Path: "usr/lib/z-" + name, Type: tree.Regular, Mode: 0o644, Size: 1, Digest: tree.Sum([]byte(name))})
	var contents bytes.Buffer
	blob, err := release.WriteContents(&contents, entries)
	if err != nil {
		w.t.Fatal(err)
	}
	m := &release.Manifest{
		Schema: release.Schema, Kind: release.Component, Name: name, Sequence: sequence, BuiltOn: base.stack.Base,
		Architecture: "amd64", OS: "Debian",
		Layers: []release.Layer{{ID: tree.Sum([]byte("layer of " + name + settingsText)), DataSize: 4096,
			Size: 8192, Delta: true}},
		Contents: blob,
	}
	if sequence > 1 {
		m.Previous = tree.Sum([]byte("some"))
	}
	encoded, err := m.Encode()
	if err != nil {
		w.t.Fatal(err)
	}
	return release.Identified{ID: release.ID(encoded), Manifest: m}, contents.Bytes()
}

func entriesOf(t tester, list []byte) (entries []tree.Entry) {
	t.Helper()
	for reader := release.NewContentsReader(bytes.NewReader(list)); ; {
		entry, err := reader.Next()
		if errors.Is(err, io.EOF) {
			return entries
		}
		if err != nil {
			t.Fatal(err)
		}
		entries = append(entries, entry)
	}
}

// with makes the stack of a base and a component.
func (w *world) with(name string, base *made, component release.Identified, contents []byte) *made {
	w.t.Helper()
	made := w.signStack(compose.Parts{
		Base:       release.Identified{ID: base.stack.Base, Manifest: base.manifest},
		Components: []release.Identified{component},
	}, nil)
	made.contents = contents
	w.releases[name] = made
	w.blobs[component.Manifest.Contents.Digest] = contents
	return made
}

// Both the base and the component have /etc/x.conf, and both bring another version of it: there is
// one tree before and one after, so the path differs once. A carry that gets one path twice fails.
func TestABaseAndAComponentThatMoveTogetherChangeAPathOnce(t *testing.T) {
	w := newWorld(t)
	one, two := w.releases["one"], w.releases["two"]
	was, wasContents := w.componentOn(one, "app", 1, "etc app one")
	is, isContents := w.componentOn(two, "app", 2, "etc app two")
	from, to := w.with("one app", one, was, wasContents), w.with("two app", two, is, isContents)
	target, err := openTarget(&agentapi.Target{To: to.signed, From: from.signed}, from.stack, w.operators(), false)
	if err != nil {
		t.Fatal(err)
	}
	differences, err := target.compare(t.Context(), worldBlobs{w})
	if err != nil {
		t.Fatal(err)
	}
	var paths []string
	for _, one := range differences.etc {
		paths = append(paths, one.Path)
	}
	if !slices.Equal(paths, []string{settings}) {
		t.Errorf("below /etc differ %q, want %q once", paths, settings)
	}
}

func (w *world) operators() []ed25519.PublicKey {
	public, _ := w.key.Public().(ed25519.PublicKey)
	return []ed25519.PublicKey{public}
}

func TestATargetIsLaterThanWhatRuns(t *testing.T) {
	w := newWorld(t)
	one := w.releases["one"]
	first, firstContents := w.componentOn(one, "app", 1, "etc app one")
	second, secondContents := w.componentOn(one, "app", 2, "etc app two")
	other, otherContents := w.componentOn(one, "app", 2, "etc app two, made again")
	was, is := w.with("first", one, first, firstContents), w.with("second", one, second, secondContents)
	again := w.with("other", one, other, otherContents)
	for name, test := range map[string]struct {
		from, to  *made
		downgrade bool
		want      error
	}{
		"the base, later":                             {one, w.releases["two"], false, nil},
		"the base, earlier":                           {w.releases["two"], one, false, ErrDowngrade},
		"the base, earlier, as was asked for":         {w.releases["two"], one, true, nil},
		"a component, later":                          {was, is, false, nil},
		"a component, earlier":                        {is, was, false, ErrDowngrade},
		"a component, earlier, as was asked for":      {is, was, true, nil},
		"a component, two releases with one sequence": {is, again, false, ErrTarget},
		"a component that comes":                      {one, is, false, nil},
		"a component that goes":                       {is, one, false, nil},
	} {
		_, err := openTarget(&agentapi.Target{To: test.to.signed, From: test.from.signed}, test.from.stack,
			w.operators(), test.downgrade)
		if !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
	}
}

func TestATargetIsASignedStackAndNothingElse(t *testing.T) {
	w := newWorld(t)
	one, two := w.releases["one"], w.releases["two"]
	aRelease, _, err := release.Sign(two.manifest, w.key)
	if err != nil {
		t.Fatal(err)
	}
	for name, test := range map[string]struct {
		target *agentapi.Target
		want   error
	}{
		"nothing":                   {nil, ErrTarget},
		"a target of protocol 1":    {&agentapi.Target{}, ErrTarget},
		"no stack to compare with":  {&agentapi.Target{To: two.signed}, ErrTarget},
		"a release":                 {&agentapi.Target{To: aRelease, From: one.signed}, release.ErrManifest},
		"a release to compare with": {&agentapi.Target{To: two.signed, From: aRelease}, release.ErrManifest},
	} {
		if _, err := openTarget(test.target, one.stack, w.operators(), false); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
	}
}

// What runs may have been recorded by the last version, which knew no ids of stacks.
func TestWhatRunsIsKnownByItsIDOrElseByReleasesAndLayers(t *testing.T) {
	w := newWorld(t)
	one, two := w.releases["one"], w.releases["two"]
	withoutID := one.stack
	withoutID.ID = tree.Digest{}
	otherID, otherLayers, otherBase := one.stack, withoutID, withoutID
	otherID.ID = tree.Sum([]byte("another way to compose the same releases"))
	otherLayers.Layers = two.stack.Layers
	otherBase.Base = two.stack.Base
	for name, test := range map[string]struct {
		running release.Stack
		want    error
	}{
		"its id":                      {one.stack, nil},
		"a record without an id":      {withoutID, nil},
		"another id":                  {otherID, ErrStale},
		"without an id, other layers": {otherLayers, ErrStale},
		"without an id, another base": {otherBase, ErrStale},
	} {
		_, err := openTarget(&agentapi.Target{To: two.signed, From: one.signed}, test.running, w.operators(), false)
		if !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
	}
}

func readLastJournal(t *testing.T, name string) Record {
	t.Helper()
	data, err := os.ReadFile("testdata/last-version/journal-" + name + ".json")
	if err != nil {
		t.Fatal(err)
	}
	var record Record
	if err := json.Unmarshal(data, &record); err != nil {
		t.Fatal(err)
	}
	return record
}

// A VM whose records the last version wrote is moved by its next refresh, live: the new agent took over from the last
// version's, and finds the journal of an earlier refresh.
func TestARefreshMovesAVMOfTheLastVersion(t *testing.T) {
	w := newWorldWith(t, map[string][]string{}) // its releases are those of the records
	three := w.release("three", 3, w.releases["two"])
	record := readLastJournal(t, "live-idle")
	if !record.Running.ID.IsZero() || record.Running.Base != w.releases["two"].stack.Base {
		t.Fatalf("the recorded VM runs %+v", record.Running)
	}
	// It runs "two", in the boot that the journal is of.
	boot, err := worldSystem{w}.BootID()
	if err != nil {
		t.Fatal(err)
	}
	root, err := worldSystem{w}.Root()
	if err != nil {
		t.Fatal(err)
	}
	record.BootID, record.Root = boot, root
	w.journal, w.committed, w.commits = &record, &record.To, 1
	w.usr, w.etc, w.manager = record.Running.Base, record.Running.Base, record.Running.Base
	for unit := range w.services {
		w.services[unit] = w.usr
	}
	e, stop := w.engine()
	defer stop()
	if status, err := e.Status(); err != nil || status.Stack.Base != record.Running.Base ||
		!status.Report.GetCommitted() {
		t.Fatalf("it takes up %+v, %v", status, err)
	}
	w.give("two", "three")
	request := w.ask("two", "two")
	if started, err := e.Refresh(request); started || err != nil {
		t.Errorf("a refresh to what runs: started %v, %v", started, err)
	}
	status := w.refresh(e, w.ask("two", "three"))
	if !status.Report.GetCommitted() || !status.Stack.Same(three.stack) || w.committed.ID != three.stack.ID {
		t.Errorf("it runs %+v and reports %v", status.Stack, status.Report)
	}
	if err := w.whole(status); err != nil {
		t.Error(err)
	}
}

// A power cut during a refresh of the last version: the VM boots with this version's agent, and ends that refresh.
func TestARefreshOfTheLastVersionThatWasCutOffEnds(t *testing.T) {
	request, err := os.ReadFile("testdata/last-version/request.pb")
	if err != nil {
		t.Fatal(err)
	}
	for name, committed := range map[string]bool{"live-swapped": false, "reboot-starting": true} {
		t.Run(name, func(t *testing.T) {
			w := newWorldWith(t, map[string][]string{})
			record := readLastJournal(t, name)
			w.journal, w.request = &record, request
			if committed {
				w.hostStarts(w.releases["two"].stack)
			} else {
				w.powerCut()
			}
			e, stop := w.engine()
			defer stop()
			status := until(t, e)
			if status.Report.GetCommitted() != committed {
				t.Errorf("it reports %v", status.Report)
			}
			if err := w.whole(status); err != nil {
				t.Error(err)
			}
		})
	}
}
