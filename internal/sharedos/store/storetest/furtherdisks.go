package storetest

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
)

// qcow2Header is the start of an image of that format: the magic, and at 24 its size.
const qcow2Header = "QFI\xfb\x00\x00\x00\x03"

// AddPool makes another storage pool, empty.
func (s *Store) AddPool(pool string) error { return os.MkdirAll(s.poolDir(pool), 0o700) }

// PathIn is Path for another pool.
func (s *Store) PathIn(pool, volume string) string { return filepath.Join(s.poolDir(pool), volume) }

func (s *Store) poolDir(pool string) string {
	if pool == "" {
		return s.dir
	}
	return filepath.Join(s.dir, "pools", pool)
}

// inPool checks that a pool exists.
func (s *Store) inPool(ctx context.Context, method, pool, volume string, changes bool) error {
	if err := s.enter(ctx, method, volume, changes); err != nil {
		return err
	}
	if _, err := os.Stat(s.poolDir(pool)); errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("storage pool %q: %w", pool, store.ErrAbsentPool)
	}
	return nil
}

// CreateDisk implements store.Disks.
func (s *Store) CreateDisk(ctx context.Context, pool, name string, size int64, format string,
	inUse bool) (string, error) {
	if of, ok := store.ParseVolumeName(name); !ok || of.Kind != store.FurtherDiskVolume {
		return "", fmt.Errorf("%q is not the name of a further disk's volume", name)
	}
	if err := s.inPool(ctx, "CreateDisk", pool, name, true); err != nil {
		return "", err
	}
	if size <= 0 {
		return "", fmt.Errorf("create disk %s: a size of %d bytes is not possible", name, size)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	path := s.PathIn(pool, name)
	found, has, err := s.inspect(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
	case err != nil:
		return "", err
	case inUse:
		return path, nil
	case has != format:
		return "", fmt.Errorf("disk %s: %w %s", name, store.ErrFormat, has)
	case found.Capacity > s.rounded(size):
		return "", fmt.Errorf("disk %s: %w from %d to %d bytes", name, store.ErrShrink, found.Capacity, size)
	case found.Capacity == s.rounded(size):
		return path, nil
	}
	if format == "raw" {
		file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
		if err != nil {
			return "", err
		}
		return path, errors.Join(file.Truncate(s.rounded(size)), file.Close())
	}
	header := append([]byte(qcow2Header), make([]byte, 24)...)
	binary.BigEndian.PutUint64(header[24:], uint64(s.rounded(size))) //nolint:gosec // it is positive
	return path, os.WriteFile(path, header, 0o600)
}

// inspect reads the size and the format of a volume.
func (s *Store) inspect(path string) (store.Volume, string, error) {
	info, err := os.Stat(path)
	if err != nil {
		return store.Volume{}, "", err
	}
	volume := s.volume(info)
	volume.Path = path
	head := make([]byte, 32)
	file, err := os.Open(path)
	if err != nil {
		return volume, "", err
	}
	n, _ := file.ReadAt(head, 0) // a file that is shorter is raw
	if err := file.Close(); err != nil {
		return volume, "", err
	}
	if n == len(head) && bytes.HasPrefix(head, []byte(qcow2Header)) {
		volume.Capacity = int64(binary.BigEndian.Uint64(head[24:])) //nolint:gosec // CreateDisk has written it
		return volume, "qcow2", nil
	}
	return volume, "raw", nil
}

// DeleteDisk implements store.Disks.
func (s *Store) DeleteDisk(ctx context.Context, pool, name string) error {
	if of, ok := store.ParseVolumeName(name); !ok || of.Kind != store.FurtherDiskVolume {
		return fmt.Errorf("%q is not the name of a further disk's volume", name)
	}
	if err := s.inPool(ctx, "DeleteDisk", pool, name, true); err != nil {
		return err
	}
	if err := os.Remove(s.PathIn(pool, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// FindVolume implements store.Disks.
func (s *Store) FindVolume(ctx context.Context, pool, name string) (store.Volume, string, error) {
	if err := s.inPool(ctx, "FindVolume", pool, name, false); err != nil {
		return store.Volume{}, "", err
	}
	found, format, err := s.inspect(s.PathIn(pool, name))
	if errors.Is(err, fs.ErrNotExist) {
		err = fmt.Errorf("volume %s: %w", name, store.ErrNotFound)
	}
	return found, format, err
}

// RoomIn implements store.Disks.
func (s *Store) RoomIn(ctx context.Context, pool string) (store.Room, error) {
	if err := s.inPool(ctx, "RoomIn", pool, "", false); err != nil {
		return store.Room{}, err
	}
	return s.Room(ctx)
}
