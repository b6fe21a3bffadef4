package main

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestPackagesAreSortedByWhatTheirTestsImport(t *testing.T) {
	sets := sortPackages(strings.Join([]string{
		testbedPath + " testing", testbedPath + "/faults testing " + testbedPath + "/guest",
		testbedPath + "/matrix testing",
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
	if guests := all[0]; len(guests) != 1 || !slices.Contains(guests[0], testbedPath+"/faults") ||
		slices.Contains(guests[0], "-race") {
		t.Errorf("guests: %q", guests)
	}
	if others := all[1]; len(others) != 1 || !slices.Contains(others[0], module+"/internal/sharedos/store") ||
		!slices.Contains(others[0], "-race") ||
		slices.Contains(others[0], testbedPath) {
		t.Errorf("others: %q", others)
	}
	unit := commands(sets, true, false)
	if len(unit[0]) > 0 || len(unit[1]) != 1 || slices.Contains(unit[1][0], module+"/internal/sharedos/store") ||
		slices.Contains(unit[1][0], "-race") {
		t.Errorf("unit tests: %q", unit)
	}
}

func TestLargeTestsRunOnceAndWithoutTheRaceDetector(t *testing.T) {
	const refresh, source, other = module + "/guestagent/refresh",
		module + "/internal/sharedos/source", module + "/provider"
	sets := packageSets{others: []string{refresh, source, other}}
	var names [][]string
	for _, command := range commands(sets, false, true)[1] {
		race := slices.Contains(command, "-race")
		skips := slices.ContainsFunc(command, func(word string) bool { return word == "-skip="+large[refresh] })
		names = append(names,
			append([]string{fmt.Sprint(race, skips)},
				slices.DeleteFunc(command, func(word string) bool { return !strings.HasPrefix(word, module) })...))
	}
	want := [][]string{{"true false", other}, {"true true", refresh}, {"false false", refresh, source}}
	if fmt.Sprint(names) != fmt.Sprint(want) {
		t.Errorf("got %q, want %q", names, want)
	}
	if got := commands(sets, false, false)[1]; len(got) != 1 || slices.Contains(got[0], "-race") ||
		slices.ContainsFunc(got[0], func(word string) bool { return strings.HasPrefix(word, "-skip") }) {
		t.Errorf("without the race detector: %q", got)
	}
}

// A pattern that names no test would let it run twice, once with the race detector.
func TestLargeTestsExist(t *testing.T) {
	for name, pattern := range large {
		directory := filepath.Join("../../..", strings.TrimPrefix(name, module))
		files, err := filepath.Glob(filepath.Join(directory, "*_test.go"))
		if err != nil || len(files) == 0 {
			t.Errorf("%s has no tests: %v", name, err)
		}
		found := pattern == ""
		for _, file := range files {
			text, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			for _, test := range regexp.MustCompile(`(?m)^func (Test\w+)\(`).FindAllStringSubmatch(string(text), -1) {
				found = found || regexp.MustCompile(pattern).MatchString(test[1])
			}
		}
		if !found {
			t.Errorf("%s has no test %s", name, pattern)
		}
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
		`{"Action":"attr","Package":"` + testbedPath +
			`/faults","Test":"TestA","Key":"sharedos.waited-for-slots","Value":"1m40s"}`,
		`{"Action":"attr","Package":"` + testbedPath +
			`/faults","Test":"TestA/sub","Key":"sharedos.guest-starts","Value":"3"}`,
		`{"Action":"attr","Package":"` + testbedPath +
			`/faults","Test":"TestA/sub","Key":"sharedos.guests-ran","Value":"1m5s"}`,
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
	if len(lines) != 200 ||
		slices.ContainsFunc(lines, func(l string) bool { return strings.Trim(l, l[:1]) != "" || len(l) != 5000 }) {
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
