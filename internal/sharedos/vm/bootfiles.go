package vm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// bootFile is where QEMU finds a blob of the store: its volume, or, if that is a device, from which QEMU reads no initramfs
// and whose size is not the blob's, a file in BootDir, named by the digest. A file that is there is read and checked: it is
// written again if it holds anything else.
func (f *Fleet) bootFile(volume string, digest tree.Digest, content func() ([]byte, error)) (string, error) {
	if !hypervisor.IsDevice(volume) {
		return volume, nil
	}
	path := filepath.Join(f.BootDir, digest.Hex())
	data, err := os.ReadFile(path)
	switch {
	case err == nil && tree.Sum(data) == digest:
		return path, nil
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return "", err
	}
	if data, err = content(); err != nil {
		return "", err
	}
	return path, writeWhole(path, data)
}

// SweepBootFiles removes the files in BootDir that no domain names, as it is defined or as it runs, whoever made it. It is for
// whoever holds an exclusive lock on the pool: a file comes before the definition that names it.
func (f *Fleet) SweepBootFiles(ctx context.Context) error {
	entries, err := os.ReadDir(f.BootDir)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("remove boot files: %w", err)
	}
	booted, err := f.Hypervisor.BootFiles(ctx)
	if err != nil {
		return fmt.Errorf("remove boot files: %w", err)
	}
	left := 0
	for _, entry := range entries {
		path := filepath.Join(f.BootDir, entry.Name())
		if _, named := slices.BinarySearch(booted, path); named {
			left++
			continue
		}
		if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove boot files: %w", err)
		}
	}
	if left > 0 {
		return nil
	}
	if err := os.Remove(f.BootDir); err != nil {
		return fmt.Errorf("remove boot files: %w", err)
	}
	return nil
}

// writeWhole makes the file appear whole or not at all, for every user to read.
func writeWhole(path string, data []byte) error {
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return err
	}
	file, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return err
	}
	_, err = file.Write(data)
	err = errors.Join(err, file.Chmod(0o644), file.Sync(), file.Close())
	if err == nil {
		err = os.Rename(file.Name(), path)
	}
	if err != nil {
		return errors.Join(err, os.Remove(file.Name()))
	}
	return nil
}
