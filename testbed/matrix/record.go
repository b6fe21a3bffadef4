package matrix

import (
	"errors"
	"flag"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
)

// ResultsVariable is the environment variable that names the directory for the results of each package. If it is unset,
// the results are only printed.
const ResultsVariable = "SHAREDOS_TEST_MATRIX"

// Result is a row as a test observed it.
type Result struct {
	Row
	// Failed is true if the test failed, for whatever reason.
	Failed bool
}

var recorded struct {
	sync.Mutex
	results []Result
}

// Record records how a fault at a step ended. A test calls it once the outcome is known. If the test fails after that,
// the row has failed, too.
func Record(t testing.TB, fault, step, outcome string) {
	t.Helper()
	rows, err := Declared(".")
	if err != nil {
		t.Fatal(err)
	}
	got := Row{Fault: fault, Step: step, Outcome: outcome}
	at := slices.IndexFunc(rows, got.sameFault)
	if at < 0 {
		t.Errorf("%s declares no row | %s | %s |", Declaration, fault, step)
		return
	}
	got.Seen = rows[at].Seen
	if want := rows[at].Outcome; outcome != want {
		t.Errorf("%s, %s ended with %q, but %q is declared", fault, step, outcome, want)
	}
	t.Cleanup(func() {
		recorded.Lock()
		defer recorded.Unlock()
		recorded.results = append(recorded.results, Result{got, t.Failed()})
	})
}

// Declared reads the declaration of the package in directory.
func Declared(directory string) ([]Row, error) {
	name := filepath.Join(directory, Declaration)
	text, err := os.ReadFile(name)
	if err != nil {
		return nil, fmt.Errorf("read the declared faults: %w", err)
	}
	rows, err := Parse(string(text))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", name, err)
	}
	return rows, nil
}

// Run runs the tests of a package and returns the exit code for TestMain. It fails if a declared row was not recorded
// although all tests of the package ran.
func Run(m *testing.M) int {
	code := m.Run()
	if err := conclude(Chosen()); err != nil {
		fmt.Fprintln(os.Stderr, "fault matrix:", err)
		code = max(code, 1)
	}
	return code
}

// Chosen reports whether a flag selected only some of the tests.
func Chosen() bool {
	for _, name := range []string{"test.run", "test.skip", "test.list"} {
		if f := flag.Lookup(name); f != nil && f.Value.String() != "" {
			return true
		}
	}
	return false
}

func conclude(some bool) error {
	recorded.Lock()
	defer recorded.Unlock()
	rows, err := Declared(".")
	if err != nil {
		return err
	}
	directory := os.Getenv(ResultsVariable)
	if directory == "" {
		fmt.Print(Table(recorded.results))
	} else if err := write(directory, recorded.results); err != nil {
		return err
	}
	if some {
		return nil
	}
	return missing(rows, recorded.results)
}

// missing returns an error that lists the declared rows that were not recorded.
func missing(rows []Row, results []Result) error {
	var failed []error
	for _, row := range rows {
		if !slices.ContainsFunc(results, func(r Result) bool { return r.sameFault(row) }) {
			failed = append(failed,
				fmt.Errorf("declared in %s but not tested: | %s | %s |", Declaration, row.Fault, row.Step))
		}
	}
	return errors.Join(failed...)
}

// write writes the results of this package into a file in directory: one result for each line, its
// cells separated by tabs.
func write(directory string, results []Result) error {
	var text strings.Builder
	for _, r := range results {
		state := "ok"
		if r.Failed {
			state = "FAILED"
		}
		fmt.Fprintln(&text, strings.Join([]string{r.Fault, r.Step, r.Outcome, string(r.Seen), state}, "\t"))
	}
	if err := os.MkdirAll(directory, 0o755); err != nil {
		return fmt.Errorf("write the results: %w", err)
	}
	here, err := os.Getwd()
	if err != nil {
		return fmt.Errorf("write the results: %w", err)
	}
	name := strings.ReplaceAll(strings.Trim(here, "/"), "/", "_") + ".tsv"
	if err := os.WriteFile(filepath.Join(directory, name), []byte(text.String()), 0o644); err != nil {
		return fmt.Errorf("write the results: %w", err)
	}
	return nil
}

// ReadResults reads the results that the packages of a test run wrote into directory. It returns none if the directory
// does not exist.
func ReadResults(directory string) ([]Result, error) {
	names, err := filepath.Glob(filepath.Join(directory, "*.tsv"))
	if err != nil {
		return nil, fmt.Errorf("list the results in %s: %w", directory, err)
	}
	var results []Result
	for _, name := range names {
		text, err := os.ReadFile(name)
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			return nil, fmt.Errorf("read the results: %w", err)
		}
		for line := range strings.Lines(string(text)) {
			cells := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
			if len(cells) != 5 {
				return nil, fmt.Errorf("read the results: %s: a line of %d cells", name, len(cells))
			}
			row := Row{Fault: cells[0], Step: cells[1], Outcome: cells[2], Seen: Seen(cells[3])}
			results = append(results, Result{row, cells[4] != "ok"})
		}
	}
	return results, nil
}
