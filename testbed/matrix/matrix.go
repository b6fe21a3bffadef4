// Package matrix implements the fault matrix: which faults a refresh survives, at which step each strikes, and how it
// ends.
//
// A test package declares its rows as Markdown tables in testdata/faults.md. Its TestMain calls Run, and its tests call
// Record with the outcome that they observed. A test fails if its row is not declared or if the declared outcome
// differs, and the package fails if no test recorded a declared row. So the documentation can be generated from the
// declarations without running a test, and every row in it is tested.
package matrix

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Declaration is the file in which a test package declares its rows, relative to the package's directory.
const Declaration = "testdata/faults.md"

// ErrDeclaration means that a declaration is not valid.
var ErrDeclaration = errors.New("not a declaration of faults")

// Seen says where an outcome was observed.
type Seen string

// The places where outcomes are observed.
const (
	RealGuest      Seen = "real guest"
	MountNamespace Seen = "mount namespace"
	InProcess      Seen = "in process"
)

// Row is one line of the matrix.
type Row struct {
	// Fault is what fails, Step is when, and Outcome is how it ends. No two rows of a package have
	// the same fault and step.
	Fault, Step, Outcome string
	Seen                 Seen
}

// head is the first line of every table.
const head = "| fault | step | outcome | seen on |"

// Parse reads the rows of all tables in a declaration and ignores other text. It returns ErrDeclaration if there are no
// rows, if a row is malformed, or if two rows have the same fault and step.
func Parse(text string) ([]Row, error) {
	var rows []Row
	for i, line := range strings.Split(text, "\n") {
		if !strings.HasPrefix(line, "|") || line == head || strings.HasPrefix(line, "|---") {
			continue
		}
		row, err := parseRow(line)
		if err != nil {
			return nil, fmt.Errorf("line %d: %w", i+1, err)
		}
		if slices.ContainsFunc(rows, row.sameFault) {
			return nil, fmt.Errorf("line %d: %w: %s, %s is declared twice", i+1, ErrDeclaration, row.Fault, row.Step)
		}
		rows = append(rows, row)
	}
	if len(rows) == 0 {
		return nil, fmt.Errorf("%w: it has no rows", ErrDeclaration)
	}
	return rows, nil
}

func parseRow(line string) (Row, error) {
	cells := strings.Split(line, "|")
	if len(cells) != 6 || cells[5] != "" {
		return Row{}, fmt.Errorf("%w: a row has four cells: %s", ErrDeclaration, head)
	}
	for i, cell := range cells[1:5] {
		if cells[i+1] = strings.TrimSpace(cell); cells[i+1] == "" {
			return Row{}, fmt.Errorf("%w: cell %d is empty", ErrDeclaration, i+1)
		}
	}
	row := Row{Fault: cells[1], Step: cells[2], Outcome: cells[3], Seen: Seen(cells[4])}
	switch row.Seen {
	case RealGuest, MountNamespace, InProcess:
		return row, nil
	default:
		return Row{}, fmt.Errorf("%w: an outcome is observed on %q, %q or %q, not on %q", ErrDeclaration, RealGuest,
			MountNamespace, InProcess, row.Seen)
	}
}

func (r Row) sameFault(other Row) bool { return r.Fault == other.Fault && r.Step == other.Step }
