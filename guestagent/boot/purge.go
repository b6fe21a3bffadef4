package boot

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/fileio"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/mounts"
)

// purgeName is the file of the private disk that exists if what components brought goes with them. A boot onto another
// stack follows the refresh before it.
const purgeName = "purge-components"

// WritePurge records etcmerge.Carrier.PurgeComponents.
func WritePurge(purge bool) error { return writePurge(mounts.StateDir, purge) }

// Purges returns what WritePurge recorded last; false without a record.
func Purges() (bool, error) { return readPurge(mounts.StateDir) }

func writePurge(directory string, purge bool) error {
	was, err := readPurge(directory)
	if err != nil || was == purge {
		return err
	}
	name := filepath.Join(directory, purgeName)
	if purge {
		err = fileio.Write(name, nil)
	} else if err = os.Remove(name); err == nil {
		err = fileio.SyncDirectory(directory)
	}
	if err != nil {
		return fmt.Errorf("record what goes with components: %w", err)
	}
	return nil
}

func readPurge(directory string) (bool, error) {
	_, err := os.Lstat(filepath.Join(directory, purgeName))
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("read what goes with components: %w", err)
	}
	return true, nil
}
