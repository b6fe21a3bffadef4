// Command gate runs the tests of packages in one stream of test2json events, for a test runner to read.
//
//	gate [-unit] [-summary FD] [-matrix DIRECTORY] PACKAGE...
//
// Two "go test" commands run at the same time. One runs the packages that boot guests, all at once; their tests
// wait for guest slots (testbed.TakeSlots). The other one runs all other packages with the race detector, at a
// lower priority. With -unit, only packages run that need neither libvirt nor guests.
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
	othersTimeout = "40m"
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
	var codes [2]int
	var failed [3]error
	for i, arguments := range commands(packages, *unit, haveC(ctx)) {
		if len(arguments) > 0 {
			running.Go(func() { codes[i], failed[i] = merged.run(ctx, arguments) })
		}
	}
	if !*unit && len(packages.guests) > 0 {
		running.Go(func() { failed[2] = guest.MakeArchives(ctx) })
	}
	running.Wait()
	code, err := max(codes[0], codes[1]), errors.Join(failed[:]...)
	time.Sleep(printDelay)
	rows, readErr := matrix.ReadResults(*results)
	to := os.NewFile(uintptr(*summaryFD), "summary")
	_, writeErr := io.WriteString(to, matrix.Table(rows)+events.table(time.Since(began)))
	return code, errors.Join(err, readErr, writeErr)
}

// packageSets are the packages to test: those whose tests boot guests, those that use a real libvirt without guests, and
// all others.
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
var longest = []string{module + "/internal/sharedos/source", module + "/internal/sharedos/store", module + "/provider"}

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

// commands returns the two "go test" commands. One without packages is empty.
//
// Packages with guests run without the race detector: guests need the processors, and the other packages test the
// same code of the host with it. -count=1, because results also depend on the machine; -vet=off, because the linter
// runs vet.
func commands(packages packageSets, unit, race bool) [2][]string {
	var both [2][]string
	others := packages.others
	if !unit {
		others = append(others, packages.libvirt...)
		if len(packages.guests) > 0 {
			both[0] = append([]string{"go", "test", "-json", "-count=1", "-vet=off", "-timeout=" + guestsTimeout, "-parallel=8", "-p=" + strconv.Itoa(len(packages.guests))}, packages.guests...)
		}
	}
	if len(others) > 0 {
		both[1] = []string{"nice", "-n", othersNice, "go", "test", "-json", "-count=1", "-vet=off", "-timeout=" + othersTimeout}
		if race {
			both[1] = append([]string{"env", "CGO_ENABLED=1"}, append(both[1], "-race")...)
		}
		both[1] = append(both[1], longestFirst(others)...)
	}
	return both
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
