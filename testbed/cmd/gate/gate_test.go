package main

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestPackagesAreSortedByWhatTheirTestsImport(t *testing.T) {
	sets := sortPackages(strings.Join([]string{
		testbedPath + " testing", testbedPath + "/faults testing " + testbedPath + "/guest", testbedPath + "/matrix testing",
		module + "/internal/sharedos/store context " + testbedPath, module + "/provider testing",
	}, "\n"))
	for _, c := range []struct {
		what      string
		got, want []string
	}{
		{"with guests", sets.guests, []string{testbedPath, testbedPath + "/faults"}},
		{"with libvirt", sets.libvirt, []string{module + "/internal/sharedos/store"}},
		{"others", sets.others, []string{testbedPath + "/matrix", module + "/provider"}},
	} {
		if !slices.Equal(c.got, c.want) {
			t.Errorf("packages %s: %q, want %q", c.what, c.got, c.want)
		}
	}
	all := commands(sets, false, true)
	if !slices.Contains(all[0], testbedPath+"/faults") || slices.Contains(all[0], "-race") {
		t.Errorf("guests: %q", all[0])
	}
	if !slices.Contains(all[1], module+"/internal/sharedos/store") || !slices.Contains(all[1], "-race") || slices.Contains(all[1], testbedPath) {
		t.Errorf("others: %q", all[1])
	}
	if unit := commands(sets, true, false); len(unit[0]) > 0 || slices.Contains(unit[1], module+"/internal/sharedos/store") || slices.Contains(unit[1], "-race") {
		t.Errorf("unit tests: %q", unit)
	}
}

func TestPackagesThatTakeLongBeginFirst(t *testing.T) {
	got := longestFirst([]string{"a", longest[1], "b", longest[0]})
	if want := []string{longest[1], longest[0], "a", "b"}; !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestTheSummaryShowsTimeWithoutWaitingAndWhatGuestsCost(t *testing.T) {
	var s summary
	for _, line := range []string{
		`{"Action":"attr","Package":"` + testbedPath + `/faults","Test":"TestA","Key":"sharedos.waited-for-slots","Value":"1m40s"}`,
		`{"Action":"attr","Package":"` + testbedPath + `/faults","Test":"TestA/sub","Key":"sharedos.guest-starts","Value":"3"}`,
		`{"Action":"attr","Package":"` + testbedPath + `/faults","Test":"TestA/sub","Key":"sharedos.guests-ran","Value":"1m5s"}`,
		`{"Action":"pass","Package":"` + testbedPath + `/faults","Test":"TestA/sub","Elapsed":170}`,
		`{"Action":"pass","Package":"` + testbedPath + `/faults","Test":"TestA","Elapsed":180.2}`,
		`{"Action":"fail","Package":"` + module + `/provider","Test":"TestB","Elapsed":90}`,
		`{"Action":"pass","Package":"` + module + `/provider","Elapsed":91}`,
		`no event`,
	} {
		s.add([]byte(line))
	}
	table := strings.Fields(s.table(10 * time.Minute))
	for _, want := range []string{
		"provider TestB 90 0 0 0 testbed/faults TestA 80 100 3 65 Guests:",
		"Guests: 3 started, 65 seconds in 2 slots. All tests: 600 seconds.",
	} {
		if !strings.Contains(strings.Join(table, " "), want) {
			t.Errorf("the summary does not have %q: %q", want, table)
		}
	}
}

func TestOnlyTheSlowestTestsAreShown(t *testing.T) {
	var s summary
	for i := range 2 * shownTests {
		s.add(fmt.Appendf(nil, `{"Action":"pass","Package":"p","Test":"Test%d","Elapsed":%d}`, i, i))
	}
	table := s.table(0)
	if !strings.Contains(table, "Test39 ") || strings.Contains(table, "Test19 ") {
		t.Error(table)
	}
}

func TestWholeLinesAreMerged(t *testing.T) {
	var out strings.Builder
	s := &stream{out: &out, events: &summary{}}
	var many strings.Builder
	for i := range 100 {
		fmt.Fprintln(&many, strings.Repeat(string(rune('a'+i%2)), 5000))
	}
	done := make(chan error, 2)
	for range 2 {
		go func() { done <- s.copy(strings.NewReader(many.String())) }()
	}
	for range 2 {
		if err := <-done; err != nil {
			t.Fatal(err)
		}
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	if len(lines) != 200 || slices.ContainsFunc(lines, func(l string) bool { return strings.Trim(l, l[:1]) != "" || len(l) != 5000 }) {
		t.Errorf("%d lines, or torn ones", len(lines))
	}
}

func TestAnExitCodeIsReturned(t *testing.T) {
	var out strings.Builder
	s := &stream{out: &out, events: &summary{}}
	code, err := s.run(t.Context(), []string{"sh", "-c", "echo '{}'; exit 3"})
	if code != 3 || err != nil || out.String() != "{}\n" {
		t.Errorf("%d, %v, %q", code, err, out.String())
	}
}
