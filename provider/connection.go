package provider

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/host"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/publish"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/transport"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
)

// Config is the configuration of the provider with all defaults applied.
type Config struct {
	// URI of libvirt: "qemu:///system".
	URI string
	// Pool is the name of the storage pool. PoolPath is its directory if it has to be created; empty for the default.
	Pool, PoolPath string
	// OperatorKey is the path of the Ed25519 key that signs releases and authenticates to agents. It is created on
	// first use.
	OperatorKey string
	// Cache is a directory on this machine for downloads and for operating systems that were built.
	Cache string
	// BuildAtPlan is true if a plan builds what it needs into the cache.
	BuildAtPlan bool
	// MaxLayers is the maximum number of layers of a release, and MaxDeltaPercent the maximum size of a delta in
	// percent of the content of its release.
	MaxLayers, MaxDeltaPercent int
}

// Backend is the host that the provider works on.
type Backend interface {
	// Publisher publishes bases, and Components components.
	Publisher() publish.Interface
	Components() publish.Interface
	VMs() vm.Interface
	// CheckPool returns why the storage pool cannot be used or created; store.ErrConfig if another pool, or another
	// directory for it, has to be chosen. It creates nothing.
	CheckPool(ctx context.Context) error
	// Closing reports whether a connection to a guest is still being closed (hypervisor.Hypervisor).
	Closing() bool
	// Facts returns what the host is and what it lacks.
	Facts(ctx context.Context) (host.Facts, error)
	// Close closes the connection. VMs keep running.
	Close() error
}

// Open connects to the host. The context limits only the opening: the Backend can be used afterwards.
type Open func(ctx context.Context, config Config) (Backend, error)

// errUnknownConfig means that the provider block depends on a value that is unknown until an apply.
var errUnknownConfig = errors.New("the provider's configuration is not known yet")

// errNotConfigured means that Terraform has not configured the provider, as it does before it asks
// for anything on a host.
var errNotConfigured = errors.New("the provider is not configured")

// connection opens the backend when it is first needed, so that validation, and plans that need no host, work
// without one. A failure to open is kept, so that each further resource fails at once instead of waiting again.
type connection struct {
	open Open
	// invoked replaces what the parent process tells, for tests.
	invoked func() invocation

	mu      sync.Mutex
	config  Config
	unknown []string // attributes of the provider block that are unknown
	backend Backend
	failed  error
	name    string // identifies this provider
	// builds of plans that are running, by numbers that count up to built. interrupted is true after an interrupt.
	builds      map[int]func()
	built       int
	interrupted bool
	plans       plannedObjects
	poolChecked bool // the pool can be used or created
	// madeVMs and madeReleases are what was made, which Terraform writes to its state.
	madeVMs      []string
	madeReleases []func(context.Context, Backend) error
	forwards     map[string]*transport.Forward
	reads        map[string]bool // UUIDs of VMs that were read and have not been planned since
	slots        chan struct{}   // of VMs that rollouts move
}

// interrupt ends the builds of plans that are running. Whoever presses Ctrl-C during an apply would wait for them
// otherwise: Terraform does not stop the plan of an apply.
func (c *connection) interrupt() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.interrupted = true
	for _, stop := range c.builds {
		stop()
	}
}

// building returns a context for the build of a plan. It ends when the provider is interrupted.
func (c *connection) building(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.interrupted {
		cancel()
	}
	if c.builds == nil {
		c.builds = map[int]func(){}
	}
	c.built++
	number := c.built
	c.builds[number] = cancel
	return ctx, func() {
		cancel()
		c.mu.Lock()
		defer c.mu.Unlock()
		delete(c.builds, number)
	}
}

// configure sets the configuration that get opens. Terraform configures a provider once; tests may do it again.
func (c *connection) configure(config Config, unknown []string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	err := c.closeLocked()
	c.config, c.unknown, c.failed, c.poolChecked = config, unknown, nil, false
	c.plans = plannedObjects{}
	return err
}

// get returns the backend. It opens it if necessary.
func (c *connection) get(ctx context.Context) (Backend, error) {
	if c == nil {
		return nil, errNotConfigured
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.backend != nil:
		return c.backend, nil
	case len(c.unknown) > 0:
		return nil, fmt.Errorf("%w: %s", errUnknownConfig, strings.Join(c.unknown, ", "))
	case c.failed != nil:
		return nil, c.failed
	}
	bounded, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	backend, err := c.open(bounded, c.config)
	if err != nil {
		err = &openError{uri: c.config.URI, pool: c.config.Pool, cause: err}
		if ctx.Err() == nil {
			c.failed = err
		}
		return nil, err
	}
	c.backend = backend
	return backend, nil
}

// planned returns the backend for a plan that is to publish something: it fails if the storage pool can be neither used
// nor created, so that nothing is built in vain.
func (c *connection) planned(ctx context.Context) (Backend, error) {
	backend, err := c.get(ctx)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.poolChecked {
		return backend, nil
	}
	bounded, cancel := context.WithTimeout(ctx, openTimeout)
	defer cancel()
	if err := backend.CheckPool(bounded); err != nil {
		return nil, err
	}
	c.poolChecked = true
	return backend, nil
}

func (c *connection) cacheDir() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.config.Cache
}

func (c *connection) buildAtPlan() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.config.BuildAtPlan
}

func (c *connection) chain() chain {
	c.mu.Lock()
	defer c.mu.Unlock()
	return chain{c.config.MaxLayers, c.config.MaxDeltaPercent}
}

// madeVM notes that the answer to a call has a VM that was made, and madeRelease a base or
// component, with how to record that it is in Terraform's state.
func (c *connection) madeVM(uuid string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.madeVMs = append(c.madeVMs, uuid)
}

func (c *connection) madeRelease(record func(context.Context, Backend) error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.madeReleases = append(c.madeReleases, record)
}

const (
	// recordTimeout bounds how long close records what was made. Terraform kills a provider that
	// does not end within 2 s. What is not recorded by then, the next Read records.
	recordTimeout = 1500 * time.Millisecond
	// releaseTime is what recording a base or component needs, which takes locks: a kill would
	// leave them to others for a while.
	releaseTime = time.Second
)

// close closes the backend. If Terraform writes its state at each change, it has written what was made by now.
func (c *connection) close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	var failed []error
	if c.backend != nil && stateIsLocal(os.Getenv) {
		ctx, cancel := context.WithTimeout(context.Background(), recordTimeout)
		defer cancel()
		end, _ := ctx.Deadline()
		for _, uuid := range c.madeVMs {
			if ctx.Err() == nil {
				failed = append(failed, c.backend.VMs().Recorded(ctx, uuid))
			}
		}
		for _, record := range c.madeReleases {
			if time.Until(end) > releaseTime {
				failed = append(failed, record(ctx, c.backend))
			}
		}
	}
	c.madeVMs, c.madeReleases = nil, nil
	return errors.Join(append(failed, c.closeLocked())...)
}

// stateIsLocal reports whether Terraform writes its state at each change: its local backend does. Others get the state
// after Terraform has ended its providers. A provider only sees which backend the directory was initialised for.
func stateIsLocal(environment func(string) string) bool {
	text, err := os.ReadFile(filepath.Join(cmp.Or(environment("TF_DATA_DIR"), ".terraform"), "terraform.tfstate"))
	if errors.Is(err, fs.ErrNotExist) {
		return true
	}
	var initialised struct {
		Backend *struct {
			Type string `json:"type"`
		} `json:"backend"`
	}
	if err != nil || json.Unmarshal(text, &initialised) != nil {
		return false
	}
	return initialised.Backend == nil || initialised.Backend.Type == "local"
}

// closing reports whether a connection to a guest is still being closed.
func (c *connection) closing() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.backend != nil && c.backend.Closing()
}

func (c *connection) closeLocked() error {
	var failed []error
	for number, forward := range c.forwards {
		failed = append(failed, forward.Close())
		delete(c.forwards, number)
	}
	if c.backend == nil {
		return errors.Join(failed...)
	}
	backend := c.backend
	c.backend = nil
	if err := backend.Close(); err != nil {
		failed = append(failed, fmt.Errorf("close the connection to %s: %w", c.config.URI, err))
	}
	return errors.Join(failed...)
}

// openError is a failure to open the host.
type openError struct {
	uri, pool string
	cause     error
}

func (e *openError) Error() string {
	return fmt.Sprintf("open storage pool %q at %s: %v", e.pool, e.uri, e.cause)
}

func (e *openError) Unwrap() error { return e.cause }

// noteRead records that a VM was read. takeRead reports whether it was read, and clears the record. A plan reads a VM
// before it plans it; an apply plans it again without reading it.
func (c *connection) noteRead(uuid string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.reads == nil {
		c.reads = map[string]bool{}
	}
	c.reads[uuid] = true
}

func (c *connection) takeRead(uuid string) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	read := c.reads[uuid]
	delete(c.reads, uuid)
	return read
}
