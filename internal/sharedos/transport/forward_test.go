package transport_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/transport"
)

// dialForward connects to a forward, with a deadline that no test reaches.
func dialForward(t *testing.T, forward *transport.Forward) net.Conn {
	t.Helper()
	var dialer net.Dialer
	conn, err := dialer.DialContext(t.Context(), "tcp4", fmt.Sprintf("127.0.0.1:%d", forward.Port()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() }) // it may be closed already
	if err := conn.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	return conn
}

// upper listens on a unix socket and answers with what it got in capitals, when all of it has come.
func upper(t *testing.T) func(context.Context) (net.Conn, error) {
	t.Helper()
	path := t.TempDir() + "/guest"
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() }) // the test is over
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				text, err := io.ReadAll(conn)
				if err == nil {
					_, err = io.WriteString(conn, strings.ToUpper(string(text)))
				}
				if err := errors.Join(err, conn.Close()); err != nil {
					t.Log(err)
				}
			}()
		}
	}()
	return func(ctx context.Context) (net.Conn, error) {
		var dialer net.Dialer
		return dialer.DialContext(ctx, "unix", path)
	}
}

func TestAForwardCopiesBothWaysAndPassesTheEndOn(t *testing.T) {
	forward, err := transport.NewForward(upper(t), func(err error) { t.Error(err) })
	if err != nil {
		t.Fatal(err)
	}
	for range 3 {
		conn := dialForward(t, forward)
		if _, err := io.WriteString(conn, "hello"); err != nil {
			t.Fatal(err)
		}
		if err := conn.(*net.TCPConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		if text, err := io.ReadAll(conn); err != nil || string(text) != "HELLO" {
			t.Errorf("got %q, %v", text, err)
		}
	}
	if err := forward.Close(); err != nil {
		t.Fatal(err)
	}
}

func TestAForwardThatIsClosedEndsItsConnections(t *testing.T) {
	forward, err := transport.NewForward(upper(t), func(err error) { t.Error(err) })
	if err != nil {
		t.Fatal(err)
	}
	conn := dialForward(t, forward)
	if _, err := io.WriteString(conn, "hello"); err != nil {
		t.Fatal(err)
	}
	if err := forward.Close(); err != nil {
		t.Fatal(err)
	}
	if text, err := io.ReadAll(conn); len(text) > 0 {
		t.Errorf("got %q, %v", text, err)
	}
	var dialer net.Dialer
	if conn, err := dialer.DialContext(t.Context(), "tcp4", fmt.Sprintf("127.0.0.1:%d", forward.Port())); err == nil {
		t.Error(errors.Join(errors.New("it still listens"), conn.Close()))
	}
}

func TestAGuestThatCannotBeReachedEndsTheConnection(t *testing.T) {
	var told atomic.Int64
	forward, err := transport.NewForward(
		func(context.Context) (net.Conn, error) { return nil, transport.ErrRefused },
		func(err error) {
			if errors.Is(err, transport.ErrRefused) {
				told.Add(1)
			}
		},
	)
	if err != nil {
		t.Fatal(err)
	}
	if text, err := io.ReadAll(dialForward(t, forward)); err != nil || len(text) > 0 {
		t.Errorf("got %q, %v", text, err)
	}
	if err := forward.Close(); err != nil {
		t.Fatal(err)
	}
	if told.Load() != 1 {
		t.Errorf("%d failures were told", told.Load())
	}
}
