package main

import (
	"cmp"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
)

// figure is one measured value and the limit that it must not exceed.
type figure struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
	// Yardstick is the cost without this project, or the other side of a comparison in this run; absent where there
	// is none. Ratio is Value / Yardstick.
	Yardstick *float64 `json:"yardstick"`
	Ratio     *float64 `json:"ratio"`
	// Limit is absent from a figure that is for information only.
	Limit *float64 `json:"limit"`
	OK    bool     `json:"ok"`
}

// results prints figures as they come, and keeps them.
type results struct {
	out     io.Writer
	figures []figure
}

// add compares a figure with its limit. A yardstick of zero is none.
func (r *results) add(name string, value float64, unit string, yardstick, limit float64) {
	r.record(figure{Name: name, Value: value, Unit: unit, Limit: &limit, OK: value <= limit}, yardstick)
}

// inform adds a figure that has no limit.
func (r *results) inform(name string, value float64, unit string, yardstick float64) {
	r.record(figure{Name: name, Value: value, Unit: unit, OK: true}, yardstick)
}

// turns is how often each side of a comparison is measured, in turn with the other side. Their medians are
// compared, so that one turn in which the machine was busy does not matter.
const turns = 3

// median returns the middle one of an odd number of values.
func median[T cmp.Ordered](all []T) T {
	all = slices.Sorted(slices.Values(all))
	return all[len(all)/2]
}

func (r *results) record(f figure, yardstick float64) {
	line := fmt.Sprintf("%-44s %12.3f %-8s ", f.Name, f.Value, f.Unit)
	if f.Limit != nil {
		line += fmt.Sprintf("limit %.3f", *f.Limit)
	} else {
		line += "no limit"
	}
	if yardstick != 0 {
		ratio := f.Value / yardstick
		f.Yardstick, f.Ratio = &yardstick, &ratio
		line += fmt.Sprintf(", %.2f × the yardstick %.3f", ratio, yardstick)
	}
	if !f.OK {
		line += "  MISSED"
	}
	r.figures = append(r.figures, f)
	fmt.Fprintln(r.out, line)
}

// missed names the figures over their limits.
func (r *results) missed() []string {
	var names []string
	for _, f := range r.figures {
		if !f.OK {
			names = append(names, f.Name)
		}
	}
	return names
}

// write writes all figures to a file, whole or not at all.
func (r *results) write(path string) error {
	text, err := json.MarshalIndent(r.figures, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the results: %w", err)
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return fmt.Errorf("make a directory for the results: %w", err)
	}
	draft := path + ".new"
	if err := os.WriteFile(draft, append(text, '\n'), 0o644); err != nil {
		return fmt.Errorf("write the results: %w", err)
	}
	if err := os.Rename(draft, path); err != nil {
		return fmt.Errorf("put the results in place: %w", err)
	}
	return nil
}
