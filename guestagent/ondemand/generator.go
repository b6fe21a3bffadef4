package ondemand

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/fileio"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/standin/paths"
)

// maxUnit bounds a unit file, in bytes.
const maxUnit = 1 << 20

// Generate copies the stand-ins of units to the directory of a generator whose files count least
// (systemd.generator(7)). arguments are those that systemd calls a generator with. systemd runs it
// whenever it reads its units.
func Generate(arguments []string) error {
	late := arguments[len(arguments)-1]
	return copyUnits("/"+paths.Units, late)
}

func copyUnits(from, to string) error {
	return filepath.WalkDir(from, func(path string, entry fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) {
			return nil // the stack has no stand-ins
		}
		if err != nil {
			return err
		}
		name, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		target := filepath.Join(to, name)
		switch {
		case entry.IsDir():
			return os.MkdirAll(target, 0o755)
		case entry.Type() == fs.ModeSymlink:
			link, err := os.Readlink(path)
			if err != nil {
				return err
			}
			if err := os.Symlink(link, target); !errors.Is(err, fs.ErrExist) {
				return err
			}
			return nil
		case !entry.Type().IsRegular():
			return nil
		}
		text, err := fileio.Read(path, maxUnit)
		if err != nil {
			return fmt.Errorf("copy a unit: %w", err)
		}
		return os.WriteFile(target, text, 0o644) //nolint:gosec // unit files are public
	})
}
