package faults

import (
	"bytes"
	"context"
	"crypto/ed25519"
	"crypto/tls"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/boot"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/failpoint"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/mounts"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/transport"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
	"github.com/sharedos/terraform-provider-sharedos/testbed/matrix"
)

// peers are clients of the agent that do what no provider does. All are connected at the same time.
// The connections that they return are closed in the end.
var peers = []struct {
	fault string
	do    func(s *subject, t *testing.T) net.Conn
}{
	{"garbage instead of a handshake", func(s *subject, t *testing.T) net.Conn { return s.sends(t, s.dial(t), garbage) }},
	{"half a handshake", func(s *subject, t *testing.T) net.Conn { return s.sends(t, s.dial(t), []byte{22, 3, 3}) }},
	{"half-open connection", func(s *subject, t *testing.T) net.Conn { return s.operator(t) }},
	{"oversized frame", func(s *subject, t *testing.T) net.Conn {
		return s.sends(t, s.operator(t), frame(0xffffffff, make([]byte, 1<<20)))
	}},
	{"garbage frames", func(s *subject, t *testing.T) net.Conn {
		return s.sends(t, s.operator(t), slices.Concat(frame(64, garbage[:64]), garbage))
	}},
	{"slow peer", func(s *subject, t *testing.T) net.Conn {
		conn := s.operator(t)
		go func() {
			for _, b := range frame(1000, make([]byte, 1000)) {
				if _, err := conn.Write([]byte{b}); err != nil {
					return // the connection was closed
				}
				time.Sleep(50 * time.Millisecond)
			}
		}()
		return conn
	}},
	{"the vsock is cut during a call", func(s *subject, t *testing.T) net.Conn {
		own := s.Host.Fleet.Hypervisor
		defer func() { s.Host.Fleet.Hypervisor = own }()
		b := &breaking{Hypervisor: own}
		s.Host.Fleet.Hypervisor = b
		agent, err := s.Agent(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer func() { _ = agent.Close() }() // its connection is closed already
		target := s.target(t, agent, s.at, s.other())
		b.each((*breakable).closeAfterWrite)
		ctx, cancel := context.WithTimeout(t.Context(), callLimit)
		defer cancel()
		if _, err := agent.Assess(ctx, &agentapi.AssessRequest{Target: target}); err == nil || ctx.Err() != nil {
			t.Errorf("a call whose connection was cut: %v", err)
		}
		return nil
	}},
}

// garbage is neither TLS nor ttrpc.
var garbage = bytes.Repeat([]byte("\xff\x00sharedos"), 400)

// frame is a ttrpc request: a header with length, stream, type and flags, and the payload. The length may be wrong.
func frame(length uint32, payload []byte) []byte {
	header := binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, length), 1)
	return append(append(header, 1, 0), payload...)
}

// dial connects to the agent's port and sends nothing.
func (s *subject) dial(t *testing.T) net.Conn {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), callLimit)
	defer cancel()
	dialer, err := s.Host.Fleet.Hypervisor.Dialer(ctx, s.Spec.Name)
	if err != nil {
		t.Fatal(err)
	}
	conn, err := dialer.DialContext(ctx, agentapi.Port)
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// operator connects as the operator, with TLS but without ttrpc.
func (s *subject) operator(t *testing.T) net.Conn {
	t.Helper()
	config, err := transport.ClientConfig(s.Operator, nil)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), callLimit)
	defer cancel()
	conn := tls.Client(s.dial(t), config)
	if err := conn.HandshakeContext(ctx); err != nil {
		t.Fatal(err)
	}
	return conn
}

func (s *subject) sends(t *testing.T, conn net.Conn, data []byte) net.Conn {
	t.Helper()
	if err := conn.SetWriteDeadline(time.Now().Add(callLimit)); err != nil {
		t.Fatal(err)
	}
	if _, err := conn.Write(data); err != nil {
		t.Fatal(err)
	}
	return conn
}

// servesAmongHostilePeers refreshes the VM while peers of every kind are connected to its agent.
func (s *subject) servesAmongHostilePeers(t *testing.T) {
	before := s.mustStatus(t)
	var open []net.Conn
	for _, peer := range peers {
		if conn := peer.do(s, t); conn != nil {
			open = append(open, conn)
		}
	}
	s.mustMove(t)
	if looks := s.look(t); looks != s.looks[s.at] {
		t.Errorf("after the refresh the VM differs from the release:\n%s", difference(s.looks[s.at], looks))
	}
	for _, conn := range open {
		_ = conn.Close() // the agent may have closed it
	}
	after, err := s.Await(t.Context(), "has closed the connections of all peers", &agentapi.StatusRequest{},
		func(now *agentapi.StatusResponse) bool {
			return now.GetGoroutines() <= before.GetGoroutines() && now.GetOpenFiles() <= before.GetOpenFiles()
		})
	if err != nil || after.GetBootId() != before.GetBootId() {
		t.Fatalf("%v; before it was %v", err, before)
	}
	for _, peer := range peers {
		matrix.Record(t, peer.fault, "to the agent, before a refresh",
			"the refresh commits; no resource of the peer remains")
	}
}

// breaking is a hypervisor whose connections to guests can be broken.
type breaking struct {
	hypervisor.Hypervisor

	mutex sync.Mutex
	open  []*breakable
	// stall makes the next connection carry nothing.
	stall bool
}

// Dialer implements hypervisor.Hypervisor.
func (b *breaking) Dialer(ctx context.Context, name string) (transport.Dialer, error) {
	dialer, err := b.Hypervisor.Dialer(ctx, name)
	return breakingDialer{b, dialer}, err
}

// each calls a function with each connection that was made.
func (b *breaking) each(do func(*breakable)) {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	for _, conn := range b.open {
		do(conn)
	}
}

type breakingDialer struct {
	of *breaking
	transport.Dialer
}

// DialContext implements transport.Dialer.
func (d breakingDialer) DialContext(ctx context.Context, port uint32) (net.Conn, error) {
	conn, err := d.Dialer.DialContext(ctx, port)
	if err != nil {
		return nil, err
	}
	d.of.mutex.Lock()
	defer d.of.mutex.Unlock()
	made := &breakable{Conn: conn, stalled: d.of.stall}
	d.of.open, d.of.stall = append(d.of.open, made), false
	return made, nil
}

// breakable is a connection that can be broken.
type breakable struct {
	net.Conn
	// stalled drops everything in both directions, without an error.
	stalled bool

	mutex sync.Mutex
	// last closes the connection after the next write.
	last bool
}

// Read implements net.Conn.
func (b *breakable) Read(p []byte) (int, error) {
	for {
		if n, err := b.Conn.Read(p); err != nil || !b.stalled {
			return n, err
		}
	}
}

// Write implements net.Conn.
func (b *breakable) Write(p []byte) (int, error) {
	if b.stalled {
		return len(p), nil
	}
	b.mutex.Lock()
	defer b.mutex.Unlock()
	n, err := b.Conn.Write(p)
	if b.last {
		err = errors.Join(err, b.Close())
	}
	return n, err
}

func (b *breakable) closeAfterWrite() {
	b.mutex.Lock()
	defer b.mutex.Unlock()
	b.last = true
}

// survivesBrokenConnections cuts the connections of applies, and then leaves one of them half open.
func (s *subject) survivesBrokenConnections(t *testing.T) {
	own := s.Host.Fleet.Hypervisor
	b := &breaking{Hypervisor: own}
	s.Host.Fleet.Hypervisor = b
	defer func() { s.Host.Fleet.Hypervisor = own }()
	// broken applies, and calls a function when a step is first reported. The failpoint pauses the
	// agent, if it is not "".
	broken := func(t *testing.T, wanted, pause string, do func()) error {
		s.reset(t)
		if pause != "" {
			s.arm(t, failpoint.Pause+" 1 "+pause)
		}
		reported := false
		_, _, err := s.Host.Fleet.Update(t.Context(), s.wants(s.two), func(step string) {
			if !reported && strings.HasPrefix(step, wanted) {
				reported = true
				do()
			}
		})
		if !reported {
			t.Errorf("the apply never reported %q", wanted)
		}
		return err
	}
	t.Run("cut before the answer", func(t *testing.T) {
		err := broken(t, "refreshing", "", func() { b.each((*breakable).closeAfterWrite) })
		if err == nil {
			t.Error("the apply succeeded")
		}
		t.Logf("the apply: %v", err)
		s.apply(t)
		if s.ended(t); s.at != s.two {
			t.Error("the next apply succeeded, but the VM runs the old release")
		}
		matrix.Record(t, "vsock cut during a call", "requesting the refresh", "reported, the next apply converges")
	})
	t.Run("cut and half open meanwhile", func(t *testing.T) {
		err := broken(t, "refresh: swapped", "between the calls of a swap", func() {
			b.each(func(conn *breakable) { _ = conn.Close() })
			b.mutex.Lock()
			b.stall = true
			b.mutex.Unlock()
			s.resume(t)
		})
		if err != nil {
			t.Errorf("the apply: %v", err)
		}
		if outcome, _ := s.ended(t); outcome != newStack {
			t.Errorf("the refresh ended on the %s", outcome)
		}
		s.at = s.two
		matrix.Record(t, "vsock cut during a call", "waiting for the refresh",
			"the apply continues over another connection, new stack")
		matrix.Record(t, "half-open connection", "waiting for the refresh",
			"the apply continues over another connection, new stack")
	})
}

// hostile are the ways of the impostor, in the order of the host's connections. The host waits for
// its time limit if patient is true. Otherwise the impostor closes the connection, or sends what
// the protocol forbids, which ends the call before that.
var hostile = []struct {
	way     string
	patient bool
}{
	{"is silent in the handshake", true},
	{"never answers", true},
	{"sends half a frame", true},
	{"sends its answer byte by byte", true},
	{"announces four gigabytes", true},
	{"closes the connection during a call", false},
	{"answers garbage", false},
}

// patience is the time limit of a call to the impostor. It must be long enough for a few
// connections to a guest on a busy machine.
const patience = 8 * time.Second

// returnLimit bounds how long after its time limit a call returns.
const returnLimit = 30 * time.Second

// survivesAnImpostor puts an impostor in place of the agent. The host's calls fail within their time
// limits, and the definition of the VM does not change. When the agent is back, the next apply converges.
func (s *subject) survivesAnImpostor(t *testing.T) {
	s.reset(t)
	before, _, err := s.Host.Fleet.Hypervisor.Lookup(t.Context(), s.Spec.Name)
	if err != nil {
		t.Fatal(err)
	}
	s.putImpostor(t)
	public, _ := s.Operator.Public().(ed25519.PublicKey)
	names := make([]string, len(hostile))
	for i, h := range hostile {
		names[i] = "'" + h.way + "'"
	}
	s.run(t, fmt.Sprintf(
		"systemctl stop %s && systemd-run --quiet --unit impostor /run/impostor %s %s %s && timeout 60 sh -c "+
			"'until ss -l --vsock | grep -q :%d; do sleep 0.1; done'",
		boot.AgentUnit, mounts.AgentKey, base64.StdEncoding.EncodeToString(public),
		strings.Join(names, " "), agentapi.Port))
	// Each connection gets the next way, and the patient ones come first. All of them end by their
	// time limit, so they take it together.
	var together sync.WaitGroup
	for _, h := range hostile {
		if h.patient {
			together.Go(func() { s.callsImpostor(t, h.patient) })
		}
	}
	together.Wait()
	for _, h := range hostile {
		if !h.patient {
			t.Run(h.way, func(t *testing.T) { s.callsImpostor(t, h.patient) })
		}
	}
	s.Host.Fleet.BootLimit = patience // it is not booting
	_, _, err = s.Host.Fleet.Update(t.Context(), s.wants(s.two), func(string) {})
	s.Host.Fleet.BootLimit = 0
	if !errors.Is(err, vm.ErrNoAnswer) {
		t.Errorf("an apply says %v", err)
	}
	after, _, err := s.Host.Fleet.Hypervisor.Lookup(t.Context(), s.Spec.Name)
	if err != nil || after.Metadata.Stack.Base != before.Metadata.Stack.Base ||
		after.Metadata.AgentKey != before.Metadata.AgentKey {
		t.Errorf("the definition was %+v and is %+v, %v", before.Metadata, after.Metadata, err)
	}
	s.run(t, "systemctl stop impostor; systemctl start "+boot.AgentUnit)
	s.apply(t)
	if s.ended(t); s.at != s.two {
		t.Error("the apply succeeded, but the VM runs the old release")
	}
	for _, h := range hostile {
		matrix.Record(t, "a hostile peer in place of the agent", h.way,
			"the call fails within its time limit, the next apply converges")
	}
}

// callsImpostor has the host read the VM. If patient is true, the call has only the time limit patience, which ends it.
func (s *subject) callsImpostor(t *testing.T, patient bool) {
	t.Helper()
	limit := patience
	if !patient {
		limit = callLimit
	}
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	defer cancel()
	began := time.Now()
	now, err := s.Host.Fleet.Read(ctx, s.Spec.Name)
	if err != nil || now.Answered || !errors.Is(now.NoAnswer, vm.ErrNoAnswer) {
		t.Errorf("the host reads %+v, %v", now, err)
	}
	if took := time.Since(began); took > limit+returnLimit {
		t.Errorf("a call of at most %v took %v", limit, took)
	}
	late := errors.Is(now.NoAnswer, context.DeadlineExceeded) ||
		errors.Is(now.NoAnswer, os.ErrDeadlineExceeded) || ctx.Err() != nil
	if late && !patient {
		t.Errorf("only a time limit ended the call: %v", now.NoAnswer)
	}
}

// putImpostor builds the impostor and copies it into the guest.
func (s *subject) putImpostor(t *testing.T) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "impostor")
	build := exec.CommandContext(t.Context(), "go", "build", "-trimpath", "-ldflags=-s -w", "-o", path, "./impostor")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the impostor: %v: %s", err, out)
	}
	binary, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = binary.Close() }() // it was only read
	if _, err := s.RunWith(t.Context(), "cat > /run/impostor && chmod 0755 /run/impostor", binary); err != nil {
		t.Fatal(err)
	}
}
