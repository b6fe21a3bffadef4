package store

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"time"

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
