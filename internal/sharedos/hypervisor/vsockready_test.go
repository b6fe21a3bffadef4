package hypervisor

import (
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestTheVSockIsServedWhenQEMUSaysSo(t *testing.T) {
	for name, c := range map[string]struct {
		answer        string
		served, fails bool
	}{
		"driven":    {`{"return":{"vhost-started":true,"started":true},"id":"libvirt-1"}`, true, false},
		"reset":     {`{"return":{"vhost-started":false,"started":false}}`, false, false},
		"old QEMU":  {`{"error":{"class":"CommandNotFound","desc":"no"}}`, true, false},
		"no device": {`{"error":{"class":"GenericError","desc":"Path is not a VirtIODevice"}}`, false, true},
		"empty":     {`{}`, false, true},
		"garbage":   {`no`, false, true},
	} {
		served, err := vsockServed([]byte(c.answer))
		if served != c.served || (err != nil) != c.fails {
			t.Errorf("%s: %v, %v", name, served, err)
		}
	}
}

// guestOf is one end of a connection to a guest that is ready or not, and the other end, which the daemon has.
func guestOf(t *testing.T) (c *readyConn, daemon net.Conn, ready func(bool)) {
	t.Helper()
	here, daemon := net.Pipe()
	var mu sync.Mutex
	state := ErrStarting
	var closing sync.WaitGroup
	ctx, cancel := context.WithCancel(t.Context())
	t.Cleanup(func() {
		cancel()
		closing.Wait()
		if err := daemon.Close(); err != nil {
			t.Error(err)
		}
	})
	c = &readyConn{
		Conn: here,
		ready: func(context.Context) error {
			mu.Lock()
			defer mu.Unlock()
			return state
		},
		inBackground: func(closeConn func(context.Context)) { closing.Go(func() { closeConn(ctx) }) },
	}
	return c, daemon, func(is bool) {
		mu.Lock()
		defer mu.Unlock()
		if state = ErrStarting; is {
			state = nil
		}
	}
}

// notices reports whether the daemon gets something, or the end, within a while.
func notices(t *testing.T, daemon net.Conn, while time.Duration) error {
	t.Helper()
	if err := daemon.SetReadDeadline(time.Now().Add(while)); err != nil {
		t.Fatal(err)
	}
	_, err := daemon.Read(make([]byte, 1))
	return err
}

func TestConnectionsThatAreBeingClosedAreCounted(t *testing.T) {
	h := &Libvirt{}
	h.life, h.end = context.WithCancel(t.Context())
	if h.Closing() {
		t.Error("there is none")
	}
	h.inBackground(func(ctx context.Context) { <-ctx.Done() })
	if !h.Closing() {
		t.Error("one is being closed")
	}
	if err := h.Close(); err != nil || h.Closing() {
		t.Errorf("after Close: %v, %v", err, h.Closing())
	}
}

func TestTheDaemonNoticesNothingWhileTheGuestIsReset(t *testing.T) {
	c, daemon, ready := guestOf(t)
	if _, err := c.Write([]byte("x")); !errors.Is(err, ErrStarting) {
		t.Errorf("write: %v", err)
	}
	if err := c.Close(); err != nil {
		t.Errorf("close: %v", err)
	}
	var limit net.Error
	if err := notices(t, daemon, 2*closePoll); !errors.As(err, &limit) || !limit.Timeout() {
		t.Errorf("the daemon notices: %v", err)
	}
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Error("it can be read after it was closed")
	}
	if err := c.Close(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("close again: %v", err)
	}
	ready(true)
	if err := notices(t, daemon, time.Minute); !errors.Is(err, io.EOF) {
		t.Errorf("once the guest is ready: %v", err)
	}
}

// A kernel that hangs is reset by the watchdog after a quarter of an hour.
func TestTheDaemonNoticesNothingWhileAKernelHangs(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c, daemon, ready := guestOf(t)
		if err := c.Close(); err != nil {
			t.Errorf("close: %v", err)
		}
		var limit net.Error
		if err := notices(t, daemon, 20*time.Minute); !errors.As(err, &limit) || !limit.Timeout() {
			t.Errorf("the daemon notices: %v", err)
		}
		ready(true)
		if err := notices(t, daemon, time.Minute); !errors.Is(err, io.EOF) {
			t.Errorf("once the guest is ready: %v", err)
		}
	})
}

func TestAReadyGuestIsWrittenTo(t *testing.T) {
	c, daemon, ready := guestOf(t)
	ready(true)
	done := make(chan error, 1)
	go func() {
		_, err := c.Write([]byte("x"))
		done <- err
	}()
	if err := notices(t, daemon, time.Minute); err != nil {
		t.Error(err)
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}
