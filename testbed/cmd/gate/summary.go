package main

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/testbed"
)

// shownTests is how many of the slowest tests are shown.
const shownTests = 20

// testKey names a test that is not a subtest.
type testKey struct{ pkg, name string }

// testCost is what a test cost.
type testCost struct {
	testKey
	// took includes waited, the time that it spent waiting for guest slots.
	took, waited time.Duration
	// starts of guests, and how long these ran.
	starts int
	ran    time.Duration
}

// summary adds up the costs of tests from their events.
type summary struct{ tests map[testKey]*testCost }

// event is a line of test2json (go doc test2json).
type event struct {
	Action, Package, Test string
	Elapsed               float64
	Key, Value            string
}

// add adds one event. Other lines are ignored here.
func (s *summary) add(line []byte) {
	var e event
	if json.Unmarshal(line, &e) != nil || e.Test == "" {
		return
	}
	name, _, sub := strings.Cut(e.Test, "/")
	key := testKey{pkg: strings.TrimPrefix(e.Package, module+"/"), name: name}
	if s.tests == nil {
		s.tests = map[testKey]*testCost{}
	}
	cost := s.tests[key]
	if cost == nil {
		cost = &testCost{testKey: key}
		s.tests[key] = cost
	}
	switch {
	case e.Action == "attr":
		cost.addAttribute(e.Key, e.Value)
	case !sub && (e.Action == "pass" || e.Action == "fail" || e.Action == "skip"):
		cost.took = time.Duration(e.Elapsed * float64(time.Second))
	}
}

// addAttribute adds an attribute of package testbed, which is always well-formed.
func (c *testCost) addAttribute(key, value string) {
	count, _ := strconv.Atoi(value)
	duration, _ := time.ParseDuration(value)
	switch key {
	case testbed.AttrStarts:
		c.starts += count
	case testbed.AttrRan:
		c.ran += duration
	case testbed.AttrWaited:
		c.waited += duration
	}
}

// table shows the slowest tests and what all guests cost.
func (s *summary) table(wall time.Duration) string {
	var all []*testCost
	var total testCost
	for _, cost := range s.tests {
		all = append(all, cost)
		total.starts += cost.starts
		total.ran += cost.ran
		total.waited += cost.waited
	}
	slices.SortFunc(all, func(a, b *testCost) int {
		if a.net() != b.net() {
			return int(b.net() - a.net())
		}
		return strings.Compare(a.pkg+a.name, b.pkg+b.name)
	})
	var text strings.Builder
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	// A strings.Builder takes every write.
	_, _ = fmt.Fprintln(w, "\nSLOWEST TESTS\tSECONDS\tWAITED FOR A SLOT\tGUESTS\tTHEIR SECONDS")
	for _, cost := range all[:min(len(all), shownTests)] {
		_, _ = fmt.Fprintf(w, "%s %s\t%.0f\t%.0f\t%d\t%.0f\n", cost.pkg, cost.name, cost.net().Seconds(),
			cost.waited.Seconds(), cost.starts, cost.ran.Seconds())
	}
	_ = w.Flush()
	_, _ = fmt.Fprintf(&text, "Guests: %d started, %.0f seconds in %d slots. All tests: %.0f seconds.\n", total.starts,
		total.ran.Seconds(), testbed.GuestSlots, wall.Seconds())
	return text.String()
}

// net is the time of a test without the time that it waited for slots.
func (c *testCost) net() time.Duration { return max(0, c.took-c.waited) }
