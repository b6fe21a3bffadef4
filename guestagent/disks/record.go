package disks

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/fileio"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/mounts"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// givenFile records what the running system was given; current what its units in /run are.
const (
	givenFile   = mounts.StateDir + "/disks.json"
	currentFile = mounts.RunDir + "/disks.json"
	maxFile     = 64 << 10
)

// given are the disks that a running system was given. Over identifies those in the firmware at that time:
// if the firmware has other ones, the VM was powered on since, with another definition, which counts then.
type given struct {
	Over  string                 `json:"over"`
	Disks []agentapi.MountedDisk `json:"disks"`
}

// Firmware is what the boot configuration says of disks.
type Firmware struct {
	Disks []agentapi.MountedDisk
	// Changes is that of the boot configuration.
	Changes int
}

// digest identifies the disks in the firmware.
func (f Firmware) digest() (string, error) {
	says := []any{slices.Concat([]agentapi.MountedDisk{}, f.Disks)}
	if f.Changes > 0 {
		says = append(says, f.Changes)
	}
	text, err := json.Marshal(says)
	if err != nil {
		return "", err
	}
	return tree.Sum(text).String(), nil
}

// effective returns the disks of the firmware, or those in the file if the system was given them
// since the VM was powered on. It removes a file that is older, or that cannot be read.
func effective(file string, firmware Firmware) ([]agentapi.MountedDisk, error) {
	text, err := fileio.Read(file, maxFile)
	if errors.Is(err, fs.ErrNotExist) {
		return firmware.Disks, nil
	}
	over, overErr := firmware.digest()
	var has given
	if err = errors.Join(err, overErr); err == nil {
		err = json.Unmarshal(text, &has)
	}
	if err == nil {
		err = agentapi.CheckMountedDisks(has.Disks)
	}
	if err == nil && has.Over == over {
		return has.Disks, nil
	}
	if err = errors.Join(err, fileio.Remove(file)); err != nil {
		return firmware.Disks, fmt.Errorf("read which disks the VM was given: %w", err)
	}
	return firmware.Disks, nil
}

// remember records the disks that a running system is given.
func remember(file string, firmware Firmware, disks []agentapi.MountedDisk) error {
	over, err := firmware.digest()
	if err != nil {
		return err
	}
	text, err := json.Marshal(given{over, disks})
	if err != nil {
		return err
	}
	return fileio.Replace(file, text, 0o600)
}

// readCurrent returns the disks whose units are in /run.
func readCurrent(file string) (disks []agentapi.MountedDisk, err error) {
	text, err := fileio.Read(file, maxFile)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err == nil {
		err = json.Unmarshal(text, &disks)
	}
	return disks, err
}

// Install writes the units of the disks in a boot configuration, or of those that the system was
// given since. Disks that are wrong are left out: they are no reason not to boot.
func Install(firmware Firmware) error {
	attached, err := mounts.Disks()
	return errors.Join(err, install(Own, firmware, attached))
}

func install(places Places, firmware Firmware, attached []mounts.Disk) error {
	disks, err := effective(places.Given, firmware)
	if wrong := agentapi.CheckMountedDisks(disks); wrong != nil {
		return errors.Join(err, wrong)
	}
	return errors.Join(err, writeUnits(places.Units, places.Current, nil, disks, attached))
}

// writeUnits replaces the units of some disks by those of others. attached are the disks that the kernel shows.
func writeUnits(directory, current string, before, disks []agentapi.MountedDisk, attached []mounts.Disk) error {
	for _, disk := range before {
		files, link := filesOf(disk, 0)
		for name := range files {
			if err := fileio.Remove(filepath.Join(directory, name)); err != nil {
				return err
			}
		}
		if err := fileio.Remove(filepath.Join(directory, link)); err != nil {
			return err
		}
	}
	for _, disk := range disks {
		wait := absentWait
		if slices.ContainsFunc(attached, func(a mounts.Disk) bool { return a.Serial == disk.Serial }) {
			wait = attachedWait
		}
		files, link := filesOf(disk, wait)
		for name, content := range files {
			path := filepath.Join(directory, name)
			if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
				return err
			}
			if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
				return err
			}
		}
		path := filepath.Join(directory, link)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		if err := os.Symlink(filepath.Join("..", mountUnit(disk.MountPoint)), path); err != nil &&
			!errors.Is(err, fs.ErrExist) {
			return err
		}
	}
	text, err := json.Marshal(disks)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(current), 0o755); err != nil {
		return err
	}
	return fileio.Replace(current, text, 0o600)
}

// GrowBySerial grows the file system of a disk whose unit is in /run to its disk.
func GrowBySerial(serial string) error {
	disks, err := readCurrent(currentFile)
	if err != nil {
		return err
	}
	mounted, ok := writable(disks, serial)
	if !ok {
		return nil
	}
	disk, err := Running{}.Attached(serial)
	if err != nil {
		return fmt.Errorf("grow disk %s: %w", serial, err)
	}
	return Grow(disk.Node, mounted.FileSystem, mounted.MountPoint, disk.Size)
}

// writable finds the disk with a serial whose file system is mounted for writing.
func writable(disks []agentapi.MountedDisk, serial string) (agentapi.MountedDisk, bool) {
	at := slices.IndexFunc(disks, func(d agentapi.MountedDisk) bool { return d.Serial == serial && !d.ReadOnly })
	if at < 0 {
		return agentapi.MountedDisk{}, false
	}
	return disks[at], true
}
