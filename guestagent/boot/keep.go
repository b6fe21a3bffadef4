package boot

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/configure"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/fileio"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/mounts"
)

// keptName is the file of the private disk with the patterns of paths below /etc that are kept as they are. A boot onto
// another stack follows the refresh before it.
const keptName = "keep-files.json"

const maxKept = 1 << 20

// WriteKept records the patterns of etcmerge.Carrier.Keep.
func WriteKept(patterns []string) error { return writeKept(mounts.StateDir, patterns) }

// Kept returns the patterns that WriteKept recorded last, and those of the files that the VM's
// configuration owns, which follow no release (package configure).
func Kept() ([]string, error) { return kept(mounts.StateDir) }

func kept(directory string) ([]string, error) {
	patterns, err := readKept(directory)
	if err != nil {
		return nil, err
	}
	owned, err := configure.Owned(directory)
	return append(patterns, owned...), err
}

func writeKept(directory string, patterns []string) error {
	was, err := readKept(directory)
	if err == nil && slices.Equal(was, patterns) {
		return nil
	}
	data, err := json.Marshal(patterns)
	if err != nil {
		return fmt.Errorf("record which files are kept: %w", err)
	}
	if err := fileio.Write(filepath.Join(directory, keptName), data); err != nil {
		return fmt.Errorf("record which files are kept: %w", err)
	}
	return nil
}

// readKept reads the patterns. Without a record there are none.
func readKept(directory string) ([]string, error) {
	data, err := fileio.Read(filepath.Join(directory, keptName), maxKept)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, fmt.Errorf("read which files are kept: %w", err)
	}
	var patterns []string
	if err := json.Unmarshal(data, &patterns); err != nil {
		return nil, fmt.Errorf("decode which files are kept: %w", err)
	}
	return patterns, nil
}
