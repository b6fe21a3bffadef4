package store

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/daemon"
)

// holder is a process that holds a lock.
type holder struct {
	// machine identifies a boot of a machine and a pid namespace: processes with the same value see each other.
	machine string
	pid     int
	// start is the start time of the process, because pids are used again.
	start uint64
}

// thisProcess identifies this process.
func thisProcess() (holder, error) {
	process, err := daemon.Identify(os.Getpid())
	if err != nil {
		return holder{}, fmt.Errorf("identify this process: %w", err)
	}
	namespace, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		return holder{}, fmt.Errorf("identify this process: %w", err)
	}
	sum := sha256.Sum256([]byte(process.Boot + " " + namespace))
	return holder{machine: hex.EncodeToString(sum[:8]), pid: process.PID, start: process.Start}, nil
}

// ThisProcess identifies this process in a text of the form "<machine>.<pid>.<start>", for ProcessState.
func ThisProcess() (string, error) {
	self, err := thisProcess()
	return fmt.Sprintf("%s.%d.%d", self.machine, self.pid, self.start), err
}

// ProcessState says what is known about a process.
type ProcessState int

// The states of a process.
const (
	// ProcessUnseen: it is of another machine, of another boot of this one, or of another pid namespace.
	ProcessUnseen ProcessState = iota
	ProcessRuns
	ProcessEnded
)

// StateOf returns the state of a process that ThisProcess has identified. A text of another form is ProcessEnded.
func StateOf(process string) (ProcessState, error) {
	self, err := thisProcess()
	if err != nil {
		return ProcessUnseen, err
	}
	fields := strings.Split(process, ".")
	if len(fields) != 3 {
		return ProcessEnded, nil
	}
	pid, pidErr := strconv.Atoi(fields[1])
	start, startErr := strconv.ParseUint(fields[2], 10, 64)
	if pidErr != nil || startErr != nil {
		return ProcessEnded, nil
	}
	other := holder{fields[0], pid, start}
	switch {
	case other.machine != self.machine:
		return ProcessUnseen, nil
	case other.gone(self):
		return ProcessEnded, nil
	}
	return ProcessRuns, nil
}

// unseenLimit is how long a process that cannot be seen from here counts as running. It is longer
// than a creation usually takes.
const unseenLimit = 30 * time.Minute

// MakerEnded reports whether a process that began to make something has ended, and so has left it unfinished. A process
// that cannot be seen counts as ended if this machine was started since it began, or half an hour after it began.
func MakerEnded(process string, began time.Time) (bool, error) {
	state, err := StateOf(process)
	if err != nil || state != ProcessUnseen {
		return state == ProcessEnded, err
	}
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return false, fmt.Errorf("read how long the machine runs: %w", err)
	}
	started := time.Now().Add(-time.Duration(info.Uptime) * time.Second)
	return began.Before(started) || time.Since(began) > unseenLimit, nil
}

// gone reports whether the process has ended. It returns false for a process that this one cannot see.
func (h holder) gone(self holder) bool {
	if h.machine != self.machine {
		return false
	}
	process, err := daemon.Identify(h.pid)
	return errors.Is(err, daemon.ErrGone) || err == nil && process.Start != h.start
}

// renewal is when a renewal of a lock was first seen.
type renewal struct {
	beat int
	at   time.Time
}

// watch finds abandoned locks. It uses this machine's clock alone.
type watch struct {
	self  holder
	lease time.Duration
	// seen has the last renewal by the nonce of the lock.
	seen map[string]renewal
}

// judge divides lock volumes into valid locks and volumes of abandoned ones.
func (w *watch) judge(names []string) (valid []lockName, abandoned []string) {
	newest := map[string]lockName{}
	for _, text := range names {
		if parsed, ok := ParseVolumeName(text); ok && parsed.Kind == LockVolume {
			if known, is := newest[parsed.lock.nonce]; !is || known.beat < parsed.lock.beat {
				newest[parsed.lock.nonce] = parsed.lock
			}
		}
	}
	for nonce, name := range newest {
		if last, known := w.seen[nonce]; !known || last.beat != name.beat {
			w.seen[nonce] = renewal{name.beat, time.Now()}
		}
	}
	for _, text := range names {
		parsed, ok := ParseVolumeName(text)
		if !ok || parsed.Kind != LockVolume {
			continue
		}
		name := newest[parsed.lock.nonce]
		_, ours := undeleted.Load(name.nonce)
		switch {
		case ours || name.gone(w.self) || time.Since(w.seen[name.nonce].at) > w.lease:
			abandoned = append(abandoned, text)
		case name == parsed.lock:
			valid = append(valid, name)
		}
	}
	return valid, abandoned
}
