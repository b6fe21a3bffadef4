package testbed

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// Starts are the starts of guests in a testbed.
type Starts struct {
	// Count is how often a guest was powered on, and Ran how long all of them ran together.
	Count int
	Ran   time.Duration
}

// logTime is how libvirtd begins a line of a domain's log.
const logTime = "2006-01-02 15:04:05.000-0700: "

// GuestStarts counts the starts of guests until now. It reads the logs that libvirtd writes for each domain, so it
// also counts guests that the provider started.
func (b *Testbed) GuestStarts(now time.Time) (Starts, error) {
	logs, err := filepath.Glob(filepath.Join(b.dir, "log", "qemu", "*.log"))
	if err != nil {
		return Starts{}, err
	}
	var all Starts
	var failed []error
	for _, log := range logs {
		text, err := os.ReadFile(log)
		if err != nil {
			failed = append(failed, err)
			continue
		}
		one := parseStarts(string(text), now)
		all.Count += one.Count
		all.Ran += one.Ran
	}
	return all, errors.Join(failed...)
}

// parseStarts counts the starts of one domain. A guest that was not shut down runs until now.
func parseStarts(log string, now time.Time) (all Starts) {
	var on time.Time
	for line := range strings.Lines(log) {
		if len(line) < len(logTime) {
			continue
		}
		at, err := time.Parse(logTime, line[:len(logTime)])
		if err != nil {
			continue // a line of QEMU's own
		}
		switch event := line[len(logTime):]; {
		case strings.HasPrefix(event, "starting up "):
			all.Count++
			on = at
		case strings.HasPrefix(event, "shutting down") && !on.IsZero():
			all.Ran += at.Sub(on)
			on = time.Time{}
		}
	}
	if !on.IsZero() {
		all.Ran += now.Sub(on)
	}
	return all
}
