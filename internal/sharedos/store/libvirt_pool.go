package store

import (
	"context"
	"crypto/sha256"
	"encoding/xml"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/digitalocean/go-libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/libvirtconn"
)

// poolTries and poolPause say how often, and at what intervals, libvirt is asked again while another
// process works on the pool: it may be removing the pool because it is empty, or creating a volume.
const poolTries, poolPause = 20, 50 * time.Millisecond

// errNotStarted means that a pool is defined and cannot be started.
var errNotStarted = errors.New("it is not active and cannot be started")

// activePool looks up the pool and starts it. If another process is removing it meanwhile, it is looked up again.
func (s *Libvirt) activePool(ctx context.Context, l *libvirt.Libvirt,
	access access) (pool libvirt.StoragePool, err error) {
	for range poolTries {
		if pool, err = s.findPool(l, access); !errors.Is(err, errNotStarted) || s.config.CreatePath == "" {
			return pool, err
		}
		select {
		case <-ctx.Done():
			return pool, errors.Join(ctx.Err(), err)
		case <-time.After(poolPause):
		}
	}
	return pool, err
}

func (s *Libvirt) findPool(l *libvirt.Libvirt, access access) (libvirt.StoragePool, error) {
	pool, err := l.StoragePoolLookupByName(s.config.Pool)
	switch {
	case err == nil:
		return pool, s.startPool(l, pool)
	case !libvirtconn.Is(err, libvirt.ErrNoStoragePool):
		return pool, err
	case s.config.CreatePath == "":
		return pool, fmt.Errorf(
			"%w: libvirt at %s has no storage pool %q; define and start it, or set the directory in which it is to be "+
				"created", ErrAbsentPool, s.client.URI(), s.config.Pool)
	case access == reading:
		return pool, fmt.Errorf("storage pool %q: %w", s.config.Pool, ErrNoPool)
	}
	return s.createPool(l)
}

// CheckPool reports whether the pool would have to be created, and returns an error if it cannot be used: ErrConfig if
// its directory is that of another pool, which libvirt refuses. It changes nothing but that it starts a pool that is
// not active.
func (s *Libvirt) CheckPool(ctx context.Context) (missing bool, err error) {
	err = unreachable(s.client.Call(ctx, fmt.Sprintf("look at storage pool %q", s.config.Pool),
		func(l *libvirt.Libvirt) error {
			_, err := s.activePool(ctx, l, reading)
			if missing = errors.Is(err, ErrNoPool); !missing {
				return err
			}
			pools, _, err := l.ConnectListAllStoragePools(1, 0)
			if err != nil {
				return fmt.Errorf("list the storage pools: %w", err)
			}
			for _, pool := range pools {
				definition, err := poolDefinition(l, pool)
				if libvirtconn.Is(err, libvirt.ErrNoStoragePool) {
					continue // it has just been removed
				}
				if err != nil {
					return err
				}
				if definition.Target != nil &&
					filepath.Clean(definition.Target.Path) == filepath.Clean(s.config.CreatePath) {
					return fmt.Errorf(
						"%w: storage pool %q does not exist, and the directory in which it would be created, %s, is that of storage pool %q",
						ErrConfig, s.config.Pool, s.config.CreatePath, pool.Name)
				}
			}
			return nil
		}))
	return missing, err
}

func (s *Libvirt) startPool(l *libvirt.Libvirt, pool libvirt.StoragePool) error {
	active, err := l.StoragePoolIsActive(pool)
	if libvirtconn.Is(err, libvirt.ErrNoStoragePool) {
		return fmt.Errorf("%w: %w", errNotStarted, err)
	}
	if err != nil || active != 0 {
		return err
	}
	err = l.StoragePoolCreate(pool, 0)
	if err == nil || isActive(l, pool) {
		return nil
	}
	// A process that was killed while it removed the pool has left a pool without its directory.
	if definition, defErr := poolDefinition(l, pool); defErr == nil && s.originOf(definition) == madeDirectory {
		if l.StoragePoolBuild(pool, 0) == nil && l.StoragePoolCreate(pool, 0) == nil {
			return nil
		}
	}
	return fmt.Errorf("%w: storage pool %q: %w: %w; "+
		"check that its target exists (virsh pool-dumpxml %[2]s) and start it (virsh pool-start %[2]s)", ErrUnreachable,
		s.config.Pool, errNotStarted, err)
}

// isActive reports whether a pool is active. After a failure it shows that another process did the same work first.
func isActive(l *libvirt.Libvirt, pool libvirt.StoragePool) bool {
	active, err := l.StoragePoolIsActive(pool)
	return err == nil && active != 0
}

// origin says what createPool has made. A pool has no metadata, so its UUID records the origin: it
// is the mark that a pool is ours.
type origin string

const (
	// madeDirectory: the pool and its directory.
	madeDirectory origin = "directory"
	// madePool: the pool, in a directory that was there before.
	madePool origin = "pool"
)

// poolUUID is the UUID of a pool that createPool makes.
func (s *Libvirt) poolUUID(of origin) string {
	sum := sha256.Sum256([]byte("sharedos " + string(of) + " " + s.config.Pool + " " +
		filepath.Clean(s.config.CreatePath)))
	sum[6], sum[8] = sum[6]&0x0f|0x80, sum[8]&0x3f|0x80 // version 8, RFC 9562
	return fmt.Sprintf("%x-%x-%x-%x-%x", sum[:4], sum[4:6], sum[6:8], sum[8:10], sum[10:16])
}

// originOf returns what createPool has made of a pool; "" if the pool is somebody else's, whatever
// its name and directory are.
func (s *Libvirt) originOf(pool libvirtxml.StoragePool) origin {
	for _, of := range []origin{madeDirectory, madePool} {
		if s.config.CreatePath != "" && pool.UUID == s.poolUUID(of) {
			return of
		}
	}
	return ""
}

// createPool creates a directory pool. Each step may have been done before, by a call that was
// interrupted or by another process.
func (s *Libvirt) createPool(l *libvirt.Libvirt) (libvirt.StoragePool, error) {
	s.creating.Lock()
	defer s.creating.Unlock()
	if existing, err := l.StoragePoolLookupByName(s.config.Pool); err == nil {
		return existing, s.startPool(l, existing)
	}
	// Another process that creates the pool, too, can make any step fail, so all of it is tried again (activePool).
	fail := func(step string, err error) (libvirt.StoragePool, error) {
		err = fmt.Errorf("%w: %w", errNotStarted, err)
		return libvirt.StoragePool{}, fmt.Errorf("%s storage pool %q in the directory %s: %w; libvirt at %s must be "+
			"able to create and write this directory: fix its permissions, choose another one, or define the pool "+
			"yourself",
			step, s.config.Pool, s.config.CreatePath, err, s.client.URI())
	}
	define := func(of origin) (libvirt.StoragePool, error) {
		definition, err := xml.Marshal(libvirtxml.StoragePool{
			Type: "dir", Name: s.config.Pool, UUID: s.poolUUID(of),
			Target: &libvirtxml.StoragePoolTarget{Path: s.config.CreatePath},
		})
		if err != nil {
			return libvirt.StoragePool{}, err
		}
		return l.StoragePoolDefineXML(string(definition), 0)
	}
	// Only libvirt can tell whether the directory is there: it starts no pool without one.
	pool, err := define(madePool)
	if err == nil {
		if err = l.StoragePoolCreate(pool, 0); err != nil && !isActive(l, pool) {
			err = l.StoragePoolUndefine(pool)
			if err == nil || libvirtconn.Is(err, libvirt.ErrNoStoragePool) { // another process was faster
				pool, err = define(madeDirectory)
			}
			if err == nil {
				err = l.StoragePoolBuild(pool, 0)
			}
			if err == nil {
				err = l.StoragePoolCreate(pool, 0)
			}
		}
	}
	if pool.Name == "" {
		existing, lookupErr := l.StoragePoolLookupByName(s.config.Pool)
		if lookupErr != nil {
			return fail("define", err)
		}
		return existing, s.startPool(l, existing)
	}
	if err == nil {
		err = l.StoragePoolSetAutostart(pool, 1)
	}
	if err != nil && !isActive(l, pool) {
		// The next attempt may use another directory, so a definition that never worked must not stay.
		if undefineErr := l.StoragePoolUndefine(pool); undefineErr != nil {
			err = errors.Join(err, undefineErr)
		}
		return fail("create", err)
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

// removePool removes the pool if createPool has made it and it is empty.
func (s *Libvirt) removePool(ctx context.Context) error {
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
		made := s.originOf(definition)
		if made == "" {
			return nil
		}
		if err := s.refresh(l, pool); err != nil {
			return err
		}
		volumes, err := l.StoragePoolNumOfVolumes(pool)
		if err != nil || volumes > 0 {
			return err // another process has just stored something
		}
		if err := l.StoragePoolDestroy(pool); err != nil {
			if isActive(l, pool) {
				return nil // another process is storing something
			}
			return err
		}
		if made == madeDirectory {
			// libvirt deletes the directory only if it is empty.
			if err := l.StoragePoolDelete(pool, 0); err != nil {
				return errors.Join(err, l.StoragePoolCreate(pool, 0))
			}
		}
		return l.StoragePoolUndefine(pool)
	}))
}

// refresh makes libvirt read what the pool holds. libvirt refuses while a volume is created or deleted.
// That is no failure, because then libvirt itself is changing the pool and knows what it holds.
func (s *Libvirt) refresh(l *libvirt.Libvirt, pool libvirt.StoragePool) error {
	err := l.StoragePoolRefresh(pool, 0)
	if err == nil {
		return nil
	}
	var answer libvirt.Error
	if errors.As(err, &answer) && isActive(l, pool) {
		return nil
	}
	return fmt.Errorf("%w: refresh storage pool %q: %w", ErrUnreachable, s.config.Pool, err)
}
