package testbed

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
)

// capabilities is where libvirtd keeps, in its cache, what QEMU told it about its capabilities. An
// emulating QEMU takes half a minute to tell them, so they are kept between testbeds. libvirtd
// itself checks that they belong to the present QEMU, libvirt and kernel.
const capabilities = "qemu/capabilities"

// keepCapabilities keeps what libvirtd learned about QEMU since it was started.
func (b *Testbed) keepCapabilities() error {
	cache, err := CacheDir()
	if err != nil {
		return err
	}
	return copyNew(filepath.Join(cache, "libvirt", capabilities), filepath.Join(b.dir, "cache", capabilities))
}

// withCapabilities starts libvirtd with the capabilities that an earlier testbed kept. If none were kept, it has
// libvirtd ask QEMU, and other testbeds wait for that: if each of them asked, this would take all processors for
// minutes.
func (b *Testbed) withCapabilities(ctx context.Context, start func(context.Context) error) (err error) {
	cache, err := CacheDir()
	if err != nil {
		return err
	}
	kept, own := filepath.Join(cache, "libvirt", capabilities), filepath.Join(b.dir, "cache", capabilities)
	if err := os.MkdirAll(kept, 0o755); err != nil {
		return err
	}
	unlock, err := Lock(ctx, kept)
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(kept)
	if err != nil {
		return errors.Join(err, unlock())
	}
	if len(entries) > 0 {
		if err := errors.Join(copyNew(own, kept), unlock()); err != nil {
			return err
		}
		return start(ctx)
	}
	defer func() { err = errors.Join(err, unlock()) }()
	if err := start(ctx); err != nil {
		return err
	}
	// libvirtd asks QEMU only when a client asks libvirtd.
	asked, cancel := context.WithTimeout(ctx, startTimeout)
	defer cancel()
	if said, err := exec.CommandContext(asked, "virsh", "-c", b.URI(), "capabilities").CombinedOutput(); err != nil {
		return fmt.Errorf("ask libvirtd for its capabilities: %w: %s", err, bytes.TrimSpace(said))
	}
	return copyNew(kept, own)
}

// copyNew copies those files of a directory that another directory lacks or has in an older form. It makes the
// other directory if necessary. A file appears there whole or not at all.
func copyNew(to, from string) error {
	entries, err := os.ReadDir(from)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	for _, entry := range entries {
		info, err := entry.Info()
		if errors.Is(err, fs.ErrNotExist) || err == nil && !info.Mode().IsRegular() {
			continue
		}
		if err != nil {
			return err
		}
		target := filepath.Join(to, entry.Name())
		if there, err := os.Stat(target); err == nil && there.Size() == info.Size() &&
			!there.ModTime().Before(info.ModTime()) {
			continue
		}
		data, err := os.ReadFile(filepath.Join(from, entry.Name()))
		if err != nil {
			return err
		}
		if err := replace(target, data); err != nil {
			return err
		}
	}
	return nil
}

func replace(target string, data []byte) (err error) {
	file, err := os.CreateTemp(filepath.Dir(target), ".new-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, os.Remove(file.Name()))
		}
	}()
	_, err = file.Write(data)
	if err = errors.Join(err, file.Close()); err != nil {
		return err
	}
	return os.Rename(file.Name(), target)
}
