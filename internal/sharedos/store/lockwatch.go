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
	// machine is the same for processes that see each other: they run on one boot of one machine, in one pid namespace.
	machine string
	pid     int
	// start time of the process: a pid alone names nothing.
	start uint64
}

// thisProcess names this process.
func thisProcess() (holder, error) {
	process, err := daemon.Identify(os.Getpid())
	if err != nil {
		return holder{}, fmt.Errorf("name this process: %w", err)
	}
	namespace, err := os.Readlink("/proc/self/ns/pid")
	if err != nil {
		return holder{}, fmt.Errorf("name this process: %w", err)
	}
	sum := sha256.Sum256([]byte(process.Boot + " " + namespace))
	return holder{machine: hex.EncodeToString(sum[:8]), pid: process.PID, start: process.Start}, nil
}

// gone reports whether a process that this one could see is not there any more.
func (h holder) gone(self holder) bool {
	if h.machine != self.machine {
		return false
	}
	process, err := daemon.Identify(h.pid)
	return errors.Is(err, daemon.ErrGone) || err == nil && process.Start != h.start
}

// sign is the last that was seen of a lock's holder.
type sign struct {
	beat int
	at   time.Time
}

// watch tells the living from the dead among the holders of locks, by its own clock alone.
type watch struct {
	self  holder
	lease time.Duration
	// seen, by the nonces of the locks.
	seen map[string]sign
}

// judge splits lock volumes into the locks of those that live, and the volumes of those that are dead.
func (w *watch) judge(names []string) (living []lockName, dead []string) {
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
			w.seen[nonce] = sign{name.beat, time.Now()}
		}
	}
	for _, text := range names {
		parsed, ok := ParseVolumeName(text)
		if !ok || parsed.Kind != LockVolume {
			continue
		}
		name := newest[parsed.lock.nonce]
		_, ours := abandoned.Load(name.nonce)
		switch {
		case ours || name.gone(w.self) || time.Since(w.seen[name.nonce].at) > w.lease:
			dead = append(dead, text)
		case name == parsed.lock:
			living = append(living, name)
		}
	}
	return living, dead
}
