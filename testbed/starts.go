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

// How the emulation of QEMU 10.0 fails while a guest with several emulated processors boots. Guests with one processor
// have not shown it, and KVM has none of this.
const (
	// endOfEmulation is QEMU's last message. Its source suggests why: an instruction that must run
	// alone (cpu_exec_step_atomic in accel/tcg/cpu-exec.c) runs outside of RCU, and before the work
	// that a change of the memory map has queued for its processor (tcg_commit_cpu in
	// system/physmem.c). So it may use a map that is freed already.
	endOfEmulation = "iotlb_to_section: Assertion `section_index < d->map.sections_nb' failed."
	// lostTimer is what the guest's kernel says, every 20 to 60 seconds and for ever, of a processor whose timer does
	// not come any more. A guest on a busy machine may say it once and go on.
	lostTimer     = "rcu: \tPossible timer handling issue on cpu="
	lostTimerSaid = 3
)

// EmulatorFailed reports whether the emulation of a VM that boots has failed in a known way, which says nothing about
// what is tested.
func (b *Testbed) EmulatorFailed(vm string) bool {
	log, err := os.ReadFile(filepath.Join(b.dir, "log", "qemu", vm+".log"))
	if err == nil && strings.Contains(string(log), endOfEmulation) {
		return true
	}
	console, err := os.ReadFile(filepath.Join(b.StateDir(), "console", vm+".log"))
	return err == nil && strings.Count(string(console), lostTimer) >= lostTimerSaid
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
