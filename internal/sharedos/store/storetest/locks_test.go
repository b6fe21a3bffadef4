package storetest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
)

// take takes a lock within a limit.
func take(t *testing.T, l *store.Locker, mode store.LockMode,
	limit time.Duration) (context.Context, func() error, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	return l.Lock(ctx, mode, func(string) {})
}

// own returns the name of the lock volume that this process has in a directory.
func own(t *testing.T, dir LockVolumes) string {
	t.Helper()
	names, err := dir.Locks(t.Context())
	if err != nil || len(names) != 1 {
		t.Fatalf("locks %v, %v", names, err)
	}
	return names[0]
}

// mustLose waits until a lock ends as one that was lost.
func mustLose(t *testing.T, locked context.Context, unlock func() error) {
	t.Helper()
	select {
	case <-locked.Done():
	case <-time.After(20 * time.Second):
		t.Fatal("the holder goes on without its lock")
	}
	if cause := context.Cause(locked); !errors.Is(cause, store.ErrLockLost) {
		t.Errorf("the lock ended for %v, not for %v", cause, store.ErrLockLost)
	}
	if err := unlock(); !errors.Is(err, store.ErrLockLost) {
		t.Errorf("giving it back says %v, not %v", err, store.ErrLockLost)
	}
}

// spoil changes a field of a lock's name: 0 is the mode with the machine, then follow pid, start time, nonce and beat.
func spoil(name string, field int, to string) string {
	fields := strings.Split(name, ".")
	fields[field] = to
	return strings.Join(fields, ".")
}

func TestTheLockOfAProcessThatIsGoneDoesNotHold(t *testing.T) {
	dir := LockVolumes(t.TempDir())
	_, unlock, err := take(t, &store.Locker{Linger: -1, Volumes: dir}, store.Exclusive, 20*time.Second)
	must(t, err)
	name := own(t, dir)
	must(t, unlock())
	// A process that has ended, and one whose pid is another's now.
	ended := exec.CommandContext(t.Context(), "true")
	must(t, ended.Run())
	for what, dead := range map[string]string{
		"an ended process": spoil(name, 1, fmt.Sprint(ended.Process.Pid)),
		"a reused pid":     spoil(name, 2, "1"),
	} {
		must(t, dir.CreateLock(t.Context(), dead))
		_, unlock, err := take(t, &store.Locker{Linger: -1, Volumes: dir}, store.Shared, 20*time.Second)
		if err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		must(t, unlock())
		if names, err := dir.Locks(t.Context()); err != nil || len(names) != 0 {
			t.Errorf("%s: left are %v, %v", what, names, err)
		}
	}
}

func TestTheLockOfAnotherMachineHoldsAsLongAsItIsRenewed(t *testing.T) {
	dir := LockVolumes(t.TempDir())
	locker := &store.Locker{Linger: -1, Volumes: dir, Beat: 20 * time.Millisecond, Lease: 2 * time.Second}
	_, unlock, err := take(t, locker, store.Exclusive, 20*time.Second)
	must(t, err)
	name := own(t, dir)
	must(t, unlock())
	// Another machine's process: nobody here can see whether it runs.
	mode, _, _ := strings.Cut(name, ".")
	other := func(beat int) string {
		return spoil(spoil(name, 0, mode[:len(mode)-16]+"0123456789abcdef"), 4, fmt.Sprint(beat))
	}
	must(t, dir.CreateLock(t.Context(), other(0)))
	renewed := time.Now()
	for beat := range 8 {
		if _, _, err := take(t, locker, store.Shared, 100*time.Millisecond); !errors.Is(err, context.DeadlineExceeded) {
			t.Fatalf("while it was renewed: got error %v", err)
		}
		must(t, dir.CreateLock(t.Context(), other(beat+1)))
		must(t, dir.DeleteLock(t.Context(), other(beat)))
		renewed = time.Now()
	}
	_, unlock, err = take(t, locker, store.Shared, 20*time.Second)
	must(t, err)
	if waited := time.Since(renewed); waited < locker.Lease {
		t.Errorf("it was taken for dead after %s, and the lease is %s", waited, locker.Lease)
	}
	must(t, unlock())
}

func TestALockThatOthersTookForDeadIsLost(t *testing.T) {
	dir := LockVolumes(t.TempDir())
	locker := &store.Locker{Linger: -1, Volumes: dir, Beat: 10 * time.Millisecond, Lease: time.Second}
	locked, unlock, err := take(t, locker, store.Exclusive, 20*time.Second)
	must(t, err)
	names, err := dir.Locks(t.Context())
	must(t, err)
	for _, name := range names {
		must(t, os.Remove(dir.path(name)))
	}
	mustLose(t, locked, unlock)
}

// failing cannot make volumes, as a pool that is out of reach.
type failing struct{ LockVolumes }

var errOut = errors.New("out of reach")

func (failing) DeleteLock(context.Context, string) error { return errOut }

func TestALockThatCannotBeGivenBackSaysSoAndHoldsNobodyHere(t *testing.T) {
	dir := LockVolumes(t.TempDir())
	_, unlock, err := take(t, &store.Locker{Linger: -1, Volumes: failing{dir}}, store.Shared, 20*time.Second)
	must(t, err)
	if err := unlock(); !errors.Is(err, errOut) {
		t.Errorf("got error %v", err)
	}
	own(t, dir)
	// Less than a lease: this process knows that it has given the lock up.
	_, unlock, err = take(t, &store.Locker{Linger: -1, Volumes: dir}, store.Exclusive, 5*time.Second)
	must(t, err)
	must(t, unlock())
}

func TestALockIsKeptAliveForLongerThanItsLease(t *testing.T) {
	dir := LockVolumes(t.TempDir())
	locker := &store.Locker{Linger: -1, Volumes: dir, Beat: 50 * time.Millisecond, Lease: 1500 * time.Millisecond}
	locked, unlock, err := take(t, locker, store.Exclusive, 20*time.Second)
	must(t, err)
	if _, _, err := take(t, locker, store.Shared, 4*time.Second); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("while it was held: got error %v", err)
	}
	must(t, errors.Join(locked.Err(), unlock()))
}

func TestManyOfOneProcessHoldOneSharedLock(t *testing.T) {
	dir := LockVolumes(t.TempDir())
	locker := &store.Locker{Linger: -1, Volumes: dir}
	_, first, err := take(t, locker, store.Shared, 20*time.Second)
	must(t, err)
	_, second, err := take(t, locker, store.Shared, 20*time.Second)
	must(t, err)
	name := own(t, dir)
	must(t, first())
	if now := own(t, dir); now != name {
		t.Errorf("the lock went when the first gave it back, and %s is there", now)
	}
	must(t, second())
	if names, err := dir.Locks(t.Context()); err != nil || len(names) != 0 {
		t.Errorf("left are %v, %v", names, err)
	}
	_, third, err := take(t, locker, store.Shared, 20*time.Second)
	must(t, err)
	if now := own(t, dir); now == name {
		t.Error("a lock that was given back was joined")
	}
	must(t, third())
}

func TestASharedLockIsJoinedForABeatOnly(t *testing.T) {
	dir := LockVolumes(t.TempDir())
	locker := &store.Locker{Linger: -1, Volumes: dir, Beat: 100 * time.Millisecond}
	_, first, err := take(t, locker, store.Shared, 20*time.Second)
	must(t, err)
	time.Sleep(200 * time.Millisecond)
	_, second, err := take(t, locker, store.Shared, 20*time.Second)
	must(t, err)
	nonces := map[string]bool{}
	names, err := dir.Locks(t.Context())
	must(t, err)
	for _, name := range names {
		nonces[strings.Split(name, ".")[3]] = true
	}
	if len(nonces) != 2 {
		t.Errorf("after a beat there are the locks %v, not one more", names)
	}
	must(t, errors.Join(first(), second()))
}

func TestWhoComesAfterOneThatWantsThePoolForItselfDoesNotJoin(t *testing.T) {
	dir := LockVolumes(t.TempDir())
	locker := &store.Locker{Linger: -1, Volumes: dir}
	_, unlock, err := take(t, locker, store.Shared, 20*time.Second)
	must(t, err)
	waits, done := make(chan struct{}), make(chan error, 1)
	go func() {
		_, unlock, err := locker.Lock(t.Context(), store.Exclusive, func(string) { close(waits) })
		if err == nil {
			err = unlock()
		}
		done <- err
	}()
	<-waits
	if _, _, err := take(t, locker, store.Shared, 200*time.Millisecond); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("got error %v", err)
	}
	must(t, unlock())
	must(t, <-done)
}

func TestASharedLockIsLostForAllWhoHoldIt(t *testing.T) {
	dir := LockVolumes(t.TempDir())
	locker := &store.Locker{Linger: -1, Volumes: dir, Beat: 50 * time.Millisecond, Lease: time.Second}
	one, first, err := take(t, locker, store.Shared, 20*time.Second)
	must(t, err)
	other, second, err := take(t, locker, store.Shared, 20*time.Second)
	must(t, err)
	names, err := dir.Locks(t.Context())
	must(t, err)
	for _, name := range names {
		must(t, os.Remove(dir.path(name)))
	}
	mustLose(t, one, first)
	mustLose(t, other, second)
}

// none waits until a directory has no locks.
func none(t *testing.T, dir LockVolumes) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		names, err := dir.Locks(t.Context())
		must(t, err)
		if len(names) == 0 {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("left are %v", names)
		}
	}
}

func TestASharedLockLingersForTheNextOne(t *testing.T) {
	dir := LockVolumes(t.TempDir())
	locker := &store.Locker{Linger: 2 * time.Second, Volumes: dir}
	var nonce string
	for range 3 {
		_, unlock, err := take(t, locker, store.Shared, 20*time.Second)
		must(t, err)
		now := strings.Split(own(t, dir), ".")[3]
		if nonce != "" && now != nonce {
			t.Error("it was taken anew")
		}
		nonce = now
		must(t, unlock())
	}
	own(t, dir)
	none(t, dir)
}

func TestALingeringLockIsInNobodysWayHere(t *testing.T) {
	dir := LockVolumes(t.TempDir())
	locker := &store.Locker{Linger: time.Hour, Volumes: dir}
	linger := func() {
		_, unlock, err := take(t, locker, store.Shared, 20*time.Second)
		must(t, err)
		must(t, unlock())
		own(t, dir)
	}
	linger()
	_, unlock, err := locker.Lock(t.Context(), store.Exclusive, func(string) { t.Error("it had to wait") })
	must(t, err)
	must(t, unlock())
	none(t, dir)
	linger()
	must(t, locker.Close(t.Context()))
	if names, err := dir.Locks(t.Context()); err != nil || len(names) != 0 {
		t.Errorf("left are %v, %v", names, err)
	}
}
