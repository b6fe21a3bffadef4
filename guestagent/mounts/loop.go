package mounts

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"
)

// LoopsOn lists the loop devices, such as "/dev/loop0", whose file is one of a layer. The kernel holds that file.
func LoopsOn(shown []Shown) ([]string, error) {
	found, err := filepath.Glob(filepath.Join(sysBlock, "loop*", "loop")) // there only while the device has a file
	if err != nil {
		return nil, err
	}
	var on []string
	for _, directory := range found {
		node := filepath.Join("/dev", filepath.Base(filepath.Dir(directory)))
		device, err := loopDevice(node)
		if errors.Is(err, fs.ErrNotExist) || isNoDevice(err) {
			continue // it was detached meanwhile
		}
		if err != nil {
			return nil, fmt.Errorf("look at loop device %s: %w", node, err)
		}
		if slices.ContainsFunc(shown, func(s Shown) bool { return slices.Contains(s.Files, device) }) {
			on = append(on, node)
		}
	}
	return on, nil
}

// loopDevice returns the device number that the file of a loop device shows.
func loopDevice(node string) (device uint64, err error) {
	file, err := os.Open(node)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	info, err := unix.IoctlLoopGetStatus64(int(file.Fd()))
	if err != nil {
		return 0, err
	}
	return info.Device, nil
}
