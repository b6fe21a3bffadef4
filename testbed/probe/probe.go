// Package probe watches a service from outside while something happens to it. One client sends request after
// request and counts how many fail and for how long none succeeds.
package probe

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"time"
)

// RequestLimit bounds one request. A service that takes longer has failed it.
const RequestLimit = 5 * time.Second

// StartLimit bounds how long a probe waits for the first request that succeeds: systemd calls a VM up before its
// network has an address.
const StartLimit = 30 * time.Second

const startPause = 100 * time.Millisecond

// maxBody bounds what is read of an answer, in bytes.
const maxBody = 1 << 20

// Result is what a probe saw.
type Result struct {
	// Requests that were made, and those of them that failed.
	Requests, Failures int
	// LongestGap between the ends of two requests that succeeded, one after the other; up to the end of the probe
	// when it ended without success.
	LongestGap time.Duration
	// LongestRequest that succeeded.
	LongestRequest time.Duration
	// FirstFailure is nil when there was none.
	FirstFailure error
}

// Probe asks one service until it is stopped.
type Probe struct {
	cancel context.CancelFunc
	done   chan struct{}
	result Result
}

// HTTP requests a page on a fresh connection every interval, or as soon as the one before has ended if that took
// longer. A status of 400 and above is a failure. The probe starts with the first request that succeeds, so that every
// later failure is news; HTTP returns then, and fails after StartLimit. The address must be an IPv4 address of this
// machine's own.
func HTTP(ctx context.Context, address string, interval time.Duration) (*Probe, error) {
	parsed, err := url.Parse(address)
	if err != nil {
		return nil, fmt.Errorf("probe %q: %w", address, err)
	}
	if ip := net.ParseIP(parsed.Hostname()); ip.To4() == nil || !ip.IsLoopback() {
		return nil, fmt.Errorf("probe %q: only a loopback address may be probed", address)
	}
	client := &http.Client{
		Transport: &http.Transport{DisableKeepAlives: true, DialContext: dial},
		Timeout:   RequestLimit,
	}
	return start(ctx, address, interval, func(ctx context.Context) error { return get(ctx, client, address) })
}

// TCP connects every interval, waits for the first byte that the service sends by itself, as sshd does, and closes.
// Otherwise it is like HTTP.
func TCP(ctx context.Context, address string, interval time.Duration) (*Probe, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, fmt.Errorf("probe %q: %w", address, err)
	}
	if ip := net.ParseIP(host); ip.To4() == nil || !ip.IsLoopback() {
		return nil, fmt.Errorf("probe %q: only a loopback address may be probed", address)
	}
	return start(ctx, address, interval, func(ctx context.Context) error { return greeting(ctx, address) })
}

// Stop ends the probe and returns what it saw. A request in flight is waited for.
func (p *Probe) Stop() Result {
	p.cancel()
	<-p.done
	return p.result
}

func start(ctx context.Context, address string, interval time.Duration,
	ask func(context.Context) error) (*Probe, error) {
	if interval <= 0 {
		return nil, fmt.Errorf("probe %q: the interval %s is not positive", address, interval)
	}
	if err := reach(ctx, ask); err != nil {
		return nil, fmt.Errorf("probe %q: not one request succeeded in %s: %w", address, StartLimit, err)
	}
	p := &Probe{done: make(chan struct{})}
	ctx, p.cancel = context.WithCancel(ctx)
	go func() {
		defer close(p.done)
		p.run(ctx, interval, ask)
	}()
	return p, nil
}

func (p *Probe) run(ctx context.Context, interval time.Duration, ask func(context.Context) error) {
	ticker := time.NewTicker(interval)
	defer ticker.Stop()
	succeeded := time.Now()
	for {
		select {
		case <-ctx.Done():
			p.result.LongestGap = max(p.result.LongestGap, time.Since(succeeded))
			return
		case <-ticker.C:
		}
		began := time.Now()
		// Stop waits for the request in flight: cut off, it would look like a failure of the service.
		err := bounded(context.WithoutCancel(ctx), ask)
		now := time.Now()
		p.result.Requests++
		if err != nil {
			p.result.Failures++
			if p.result.FirstFailure == nil {
				p.result.FirstFailure = err
			}
			continue
		}
		p.result.LongestGap = max(p.result.LongestGap, now.Sub(succeeded))
		p.result.LongestRequest = max(p.result.LongestRequest, now.Sub(began))
		succeeded = now
	}
}

// reach asks until a request succeeds.
func reach(ctx context.Context, ask func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, StartLimit)
	defer cancel()
	for {
		err := bounded(ctx, ask)
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return err
		case <-time.After(startPause):
		}
	}
}

func bounded(ctx context.Context, ask func(context.Context) error) error {
	ctx, cancel := context.WithTimeout(ctx, RequestLimit)
	defer cancel()
	return ask(ctx)
}

func get(ctx context.Context, client *http.Client, address string) error {
	request, err := http.NewRequestWithContext(ctx, http.MethodGet, address, nil)
	if err != nil {
		return err
	}
	response, err := client.Do(request)
	if err != nil {
		return err
	}
	_, err = io.Copy(io.Discard, io.LimitReader(response.Body, maxBody))
	if err = errors.Join(err, response.Body.Close()); err != nil {
		return err
	}
	if response.StatusCode >= http.StatusBadRequest {
		return fmt.Errorf("it answered %s", response.Status)
	}
	return nil
}

func greeting(ctx context.Context, address string) error {
	conn, err := dial(ctx, "tcp", address)
	if err != nil {
		return err
	}
	deadline, _ := ctx.Deadline() // start always sets one
	err = conn.SetDeadline(deadline)
	if err == nil {
		_, err = conn.Read(make([]byte, 1))
	}
	return errors.Join(err, conn.Close())
}
