package provider

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"sync"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/publish"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
)

// Config is the provider block with all defaults applied.
type Config struct {
	// URI of libvirt: "qemu:///system".
	URI string
	// Pool names the storage pool; PoolPath is the directory it gets if it has to be made, empty for the default.
	Pool, PoolPath string
	// OperatorKey is the path of the Ed25519 key that signs releases and opens agents. It is made on first use.
	OperatorKey string
	// Cache is a directory on this machine for what was read and built.
	Cache string
	// MaxLayers is how many layers a release may have, and MaxDeltaPercent how much of its content a delta may hold.
	MaxLayers, MaxDeltaPercent int
}

// Backend is the host that the provider works on.
type Backend interface {
	Publisher() publish.Interface
	VMs() vm.Interface
	// Close ends the connection. VMs go on running.
	Close() error
}

// Open connects to the host. The context bounds the opening alone: the Backend outlives it.
type Open func(ctx context.Context, config Config) (Backend, error)

// errUnknownConfig means that the provider block depends on something that only an apply will tell.
var errUnknownConfig = errors.New("the provider's configuration is not known yet")

// connection opens the backend when it is first needed, so that validation, and plans that need no host, work
// without one. A failure to open is remembered: twenty resources do not wait twenty times for the same answer.
type connection struct {
	open Open

	mu      sync.Mutex
	config  Config
	unknown []string // attributes of the provider block that are not known yet
	backend Backend
	failed  error
	reads   map[string]bool // UUIDs of VMs that were read and not planned since
}

// configure sets what get will open. Terraform configures a provider once, tests may do it again.
func (c *connection) configure(config Config, unknown []string) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	err := c.closeLocked()
	c.config, c.unknown, c.failed = config, unknown, nil
	return err
}

// get returns the backend, opening it if need be.
func (c *connection) get(ctx context.Context) (Backend, error) {
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

func (c *connection) cacheDir() string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.config.Cache
}

func (c *connection) chain() chain {
	c.mu.Lock()
	defer c.mu.Unlock()
	return chain{c.config.MaxLayers, c.config.MaxDeltaPercent}
}

func (c *connection) close() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.closeLocked()
}

func (c *connection) closeLocked() error {
	if c.backend == nil {
		return nil
	}
	backend := c.backend
	c.backend = nil
	if err := backend.Close(); err != nil {
		return fmt.Errorf("close the connection to %s: %w", c.config.URI, err)
	}
	return nil
}

// openError is a host that could not be opened.
type openError struct {
	uri, pool string
	cause     error
}

func (e *openError) Error() string {
	return fmt.Sprintf("open storage pool %q at %s: %v", e.pool, e.uri, e.cause)
}

func (e *openError) Unwrap() error { return e.cause }

// noteRead remembers that a VM was read; takeRead reports whether it was since it was last taken. A plan reads a VM
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
