package store

import (
	"crypto/rand"
	"encoding/hex"
	"fmt"
	"strconv"
	"strings"
)

// lockName is the name of a lock volume taken apart: "lock-<mode>-<machine>.<pid>.<start>.<nonce>.<beat>".
type lockName struct {
	mode LockMode
	holder
	// nonce is of one taking of a lock: nobody ever uses it again.
	nonce string
	// beat counts the volumes that the lock has had.
	beat int
}

func newLockName(mode LockMode, self holder) lockName {
	nonce := make([]byte, 8)
	_, _ = rand.Read(nonce) // it never fails
	return lockName{mode: mode, holder: self, nonce: hex.EncodeToString(nonce)}
}

// String writes the name of the volume.
func (n lockName) String() string {
	return fmt.Sprintf("%s-%s-%s.%d.%d.%s.%d", LockVolume, n.mode, n.machine, n.pid, n.start, n.nonce, n.beat)
}

// parseLockName takes what follows "lock-" apart.
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
	return name, known && pidErr == nil && startErr == nil && beatErr == nil && name.String() == string(LockVolume)+"-"+mode+"-"+rest
}

// conflict is what one lock means for another.
type conflict int

const (
	noConflict conflict = iota
	// waits means that it stays and waits until the other is gone.
	waits
	// givesWay means that it has to go and to come again.
	givesWay
)

// against tells what another lock means for this one. Two locks that exclude each other never both wait, nor both go.
func (n lockName) against(other lockName) conflict {
	switch {
	case n.nonce == other.nonce:
		return noConflict
	case n.mode == Shared && other.mode == Exclusive:
		return givesWay
	case n.mode == Exclusive && other.mode != Exclusive:
		return waits
	case n.mode != other.mode || n.mode == Shared:
		return noConflict
	case n.nonce < other.nonce:
		return waits
	default:
		return givesWay
	}
}
