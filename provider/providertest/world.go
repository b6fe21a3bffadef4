// Package providertest is a host in memory, for tests of the provider: the releases and VMs that publish.Interface
// and vm.Interface would work on, as strict as the real ones and open to inspection and to faults.
package providertest

import (
	"context"
	"fmt"
	"sync"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/publish"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
	"github.com/sharedos/terraform-provider-sharedos/provider"
)

// Hook is called before each operation, with its name ("Prepare", "Create", …), the object's name and, for operations
// with steps, the step. An error that it returns ends the operation there.
type Hook func(ctx context.Context, operation, object, step string) error

// World is one host. It outlives the providers that are opened on it, as a real host does.
type World struct {
	mu        sync.Mutex
	hook      Hook
	failure   error
	archive   string
	opened    []provider.Config
	calls     []string
	bases     map[string]*base
	prepared  map[string]*publish.Prepared // by input and previous release: the cache
	vms       map[string]*machine
	published map[string]string // input of each release by id
}

// New returns an empty host.
func New() *World {
	return &World{
		archive: "as released",
		bases:   map[string]*base{}, prepared: map[string]*publish.Prepared{},
		vms: map[string]*machine{}, published: map[string]string{},
	}
}

// Open is a provider.Open.
func (w *World) Open(_ context.Context, config provider.Config) (provider.Backend, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.opened = append(w.opened, config)
	if w.failure != nil {
		return nil, w.failure
	}
	return backend{w}, nil
}

// SetHook sets what is called before each operation; nil for nothing.
func (w *World) SetHook(hook Hook) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.hook = hook
}

// SetFailure sets what Open returns; nil opens.
func (w *World) SetFailure(err error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.failure = err
}

// SetDebianArchive sets what stands for the content of Debian's archive: another text is another input to a debian
// source.
func (w *World) SetDebianArchive(content string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.archive = content
}

// Opened returns the configurations that it was opened with.
func (w *World) Opened() []provider.Config {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]provider.Config(nil), w.opened...)
}

// Calls returns every operation that was called, as "Create web-a".
func (w *World) Calls() []string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]string(nil), w.calls...)
}

// ForgetCalls empties the list of calls.
func (w *World) ForgetCalls() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.calls = nil
}

// ForgetCache drops what was prepared, as a machine does that has an empty cache.
func (w *World) ForgetCache() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.prepared = map[string]*publish.Prepared{}
}

// enter begins an operation.
func (w *World) enter(ctx context.Context, operation, object string) error {
	w.mu.Lock()
	w.calls = append(w.calls, operation+" "+object)
	w.mu.Unlock()
	return w.at(ctx, operation, object, "")
}

// at comes to a step of an operation.
func (w *World) at(ctx context.Context, operation, object, step string) error {
	w.mu.Lock()
	hook := w.hook
	w.mu.Unlock()
	if hook != nil {
		if err := hook(ctx, operation, object, step); err != nil {
			return err
		}
	}
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%s %s: %w", operation, object, err)
	}
	return nil
}

type backend struct{ world *World }

func (b backend) Publisher() publish.Interface { return publisher{b.world} }
func (b backend) VMs() vm.Interface            { return fleet{b.world} }
func (b backend) Close() error                 { return nil }
