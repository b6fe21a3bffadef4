package vm

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// bootFile returns the path from which QEMU reads a blob of the store: its volume, or a file in BootDir that is
// named by the digest. QEMU cannot read an initramfs from a device, whose size is not the blob's, so a volume
// on a device is copied to such a file. An existing file is checked, and written again if its content differs.
func (f *Fleet) bootFile(ctx context.Context, volume string, digest tree.Digest,
	content func() ([]byte, error)) (string, error) {
	if !hypervisor.IsDevice(volume) {
		return volume, nil
	}
	path := filepath.Join(f.BootDir, digest.Hex())
	found, err := f.Machine.Digest(ctx, path)
	switch {
	case err == nil && found == digest:
		return path, nil
	case err != nil && !errors.Is(err, fs.ErrNotExist):
		return "", err
	}
	data, err := content()
	if err != nil {
		return "", err
	}
	return path, f.Machine.WriteFile(ctx, path, data)
}

// SweepBootFiles removes the files in BootDir that no domain names, neither in its definition nor as it runs. Domains
// that other programs made count, too. The caller holds an exclusive lock on the pool, since a file is written before
// the definition that names it.
func (f *Fleet) SweepBootFiles(ctx context.Context) error {
	names, err := f.Machine.ListDir(ctx, f.BootDir)
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
	for _, name := range names {
		path := filepath.Join(f.BootDir, name)
		if _, named := slices.BinarySearch(booted, path); named {
			left++
			continue
		}
		if err := f.Machine.Remove(ctx, path); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return fmt.Errorf("remove boot files: %w", err)
		}
	}
	if left > 0 {
		return nil
	}
	if err := f.Machine.Remove(ctx, f.BootDir); err != nil {
		return fmt.Errorf("remove boot files: %w", err)
	}
	return nil
}
