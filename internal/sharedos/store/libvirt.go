package store

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"sync"
	"sync/atomic"
	"time"

	"github.com/digitalocean/go-libvirt"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/libvirtconn"
)

// Config names a storage pool.
type Config struct {
	// Pool is the name of the storage pool.
	Pool string
	// CreatePath is the directory in which the pool is created when something is to be stored and
	// there is no pool of the name. If it is empty, the pool has to exist.
	CreatePath string
}

// Libvirt is a Store in a libvirt storage pool.
type Libvirt struct {
	config Config
	client *libvirtconn.Client
	// empty is true if a sweep under an Exclusive lock left no volume except locks.
	empty atomic.Bool
	// creating is locked while this process creates the pool.
	creating sync.Mutex
	// verified has the names of volumes whose whole content this process knows to be right.
	verified sync.Map
	locker   Locker
}

var _ Store = (*Libvirt)(nil)

// New returns the store in a pool of a libvirt. Each call looks the pool up, and a call that stores
// something creates it. Close leaves the client open.
func New(client *libvirtconn.Client, config Config) (*Libvirt, error) {
	if !plain.MatchString(config.Pool) {
		return nil, fmt.Errorf(
			"%w: %q cannot name a storage pool: use 1 to 100 letters, digits and ._+-, starting with a letter or digit",
			ErrConfig, config.Pool)
	}
	if config.CreatePath != "" && !filepath.IsAbs(config.CreatePath) {
		return nil, fmt.Errorf("%w: storage pool %q: its directory %q is not an absolute path", ErrConfig,
			config.Pool, config.CreatePath)
	}
	s := &Libvirt{config: config, client: client}
	s.locker.Volumes = lockVolumes{s}
	return s, nil
}

// Close implements Store. It releases a lock that lingers, which needs the client.
func (s *Libvirt) Close() error {
	ctx, cancel := context.WithTimeout(context.Background(), lockReleaseTimeout)
	defer cancel()
	return s.locker.Close(ctx)
}

// unreachable makes a libvirt that does not answer match ErrUnreachable.
func unreachable(err error) error {
	if errors.Is(err, libvirtconn.ErrUnreachable) {
		return fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	return err
}

// busyTimeout bounds how long a volume may be busy. libvirt marks a volume as busy while it is
// created, and for a moment when an upload begins.
const busyTimeout = 20 * time.Second

// retryBusy repeats fn while libvirt answers that the volume is busy, or that the pool has just been removed.
func retryBusy(ctx context.Context, fn func() error) error {
	deadline := time.Now().Add(busyTimeout)
	for wait := 10 * time.Millisecond; ; wait = min(2*wait, 200*time.Millisecond) {
		err := fn()
		if !libvirtconn.Is(err, libvirt.ErrOperationInvalid, libvirt.ErrNoStoragePool) || time.Now().After(deadline) {
			return err
		}
		select {
		case <-ctx.Done():
			return errors.Join(ctx.Err(), err)
		case <-time.After(wait):
		}
	}
}

// transfer moves bytes into and out of volumes.
func (s *Libvirt) transfer(ctx context.Context, what string, fn func(*libvirtconn.Transfer) error) error {
	return unreachable(retryBusy(ctx, func() error { return s.client.Transfer(ctx, what, fn) }))
}

// access is what a call does when the pool does not exist.
type access bool

const (
	// reading finds nothing.
	reading access = false
	// storing creates it.
	storing access = true
)

// call runs fn with the active pool.
func (s *Libvirt) call(ctx context.Context, what string, access access,
	fn func(*libvirt.Libvirt, libvirt.StoragePool) error) error {
	return unreachable(retryBusy(ctx, func() error {
		return s.client.Call(ctx, what, func(l *libvirt.Libvirt) error {
			pool, err := s.activePool(ctx, l, access)
			if err != nil {
				return err
			}
			return fn(l, pool)
		})
	}))
}
