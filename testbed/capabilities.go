package testbed

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
)

// capabilities is where libvirtd keeps, in its cache, what it found that QEMU can do. Asking a QEMU that emulates
// takes half a minute, so the answers are kept between testbeds. libvirtd checks by itself that they are about the
// QEMU, libvirt and kernel at hand.
const capabilities = "qemu/capabilities"

// recallCapabilities gives a testbed the answers that an earlier one got.
func (b *Testbed) recallCapabilities() error {
	cache, err := CacheDir()
	if err != nil {
		return err
	}
	return copyNew(filepath.Join(b.dir, "cache", capabilities), filepath.Join(cache, "libvirt", capabilities))
}

// keepCapabilities keeps the answers that this testbed got for later ones.
func (b *Testbed) keepCapabilities() error {
	cache, err := CacheDir()
	if err != nil {
		return err
	}
	return copyNew(filepath.Join(cache, "libvirt", capabilities), filepath.Join(b.dir, "cache", capabilities))
}

// copyNew copies the files of a directory that the other one, which is made, does not have with the same content
// size and time. A file is there completely or not at all.
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
		if there, err := os.Stat(target); err == nil && there.Size() == info.Size() && !there.ModTime().Before(info.ModTime()) {
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
