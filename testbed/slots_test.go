package testbed

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// taking takes slots in the background and sends them to the channel. It closes the channel, also after an error.
func taking(ctx context.Context, dir string, count int, expected time.Duration) <-chan *Slots {
	taken := make(chan *Slots, 1)
	go func() {
		slots, err := takeSlots(ctx, dir, GuestSlots, count, expected)
		if err == nil {
			taken <- slots
		}
		close(taken)
	}()
	return taken
}

func mustTake(t *testing.T, dir string, count int) *Slots {
	t.Helper()
	slots, err := takeSlots(t.Context(), dir, GuestSlots, count, 0)
	if err != nil {
		t.Fatal(err)
	}
	return slots
}

func release(t *testing.T, slots *Slots) {
	t.Helper()
	if err := slots.Release(); err != nil {
		t.Fatal(err)
	}
}

// awaitTickets waits until count callers are waiting.
func awaitTickets(t *testing.T, dir string, count int) {
	t.Helper()
	for {
		tickets, err := filepath.Glob(filepath.Join(dir, ticketPrefix+"*"))
		if err != nil {
			t.Fatal(err)
		}
		if len(tickets) == count {
			return
		}
		select {
		case <-t.Context().Done():
			t.Fatalf("%d callers wait, want %d", len(tickets), count)
		case <-time.After(time.Millisecond):
		}
	}
}

func TestTheNextSlotGoesToTheCallerThatExpectsToHoldItLongest(t *testing.T) {
	dir := t.TempDir()
	first, second := mustTake(t, dir, 1), mustTake(t, dir, 1)
	brief := taking(t.Context(), dir, 1, time.Minute)
	awaitTickets(t, dir, 1)
	long := taking(t.Context(), dir, 1, time.Hour)
	awaitTickets(t, dir, 2)
	release(t, first)
	slots := <-long
	select {
	case <-brief:
		t.Fatal("three callers hold two slots")
	default:
	}
	release(t, slots)
	release(t, <-brief)
	release(t, second)
}

func TestTwoSlotsAreTakenAtOnce(t *testing.T) {
	dir := t.TempDir()
	one := mustTake(t, dir, 1)
	both, alsoBoth := taking(t.Context(), dir, 2, time.Hour), taking(t.Context(), dir, 2, time.Hour)
	awaitTickets(t, dir, 2)
	// One slot is free, and is left to the caller that waits for two.
	later := taking(t.Context(), dir, 1, time.Minute)
	awaitTickets(t, dir, 3)
	release(t, one)
	select {
	case slots := <-both:
		release(t, slots)
		release(t, <-alsoBoth)
	case slots := <-alsoBoth:
		release(t, slots)
		release(t, <-both)
	}
	release(t, <-later)
	awaitTickets(t, dir, 0)
}

func TestACallerThatGivesUpIsNotWaitedFor(t *testing.T) {
	dir := t.TempDir()
	both := mustTake(t, dir, 2)
	ctx, cancel := context.WithCancel(t.Context())
	gone := taking(ctx, dir, 2, time.Hour)
	awaitTickets(t, dir, 1)
	cancel()
	if slots, taken := <-gone; taken {
		t.Fatalf("it has %v", slots)
	}
	// A process that was killed leaves a ticket that nobody has locked.
	if err := os.WriteFile(filepath.Join(dir, ticketPrefix+"0"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	release(t, both)
	release(t, mustTake(t, dir, 2))
	awaitTickets(t, dir, 0)
}

func TestMoreSlotsThanThereAreCannotBeTaken(t *testing.T) {
	for _, count := range []int{0, GuestSlots + 1} {
		if _, err := takeSlots(t.Context(), t.TempDir(), GuestSlots, count, 0); err == nil ||
			errors.Is(err, context.Canceled) {
			t.Errorf("%d slots: %v", count, err)
		}
	}
}
