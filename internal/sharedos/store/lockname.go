package store

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
)

// lockName is the parsed name of a lock volume: "lock-<mode>-<machine>.<pid>.<start>.<nonce>.<beat>".
type lockName struct {
	mode LockMode
	holder
	// nonce identifies the lock.
	nonce string
	// beat is how often the lock was renewed.
	beat int
}

func newLockName(mode LockMode, self holder) lockName {
	nonce := make([]byte, 8)
	_, _ = rand.Read(nonce) // it never fails
	return lockName{mode: mode, holder: self, nonce: hex.EncodeToString(nonce)}
}

// String returns the name of the volume.
func (n lockName) String() string {
	return fmt.Sprintf("%s-%s-%s.%d.%d.%s.%d", LockVolume, n.mode, n.machine, n.pid, n.start, n.nonce, n.beat)
}

// parseLockName parses the part of a name that follows "lock-".
func parseLockName(rest string) (lockName, bool) {
	mode, rest, _ := strings.Cut(rest, "-")
	fields := strings.Split(rest, ".")
	if len(fields) != 5 {
		return lockName{}, false
	}
	pid, pidErr := strconv.Atoi(fields[1])
	start, startErr := strconv.ParseUint(fields[2], 10, 64)
	beat, beatErr := strconv.Atoi(fields[4])
	name := lockName{mode: LockMode(mode), holder: holder{fields[0], pid, start}, nonce: fields[3], beat: beat}
	known := name.mode == Shared || name.mode == Record || name.mode == Exclusive
	return name, known && pidErr == nil && startErr == nil && beatErr == nil &&
		name.String() == string(LockVolume)+"-"+mode+"-"+rest
}

// conflict is what a lock has to do because of another.
type conflict int

const (
	noConflict conflict = iota
	// waits means that it keeps its volume and waits until the other is gone.
	waits
	// yields means that it deletes its volume and tries again later.
	yields
)

// against returns what this lock has to do because of another. Of two locks that exclude each
// other, one waits and the other yields.
func (n lockName) against(other lockName) conflict {
	switch {
	case n.nonce == other.nonce:
		return noConflict
	case n.mode == Shared && other.mode == Exclusive:
		return yields
	case n.mode == Exclusive && other.mode != Exclusive:
		return waits
	case n.mode != other.mode || n.mode == Shared:
		return noConflict
	case n.nonce < other.nonce:
		return waits
	default:
		return yields
	}
}
