// Command gate runs the tests of packages in one stream of test2json events, for a test runner to read.
//
//	gate [-unit] [-summary FD] [-matrix DIRECTORY] PACKAGE...
//
// One "go test" command runs the packages that boot guests, all at once; their tests wait for guest slots
// (testbed.TakeSlots). At the same time and at a lower priority, further commands run all other packages one after the
// other: with the race detector, and, where a test is too large for it, without. With -unit, only packages run that
// need neither libvirt nor guests.
//
// At the end, gate writes the fault matrix, the slowest tests and the costs of guests to the file descriptor
// -summary.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/testbed/guest"
	"github.com/sharedos/terraform-provider-sharedos/testbed/matrix"
)

// Bounds of whole "go test" commands. Tests have their own bounds. Those with guests spend most of the time waiting
// for slots.
const (
	guestsTimeout = "80m"
	othersTimeout = "75m"
)

// othersNice is the niceness of the packages without guests: the guests are what the run waits for in the end.
const othersNice = "5"

// printDelay is the time for the test runner to print the last package before the summary.
const printDelay = time.Second

func main() {
	code, err := run()
	if err != nil {
		fmt.Fprintln(os.Stderr, "gate:", err)
		code = max(code, 1)
	}
	os.Exit(code)
}

func run() (int, error) {
	unit := flag.Bool("unit", false, "leave out packages that need libvirt or guests")
	summaryFD := flag.Int("summary", 1, "file descriptor for the summary")
	results := flag.String("matrix", "", "directory with the results of the fault matrix")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	packages, err := list(ctx, flag.Args())
	if err != nil {
		return 1, err
	}
	began := time.Now()
	events := &summary{}
	merged := &stream{out: os.Stdout, events: events}
	var running sync.WaitGroup
	both := commands(packages, *unit, haveC(ctx))
	var codes [len(both)]int
	var failed [len(both) + 1]error
	for i, inTurn := range both {
		running.Go(func() {
			for _, arguments := range inTurn {
				code, err := merged.run(ctx, arguments)
				codes[i], failed[i] = max(codes[i], code), errors.Join(failed[i], err)
			}
		})
	}
	if !*unit && len(packages.guests) > 0 {
		running.Go(func() { failed[len(both)] = guest.MakeArchives(ctx) })
	}
	running.Wait()
	code, err := slices.Max(codes[:]), errors.Join(failed[:]...)
	time.Sleep(printDelay)
	rows, readErr := matrix.ReadResults(*results)
	to := os.NewFile(uintptr(*summaryFD), "summary")
	_, writeErr := io.WriteString(to, matrix.Table(rows)+events.table(time.Since(began)))
	return code, errors.Join(err, readErr, writeErr)
}

// packageSets are the packages to test: those whose tests boot guests, those that use a real
// libvirt without guests, and all others.
type packageSets struct{ guests, libvirt, others []string }

const (
	module      = "github.com/sharedos/terraform-provider-sharedos"
	testbedPath = module + "/testbed"
)

// list asks the go command for the packages and sorts them by what their tests import.
func list(ctx context.Context, patterns []string) (packageSets, error) {
	const format = `{{.ImportPath}}{{range .TestImports}} {{.}}{{end}}{{range .XTestImports}} {{.}}{{end}}`
	cmd := exec.CommandContext(ctx, "go", append([]string{"list", "-f", format}, patterns...)...)
	cmd.Stderr = os.Stderr
	text, err := cmd.Output()
	if err != nil {
		return packageSets{}, fmt.Errorf("list the packages: %w", err)
	}
	return sortPackages(string(text)), nil
}

// sortPackages takes lines of an import path and of what the package's tests import.
func sortPackages(text string) (sets packageSets) {
	for line := range strings.Lines(text) {
		words := strings.Fields(line)
		uses := words[0] == testbedPath
		for _, imported := range words[1:] {
			uses = uses || imported == testbedPath || imported == testbedPath+"/guest"
		}
		switch {
		case !uses:
			sets.others = append(sets.others, words[0])
		case strings.HasPrefix(words[0], testbedPath):
			sets.guests = append(sets.guests, words[0])
		default:
			sets.libvirt = append(sets.libvirt, words[0])
		}
	}
	return sets
}

// longest lists packages whose tests take long. They begin first, so that none of them runs alone at the end.
var longest = []string{module + "/internal/sharedos/store", module + "/provider"}

// longestFirst moves the packages that take long to the front.
func longestFirst(packages []string) []string {
	var first, rest []string
	for _, name := range packages {
		if slices.Contains(longest, name) {
			first = append(first, name)
		} else {
			rest = append(rest, name)
		}
	}
	return append(first, rest...)
}

// large are the packages with tests that process gigabytes, measure memory or try each of thousands of cases, with
// which the race detector takes five to ten times as long. These packages run without it, completely. With it they run
// again, without these tests, whose names match the pattern: their other tests run the same goroutines. A package
// without such goroutines, which has the pattern "", runs only once.
var large = map[string]string{
	module + "/guestagent/refresh":        "^TestOldOrNewW(hateverGoesWrong(WithAStart)?|henTheWayOutIsCutOffAsWell|henTheJournalIsLost)$",
	module + "/internal/sharedos/release": "^TestLongListsDifferWhereTheyDo$",
	module + "/internal/sharedos/source":  "",
}

// commands returns two sequences of "go test" commands, which run at the same time: of the packages with guests, and of
// all others. The last command of a package is the one that runs all its tests.
//
// Packages with guests run without the race detector: guests need the processors, and the other packages test the
// same code of the host with it. -count=1, because results also depend on the machine; -vet=off, because the linter
// runs vet.
func commands(packages packageSets, unit, race bool) [2][][]string {
	var both [2][][]string
	others := packages.others
	if !unit {
		others = append(others, packages.libvirt...)
		if len(packages.guests) > 0 {
			both[0] = [][]string{slices.Concat(goTest(guestsTimeout),
				[]string{"-parallel=8", "-p=" + strconv.Itoa(len(packages.guests))}, packages.guests)}
		}
	}
	test := slices.Concat([]string{"nice", "-n", othersNice}, goTest(othersTimeout))
	if !race {
		if len(others) > 0 {
			both[1] = [][]string{append(test, longestFirst(others)...)}
		}
		return both
	}
	var raced, partly, patterns, plain []string
	for _, name := range longestFirst(others) {
		pattern, isLarge := large[name]
		if !isLarge {
			raced = append(raced, name)
			continue
		}
		plain = append(plain, name)
		if pattern != "" {
			partly, patterns = append(partly, name), append(patterns, pattern)
		}
	}
	detector := slices.Concat([]string{"env", "CGO_ENABLED=1"}, test, []string{"-race"})
	for _, step := range []struct{ command, packages []string }{
		{detector, raced}, {append(slices.Clone(detector), "-skip="+strings.Join(patterns, "|")), partly}, {test, plain},
	} {
		if len(step.packages) > 0 {
			both[1] = append(both[1], slices.Concat(step.command, step.packages))
		}
	}
	return both
}

// goTest is a "go test" command that prints events.
func goTest(timeout string) []string {
	return []string{"go", "test", "-json", "-count=1", "-vet=off", "-timeout=" + timeout}
}

// haveC reports whether there is the C compiler that the race detector needs.
func haveC(ctx context.Context) bool {
	name, err := exec.CommandContext(ctx, "go", "env", "CC").Output()
	if err != nil {
		return false
	}
	_, err = exec.LookPath(strings.TrimSpace(string(name)))
	return err == nil
}
