package matrix

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
)

const declaration = `## Power

Some words.

| fault | step | outcome | seen on |
|---|---|---|---|
| power cut | before swapped | old stack | real guest |
| power cut | after swapped | old stack | in process |
`

func TestADeclarationIsItsTables(t *testing.T) {
	rows, err := Parse(declaration)
	want := []Row{{"power cut", "before swapped", "old stack", RealGuest},
		{"power cut", "after swapped", "old stack", InProcess}}
	if err != nil || !slices.Equal(rows, want) {
		t.Errorf("got %v, %v", rows, err)
	}
}

func TestADeclarationThatIsNotWholeIsRefused(t *testing.T) {
	for name, text := range map[string]string{
		"no rows":                "## Power\n",
		"a cell too few":         "| power cut | old stack | real guest |\n",
		"a cell too many":        "| power cut | x | y | old stack | real guest |\n",
		"an empty cell":          "| power cut |  | old stack | real guest |\n",
		"seen on something else": "| power cut | before swapped | old stack | a slide |\n",
		"the same fault twice":   declaration + "| power cut | after swapped | new stack | real guest |\n",
	} {
		if rows, err := Parse(text); !errors.Is(err, ErrDeclaration) {
			t.Errorf("%s: got %v, %v", name, rows, err)
		}
	}
}

// failing is a testing.TB that records failures without failing the test that uses it.
type failing struct {
	testing.TB
	errors  int
	cleanup []func()
}

func (f *failing) Errorf(string, ...any) { f.errors++ }
func (f *failing) Failed() bool          { return f.errors > 0 }
func (f *failing) Cleanup(act func())    { f.cleanup = append(f.cleanup, act) }

// declare changes to a new directory that has the declaration, and clears the recorded results when the test ends.
func declare(t *testing.T, text string) {
	t.Helper()
	t.Chdir(t.TempDir())
	if err := os.MkdirAll(filepath.Dir(Declaration), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(Declaration, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	t.Setenv(ResultsVariable, "") // rows recorded here are not rows of this test run
	t.Cleanup(func() { recorded.results = nil })
}

func record(t *testing.T, fault, step, outcome string) (failed bool) {
	t.Helper()
	inner := &failing{TB: t}
	Record(inner, fault, step, outcome)
	for _, act := range inner.cleanup {
		act()
	}
	return inner.Failed()
}

func TestWhatEndsAsDeclaredPasses(t *testing.T) {
	declare(t, declaration)
	for _, step := range []string{"before swapped", "after swapped"} {
		if record(t, "power cut", step, "old stack") {
			t.Errorf("%s failed", step)
		}
	}
	t.Setenv(ResultsVariable, filepath.Join(t.TempDir(), "results"))
	if err := conclude(false); err != nil {
		t.Error(err)
	}
	results, err := ReadResults(os.Getenv(ResultsVariable))
	if err != nil || !slices.Equal(results, recorded.results) || len(results) != 2 {
		t.Errorf("read again it is %v, %v", results, err)
	}
	table := Table(results)
	if !strings.Contains(table, "after swapped") || !strings.Contains(table, "2 rows, 0 failed") {
		t.Error(table)
	}
}

func TestWhatIsNotDeclaredOrEndsOtherwiseFails(t *testing.T) {
	declare(t, declaration)
	if !record(t, "power cut", "before committed", "old stack") {
		t.Error("a row that is not declared passed")
	}
	if !record(t, "power cut", "after swapped", "new stack") {
		t.Error("another outcome than the declared one passed")
	}
	if table := Table(recorded.results); !strings.Contains(table, "FAILED") ||
		!strings.Contains(table, "1 rows, 1 failed") {
		t.Error(table)
	}
}

func TestADeclaredRowThatNoTestTriedFailsTheWholeRun(t *testing.T) {
	declare(t, declaration)
	record(t, "power cut", "before swapped", "old stack")
	if err := conclude(true); err != nil {
		t.Errorf("when some tests were chosen: %v", err)
	}
	if err := conclude(false); err == nil || !strings.Contains(err.Error(), "after swapped") {
		t.Errorf("got %v", err)
	}
}

// If TestMain of a package does not call matrix.Run, the package could declare rows that no test checks.
func TestPackagesThatDeclareFaultsCallMatrixRun(t *testing.T) {
	root := filepath.Join("..", "..")
	packages, err := Packages(root)
	if err != nil {
		t.Fatal(err)
	}
	for _, directory := range packages {
		files, err := filepath.Glob(filepath.Join(root, directory, "*_test.go"))
		if err != nil {
			t.Fatal(err)
		}
		calls := slices.ContainsFunc(files, func(name string) bool {
			text, err := os.ReadFile(name)
			return err == nil && strings.Contains(string(text), "matrix.Run(m)")
		})
		if !calls {
			t.Errorf("%s has %s, and no TestMain that calls matrix.Run(m)", directory, Declaration)
		}
	}
	if _, err := Page(root); err != nil {
		t.Error(err)
	}
}
