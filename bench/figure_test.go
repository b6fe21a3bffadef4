package main

import (
	"encoding/json"
	"io"
	"os"
	"path/filepath"
	"slices"
	"testing"
)

func TestAFigureOverItsLimitIsMissed(t *testing.T) {
	r := results{out: io.Discard}
	r.add("under", 1, "seconds", 4, 2)
	r.add("at", 2, "seconds", 0, 2)
	r.add("over", 3, "seconds", 0, 2)
	r.inform("told", 1e9, "bytes", 1)
	if missed := r.missed(); !slices.Equal(missed, []string{"over"}) {
		t.Errorf("missed %q, want the one over its limit", missed)
	}
	path := filepath.Join(t.TempDir(), "out", "results.json")
	if err := r.write(path); err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var written []map[string]any
	if err := json.Unmarshal(text, &written); err != nil {
		t.Fatal(err)
	}
	first := written[0]
	if first["name"] != "under" || first["value"] != 1.0 || first["yardstick"] != 4.0 || first["ratio"] != 0.25 ||
		first["limit"] != 2.0 || first["unit"] != "seconds" || first["ok"] != true {
		t.Errorf("wrote %v", first)
	}
	if second := written[1]; second["yardstick"] != nil || second["ratio"] != nil {
		t.Errorf("a figure without yardstick was written with one: %v", second)
	}
	if last := written[3]; last["limit"] != nil || last["ok"] != true || last["ratio"] != 1e9 {
		t.Errorf("a figure without a limit was written as %v", last)
	}
}

func TestTheMedianIsTheMiddleOne(t *testing.T) {
	all := []float64{9, 1, 2}
	if got := median(all); got != 2 || !slices.Equal(all, []float64{9, 1, 2}) {
		t.Errorf("got %v, of %v", got, all)
	}
}
