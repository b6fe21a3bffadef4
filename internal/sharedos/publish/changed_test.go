package publish

import (
	"context"
	"errors"
	"fmt"
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
