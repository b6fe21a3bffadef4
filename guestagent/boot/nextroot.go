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

// nextLimit bounds the assembly of the root to which a soft-reboot switches. Its layers are open already.
const nextLimit = time.Minute

// NextRoot assembles the root of the stack that a soft-reboot has to start by the journal, after all services have
// stopped. If the journal names none, it does nothing, and the soft-reboot stays in the current root. It also stays
// there after a failure, which NextRoot records.
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

// assembleNext mounts the stack and returns its record.
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
	// The current /usr has the running kernel's modules, whether or not the stack has them.
	root := mounts.Root{
		Layers: layers, Base: len(stack.OfBase()), Private: mounts.PrivateDir, Work: otherWork(record.Work),
		Modules: "/usr", Kernel: kernel,
	}
	if err := mounts.AssembleNext(ctx, root); err != nil {
		return record, err
	}
	device, err := mounts.RootDevice(mounts.NextRoot)
	if err != nil {
		return record, errors.Join(err, mounts.DropNext())
	}
	// A stack may be the first one with an SSH server or networkd, for which init would have installed these.
	if err := errors.Join(installHostKeys(mounts.NextRoot), installNetwork(mounts.NextRoot)); err != nil {
		return record, errors.Join(err, mounts.DropNext())
	}
	record.Stack, record.Root, record.Work, record.Origin = stack, device, root.Work, Trial
	if f.State == journal.RollingBack {
		record.Origin = Earlier
	}
	return record, nil
}

// otherWork returns the work directory that the current root does not use.
func otherWork(work string) string {
	if work == mounts.RootWorks[1] {
		return mounts.RootWorks[0]
	}
	return mounts.RootWorks[1]
}
