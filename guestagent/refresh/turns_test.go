package refresh

import (
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"pgregory.net/rapid"
)

// turns notes what has its turn when.
type turns struct {
	mutex              sync.Mutex
	began, through     []string
	running, mostAtOne int
}

func (n *turns) act(name string, took time.Duration, err error) error {
	n.mutex.Lock()
	n.running++
	n.mostAtOne = max(n.mostAtOne, n.running)
	n.mutex.Unlock()
	time.Sleep(took)
	n.mutex.Lock()
	defer n.mutex.Unlock()
	n.running--
	n.through = append(n.through, name)
	return err
}

func TestWhatHasItsTurnWaitsForWhatComesBefore(t *testing.T) {
	rapid.Check(t, func(t *rapid.T) {
		names := strings.Split("abcdefgh", "")[:rapid.IntRange(0, 8).Draw(t, "count")]
		after, took := map[string][]string{}, map[string]time.Duration{}
		for i, name := range names {
			took[name] = time.Duration(rapid.IntRange(0, 300).Draw(t, "took")) * time.Microsecond
			for _, earlier := range names[:i] {
				if rapid.Bool().Draw(t, "after") {
					after[name] = append(after[name], earlier)
				}
			}
		}
		atOnce := rapid.IntRange(0, 4).Draw(t, "at once")
		n := &turns{}
		err := inTurn(names, after, atOnce, false, func(name string) { n.began = append(n.began, name) },
			func(name string) error {
				n.mutex.Lock()
				for _, earlier := range after[name] {
					if !slices.Contains(n.through, earlier) {
						t.Errorf("%s began before %s was through", name, earlier)
					}
				}
				n.mutex.Unlock()
				return n.act(name, took[name], nil)
			})
		if err != nil || !slices.Equal(slices.Sorted(slices.Values(n.through)), names) || n.mostAtOne > max(atOnce, 1) {
			t.Errorf("of %v %v were through, %d at once of %d: %v", names, n.through, n.mostAtOne, atOnce, err)
		}
		if atOnce < 2 && !slices.Equal(n.began, names) {
			t.Errorf("one after the other they began as %v", n.began)
		}
	})
}

// What waits for nothing takes as long together as the slowest of it.
func TestAsManyHaveTheirTurnAtOnceAsMay(t *testing.T) {
	for atOnce, want := range map[int]time.Duration{1: 6 * time.Second, 2: 4 * time.Second,
		3: 3 * time.Second, 9: 3 * time.Second} {
		synctest.Test(t, func(t *testing.T) {
			began := time.Now()
			takes := map[string]time.Duration{"a": time.Second, "b": 2 * time.Second, "c": 3 * time.Second}
			n := &turns{}
			err := inTurn(slices.Sorted(maps.Keys(takes)), nil, atOnce, false, func(string) {},
				func(name string) error {
					return n.act(name, takes[name], nil)
				})
			if took := time.Since(began); err != nil || took != want {
				t.Errorf("%d at once: %v, %v, want %v", atOnce, took, err, want)
			}
		})
	}
}

func TestOneRestartAtATimeForEachTwoProcessors(t *testing.T) {
	for processors, want := range map[int]int{0: 1, 1: 1, 2: 1, 3: 1, 4: 2, 5: 2, 15: 7, 16: 8, 512: 8} {
		if got := AtOnce(processors); got != want {
			t.Errorf("%d processors: %d, want %d", processors, got, want)
		}
	}
}

func TestAfterAFailureNoTurnBegins(t *testing.T) {
	for _, goOn := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			n := &turns{}
			names := []string{"a", "b", "c", "d"}
			err := inTurn(names, map[string][]string{"d": {"a"}}, 2, goOn, func(string) {}, func(name string) error {
				if name == "a" {
					return n.act(name, time.Second, errors.New("boom"))
				}
				return n.act(name, 2*time.Second, nil)
			})
			want := []string{"a", "b"} // b had begun, and is waited for
			if goOn {
				want = []string{"a", "b", "c", "d"}
			}
			if err == nil || err.Error() != "boom" || !slices.Equal(n.through, want) || n.running != 0 {
				t.Errorf("go on %v: through with %v, %d run: %v", goOn, n.through, n.running, err)
			}
		})
	}
}

func TestAUnitThatWaitsForWhatHasNoTurnIsNotLeftOutSilently(t *testing.T) {
	err := inTurn([]string{"a", "b"}, map[string][]string{"b": {"x"}}, 1, false, func(string) {},
		func(name string) error {
			if name == "b" {
				return fmt.Errorf("%s had its turn", name)
			}
			return nil
		})
	if err == nil || !strings.Contains(err.Error(), "[b]") {
		t.Error(err)
	}
	err = inTurn([]string{"a", "b"}, map[string][]string{"b": {"x"}}, 1, true, func(string) {},
		func(string) error { return errors.New("boom") })
	if err == nil || !strings.Contains(err.Error(), "boom") || !strings.Contains(err.Error(), "[b]") {
		t.Errorf("besides a failure: %v", err)
	}
}
