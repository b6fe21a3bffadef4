package service

import (
	"context"
	"errors"
	"strings"
	"testing"
	"time"
)

func TestABootIsGoodOnceItIsUpAndIsRestartedIfItIsNot(t *testing.T) {
	for name, test := range map[string]struct {
		states []string
		judged int // how often a refresh judges it
		alone  bool
		want   string
		err    error
	}{
		"it comes up":      {states: []string{"starting", "running"}, want: "good"},
		"some unit failed": {states: []string{"starting", "degraded"}, want: "good"},
		"it ends in maintenance": {states: []string{"starting", "maintenance"},
			want: "restart", err: errNotUp},
		"it never ends to start":        {states: []string{"starting"}, want: "restart", err: errNotUp},
		"there is nothing else to boot": {states: []string{"maintenance"}, alone: true, err: errNotUp},
		"a refresh judges it, and then it is up": {states: []string{"maintenance", "starting", "running"},
			judged: 3, want: "good"},
		"a refresh judges it for longer than it may": {states: []string{"starting"}, judged: 40, want: "restart", err: errNotUp},
	} {
		t.Run(name, func(t *testing.T) {
			var did []string
			asked := 0
			w := window{
				alone: test.alone, limit: 20 * time.Millisecond, pause: time.Millisecond,
				state: func(context.Context) (string, error) {
					asked++
					return test.states[min(asked, len(test.states))-1], nil
				},
				judged:  func() bool { return asked < test.judged },
				good:    func() error { did = append(did, "good"); return nil },
				restart: func(context.Context) error { did = append(did, "restart"); return nil },
			}
			if err := w.watch(t.Context()); !errors.Is(err, test.err) {
				t.Errorf("it ends with %v", err)
			}
			if got := strings.Join(did, " "); got != test.want {
				t.Errorf("it did %q, want %q", got, test.want)
			}
			if asked < test.judged {
				t.Errorf("it went by what was judged: asked %d times", asked)
			}
		})
	}
}
