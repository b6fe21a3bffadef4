package acceptance

import (
	"errors"
	"fmt"
	"net"
	"sync"
	"testing"
)

// checkHold is a health check with which a test holds a refresh. The check connects to the test, which lets it pass
// or not.
type checkHold struct {
	port int

	mu sync.Mutex
	// held makes all checks fail except the next one. That one is made before the refresh, which ignores checks
	// that failed then.
	held, before bool
}

// newCheckHold serves the check until the test ends.
func newCheckHold(t *testing.T) *checkHold {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	h := &checkHold{port: listener.Addr().(*net.TCPAddr).Port}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := listener.Accept()
			if err != nil {
				return // it was closed
			}
			if h.passes() {
				_, _ = conn.Write([]byte("pass\n")) // a check that does not get it is made again
			}
			_ = conn.Close()
		}
	}()
	t.Cleanup(func() {
		if err := listener.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
		<-done
	})
	return h
}

func (h *checkHold) passes() bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	before := h.before
	h.before = false
	return !h.held || before
}

// hold makes the next refresh wait after it has swapped /usr and restarted units.
func (h *checkHold) hold() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.held, h.before = true, true
}

func (h *checkHold) release() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.held = false
}

// check is the health check. 10.0.2.2 is this machine's loopback for a guest on QEMU's user network.
func (h *checkHold) check() map[string]any {
	ask := fmt.Sprintf("read -r said </dev/tcp/10.0.2.2/%d && test pass = \"$said\"", h.port)
	return map[string]any{"command": []string{"/usr/bin/bash", "-c", ask}, "timeout": "10m"}
}
