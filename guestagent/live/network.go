package live

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"sync"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/fileio"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/network"
)

const (
	// calm is how long nothing may go before the network is released: a network manager reports that it has started before
	// it has looked at all interfaces. calmLimit bounds the wait.
	calm      = 2 * time.Second
	calmLimit = 20 * time.Second
	calmLook  = 100 * time.Millisecond
)

// Network implements refresh.Network. Its record is in /run: the network does not outlive a boot either.
type Network struct {
	// Record is the path of the record.
	Record string

	mutex sync.Mutex
	stop  context.CancelFunc
	ended chan error
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
	ctx, n.stop = context.WithCancel(context.WithoutCancel(ctx)) // Stop ends it
	n.ended = make(chan error, 1)
	go func() { n.ended <- network.Watch(ctx, record.Sure) }()
	return nil
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
func (n *Network) Release(ctx context.Context) (missing []string, err error) {
	watched := n.end()
	record, err := n.read()
	if errors.Is(err, errAbsent) {
		return nil, nil
	}
	if err != nil {
		return nil, errors.Join(watched, err, n.Forget())
	}
	failures, err := settle(ctx, record.Sure)
	if ctx.Err() != nil {
		return nil, ctx.Err()
	}
	missing = network.Texts(failures)
	if err == nil {
		now, readErr := network.Read()
		err = readErr
		if readErr == nil {
			for _, e := range network.Missing(record.Unsure, now) {
				missing = append(missing, e.String()+": the release changes the configuration of the network, and may have removed it")
			}
		}
	}
	return missing, errors.Join(watched, err, n.Forget())
}

// settle restores entries until nothing more goes.
func settle(ctx context.Context, entries []network.Entry) (failures []network.Failure, err error) {
	if len(entries) == 0 {
		return nil, nil
	}
	limit := time.Now().Add(calmLimit)
	for calmAt := time.Now().Add(calm); time.Now().Before(calmAt) && time.Now().Before(limit); {
		now, err := network.Read()
		if err != nil {
			return nil, err
		}
		gone := len(network.Missing(entries, now)) > len(failures)
		if failures, err = network.Restore(ctx, entries); err != nil {
			return nil, err
		}
		// A route can be added once its gateway can be reached, for which DHCP may have to bring an address.
		if gone || slices.ContainsFunc(failures, network.Failure.Passing) {
			calmAt = time.Now().Add(calm)
		}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-time.After(calmLook):
		}
	}
	return failures, nil
}

// Forget implements refresh.Network.
func (n *Network) Forget() error {
	if err := fileio.Remove(n.Record); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("remove the record of the network: %w", err)
	}
	return nil
}
