package transport_test

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"runtime"
	"testing"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/transport"
	"github.com/sharedos/terraform-provider-sharedos/testbed/matrix"
)

// hostile is a guest in which something else than an agent holds the agent's key.
func hostile(t *testing.T, operator ed25519.PublicKey, behave func(conn net.Conn)) transport.Dialer {
	t.Helper()
	cert, err := transport.Certificate(newKey(t))
	if err != nil {
		t.Fatal(err)
	}
	return hybrid(t, "OK 1000\n", func(raw net.Conn) {
		conn := tls.Server(raw, transport.ServerConfig(cert, []ed25519.PublicKey{operator}))
		defer func() { _ = conn.Close() }() // the provider may have closed it
		behave(conn)
	})
}

// frame is a ttrpc message: length, stream, type and flags, and what follows.
func frame(length, stream uint32, kind byte, payload []byte) []byte {
	header := binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, length), stream)
	return append(append(header, kind, 0), payload...)
}

// ask makes one call that has two seconds, and fails the test if it gets an answer or takes much longer.
func ask(t *testing.T, dialer transport.Dialer, operator ed25519.PrivateKey) error {
	t.Helper()
	config, err := transport.ClientConfig(operator, nil)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	defer func() {
		if took := time.Since(began); took > 8*time.Second {
			t.Errorf("it took %v", took)
		}
	}()
	agent, err := transport.Connect(within(t, 2*time.Second), dialer, config)
	if err != nil {
		return err
	}
	defer func() { _ = agent.Close() }() // what it was asked has ended
	answer, err := agent.Status(within(t, 2*time.Second), &agentapi.StatusRequest{})
	if err == nil {
		t.Errorf("a hostile guest was taken for an agent: %v", answer)
	}
	return err
}

func TestAHostileGuestCostsACallItsTimeAndNoMore(t *testing.T) {
	operator := newKey(t)
	hear := func(conn net.Conn) bool { // the request, as far as it is of interest
		_, err := conn.Read(make([]byte, 4096))
		return err == nil
	}
	rest := func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) }
	for name, behave := range map[string]func(conn net.Conn){
		"is silent in the handshake": func(conn net.Conn) {
			if wrapped, ok := conn.(*tls.Conn); ok {
				rest(wrapped.NetConn())
			}
		},
		"is slow in the handshake": func(conn net.Conn) {
			if wrapped, ok := conn.(*tls.Conn); ok {
				for _, b := range []byte{22, 3, 3, 0, 200, 2, 0, 0, 196} {
					if _, err := wrapped.NetConn().Write([]byte{b}); err != nil {
						return
					}
					time.Sleep(300 * time.Millisecond)
				}
				rest(wrapped.NetConn())
			}
		},
		"never answers":                       func(conn net.Conn) { rest(conn) },
		"closes the connection during a call": func(conn net.Conn) { hear(conn) },
		"sends half a frame":                  func(conn net.Conn) { hear(conn); _, _ = conn.Write(frame(1000, 1, 2, []byte("half"))); rest(conn) },
		"answers a call that was not made":    func(conn net.Conn) { hear(conn); _, _ = conn.Write(frame(4, 999, 2, []byte("four"))); rest(conn) },
		"answers garbage": func(conn net.Conn) {
			hear(conn)
			_, _ = conn.Write(frame(64, 1, 2, bytes.Repeat([]byte{0xff}, 64)))
			rest(conn)
		},
		"sends a data frame that was not requested": func(conn net.Conn) { hear(conn); _, _ = conn.Write(frame(4, 1, 3, []byte("four"))); rest(conn) },
		"announces four gigabytes": func(conn net.Conn) {
			hear(conn)
			_, _ = conn.Write(frame(0xffffffff, 1, 2, nil))
			for chunk := make([]byte, 1<<20); ; {
				if _, err := conn.Write(chunk); err != nil {
					return
				}
			}
		},
		"sends random bytes without end": func(conn net.Conn) {
			hear(conn)
			seed := rand.New(rand.NewPCG(3, 4))
			for chunk := make([]byte, 1000); ; {
				for i := range chunk {
					chunk[i] = byte(seed.Uint32())
				}
				if _, err := conn.Write(chunk); err != nil {
					return
				}
			}
		},
		"sends its answer byte by byte": func(conn net.Conn) {
			hear(conn)
			for _, b := range frame(1000, 1, 2, make([]byte, 1000)) {
				if _, err := conn.Write([]byte{b}); err != nil {
					return
				}
				time.Sleep(20 * time.Millisecond)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dialer := hostile(t, public(operator), behave)
			if err := ask(t, dialer, operator); err != nil && !t.Failed() {
				matrix.Record(t, "hostile guest", name, "the call fails within its time limit")
			}
		})
	}
}

// Whoever says nothing in a handshake has ten seconds. Until they are over, everybody waits.
func TestSlowHandshakesAreEndedForTheNextCaller(t *testing.T) {
	t.Parallel()
	operator, guest := newKey(t), newKey(t)
	dialer := agent(t, guest, public(operator))
	began := time.Now() // the time of each runs from when it came
	for i := range transport.MaxHandshakes {
		conn, err := dialer.DialContext(within(t, 5*time.Second), agentapi.Port)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }() // the agent has closed it
		if i%2 == 0 {
			if _, err := conn.Write([]byte{22, 3, 3}); err != nil {
				t.Fatal(err)
			}
		}
	}
	config, err := transport.ClientConfig(operator, public(guest))
	if err != nil {
		t.Fatal(err)
	}
	late, err := transport.Connect(within(t, 30*time.Second), dialer, config)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = late.Close() }() // its answer is read by then
	if _, err := late.Status(within(t, 5*time.Second), &agentapi.StatusRequest{}); err != nil {
		t.Fatal(err)
	}
	if took := time.Since(began); took < 2*time.Second {
		t.Errorf("it took only %v: the others were no hindrance", took)
	}
	matrix.Record(t, "slow peer", "all TLS handshakes at once", "an operator can connect once their time limit has passed")
}

// A provider meets many guests in its life: what a hostile one did must not stay.
func TestAHostileGuestLeavesNothingBehind(t *testing.T) {
	operator := newKey(t)
	dialer := hostile(t, public(operator), func(conn net.Conn) {
		_, _ = conn.Read(make([]byte, 4096))
		_, _ = conn.Write(frame(0xffffff, 1, 2, make([]byte, 100_000)))
	})
	config, err := transport.ClientConfig(operator, nil)
	if err != nil {
		t.Fatal(err)
	}
	before := runtime.NumGoroutine()
	for range 20 {
		agent, err := transport.Connect(within(t, 5*time.Second), dialer, config)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		if _, err := agent.Status(ctx, &agentapi.StatusRequest{}); err == nil || errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		cancel()
		_ = agent.Close() // it was cut off
	}
	for end := time.Now().Add(15 * time.Second); runtime.NumGoroutine() > before+4; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d goroutines, %d before", runtime.NumGoroutine(), before)
		}
	}
}
