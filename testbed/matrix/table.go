package matrix

import (
	"fmt"
	"strings"
	"text/tabwriter"
)

// Table formats the results for a terminal, with a last line that counts them. It returns "" if there are none.
func Table(results []Result) string {
	if len(results) == 0 {
		return ""
	}
	var text strings.Builder
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	// Writing to a strings.Builder cannot fail.
	_, _ = fmt.Fprintln(w, "FAULT\tSTEP\tOUTCOME\tSEEN ON\t")
	failed := 0
	for _, r := range results {
		state := ""
		if r.Failed {
			state = "FAILED"
			failed++
		}
		_, _ = fmt.Fprintf(w, "%s\t%s\t%s\t%s\t%s\n", r.Fault, r.Step, r.Outcome, r.Seen, state)
	}
	_ = w.Flush()
	_, _ = fmt.Fprintf(&text, "Fault matrix: %d rows, %d failed\n", len(results), failed)
	return text.String()
}
