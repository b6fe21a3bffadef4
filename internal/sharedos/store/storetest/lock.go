package storetest

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
)

// Lock implements store.Store.
func (s *Store) Lock(ctx context.Context, mode store.LockMode,
	tell func(string)) (context.Context, func() error, error) {
	if err := s.enter(ctx, "Lock", "", false); err != nil {
		return nil, nil, err
	}
	return s.locker.Lock(ctx, mode, tell)
}

// LockVolumes are files in a directory.
type LockVolumes string

var _ store.LockVolumes = LockVolumes("")

// CreateLock implements store.LockVolumes.
func (d LockVolumes) CreateLock(ctx context.Context, name string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	file, err := os.OpenFile(d.path(name), os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return err
	}
	return file.Close()
}

func (d LockVolumes) path(name string) string { return string(d) + "/" + name }

// Locks implements store.LockVolumes.
func (d LockVolumes) Locks(ctx context.Context) ([]string, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(string(d))
	if err != nil {
		return nil, err
	}
	var names []string
	for _, entry := range entries {
		if name, ours := store.ParseVolumeName(entry.Name()); ours && name.Kind == store.LockVolume {
			names = append(names, entry.Name())
		}
	}
	return names, nil
}

// DeleteLock implements store.LockVolumes.
func (d LockVolumes) DeleteLock(ctx context.Context, name string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	err := os.Remove(d.path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("volume %s: %w", name, store.ErrNotFound)
	}
	return err
}
