// Package providertest is a host for tests of the provider. It uses the real publisher and the real fleet, with a fake
// libvirt and fake agents that keep the contracts of the real ones.
package providertest

import (
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi/agenttest"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/bootimage"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/host"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor/hypervisortest"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/machine"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/publish"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store/storetest"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
	"github.com/sharedos/terraform-provider-sharedos/provider"
)

// World is one host. Like a real host, it outlives the providers that connect to it.
type World struct {
	// Domains and Volumes are the objects of libvirt. Set their hooks only while no provider uses them.
	Domains *hypervisortest.Hypervisor
	Volumes *storetest.Store
	// Guests are the agents in the domains.
	Guests *agenttest.Guests

	dir  string
	key  ed25519.PrivateKey
	busy []uint16

	mu          sync.Mutex
	hook        Hook
	failure     error
	poolFailure error
	archive     string
	opened      []provider.Config
	calls       []string

	built atomic.Int64
}

// New returns an empty host with its files in a directory. Call Off at the end.
func New(dir string) (*World, error) {
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		return nil, fmt.Errorf("make an operator's key: %w", err)
	}
	w := &World{dir: dir, key: key, Domains: hypervisortest.New(), Volumes: storetest.In(filepath.Join(dir, "pool"))}
	for _, dir := range []string{w.pool(), w.cache(), w.consoles()} {
		if err := os.Mkdir(dir, 0o700); err != nil {
			return nil, fmt.Errorf("make a host: %w", err)
		}
	}
	w.Domains.Networks, w.Domains.Bridges = map[string]bool{"default": true, "stopped": false}, []string{"br0", "br1"}
	w.Guests = agenttest.Inhabit(w.Domains)
	w.Guests.OnNew = func(_ string, agent *agenttest.Agent) {
		agent.Impact = &agentapi.Impact{
			Level: agentapi.Level_RESTART,
			Units: []*agentapi.UnitImpact{{Unit: "nginx.service", Level: agentapi.Level_RESTART,
				Reason: "maps libssl.so.3"}},
			Unaffected: []string{"cron.service"},
		}
	}
	return w, nil
}

// SetBusyPorts sets the ports of 127.0.0.1 on which something else listens. Set them only while no
// provider uses the host.
func (w *World) SetBusyPorts(ports ...uint16) { w.busy = ports }

func (w *World) machine() fakeMachine { return fakeMachine{busy: w.busy} }

// fakeMachine is the machine of a World: this one, but for the ports that are in use.
type fakeMachine struct {
	machine.Local
	busy []uint16
}

// PortFree implements machine.Sockets.
func (h fakeMachine) PortFree(_ context.Context, port uint16) (bool, error) {
	return !slices.Contains(h.busy, port), nil
}

func (w *World) pool() string { return filepath.Join(w.dir, "pool") }

// PoolDir is the directory of the pool.
func (w *World) PoolDir() string { return w.pool() }

func (w *World) cache() string    { return filepath.Join(w.dir, "cache") }
func (w *World) consoles() string { return filepath.Join(w.dir, "console") }

// Operator returns the operator's public key, base64.
func (w *World) Operator() (string, error) {
	public, ok := w.key.Public().(ed25519.PublicKey)
	if !ok {
		return "", errors.New("the key has no public key")
	}
	return base64.StdEncoding.EncodeToString(public), nil
}

// Off stops the agents in the guests.
func (w *World) Off() { w.Guests.Off() }

// Open is a provider.Open. Each call returns a new backend for the existing objects, as a new process would have.
func (w *World) Open(_ context.Context, config provider.Config) (provider.Backend, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.opened = append(w.opened, config)
	if w.failure != nil {
		return nil, w.failure
	}
	log := slog.New(slog.DiscardHandler)
	publisher := &publish.Publisher{Store: w.Volumes, Cache: w.cache(), Key: w.key, Log: log,
		Modules:  bootimage.Modules,
		MaxChain: config.MaxLayers, MaxDelta: config.MaxDeltaPercent}
	fleet := &vm.Fleet{
		Hypervisor: w.Domains, Machine: w.machine(), Store: w.Volumes, Key: w.key, Pool: config.Pool, Cache: w.cache(),
		ConsoleDir: w.consoles(),
		// The fake guests do not run it.
		AgentBinary: func() ([]byte, error) { return []byte("agent"), nil },
		Initramfs:   bootimage.Initramfs, Offer: publisher.Offer, ListedFor: -1,
		BootLimit: 300 * time.Millisecond, Log: log,
	}
	fleet.Deriver = publisher
	fleet.Collect = func(ctx context.Context) error { return publisher.Collect(ctx, fleet.InUse) }
	return backend{w, publisher, fleet}, nil
}

type backend struct {
	world     *World
	publisher *publish.Publisher
	fleet     *vm.Fleet
}

func (b backend) Publisher() publish.Interface { return watchedPublisher{b.world, b.publisher} }
func (b backend) Components() publish.Interface {
	return watchedPublisher{b.world, b.publisher.Components()}
}
func (b backend) VMs() vm.Interface { return watchedFleet{b.world, b.fleet} }
func (b backend) Close() error      { return nil }

// Closing implements provider.Backend.
func (b backend) Closing() bool { return b.fleet.Hypervisor.Closing() }

// CheckPool implements provider.Backend.
func (b backend) CheckPool(context.Context) error {
	b.world.mu.Lock()
	defer b.world.mu.Unlock()
	return b.world.poolFailure
}

// Facts implements provider.Backend.
func (b backend) Facts(ctx context.Context) (host.Facts, error) {
	facts, err := b.world.Domains.Facts(ctx)
	if err != nil {
		return host.Facts{}, err
	}
	room, err := b.world.Volumes.Room(ctx)
	return host.Facts{
		Facts: facts, URI: "qemu:///system", Pool: b.fleet.Pool, Room: room, HasPool: err == nil,
		Missing: []host.Missing{{Name: "/dev/kvm", NeededFor: "speed", Install: "Load the module."}},
	}, err
}

// SetPoolFailure sets why the pool can be neither used nor created; nil if it can.
func (w *World) SetPoolFailure(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.poolFailure = err
}

// SetFailure sets the error that Open returns; nil for none.
func (w *World) SetFailure(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.failure = err
}

// Opened returns the configurations that were passed to Open.
func (w *World) Opened() []provider.Config {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.opened)
}

// ForgetCache empties the cache, as on a machine that has built nothing yet.
func (w *World) ForgetCache() error {
	return errors.Join(os.RemoveAll(w.cache()), os.Mkdir(w.cache(), 0o700))
}

// VMs returns the names of the domains.
func (w *World) VMs(ctx context.Context) ([]string, error) {
	domains, err := w.Domains.List(ctx)
	names := make([]string, len(domains))
	for i, domain := range domains {
		names[i] = domain.Name
	}
	return names, err
}

// Left returns the names of domains, volumes and console logs that are on the host.
func (w *World) Left(ctx context.Context) ([]string, error) {
	left, err := w.VMs(ctx)
	if err != nil {
		return nil, err
	}
	for _, dir := range []string{w.pool(), w.consoles()} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			return nil, err
		}
		for _, entry := range entries {
			left = append(left, entry.Name())
		}
	}
	return left, nil
}

// VM returns the definition of a VM and the stack that its guest runs.
func (w *World) VM(ctx context.Context, name string) (hypervisor.Domain, release.Stack, error) {
	domain, _, err := w.Domains.Lookup(ctx, name)
	if err != nil {
		return domain, release.Stack{}, err
	}
	agent, err := w.Guests.Agent(name)
	if err != nil {
		return domain, release.Stack{}, err
	}
	return domain, agent.Stack(), nil
}

// DropVM removes a VM and its private disk, as somebody could do by hand.
func (w *World) DropVM(ctx context.Context, name string) error {
	domain, _, err := w.Domains.Lookup(ctx, name)
	if err != nil {
		return err
	}
	w.Guests.Forget(name)
	w.Domains.Vanish(name)
	return w.Volumes.DeletePrivateDisk(ctx, domain.Metadata.PrivateVolume)
}

// Reidentify replaces a VM by one with the same name and another UUID, as somebody could do by hand.
func (w *World) Reidentify(ctx context.Context, name, uuid string) error {
	domain, _, err := w.Domains.Lookup(ctx, name)
	if err != nil {
		return err
	}
	w.Guests.Forget(name)
	w.Domains.Vanish(name)
	domain.UUID, domain.Metadata.AgentKey = uuid, ""
	if err := w.Domains.Define(ctx, domain); err != nil {
		return err
	}
	return w.Domains.Start(ctx, name)
}

// DropBase deletes a base that no VM uses, as somebody could do by hand.
func (w *World) DropBase(ctx context.Context, name string) error {
	opened, err := w.Open(ctx, provider.Config{})
	if err != nil {
		return err
	}
	defer func() { _ = opened.Close() }() // it holds nothing
	return opened.Publisher().Delete(ctx, name, opened.VMs().InUse)
}

// DropComponent does the same to a component.
func (w *World) DropComponent(ctx context.Context, name string) error {
	opened, err := w.Open(ctx, provider.Config{})
	if err != nil {
		return err
	}
	defer func() { _ = opened.Close() }() // it holds nothing
	return opened.Components().Delete(ctx, name, opened.VMs().InUse)
}

// DropLayers removes all layers from the pool, as somebody could do by hand.
func (w *World) DropLayers() error {
	entries, err := os.ReadDir(w.pool())
	for _, entry := range entries {
		if name, ok := store.ParseVolumeName(entry.Name()); ok && name.Kind == store.LayerVolume {
			err = errors.Join(err, os.Remove(filepath.Join(w.pool(), entry.Name())))
		}
	}
	return err
}

// Say writes to a VM's console log.
func (w *World) Say(name, text string) error {
	return os.WriteFile(filepath.Join(w.consoles(), name+".log"), []byte(text), 0o600)
}

// Calls returns every operation that was called, such as "Create web-a".
func (w *World) Calls() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.calls)
}

// Count returns how often each operation was called since ForgetCalls.
func (w *World) Count() map[string]int {
	counts := map[string]int{}
	for _, call := range w.Calls() {
		operation, _, _ := strings.Cut(call, " ")
		counts[operation]++
	}
	return counts
}

// ForgetCalls empties the list of calls.
func (w *World) ForgetCalls() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.calls = nil
}
