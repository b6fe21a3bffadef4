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

// InstallCommand has the command of a person in a directory of this VM's own, if the VM is offered components: the one
// that a stack has comes with stand-ins, and goes when everything that is offered is attached. A file of that name that
// is not a link to the agent stays as it is.
func InstallCommand(directory string, offered bool) error {
	path := filepath.Join(directory, filepath.Base(paths.Command))
	target, err := os.Readlink(path)
	switch {
	case err == nil && target == paths.Agent && !offered:
		return fileio.Remove(path)
	case !offered || err == nil || !errors.Is(err, fs.ErrNotExist):
		return nil // there is something that is not ours, or nothing to be done
	}
	if err := os.MkdirAll(directory, 0o755); err != nil {
		return err
	}
	return os.Symlink(paths.Agent, path)
}

// UpdateCommand installs the command if an offer is plugged in, and removes it if none is.
func (s *Server) UpdateCommand() {
	offered, err := Offered()
	if err == nil {
		err = InstallCommand(s.Commands, offered)
	}
	if err != nil {
		s.Say(fmt.Errorf("components on demand: %w", err))
	}
}
