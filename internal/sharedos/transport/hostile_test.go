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
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/transport"
	"github.com/sharedos/terraform-provider-sharedos/testbed/matrix"
)

// hostile returns a dialer of a guest in which another program than the agent has the agent's key.
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

// frame returns a ttrpc message: a header of length, stream, type and flags, and a payload, which may have another
// length.
func frame(length, stream uint32, kind byte, payload []byte) []byte {
	header := binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, length), stream)
	return append(append(header, kind, 0), payload...)
}

// ask connects and makes one call, each with a limit of two seconds. It fails the test if the call is answered, or if
// both take much longer.
func ask(t *testing.T, dialer transport.Dialer, operator ed25519.PrivateKey) error {
	t.Helper()
	config, err := transport.ClientConfig(operator, nil)
	if err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	defer func() {
		if took := time.Since(began); took > 8*time.Second {
			t.Errorf("connection and call took %v", took)
		}
	}()
	agent, err := transport.Connect(within(t, 2*time.Second), dialer, config)
	if err != nil {
		return err
	}
	defer func() { _ = agent.Close() }() // the call has ended
	answer, err := agent.Status(within(t, 2*time.Second), &agentapi.StatusRequest{})
	if err == nil {
		t.Errorf("the call to a hostile guest has the answer %v", answer)
	}
	return err
}

func TestAHostileGuestCostsACallItsTimeAndNoMore(t *testing.T) {
	operator := newKey(t)
	receive := func(conn net.Conn) bool { // reads the request, or the first part of it
		_, err := conn.Read(make([]byte, 4096))
		return err == nil
	}
	discard := func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) }
	for name, behave := range map[string]func(conn net.Conn){
		"is silent in the handshake": func(conn net.Conn) {
			if wrapped, ok := conn.(*tls.Conn); ok {
				discard(wrapped.NetConn())
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
				discard(wrapped.NetConn())
			}
		},
		"never answers":                       func(conn net.Conn) { discard(conn) },
		"closes the connection during a call": func(conn net.Conn) { receive(conn) },
		"sends half a frame": func(conn net.Conn) {
			receive(conn)
			_, _ = conn.Write(frame(1000, 1, 2, []byte("half")))
			discard(conn)
		},
		"answers a call that was not made": func(conn net.Conn) {
			receive(conn)
			_, _ = conn.Write(
				frame(4, 999, 2, []byte("four")))
			discard(conn)
		},
		"answers garbage": func(conn net.Conn) {
			receive(conn)
			_, _ = conn.Write(frame(64, 1, 2, bytes.Repeat([]byte{0xff}, 64)))
			discard(conn)
		},
		"sends a data frame that was not requested": func(conn net.Conn) {
			receive(conn)
			_, _ = conn.Write(
				frame(4, 1, 3, []byte("four")))
			discard(conn)
		},
		"announces four gigabytes": func(conn net.Conn) {
			receive(conn)
			_, _ = conn.Write(frame(0xffffffff, 1, 2, nil))
			for chunk := make([]byte, 1<<20); ; {
				if _, err := conn.Write(chunk); err != nil {
					return
				}
			}
		},
		"sends random bytes without end": func(conn net.Conn) {
			receive(conn)
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
			receive(conn)
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

// Clients that send nothing, or only the beginning of a handshake, keep nobody out, however many they are: each newer
// client takes the place of the oldest.
func TestSilentAndSlowClientsKeepNobodyOut(t *testing.T) {
	t.Parallel()
	for name, begin := range map[string][]byte{"silent": nil, "slow": {22, 3, 3}} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			ctx := within(t, 2*time.Minute)
			deadline, _ := ctx.Deadline()
			operator, key := newKey(t), newKey(t)
			guest := agent(t, key, public(operator))
			others := make([]net.Conn, 3*transport.MaxSilent)
			for i := range others {
				conn, err := guest.DialContext(ctx, agentapi.Port)
				if err != nil {
					t.Fatal(err)
				}
				defer func() { _ = conn.Close() }() // the agent has closed it
				if _, err := conn.Write(begin); err != nil && begin != nil && i < transport.MaxHandshakes {
					t.Fatal(err)
				}
				others[i] = conn
			}
			// The operator comes last, and accepted connections are not in the order of the dials.
			for guest.accepted.Load() < int32(len(others)) {
				if ctx.Err() != nil {
					t.Fatalf("the agent has accepted %d connections", guest.accepted.Load())
				}
				time.Sleep(time.Millisecond)
			}
			began := time.Now()
			config, err := transport.ClientConfig(operator, public(key))
			if err != nil {
				t.Fatal(err)
			}
			late, err := transport.Connect(ctx, guest, config)
			if err != nil {
				t.Fatal(err)
			}
			defer func() { _ = late.Close() }() // its answer is read by then
			if _, err := late.Status(ctx, &agentapi.StatusRequest{}); err != nil {
				t.Fatal(err)
			}
			if took := time.Since(began); took > transport.SilentTimeout {
				t.Errorf("the operator was kept out for %v", took)
			}
			for i, conn := range others {
				if err := conn.SetReadDeadline(deadline); err != nil {
					t.Fatal(err)
				}
				if _, err := io.Copy(io.Discard, conn); errors.Is(err, os.ErrDeadlineExceeded) {
					t.Errorf("the agent did not end the connection of client %d", i)
				}
			}
			// What has authenticated does not give way, and outlives the limits of those that have not.
			if _, err := late.Status(ctx, &agentapi.StatusRequest{}); err != nil {
				t.Fatal(err)
			}
			matrix.Record(t, "slow peer", "hundreds of "+name+" connections to the agent",
				"an operator can connect at once")
		})
	}
}

// A provider process connects to many guests, so a hostile one must not leave goroutines in it.
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
		agent, err := transport.Connect(within(t, time.Minute), dialer, config)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		if _, err := agent.Status(ctx, &agentapi.StatusRequest{}); err == nil || errors.Is(err, context.Canceled) {
			t.Errorf("got %v", err)
		}
		cancel()
		_ = agent.Close() // the guest may have closed it
	}
	for end := time.Now().Add(15 * time.Second); runtime.NumGoroutine() > before+4; time.Sleep(20 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%d goroutines, %d before", runtime.NumGoroutine(), before)
		}
	}
}
