package boot

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/journal"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/mounts"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
)

// nextLimit bounds the assembling of the root that a soft-reboot switches to. Its layers are open already.
const nextLimit = time.Minute

// NextRoot assembles the root of the stack that the journal wants a soft-reboot to start, when all services have ended.
// Without one in flight it does nothing, and a soft-reboot stays in the root that there is. So it does after a failure,
// which the record tells.
func NextRoot(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, nextLimit)
	defer cancel()
	f, err := readFlight()
	if err != nil {
		return fmt.Errorf("assemble the next root: %w", err)
	}
	stack := f.SoftRebootTo()
	if stack == nil {
		return nil
	}
	record, _, err := ReadBootRecord()
	if err != nil {
		return fmt.Errorf("assemble the next root: %w", err)
	}
	record, failure := assembleNext(ctx, record, f, *stack)
	if failure != nil {
		record.Failed = failure.Error()
		say("a soft-reboot stays with the stack that runs: %v", failure)
	}
	return errors.Join(failure, WriteRecord(mounts.NextRecord, record))
}

// assembleNext mounts the stack and returns the record of it.
func assembleNext(ctx context.Context, record BootRecord, f *journal.Record, stack release.Stack) (BootRecord, error) {
	if f.State == journal.RollingBack {
		if err := Carrier("/").Undo(ctx); err != nil {
			return record, fmt.Errorf("take back what a refresh carried to /etc: %w", err)
		}
	}
	var layers []string
	for _, layer := range stack.Layers {
		path, err := mounts.OpenLayer(ctx, layer)
		if err != nil {
			return record, err
		}
		layers = append(layers, path)
	}
	kernel, err := mounts.KernelRelease()
	if err != nil {
		return record, err
	}
	// The present /usr has the running kernel's modules, whatever becomes of those of the stack.
	root := mounts.Root{Layers: layers, Private: mounts.PrivateDir, Work: otherWork(record.Work), Modules: "/usr", Kernel: kernel}
	if err := mounts.AssembleNext(ctx, root); err != nil {
		return record, err
	}
	device, err := mounts.RootDevice(mounts.NextRoot)
	if err != nil {
		return record, errors.Join(err, mounts.DropNext())
	}
	// What a release newly brings may need what init installs.
	if err := errors.Join(installHostKeys(mounts.NextRoot), installNetwork(mounts.NextRoot)); err != nil {
		return record, errors.Join(err, mounts.DropNext())
	}
	record.Stack, record.Root, record.Work, record.Origin = stack, device, root.Work, Trial
	if f.State == journal.RollingBack {
		record.Origin = Earlier
	}
	return record, nil
}

// otherWork is the work directory that a root with this one leaves free.
func otherWork(work string) string {
	if work == mounts.RootWorks[1] {
		return mounts.RootWorks[0]
	}
	return mounts.RootWorks[1]
}
