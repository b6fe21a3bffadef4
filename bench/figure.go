package main

import (
	"encoding/json"
	"fmt"
	"io"
	"os"
	"path/filepath"
)

// figure is one measured value and the limit that it must not exceed.
type figure struct {
	Name  string  `json:"name"`
	Value float64 `json:"value"`
	Unit  string  `json:"unit"`
	// Yardstick is what the same costs without this project, or the other side of a comparison within this run;
	// absent where there is none. Ratio is Value over Yardstick.
	Yardstick *float64 `json:"yardstick"`
	Ratio     *float64 `json:"ratio"`
	Limit     float64  `json:"limit"`
	OK        bool     `json:"ok"`
}

// results prints figures as they come, and keeps them.
type results struct {
	out     io.Writer
	figures []figure
}

// add judges a figure. A yardstick of zero is none.
func (r *results) add(name string, value float64, unit string, yardstick, limit float64) {
	f := figure{Name: name, Value: value, Unit: unit, Limit: limit, OK: value <= limit}
	line := fmt.Sprintf("%-44s %12.3f %-8s limit %.3f", name, value, unit, limit)
	if yardstick != 0 {
		ratio := value / yardstick
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
