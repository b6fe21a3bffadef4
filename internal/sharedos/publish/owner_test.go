package publish

import (
	"context"
	"errors"
	"testing"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store/storetest"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// publishOwned publishes the system as a Terraform state does.
func publishOwned(t *testing.T, p *Publisher, owner, version string) error {
	t.Helper()
	prepared, err := p.Prepare(t.Context(),
		Spec{Name: "os", Source: sourceOf(t, newSystem().With("usr/bin/server", version))}, nil)
	must(t, err)
	prepared.Owner = owner
	return p.Publish(t.Context(), prepared, nil)
}

func TestABaseHasOneOwner(t *testing.T) {
	p := newPublisher(t, storetest.New(t))
	_, err := p.Owner(t.Context(), "os")
	if !errors.Is(err, store.ErrNotFound) {
		t.Fatalf("a base that is not there: %v", err)
	}
	must(t, publishOwned(t, p, "first", "1"))
	must(t, p.SetOwner(t.Context(), "os", "first"))
	if err := publishOwned(t, p, "second", "2"); !errors.Is(err, ErrOwner) {
		t.Errorf("a release of another state: %v", err)
	}
	if history, err := p.History(t.Context(), "os"); err != nil || len(history) != 1 {
		t.Errorf("the history is %v, %v", history, err)
	}
	must(t, p.SetOwner(t.Context(), "os", "second"))
	must(t, publishOwned(t, p, "second", "2"))
	_, err = p.Retain(t.Context(), "os", 1, used(nil))
	must(t, err)
	if owned, err := p.Owner(t.Context(), "os"); err != nil || owned != (Ownership{Owner: "second"}) {
		t.Errorf("its owner is %+v, %v", owned, err)
	}
}

func TestACreationOfABaseThatWasCutOffIsRecognised(t *testing.T) {
	for name, test := range map[string]struct {
		leave func(*testing.T, *Publisher)
		want  Ownership
		fails error
	}{
		"by a process that runs": {func(*testing.T, *Publisher) {}, Ownership{Owner: "first", Unrecorded: true}, ErrMaking},
		"by an error": {func(t *testing.T, p *Publisher) { must(t, p.Abandon(t.Context(), "os", "first")) },
			Ownership{"first", true, true}, nil},
		"by a kill": {func(t *testing.T, p *Publisher) {
			history, err := p.Store.History(t.Context(), release.Base, "os")
			must(t, err)
			history.Making.Process, history.Making.Began = "0011223344556677.1.2", time.Unix(1, 0)
			must(t, p.Store.SetHistory(t.Context(), release.Base, "os", history))
		}, Ownership{"first", true, true}, nil},
		"of another operator": {func(t *testing.T, p *Publisher) {
			history, err := p.Store.History(t.Context(), release.Base, "os")
			must(t, err)
			history.Making.Process, history.Making.Operator = "ended", "another"
			must(t, p.Store.SetHistory(t.Context(), release.Base, "os", history))
		}, Ownership{Owner: "first", Unrecorded: true}, nil},
		"by a kill before Terraform wrote it to its state": {func(t *testing.T, p *Publisher) {
			must(t, p.Made(t.Context(), "os", "first"))
			must(t, p.Abandon(t.Context(), "os", "first"))
		}, Ownership{"first", true, true}, nil},
		"from another directory, complete": {func(t *testing.T, p *Publisher) {
			must(t, p.Made(t.Context(), "os", "first"))
			must(t, p.Abandon(t.Context(), "os", "first"))
			t.Chdir(t.TempDir())
		}, Ownership{Owner: "first", Unrecorded: true}, nil},
		"after it was complete": {func(t *testing.T, p *Publisher) {
			must(t, p.SetOwner(t.Context(), "os", "first"))
			must(t, p.Abandon(t.Context(), "os", "first"))
		}, Ownership{Owner: "first"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPublisher(t, storetest.New(t))
			must(t, publishOwned(t, p, "first", "1"))
			test.leave(t, p)
			if owned, err := p.Owner(t.Context(), "os"); owned != test.want || !errors.Is(err, test.fails) {
				t.Errorf("it is %+v, %v", owned, err)
			}
		})
	}
}

func TestADeletionThatWasKilledIsFinished(t *testing.T) {
	s := storetest.New(t)
	p := newPublisher(t, s)
	must(t, publishOwned(t, p, "first", "1"))
	none := func(context.Context) (map[tree.Digest][]string, error) { return nil, nil }
	must(t, p.Resume(t.Context(), none))
	if volumes, err := s.Volumes(t.Context()); err != nil || len(volumes) < 4 {
		t.Fatalf("a store with a base has %v, %v", volumes, err)
	}
	must(t, s.SetHistory(t.Context(), release.Base, "os", store.History{})) // and killed
	must(t, p.Resume(t.Context(), none))
	if volumes, err := s.Volumes(t.Context()); err != nil || len(volumes) > 0 {
		t.Errorf("left are %v, %v", volumes, err)
	}
}
