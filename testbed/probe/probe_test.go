package probe_test

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/testbed/probe"
)

func TestAServiceThatAnswersHasNoFailures(t *testing.T) {
	var served atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(http.ResponseWriter, *http.Request) { served.Add(1) }))
	t.Cleanup(server.Close)
	p, err := probe.HTTP(t.Context(), server.URL, time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	wait(t, func() bool { return served.Load() > 20 })
	seen := p.Stop()
	if seen.Failures != 0 || seen.FirstFailure != nil || seen.Requests < 20 {
		t.Errorf("a service that always answered was seen as %+v", seen)
	}
	if seen.LongestGap <= 0 || seen.LongestGap < seen.LongestRequest {
		t.Errorf("the longest gap %s is shorter than the longest request %s", seen.LongestGap, seen.LongestRequest)
	}
}

func TestAnOutageIsCountedAndTimed(t *testing.T) {
	const outage = 150 * time.Millisecond
	var down atomic.Bool
	var refused, served atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if down.Load() {
			refused.Add(1)
			w.WriteHeader(http.StatusBadGateway)
			return
		}
		served.Add(1)
	}))
	t.Cleanup(server.Close)
	p, err := probe.HTTP(t.Context(), server.URL, time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	down.Store(true)
	wait(t, func() bool { return refused.Load() > 0 })
	time.Sleep(outage)
	down.Store(false)
	before := served.Load()
	wait(t, func() bool { return served.Load() > before+1 })
	seen := p.Stop()
	if int64(seen.Failures) != refused.Load() || seen.FirstFailure == nil {
		t.Errorf("%d requests were refused; the probe saw %+v", refused.Load(), seen)
	}
	if seen.LongestGap < outage {
		t.Errorf("an outage of %s was seen as a gap of %s", outage, seen.LongestGap)
	}
}

func TestAnOutageThatLastsToTheEndIsAGap(t *testing.T) {
	var down atomic.Bool
	var refused atomic.Int64
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		if down.Load() {
			refused.Add(1)
			w.WriteHeader(http.StatusServiceUnavailable)
		}
	}))
	t.Cleanup(server.Close)
	p, err := probe.HTTP(t.Context(), server.URL, time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	down.Store(true)
	wait(t, func() bool { return refused.Load() > 0 })
	time.Sleep(100 * time.Millisecond)
	if seen := p.Stop(); seen.LongestGap < 100*time.Millisecond {
		t.Errorf("a service that never came back had a longest gap of %s", seen.LongestGap)
	}
}

func TestTCPWaitsForTheGreeting(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = listener.Close() })
	var silent atomic.Bool
	var greeted atomic.Int64
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			if !silent.Load() {
				_, _ = conn.Write([]byte("SSH-2.0-test\r\n"))
				greeted.Add(1)
			}
			_ = conn.Close()
		}
	}()
	p, err := probe.TCP(t.Context(), listener.Addr().String(), time.Millisecond)
	if err != nil {
		t.Fatal(err)
	}
	wait(t, func() bool { return greeted.Load() > 10 })
	silent.Store(true)
	time.Sleep(50 * time.Millisecond)
	if seen := p.Stop(); seen.Failures == 0 {
		t.Errorf("a service that accepts and says nothing was seen as %+v", seen)
	}
}

func TestAProbeStartsOnlyAgainstWhatAnswersOnThisMachine(t *testing.T) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	gone := listener.Addr().String()
	if err := listener.Close(); err != nil {
		t.Fatal(err)
	}
	for name, address := range map[string]string{
		"another machine":  "http://192.0.2.1/",
		"a name":           "http://example.org/",
		"nothing listens":  "http://" + gone + "/",
		"not a URL at all": "http://%zz/",
	} {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond) // shorter than StartLimit
			defer cancel()
			if p, err := probe.HTTP(ctx, address, time.Millisecond); err == nil {
				t.Errorf("a probe of %q started, and saw %+v", address, p.Stop())
			}
		})
	}
}

func wait(t *testing.T, until func() bool) {
	t.Helper()
	deadline := time.Now().Add(10 * time.Second)
	for !until() {
		if time.Now().After(deadline) {
			t.Fatal("what was waited for did not come about within 10 s")
		}
		time.Sleep(time.Millisecond)
	}
}
