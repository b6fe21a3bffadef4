package publish

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store/storetest"
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
	if _, err := p.Prepare(t.Context(), Spec{Name: "os", Source: moving.fakeSource}, nil); err != nil || moving.opened.Load() != 2 {
		t.Errorf("%v, opened %d times", err, moving.opened.Load())
	}
}

// What is the VM's own reaches no existing VM, so a change counts it apart and names it.
func TestAChangeCountsWhatIsTheVMsOwnApart(t *testing.T) {
	p := newPublisher(t, storetest.New(t))
	system := newSystem().With("var/lib/acme/db", "1", "srv/www/index.html", "1", "home/acme/.profile", "1", "opt/acme/bin/acmed", "1.0", "usr/local/bin/tool", "1")
	publish(t, p, system)
	change := publish(t, p, system.With("var/lib/acme/db", "2", "srv/www/index.html", "", "home/acme/.vimrc", "2",
		"opt/acme/bin/acmed", "2.0", "usr/local/bin/tool", "2", "usr/bin/server", "2")).Change
	if change.Changed.Entries != 3 || change.Added.Entries != 0 || change.Removed.Entries != 0 {
		t.Errorf("it counts %+v", change)
	}
	if want := []string{"home/acme/.vimrc", "srv/www", "srv/www/index.html", "var/lib/acme/db"}; change.VMOwned != 4 || !slices.Equal(change.VMOwnedPaths, want) {
		t.Errorf("the VM's own are %d: %v", change.VMOwned, change.VMOwnedPaths)
	}
}
