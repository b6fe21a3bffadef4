package store

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"time"

	"github.com/digitalocean/go-libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/libvirtconn"
)

// Config says which pool.
type Config struct {
	// Pool is the name of the storage pool.
	Pool string
	// CreatePath is the directory of the pool if there is none of the name and something is to be stored. Empty
	// if the pool is somebody else's to make.
	CreatePath string
}

// Libvirt is a Store in a libvirt storage pool.
type Libvirt struct {
	config Config
	client *libvirtconn.Client
	// swept is true when a sweep left nothing but perhaps locks.
	swept  atomic.Bool
	locker Locker
}

var _ Store = (*Libvirt)(nil)

// New returns the store in a pool of a libvirt. The pool is looked up by each call, and created when something is stored.
// Closing the store leaves the client open.
func New(client *libvirtconn.Client, config Config) (*Libvirt, error) {
	if !plain.MatchString(config.Pool) {
		return nil, fmt.Errorf("%q cannot name a storage pool: use 1 to 100 letters, digits and ._+-, first a letter or digit", config.Pool)
	}
	if config.CreatePath != "" && !filepath.IsAbs(config.CreatePath) {
		return nil, fmt.Errorf("storage pool %q: its directory %q is not an absolute path", config.Pool, config.CreatePath)
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

// unreachable gives a failure to ask libvirt this package's name.
func unreachable(err error) error {
	if errors.Is(err, libvirtconn.ErrUnreachable) {
		return fmt.Errorf("%w: %w", ErrUnreachable, err)
	}
	return err
}

// busyTimeout bounds how long a volume may be busy with what somebody else does to it: libvirt marks it for the
// moment in which an upload begins, and while it is made.
const busyTimeout = 20 * time.Second

// patiently repeats fn while libvirt says that the volume is busy, or that the pool has just gone.
func patiently(ctx context.Context, fn func() error) error {
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
	return unreachable(patiently(ctx, func() error { return s.client.Transfer(ctx, what, fn) }))
}

// call runs fn with the active pool. Without a pool, a call that stores makes it, and any other finds nothing.
func (s *Libvirt) call(ctx context.Context, what string, stores bool, fn func(*libvirt.Libvirt, libvirt.StoragePool) error) error {
	return unreachable(patiently(ctx, func() error {
		return s.client.Call(ctx, what, func(l *libvirt.Libvirt) error {
			pool, err := s.pool(l, stores)
			if err != nil {
				return err
			}
			return fn(l, pool)
		})
	}))
}

// dropTries and dropPause are how often, and in what distance, a pool is looked for again that cannot be started: another
// process may be removing it, since nothing was in it.
const dropTries, dropPause = 20, 50 * time.Millisecond

func (s *Libvirt) pool(l *libvirt.Libvirt, stores bool) (pool libvirt.StoragePool, err error) {
	for range dropTries {
		if pool, err = s.poolNow(l, stores); !errors.Is(err, errNotStarted) || s.config.CreatePath == "" {
			return pool, err
		}
		time.Sleep(dropPause)
	}
	return pool, err
}

func (s *Libvirt) poolNow(l *libvirt.Libvirt, stores bool) (libvirt.StoragePool, error) {
	pool, err := l.StoragePoolLookupByName(s.config.Pool)
	switch {
	case err == nil:
		return pool, s.activate(l, pool)
	case !libvirtconn.Is(err, libvirt.ErrNoStoragePool):
		return pool, err
	case s.config.CreatePath == "":
		return pool, fmt.Errorf("%w: libvirt at %s has no storage pool %q; define and start it, or give the directory to make it in",
			ErrUnreachable, s.client.URI(), s.config.Pool)
	case !stores:
		return pool, fmt.Errorf("there is no storage pool %q yet: %w", s.config.Pool, ErrNotFound)
	}
	return s.makePool(l)
}

// errNotStarted means that a pool is defined and cannot be started.
var errNotStarted = errors.New("it is not active and cannot be started")

func (s *Libvirt) activate(l *libvirt.Libvirt, pool libvirt.StoragePool) error {
	active, err := l.StoragePoolIsActive(pool)
	if libvirtconn.Is(err, libvirt.ErrNoStoragePool) {
		return fmt.Errorf("%w: %w", errNotStarted, err)
	}
	if err != nil || active != 0 {
		return err
	}
	err = l.StoragePoolCreate(pool, 0)
	if err == nil || nowActive(l, pool) {
		return nil
	}
	return fmt.Errorf("%w: storage pool %q: %w: %w; "+
		"see that its target is there (virsh pool-dumpxml %[2]s) and start it (virsh pool-start %[2]s)", ErrUnreachable, s.config.Pool, errNotStarted, err)
}

// nowActive reports whether somebody else was faster.
func nowActive(l *libvirt.Libvirt, pool libvirt.StoragePool) bool {
	active, err := l.StoragePoolIsActive(pool)
	return err == nil && active != 0
}

// makePool makes a directory pool. Every step may have been done already, by a call that was cut off or by somebody else.
func (s *Libvirt) makePool(l *libvirt.Libvirt) (libvirt.StoragePool, error) {
	fail := func(step string, err error) (libvirt.StoragePool, error) {
		return libvirt.StoragePool{}, fmt.Errorf("%s storage pool %q in the directory %s: %w; "+
			"libvirt at %s must be able to make and write this directory: fix its permissions, choose another one, or define the pool yourself",
			step, s.config.Pool, s.config.CreatePath, err, s.client.URI())
	}
	definition, err := xml.Marshal(libvirtxml.StoragePool{
		Type:   "dir",
		Name:   s.config.Pool,
		Target: &libvirtxml.StoragePoolTarget{Path: s.config.CreatePath},
	})
	if err != nil {
		return fail("describe", err)
	}
	pool, err := l.StoragePoolDefineXML(string(definition), 0)
	if err != nil {
		var found error
		if pool, found = l.StoragePoolLookupByName(s.config.Pool); found != nil {
			return fail("define", err)
		}
		return pool, s.activate(l, pool)
	}
	err = l.StoragePoolBuild(pool, 0)
	if err == nil {
		err = l.StoragePoolCreate(pool, 0)
	}
	if err == nil {
		err = l.StoragePoolSetAutostart(pool, 1)
	}
	if err != nil && !nowActive(l, pool) {
		// A pool that never worked is in the way of the next attempt, which may be in another directory.
		if gone := l.StoragePoolUndefine(pool); gone != nil {
			err = errors.Join(err, gone)
		}
		return fail("make", err)
	}
	return pool, nil
}

func poolDefinition(l *libvirt.Libvirt, pool libvirt.StoragePool) (libvirtxml.StoragePool, error) {
	var definition libvirtxml.StoragePool
	text, err := l.StoragePoolGetXMLDesc(pool, 0)
	if err != nil {
		return definition, err
	}
	if err := definition.Unmarshal(text); err != nil {
		return definition, fmt.Errorf("read the definition of storage pool %q: %w", pool.Name, err)
	}
	return definition, nil
}

// dropPool removes the pool if it is the one that makePool makes and holds nothing.
func (s *Libvirt) dropPool(ctx context.Context) error {
	what := fmt.Sprintf("remove the empty storage pool %q", s.config.Pool)
	return unreachable(s.client.Call(ctx, what, func(l *libvirt.Libvirt) error {
		pool, err := l.StoragePoolLookupByName(s.config.Pool)
		if libvirtconn.Is(err, libvirt.ErrNoStoragePool) {
			return nil
		}
		if err != nil {
			return err
		}
		definition, err := poolDefinition(l, pool)
		if err != nil {
			return err
		}
		ours := definition.Type == "dir" && definition.Target != nil && s.config.CreatePath != "" &&
			filepath.Clean(definition.Target.Path) == filepath.Clean(s.config.CreatePath)
		if !ours {
			return nil
		}
		if err := s.refresh(l, pool); err != nil {
			return err
		}
		volumes, err := l.StoragePoolNumOfVolumes(pool)
		if err != nil || volumes > 0 {
			return err // somebody stores something this moment
		}
		if err := l.StoragePoolDestroy(pool); err != nil {
			if nowActive(l, pool) {
				return nil // as above
			}
			return err
		}
		// libvirt removes a directory only if it is empty.
		if err := l.StoragePoolDelete(pool, 0); err != nil {
			return errors.Join(err, l.StoragePoolCreate(pool, 0))
		}
		return l.StoragePoolUndefine(pool)
	}))
}

// find looks a volume up, and looks again after a refresh: others may have put it there.
func (s *Libvirt) find(l *libvirt.Libvirt, pool libvirt.StoragePool, name string) (libvirt.StorageVol, error) {
	volume, err := l.StorageVolLookupByName(pool, name)
	if !libvirtconn.Is(err, libvirt.ErrNoStorageVol) {
		return volume, err
	}
	if err := s.refresh(l, pool); err != nil {
		return volume, err
	}
	volume, err = l.StorageVolLookupByName(pool, name)
	if libvirtconn.Is(err, libvirt.ErrNoStorageVol) {
		return volume, fmt.Errorf("volume %s in storage pool %q: %w", name, s.config.Pool, ErrNotFound)
	}
	return volume, err
}

// refresh makes libvirt look at what the pool holds. It refuses while a volume is being made or deleted, which
// is no failure: what it knows then is what it made.
func (s *Libvirt) refresh(l *libvirt.Libvirt, pool libvirt.StoragePool) error {
	err := l.StoragePoolRefresh(pool, 0)
	if err == nil {
		return nil
	}
	var answer libvirt.Error
	if errors.As(err, &answer) && nowActive(l, pool) {
		return nil
	}
	return fmt.Errorf("%w: look at what storage pool %q holds: %w", ErrUnreachable, s.config.Pool, err)
}
