package live

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/fileio"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/network"
)

const (
	// calm is how long nothing may go before the network is released: a network manager reports
	// that it has started before it has looked at all interfaces. A manager that has used no
	// processor time for idleCalm meanwhile has done so. calmLimit bounds the wait.
	calm      = 2 * time.Second
	idleCalm  = 400 * time.Millisecond
	calmLimit = 20 * time.Second
	calmLook  = 50 * time.Millisecond
	// idleUsage is how much processor time between two looks counts as none.
	idleUsage = 200 * time.Microsecond
	// maxStat bounds what is read of cpu.stat, in bytes.
	maxStat = 64 << 10
)

// Groups is what Network asks of systemd.
type Groups interface {
	// ControlGroup returns the directory of the control group of a service; "" if it has none.
	ControlGroup(ctx context.Context, unit string) (string, error)
}

// Network implements refresh.Network. Its record is in /run: the network does not outlive a boot either.
type Network struct {
	// Record is the path of the record.
	Record string
	Units  Groups

	mutex sync.Mutex
	stop  context.CancelFunc
	ended chan error
	// gone is when the watch last found that something had gone.
	gone atomic.Pointer[time.Time]
}

// kept is the record. Both parts are in the order in which the kernel lists them.
type kept struct {
	// Sure is added again, Unsure only reported.
	Sure   []network.Entry `json:"sure"`
	Unsure []network.Entry `json:"unsure"`
}

// Keep implements refresh.Network.
func (n *Network) Keep(ctx context.Context, sure network.Sure) error {
	n.mutex.Lock()
	defer n.mutex.Unlock()
	if n.stop != nil {
		return nil
	}
	record, err := n.read()
	if errors.Is(err, errAbsent) {
		record, err = n.save(sure)
	}
	if err != nil {
		return err
	}
	n.watch(ctx, record.Sure)
	return nil
}

// Continue implements refresh.Network.
func (n *Network) Continue(ctx context.Context) (found bool, err error) {
	n.mutex.Lock()
	defer n.mutex.Unlock()
	if n.stop != nil {
		return true, nil
	}
	record, err := n.read()
	if errors.Is(err, errAbsent) {
		return false, nil
	}
	if err == nil {
		n.watch(ctx, record.Sure)
	}
	return true, err
}

// watch adds again what goes, until end. The caller holds the mutex.
func (n *Network) watch(ctx context.Context, entries []network.Entry) {
	ctx, n.stop = context.WithCancel(context.WithoutCancel(ctx))
	n.ended = make(chan error, 1)
	n.noteGone()
	go func() { n.ended <- network.Watch(ctx, entries, n.noteGone) }()
}

func (n *Network) noteGone() {
	now := time.Now()
	n.gone.Store(&now)
}

func (n *Network) save(sure network.Sure) (kept, error) {
	entries, err := network.Read()
	if err != nil {
		return kept{}, fmt.Errorf("read the network: %w", err)
	}
	var record kept
	for _, e := range entries {
		if sure.Of(&e) {
			record.Sure = append(record.Sure, e)
		} else {
			record.Unsure = append(record.Unsure, e)
		}
	}
	data, err := json.Marshal(record)
	if err == nil {
		err = fileio.Replace(n.Record, data, 0o600)
	}
	return record, err
}

// read reads the record; errAbsent if there is none.
func (n *Network) read() (record kept, err error) {
	data, err := readBounded(n.Record)
	if err != nil {
		return record, err
	}
	if err := json.Unmarshal(data, &record); err != nil {
		return record, fmt.Errorf("%s: %w: %w", n.Record, errNotRecord, err)
	}
	return record, nil
}

// Stop implements refresh.Network.
func (n *Network) Stop() { _ = n.end() } // Release restores once more, and reports what it could not

// end ends Watch, and returns its error.
func (n *Network) end() error {
	n.mutex.Lock()
	defer n.mutex.Unlock()
	if n.stop == nil {
		return nil
	}
	n.stop()
	n.stop = nil
	return <-n.ended
}

// Release implements refresh.Network.
func (n *Network) Release(ctx context.Context, manager string) (missing []string, err error) {
	record, err := n.read()
	if errors.Is(err, errAbsent) {
		return nil, n.end()
	}
	if err != nil {
		return nil, errors.Join(n.end(), err, n.Forget())
	}
	failures, err := n.settle(ctx, record.Sure, manager)
	watched := n.end()
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	missing = network.Texts(failures)
	if err == nil {
		now, readErr := network.Read()
		err = readErr
		if readErr == nil {
			for _, e := range network.Missing(record.Unsure, now) {
				missing = append(missing,
					e.String()+": the release changes the configuration of the network, and may have removed it")
			}
		}
	}
	return missing, errors.Join(watched, err, n.Forget())
}

// settle waits until the network is calm, and restores the entries a last time. A route can be added once its gateway
// can be reached, for which DHCP may have to bring an address, so it tries what cannot be added again for a while.
func (n *Network) settle(ctx context.Context, entries []network.Entry,
	manager string) (failures []network.Failure, err error) {
	if len(entries) == 0 {
		return nil, nil
	}
	n.mutex.Lock()
	if n.stop == nil { // another agent has kept the network
		n.watch(ctx, entries)
	}
	n.mutex.Unlock()
	ctx, cancel := context.WithTimeout(ctx, calmLimit)
	defer cancel()
	for {
		if err := n.awaitCalm(ctx, manager); err != nil && ctx.Err() == nil {
			return nil, err
		}
		limited := context.WithoutCancel(ctx)
		if failures, err = network.Restore(limited, entries); err != nil {
			return nil, err
		}
		if ctx.Err() != nil || !slices.ContainsFunc(failures, network.Failure.Passing) || n.calmFor() >= calm {
			return failures, nil
		}
		manager = "" // it waits for others
	}
}

// calmFor is how long nothing has gone.
func (n *Network) calmFor() time.Duration { return time.Since(*n.gone.Load()) }

// awaitCalm waits until nothing has gone for a while.
func (n *Network) awaitCalm(ctx context.Context, manager string) error {
	group := ""
	if manager != "" && n.Units != nil {
		var err error
		if group, err = n.Units.ControlGroup(ctx, manager); err != nil {
			return err
		}
	}
	idleSince, before := time.Now(), time.Duration(-1)
	for n.calmFor() < calm {
		used, known, err := usage(group)
		switch {
		case err != nil:
			return err
		case !known || before < 0 || used > before+idleUsage:
			idleSince, before = time.Now(), used
		case min(time.Since(idleSince), n.calmFor()) >= idleCalm:
			return nil
		}
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(calmLook):
		}
	}
	return nil
}

// usage returns how much processor time the processes of a control group have used (the kernel's
// Documentation/admin-guide/cgroup-v2.rst, cpu.stat); false if that is unknown.
func usage(group string) (used time.Duration, known bool, err error) {
	if group == "" {
		return 0, false, nil
	}
	text, err := fileio.Read(filepath.Join(group, "cpu.stat"), maxStat)
	if errors.Is(err, fs.ErrNotExist) {
		return 0, false, nil // it has ended, or the hierarchy of control groups is an old one
	}
	if err != nil {
		return 0, false, err
	}
	for line := range strings.Lines(string(text)) {
		if number, found := strings.CutPrefix(line, "usage_usec "); found {
			micros, err := strconv.ParseInt(strings.TrimSpace(number), 10, 64)
			return time.Duration(micros) * time.Microsecond, err == nil, err
		}
	}
	return 0, false, nil
}

// Forget implements refresh.Network.
func (n *Network) Forget() error {
	if err := fileio.Remove(n.Record); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the record of the network: %w", err)
	}
	return nil
}
