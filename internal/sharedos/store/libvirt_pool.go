package store

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"path/filepath"
	"time"

	"github.com/digitalocean/go-libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/libvirtconn"
)

// poolTries and poolPause say how often, and at what intervals, libvirt is asked again while another process works on the pool: it
// may be removing the pool because it is empty, or creating a volume.
const poolTries, poolPause = 20, 50 * time.Millisecond

// errNotStarted means that a pool is defined and cannot be started.
var errNotStarted = errors.New("it is not active and cannot be started")

// activePool looks up the pool and starts it. If another process is removing it meanwhile, it is looked up again.
func (s *Libvirt) activePool(ctx context.Context, l *libvirt.Libvirt, access access) (pool libvirt.StoragePool, err error) {
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
		return pool, fmt.Errorf("%w: libvirt at %s has no storage pool %q; define and start it, or set the directory in which it is to be created",
			ErrUnreachable, s.client.URI(), s.config.Pool)
	case access == reading:
		return pool, fmt.Errorf("there is no storage pool %q yet: %w", s.config.Pool, ErrNotFound)
	}
	return s.createPool(l)
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
	return fmt.Errorf("%w: storage pool %q: %w: %w; "+
		"check that its target exists (virsh pool-dumpxml %[2]s) and start it (virsh pool-start %[2]s)", ErrUnreachable, s.config.Pool, errNotStarted, err)
}

// isActive reports whether a pool is active. After a failure it shows that another process did the same work first.
func isActive(l *libvirt.Libvirt, pool libvirt.StoragePool) bool {
	active, err := l.StoragePoolIsActive(pool)
	return err == nil && active != 0
}

// createPool creates a directory pool. Each step may have been done before, by a call that was interrupted or by another process.
func (s *Libvirt) createPool(l *libvirt.Libvirt) (libvirt.StoragePool, error) {
	fail := func(step string, err error) (libvirt.StoragePool, error) {
		return libvirt.StoragePool{}, fmt.Errorf("%s storage pool %q in the directory %s: %w; "+
			"libvirt at %s must be able to create and write this directory: fix its permissions, choose another one, or define the pool yourself",
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
		existing, lookupErr := l.StoragePoolLookupByName(s.config.Pool)
		if lookupErr != nil {
			return fail("define", err)
		}
		return existing, s.startPool(l, existing)
	}
	err = l.StoragePoolBuild(pool, 0)
	if err == nil {
		err = l.StoragePoolCreate(pool, 0)
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

// removePool removes the pool if it is one that createPool creates and it is empty.
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
		created := definition.Type == "dir" && definition.Target != nil && s.config.CreatePath != "" &&
			filepath.Clean(definition.Target.Path) == filepath.Clean(s.config.CreatePath)
		if !created {
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
		// libvirt deletes the directory only if it is empty.
		if err := l.StoragePoolDelete(pool, 0); err != nil {
			return errors.Join(err, l.StoragePoolCreate(pool, 0))
		}
		return l.StoragePoolUndefine(pool)
	}))
}

// refresh makes libvirt read what the pool holds. libvirt refuses while a volume is created or deleted. That is no failure, because
// then libvirt itself is changing the pool and knows what it holds.
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
