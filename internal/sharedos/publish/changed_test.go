package publish

import (
	"context"
	"errors"
	"fmt"
	"path"
	"slices"
	"strings"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/sourcetest"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store/storetest"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// movingSource has another fingerprint after each read.
type movingSource struct{ fakeSource }

func (m movingSource) Fingerprint(context.Context) (string, error) {
	return fmt.Sprintf("%s %d", m.fingerprint, m.opened.Load()), nil
}

func TestASourceThatChangesWhileItIsReadIsNoRelease(t *testing.T) {
	s := storetest.New(t)
	p := newPublisher(t, s)
	moving := movingSource{sourceOf(t, newSystem())}
	if _, err := p.Prepare(t.Context(), Spec{Name: "os", Source: moving}, nil); !errors.Is(err, ErrSourceChanged) {
		t.Errorf("got %v, want ErrSourceChanged", err)
	}
	// The cache must not have an entry for the fingerprint before the read.
	if _, err := p.Prepare(t.Context(), Spec{Name: "os", Source: moving.fakeSource}, nil); err != nil ||
		moving.opened.Load() != 2 {
		t.Errorf("%v, opened %d times", err, moving.opened.Load())
	}
}

// What is the VM's own reaches no existing VM, so a change counts it apart and names it.
func TestAChangeCountsWhatIsTheVMsOwnApart(t *testing.T) {
	p := newPublisher(t, storetest.New(t))
	system := newSystem().With("var/lib/acme/db", "1", "srv/www/index.html", "1", "home/acme/.profile", "1",
		"opt/acme/bin/acmed", "1.0", "usr/local/bin/tool", "1")
	publish(t, p, system)
	change := publish(t, p, system.With("var/lib/acme/db", "2", "srv/www/index.html", "", "home/acme/.vimrc", "2",
		"opt/acme/bin/acmed", "2.0", "usr/local/bin/tool", "2", "usr/bin/server", "2")).Change
	if change.Changed.Entries != 3 || change.Added.Entries != 0 || change.Removed.Entries != 0 {
		t.Errorf("it counts %+v", change)
	}
	if want := []string{"home/acme/.vimrc", "srv/www", "srv/www/index.html", "var/lib/acme/db"}; change.VMOwned != 4 ||
		!slices.Equal(change.VMOwnedPaths, want) {
		t.Errorf("the VM's own are %d: %v", change.VMOwned, change.VMOwnedPaths)
	}
}

// A package initialises its data directory anew at each build. VMs get it once, so another build is
// no other release, and a delta never has it.
func TestDataThatAPackageInitialisesIsInNoDelta(t *testing.T) {
	const main, mysql = "var/lib/postgresql/17/main/", "var/lib/mysql/"
	built := func(s sourcetest.System, text string) sourcetest.System {
		return s.With(main+"PG_VERSION", "17", main+"global/pg_control", "system identifier "+text,
			main+"base/1/PG_VERSION", "17",
			main+"base/1/"+text, text, main+"pg_wal/0001", strings.Repeat(text, 10_000),
			mysql+"ibdata1", text, mysql+text, text)
	}
	p := newPublisher(t, storetest.New(t))
	p.MaxChain = 3
	publish(t, p, newSystem())
	// The first time they come with a full layer, and nothing of them counts as a change.
	first := publish(t, p, built(newSystem(), "first"))
	if len(first.Manifest.Layers) != 1 || first.Change.Added.Entries != 0 || first.Change.VMOwned != 2 ||
		first.Change.Rebase != "packages have newly made data in /var/lib/mysql, /var/lib/postgresql/17/main, which no delta holds" {
		t.Errorf("first: %+v", first.Change)
	}
	if again := publish(t, p, built(newSystem(), "second")); !again.Unchanged || again.ID != first.ID {
		t.Errorf("nothing but the data differs: %+v", again.Change)
	}
	second := publish(t, p, built(newSystem(), "third").With("usr/bin/server", "2"))
	change := second.Change
	if change.Changed.Entries != 1 || change.Added.Entries != 0 || change.Removed.Entries != 0 || change.VMOwned != 0 ||
		len(second.Manifest.Layers) != 2 || second.Manifest.Layers[1].Size > 30_000 {
		t.Errorf("with a patch: %+v, %v", change, second.Manifest.Layers)
	}
	contents := func(release *Prepared) string {
		list, err := p.Store.GetBlob(t.Context(), release.Manifest.Contents)
		if err != nil {
			t.Fatal(err)
		}
		entries, err := readContents(list)
		if err != nil {
			t.Fatal(err)
		}
		var names []string
		for _, e := range entries {
			if e.Type == tree.Regular && strings.HasPrefix(e.Path, main+"base/1/") {
				names = append(names, path.Base(e.Path))
			}
		}
		return strings.Join(names, " ")
	}
	if got := contents(second); got != "PG_VERSION first" {
		t.Errorf("the release has the data %s", got)
	}
	// The chain is at its limit: a full layer has what this build has, whole.
	publish(t, p, built(newSystem(), "another").With("usr/bin/server", "2", "usr/bin/tool", "1"))
	third := publish(t, p, built(newSystem(), "fourth").With("usr/bin/server", "3", "usr/bin/tool", "1"))
	if len(third.Manifest.Layers) != 1 || contents(third) != "PG_VERSION fourth" || third.Change.Changed.Entries != 1 ||
		third.Change.VMOwned != 0 {
		t.Errorf("a full layer: %s, %+v", contents(third), third.Change)
	}
	if gone := publish(t, p, newSystem().With("usr/bin/server", "3", "usr/bin/tool", "1")); contents(gone) != "" ||
		gone.Change.Removed.Entries != 0 {
		t.Errorf("without the packages: %s, %+v", contents(gone), gone.Change)
	}
}
