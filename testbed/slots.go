package testbed

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// GuestSlots is how many guests may run on a machine at the same time. An emulated guest keeps one processor busy,
// and machines that run the tests have two.
const GuestSlots = 2

// slotDir has one file for each slot, and one for each caller that waits. All processes of a machine share it. The
// files are locked with flock(2), so the kernel releases what a process held when that process ends.
const slotDir = "/tmp/sharedos-slots"

// How often a caller that waits looks again: for a slot, and for a lock.
const (
	slotPoll = 200 * time.Millisecond
	lockPoll = 20 * time.Millisecond
)

// Slots are guest slots that their holder may boot guests in, one in each. They are released by Release, and by the end
// of the process.
type Slots struct {
	files []*os.File
	// Waited is how long it took to get them.
	Waited time.Duration
}

// TakeSlots waits until as many slots are free and takes all of them at once, so that no two callers wait for each
// other. Do not call it while holding slots.
//
// Free slots go to the caller that expects to hold its slots longest; among equals, to the one that came first.
// This applies to all callers on the machine. A long test that starts last would run alone at the end.
func TakeSlots(ctx context.Context, count int, expected time.Duration) (*Slots, error) {
	slots, err := takeSlots(ctx, slotDir, GuestSlots, count, expected)
	if err != nil {
		return nil, fmt.Errorf("take %d guest slots: %w", count, err)
	}
	return slots, nil
}

func takeSlots(ctx context.Context, dir string, all, count int, expected time.Duration) (*Slots, error) {
	if count < 1 || count > all {
		return nil, fmt.Errorf("there are %d", all)
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	began := time.Now()
	ticket, err := newTicket(dir, expected, began)
	if err != nil {
		return nil, err
	}
	slots := &Slots{}
	err = slots.await(ctx, dir, all, count, ticket)
	if err = errors.Join(err, ticket.discard(dir)); err != nil {
		return nil, errors.Join(err, slots.Release())
	}
	slots.Waited = time.Since(began)
	return slots, nil
}

// await returns when the slots are taken.
func (s *Slots) await(ctx context.Context, dir string, all, count int, ticket *ticket) error {
	for {
		first, err := ticket.isFirst(dir)
		if err != nil {
			return err
		}
		if first {
			if err := s.tryAll(dir, all, count); err != nil || len(s.files) == count {
				return err
			}
			if err := s.Release(); err != nil {
				return err
			}
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(slotPoll):
		}
	}
}

// tryAll takes up to count free slots.
func (s *Slots) tryAll(dir string, all, count int) error {
	for i := 0; i < all && len(s.files) < count; i++ {
		file, locked, err := tryLock(filepath.Join(dir, fmt.Sprintf("slot-%d", i)), os.O_RDWR|os.O_CREATE)
		if err != nil {
			return err
		}
		if locked {
			s.files = append(s.files, file)
		}
	}
	return nil
}

// Release gives the slots back. It may be called twice.
func (s *Slots) Release() error {
	var failed []error
	for _, file := range s.files {
		failed = append(failed, file.Close()) // which unlocks it
	}
	s.files = nil
	return errors.Join(failed...)
}

// Lock locks a file or a directory against other processes of this machine that do the same, and
// returns what unlocks it. It waits as long as ctx allows. fs.ErrNotExist if there is none of the name.
func Lock(ctx context.Context, path string) (unlock func() error, err error) {
	for {
		file, locked, err := tryLock(path, 0)
		if err != nil {
			return nil, fmt.Errorf("lock %s: %w", path, err)
		}
		if locked {
			return file.Close, nil
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("lock %s: %w", path, ctx.Err())
		case <-time.After(lockPoll):
		}
	}
}

// tryLock opens a file and locks it, unless somebody else has it locked.
func tryLock(path string, flags int) (_ *os.File, locked bool, err error) {
	file, err := os.OpenFile(path, flags, 0o600)
	if err != nil {
		return nil, false, err
	}
	err = unix.Flock(int(file.Fd()), unix.LOCK_EX|unix.LOCK_NB)
	if err == nil {
		return file, true, nil
	}
	if errors.Is(err, unix.EWOULDBLOCK) {
		err = nil
	}
	return nil, false, errors.Join(err, file.Close())
}

// ticketPrefix begins the names of tickets.
const ticketPrefix = "wait-"

var lastTicket atomic.Int64

// ticket is the locked file of a caller that waits. Sorted by name, the first ticket is the one whose turn it is.
type ticket struct {
	name string
	file *os.File
}

func newTicket(dir string, expected time.Duration, came time.Time) (*ticket, error) {
	name := fmt.Sprintf("%s%019d-%019d-%d-%d", ticketPrefix, math.MaxInt64-max(0, int64(expected)), came.UnixNano(),
		os.Getpid(), lastTicket.Add(1))
	// It gets its name once it is locked, because a ticket that nobody has locked was left by a process that ended.
	draft := filepath.Join(dir, "new-"+name)
	file, locked, err := tryLock(draft, os.O_RDWR|os.O_CREATE|os.O_EXCL)
	if err == nil && !locked {
		err = errors.New("another process has locked this one's new ticket")
	}
	if err == nil {
		if err = os.Rename(draft, filepath.Join(dir, name)); err != nil {
			err = errors.Join(err, file.Close())
		}
	}
	return &ticket{name: name, file: file}, err
}

// discard removes the ticket.
func (t *ticket) discard(dir string) error {
	return errors.Join(os.Remove(filepath.Join(dir, t.name)), t.file.Close())
}

// isFirst reports whether it is the ticket's turn. It removes tickets of processes that ended.
func (t *ticket) isFirst(dir string) (bool, error) {
	entries, err := os.ReadDir(dir)
	if err != nil {
		return false, err
	}
	for _, entry := range entries { // sorted by name
		if !strings.HasPrefix(entry.Name(), ticketPrefix) {
			continue
		}
		if entry.Name() == t.name {
			return true, nil
		}
		path := filepath.Join(dir, entry.Name())
		left, unlocked, err := tryLock(path, 0)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil || !unlocked {
			return false, err
		}
		err = os.Remove(path)
		if errors.Is(err, fs.ErrNotExist) {
			err = nil
		}
		if err = errors.Join(err, left.Close()); err != nil {
			return false, err
		}
	}
	return false, errors.New("the caller's own ticket is gone")
}
