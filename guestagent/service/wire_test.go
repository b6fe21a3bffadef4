package service

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/binary"
	"errors"
	"math/rand/v2"
	"net"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/transport"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
	"github.com/sharedos/terraform-provider-sharedos/testbed/matrix"
)

// raw is a connection of an operator on which anything can be sent.
func (w *world) raw() *tls.Conn {
	w.t.Helper()
	config, err := transport.ClientConfig(w.operator, nil)
	must(w.t, err)
	ctx, cancel := context.WithTimeout(w.t.Context(), 10*time.Second)
	defer cancel()
	plain, err := w.DialContext(ctx, agentapi.Port)
	must(w.t, err)
	conn := tls.Client(plain, config)
	must(w.t, conn.HandshakeContext(ctx))
	w.t.Cleanup(func() { _ = conn.Close() }) // the agent may have closed it
	return conn
}

// answers fails the test unless somebody else gets an answer in good time.
func (w *world) mustAnswer() {
	w.t.Helper()
	ctx, cancel := context.WithTimeout(w.t.Context(), 10*time.Second)
	defer cancel()
	_, err := w.agent().Status(ctx, &agentapi.StatusRequest{})
	must(w.t, err)
}

// mustEnd fails the test unless the other side closes a connection.
func mustEnd(t *testing.T, conn net.Conn, within time.Duration) {
	t.Helper()
	must(t, conn.SetReadDeadline(time.Now().Add(within)))
	buffer := make([]byte, 4096)
	for {
		if _, err := conn.Read(buffer); errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatalf("after %v it is still open", within)
		} else if err != nil {
			return
		}
	}
}

// frame is a ttrpc message: a header of length, stream, type and flags, and what follows.
func frame(length, stream uint32, kind byte, payload []byte) []byte {
	header := binary.BigEndian.AppendUint32(binary.BigEndian.AppendUint32(nil, length), stream)
	return append(append(header, kind, 0), payload...)
}

func TestACallEndsWhenItsCallerIsCutOff(t *testing.T) {
	w := newWorld(t)
	w.engine.slow = make(chan error, 2)
	agent := w.agent()
	called := make(chan error, 1)
	go func() {
		_, err := agent.Assess(t.Context(), &agentapi.AssessRequest{})
		called <- err
	}()
	<-w.engine.slow
	must(t, agent.Close())
	select {
	case err := <-w.engine.slow:
		if !errors.Is(err, context.Canceled) {
			t.Errorf("it ended with %v", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("the call goes on for nobody")
	}
	if err := <-called; err == nil {
		t.Error("the caller got an answer")
	}
	w.mustAnswer()
	matrix.Record(t, "the vsock is cut", "during a call", "this call ends, other calls are answered")
}

func TestAConnectionWhoseOtherEndIsGoneIsClosed(t *testing.T) {
	w := newWorldWith(t, callerLimits{connections: 1, silence: 300 * time.Millisecond, life: time.Hour})
	gone := w.raw() // it takes the only place, and says nothing
	mustEnd(t, gone, 10*time.Second)
	w.mustAnswer()
	matrix.Record(t, "half-open connection", "after the handshake", "closed when it has been silent for too long")
}

func TestAConnectionOnWhichAByteComesNowAndThenIsClosed(t *testing.T) {
	w := newWorldWith(t, callerLimits{connections: 1, silence: 10 * time.Second, life: 700 * time.Millisecond})
	slow := w.raw()
	message := frame(1000, 1, 1, make([]byte, 1000))
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		for _, b := range message {
			if _, err := slow.Write([]byte{b}); err != nil {
				return
			}
			time.Sleep(50 * time.Millisecond)
		}
	}()
	mustEnd(t, slow, 10*time.Second)
	w.mustAnswer()
	<-ended
	matrix.Record(t, "slow peer", "sends a frame slowly, byte by byte", "closed at its time limit")
}

func TestMoreCallersThanThereIsRoomForWait(t *testing.T) {
	w := newWorldWith(t, callerLimits{connections: 4, silence: time.Minute, life: time.Hour})
	config, err := transport.ClientConfig(w.operator, nil)
	must(t, err)
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	connect := func() *transport.Agent {
		t.Helper()
		agent, err := transport.Connect(ctx, w, config)
		must(t, err)
		return agent
	}
	var held []*transport.Agent
	for range 4 {
		agent := connect()
		_, err := agent.Status(ctx, &agentapi.StatusRequest{}) // it is in: handshakes end in any order
		must(t, err)
		held = append(held, agent)
	}
	late := connect()
	t.Cleanup(func() {
		for _, agent := range append(held[1:], late) {
			must(t, agent.Close())
		}
	})
	short, stop := context.WithTimeout(t.Context(), 300*time.Millisecond)
	defer stop()
	if _, err := late.Status(short, &agentapi.StatusRequest{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("the fifth of four got in: %v", err)
	}
	must(t, held[0].Close())
	_, err = late.Status(ctx, &agentapi.StatusRequest{})
	must(t, err)
	matrix.Record(t, "more connections than allowed", "while others are open",
		"they wait until another connection closes")
}

// A frame may name four gigabytes. Nothing of that is kept, and its caller alone waits.
func TestOversizedFramesTakeNoMemory(t *testing.T) {
	w := newWorld(t)
	var before, after runtime.MemStats
	w.mustAnswer()
	runtime.GC()
	runtime.ReadMemStats(&before)
	for range 8 {
		conn := w.raw()
		_, err := conn.Write(frame(0xffffffff, 1, 1, bytes.Repeat([]byte{1}, 1<<20)))
		must(t, err)
	}
	w.mustAnswer()
	runtime.GC()
	runtime.ReadMemStats(&after)
	if grown := int64(after.HeapInuse) - int64(before.HeapInuse); grown > 8<<20 {
		t.Errorf("the heap grew by %d bytes", grown)
	}
	matrix.Record(t, "oversized frame", "to the agent", "no memory is allocated, other calls are answered")
}

func TestGarbageOfAnOperatorHarmsNobodyElse(t *testing.T) {
	w := newWorld(t)
	w.mustAnswer()
	seed := rand.New(rand.NewPCG(1, 2))
	for i := range 60 {
		conn := w.raw()
		payload := make([]byte, seed.IntN(3000))
		for i := range payload {
			payload[i] = byte(seed.Uint32())
		}
		messages := [][]byte{
			payload, // no frame at all
			frame(uint32(len(payload)), uint32(seed.IntN(5)), byte(seed.IntN(5)), payload),
			frame(uint32(len(payload)/2), 1, 1, payload), // what follows is no header
		}
		_, err := conn.Write(messages[seed.IntN(len(messages))])
		must(t, err)
		if i%3 != 0 { // the others stay, within what callers may take
			_ = conn.Close() // the agent may have been faster
		}
	}
	w.mustAnswer()
	matrix.Record(t, "garbage frames", "to the agent", "other calls are answered")
}

// FuzzPut: whatever is put, the blobs are within bounds, and each that is whole has its digest.
func FuzzPut(f *testing.F) {
	f.Add([]byte("one"), int64(0), int64(3), []byte("two"), int64(1), int64(4), true)
	f.Add([]byte(""), int64(-1), int64(1)<<62, []byte("x"), int64(1)<<62, int64(-1), false)
	f.Fuzz(func(t *testing.T, a []byte, offsetA, sizeA int64, b []byte, offsetB, sizeB int64, same bool) {
		blobs, err := newBlobs(t.TempDir())
		must(t, err)
		one, other := tree.Sum(a), tree.Sum(b)
		if same {
			other = tree.Sum(append(append([]byte(nil), a...), b...))
			one = other
		}
		for _, part := range []struct {
			digest       tree.Digest
			offset, size int64
			data         []byte
		}{{one, offsetA, sizeA, a}, {other, offsetB, sizeB, b}, {one, offsetA, sizeA, a}} {
			complete, err := blobs.put(part.digest, part.offset, part.size, part.data)
			if complete && err != nil {
				t.Errorf("complete, and %v", err)
			}
		}
		total := int64(0)
		for digest, size := range blobs.whole {
			total += size
			if got, err := digestOf(blobs.path(digest)); err != nil || got != digest {
				t.Errorf("blob %s has the digest %s, %v", digest, got, err)
			}
		}
		for _, size := range blobs.partial {
			total += size
		}
		if total < 0 || total > maxBlobs {
			t.Errorf("all blobs have %d bytes", total)
		}
	})
}
