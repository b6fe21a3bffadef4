// Package matrix keeps the fault matrix: which faults are survived, at which step each strikes, and how it ends.
//
// A test package declares its rows as Markdown tables in testdata/faults.md, its TestMain calls Run, and its tests call
// Record with what they saw. A row that was not declared or ends otherwise fails the test, and a declared row that
// no test recorded fails the package. So the documentation can be made of the declarations alone, without running a
// test, and still says nothing that is not tested.
package matrix

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// Declaration is where a test package declares its rows, as a path below the package's directory.
const Declaration = "testdata/faults.md"

// ErrDeclaration means that a declaration cannot be used.
var ErrDeclaration = errors.New("not a declaration of faults")

// Seen says on what an outcome was seen.
type Seen string

// What outcomes are seen on.
const (
	RealGuest      Seen = "real guest"
	MountNamespace Seen = "mount namespace"
	InProcess      Seen = "in process"
)

// Row is one line of the matrix.
type Row struct {
	// Fault is what goes wrong, Step when, Outcome how it ends. No two rows of a package have the same fault and step.
	Fault, Step, Outcome string
	Seen                 Seen
}

// head is the first line of every table.
const head = "| fault | step | outcome | seen on |"

// Parse reads the tables of a declaration; what else stands there is for readers. It returns ErrDeclaration for one
// without rows, with a row that is not whole, or with the same fault and step twice.
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
			return nil, fmt.Errorf("line %d: %w: %s, %s stands there twice", i+1, ErrDeclaration, row.Fault, row.Step)
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
		return Row{}, fmt.Errorf("%w: an outcome is seen on a %q, a %q or %q, not on %q", ErrDeclaration, RealGuest, MountNamespace, InProcess, row.Seen)
	}
}

func (r Row) sameFault(other Row) bool { return r.Fault == other.Fault && r.Step == other.Step }
