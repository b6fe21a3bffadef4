package transport_test

import (
	"bufio"
	"context"
	"crypto/ed25519"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/ttrpc"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/transport"
)

func newKey(t *testing.T) ed25519.PrivateKey {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	return key
}

func public(key ed25519.PrivateKey) ed25519.PublicKey { return key.Public().(ed25519.PublicKey) }

// hybrid listens like vhost-device-vsock: it answers each CONNECT with answer, and calls serve with the connection.
func hybrid(t *testing.T, answer string, serve func(net.Conn)) transport.HybridVSock {
	t.Helper()
	path := filepath.Join(t.TempDir(), "v.sock")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				line := make([]byte, len(fmt.Sprintf("CONNECT %d\n", agentapi.Port)))
				if _, err := io.ReadFull(conn, line); err != nil {
					return
				}
				_, _ = io.WriteString(conn, answer)
				serve(conn)
			}()
		}
	}()
	return transport.HybridVSock{Path: path}
}

func within(t *testing.T, limit time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	return ctx
}

func TestHybridVSockLeavesWhatFollowsTheAnswerToTheCaller(t *testing.T) {
	dialer := hybrid(t, "OK 1000\nhello\n", func(net.Conn) {})
	conn, err := dialer.DialContext(within(t, 5*time.Second), agentapi.Port)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	line, err := bufio.NewReader(conn).ReadString('\n')
	if err != nil || line != "hello\n" {
		t.Fatalf("read %q, %v", line, err)
	}
}

func TestHybridVSockFails(t *testing.T) {
	silent := func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) }
	for name, c := range map[string]struct {
		answer string
		serve  func(net.Conn)
		want   error
	}{
		"when the guest does not listen":    {"", func(c net.Conn) { _ = c.Close() }, transport.ErrRefused},
		"when the daemon never answers":     {"", silent, context.DeadlineExceeded},
		"when the answer is something else": {"NO\n", silent, nil},
		"when the answer has no end":        {strings.Repeat("x", 1000), silent, nil},
	} {
		t.Run(name, func(t *testing.T) {
			start := time.Now()
			_, err := hybrid(t, c.answer, c.serve).DialContext(within(t, 300*time.Millisecond), agentapi.Port)
			if err == nil || (c.want != nil && !errors.Is(err, c.want)) {
				t.Fatalf("got %v, want %v", err, c.want)
			}
			if took := time.Since(start); took > 5*time.Second {
				t.Fatalf("took %v", took)
			}
		})
	}
}

type answering struct{ agentapi.AgentService }

func (answering) Status(context.Context, *agentapi.StatusRequest) (*agentapi.StatusResponse, error) {
	return &agentapi.StatusResponse{AgentVersion: "test"}, nil
}

// served dials an agent.
type served struct {
	transport.Dialer
	// accepted counts the connections that the agent's listener has accepted.
	accepted atomic.Int32
}

// agent serves like the agent of a guest: with a key of its own, for clients with the operator's key.
func agent(t *testing.T, key ed25519.PrivateKey, operator ed25519.PublicKey) *served {
	t.Helper()
	cert, err := transport.Certificate(key)
	if err != nil {
		t.Fatal(err)
	}
	server, err := ttrpc.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	agentapi.RegisterAgentService(server, answering{})
	conns := make(chan net.Conn)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = server.Serve(ctx, transport.NewListener(chanListener{conns, ctx},
			transport.ServerConfig(cert, []ed25519.PublicKey{operator})))
	}()
	t.Cleanup(func() {
		cancel()
		_ = server.Close()
		<-done
	})
	s := &served{}
	s.Dialer = hybrid(t, "OK 1000\n", func(c net.Conn) {
		select {
		case conns <- c:
			s.accepted.Add(1)
		case <-ctx.Done():
			_ = c.Close()
		}
	})
	return s
}

type chanListener struct {
	conns chan net.Conn
	ctx   context.Context
}

func (l chanListener) Accept() (net.Conn, error) {
	select {
	case c := <-l.conns:
		return c, nil
	case <-l.ctx.Done():
		return nil, net.ErrClosed
	}
}
func (l chanListener) Close() error   { return nil }
func (l chanListener) Addr() net.Addr { return &net.UnixAddr{} }

func status(t *testing.T, dialer transport.Dialer, operator ed25519.PrivateKey,
	pinned ed25519.PublicKey) (ed25519.PublicKey, error) {
	t.Helper()
	config, err := transport.ClientConfig(operator, pinned)
	if err != nil {
		t.Fatal(err)
	}
	ctx := within(t, 10*time.Second)
	conn, err := transport.Connect(ctx, dialer, config)
	if err != nil {
		return nil, err
	}
	defer func() { _ = conn.Close() }()
	_, err = conn.Status(ctx, &agentapi.StatusRequest{})
	return conn.Key, err
}

func TestHalfOpenConnectionsKeepNobodyOut(t *testing.T) {
	operator, guest := newKey(t), newKey(t)
	dialer := agent(t, guest, public(operator))
	for range transport.MaxHandshakes - 1 {
		conn, err := dialer.DialContext(within(t, 5*time.Second), agentapi.Port)
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = conn.Close() }() // nothing is sent on it until the test ends
	}
	if _, err := status(t, dialer, operator, public(guest)); err != nil {
		t.Fatal(err)
	}
}

func TestBothSidesArePinned(t *testing.T) {
	operator, guest, stranger := newKey(t), newKey(t), newKey(t)
	dialer := agent(t, guest, public(operator))

	seen, err := status(t, dialer, operator, nil)
	if err != nil {
		t.Fatalf("first contact: %v", err)
	}
	if !seen.Equal(public(guest)) {
		t.Fatal("the first contact got another key than the agent's")
	}
	if _, err := status(t, dialer, operator, public(guest)); err != nil {
		t.Fatalf("with the key pinned: %v", err)
	}
	if _, err := status(t, dialer, operator, public(stranger)); !errors.Is(err, transport.ErrPeerKey) {
		t.Fatalf("another agent's key: got %v, want %v", err, transport.ErrPeerKey)
	}
	if _, err := status(t, dialer, stranger, public(guest)); err == nil {
		t.Fatal("the agent accepted a stranger's key")
	}
}
