package main

import (
	"fmt"
	"io"
	"strings"
	"sync"
	"time"
)

// report prints what the demo does, what it found, and whether what the project claims holds.
type report struct {
	out   io.Writer
	began time.Time

	mu     sync.Mutex
	last   string
	broken []string
}

func newReport(out io.Writer) *report { return &report{out: out, began: time.Now()} }

// title begins a part.
func (r *report) title(format string, arguments ...any) {
	r.print("\n== "+format+"\n", arguments...)
}

// step prints what is being done now, with the seconds since the demo began. It prints repetitions once.
func (r *report) step(step string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if step == r.last {
		return
	}
	r.last = step
	lines := strings.Split(strings.TrimSpace(printable(step)), "\n")
	fmt.Fprintf(r.out, "  %5.0fs  %s\n", time.Since(r.began).Seconds(), strings.Join(lines, "\n          "))
}

// fact prints one thing that was found.
func (r *report) fact(name, format string, arguments ...any) {
	r.print("  %-30s %s\n", name, printable(fmt.Sprintf(format, arguments...)))
}

// claim prints whether a claim of the project holds, and what was found. The demo fails if it does not.
func (r *report) claim(holds bool, claim, format string, arguments ...any) {
	found := printable(fmt.Sprintf(format, arguments...))
	verdict := "ok"
	if !holds {
		verdict = "FAILED"
		r.mu.Lock()
		r.broken = append(r.broken, claim+": "+found)
		r.mu.Unlock()
	}
	r.print("  %-6s %s: %s\n", verdict, claim, found)
}

// verdict is an error that names every claim that did not hold.
func (r *report) verdict() error {
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.broken) == 0 {
		return nil
	}
	return fmt.Errorf("%d claim(s) did not hold:\n  %s", len(r.broken), strings.Join(r.broken, "\n  "))
}

func (r *report) print(format string, arguments ...any) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.last = ""
	fmt.Fprintf(r.out, format, arguments...)
}

// printable drops control characters but line ends: some of what is printed comes from a guest.
func printable(text string) string {
	return strings.Map(func(c rune) rune {
		if c < ' ' && c != '\n' && c != '\t' || c == 0x7f || c >= 0x80 && c < 0xa0 {
			return -1
		}
		return c
	}, text)
}

// size prints bytes with a unit that fits.
func size(bytes int64) string {
	switch {
	case bytes >= 10<<20 || bytes <= -10<<20:
		return fmt.Sprintf("%.0f MiB", float64(bytes)/(1<<20))
	case bytes >= 1<<20:
		return fmt.Sprintf("%.1f MiB", float64(bytes)/(1<<20))
	default:
		return fmt.Sprintf("%.1f KiB", float64(bytes)/(1<<10))
	}
}

// list joins names, or says that there are none.
func list(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	return strings.Join(names, ", ")
}
