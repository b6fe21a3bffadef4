//go:build faults

package boot

import (
	"context"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/mounts"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
)

// Assemble boots as Init does, for package crashtest: without the modules, the credentials and the units of a real VM,
// which a mount namespace has not. The layers are mounted and the private disk is attached. It returns only on failure.
func Assemble(ctx context.Context, config agentapi.BootConfig) error {
	record, err := assemble(ctx, config, newStopwatch())
	if err != nil {
		return err
	}
	if record.Root, err = mounts.RootDevice(newRoot); err != nil {
		return err
	}
	if err := WriteRecord(mounts.BootRecord, record); err != nil {
		return err
	}
	return switchRoot(newRoot)
}
