package live

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/boot"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/failpoint"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/fileio"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/journal"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/mounts"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
)

const (
	requestFile = mounts.StateDir + "/request.pb"
	// maxRecord bounds a record that is read, in bytes. A request carries a few signed manifests.
	maxRecord = 16 << 20
)

// errAbsent means that a file does not exist.
var errAbsent = errors.New("no such record")

// errNotRecord means that a file does not contain a record.
var errNotRecord = errors.New("not a record")

// Records implements refresh.Records on the private disk.
type Records struct {
	// Configured is the stack in the VM's definition, as the host passed it at boot.
	Configured release.Stack
	// Detaches is BootRecord.Detaches.
	Detaches int
}

// Journal implements refresh.Records.
func (Records) Journal() (journal.Record, error) { return journal.Read(mounts.Journal) }

// SaveJournal implements refresh.Records.
func (Records) SaveJournal(record journal.Record) error {
	if failpoint.Built {
		if err := failpoint.Hit("before journal " + string(record.State)); err != nil {
			return err
		}
	}
	if err := journal.Write(mounts.Journal, record); err != nil {
		return err
	}
	if failpoint.Built {
		return failpoint.Hit("after journal " + string(record.State))
	}
	return nil
}

// Request implements refresh.Records.
func (Records) Request() ([]byte, error) {
	data, err := readBounded(requestFile)
	if errors.Is(err, errAbsent) {
		return nil, nil
	}
	return data, err
}

// SaveRequest implements refresh.Records. Later moves of the VM by itself follow what a request says about units.
func (Records) SaveRequest(data []byte) error { return fileio.Replace(requestFile, data, 0o600) }

// Committed implements refresh.Records.
func (Records) Committed() (release.Stack, uint64, bool, error) {
	record, err := boot.ReadCommitted()
	if errors.Is(err, boot.ErrNoRecord) {
		return release.Stack{}, 0, false, nil
	}
	return record.Stack, record.Generation, err == nil, err
}

// Commit implements refresh.Records.
func (l Records) Commit(stack release.Stack, own bool) (uint64, error) {
	before, err := boot.ReadCommitted()
	first := errors.Is(err, boot.ErrNoRecord)
	if err != nil && !first {
		return 0, err
	}
	next := boot.CommittedRecord{Stack: stack, Generation: before.Generation, Configured: l.Configured,
		Detaches: l.Detaches, Previous: before.Previous}
	if first || !before.Stack.Same(stack) {
		next.Generation++
		next.Previous = &before.Stack
	}
	if first {
		next.Previous = &l.Configured // the stack that was booted
	}
	if own && !first {
		if next.Wanted = before.Wanted; next.Wanted == nil {
			next.Wanted = &before.Stack
		}
	}
	// Earlier boots in which the stack failed do not count any more.
	if err := boot.MarkGood(stack); err != nil {
		return 0, err
	}
	if failpoint.Built {
		if err := failpoint.Hit("before commit"); err != nil {
			return 0, err
		}
	}
	return next.Generation, boot.WriteCommitted(next)
}

// MarkBad implements refresh.Records.
func (Records) MarkBad(stack release.Stack) error { return boot.MarkBad(stack) }

// MarkGood implements refresh.Records.
func (Records) MarkGood(stack release.Stack) error { return boot.MarkGood(stack) }

func readBounded(path string) ([]byte, error) {
	data, err := fileio.Read(path, maxRecord)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = fmt.Errorf("read %s: %w", path, errAbsent)
	case errors.Is(err, fileio.ErrTooLong):
		err = fmt.Errorf("%w: %w", errNotRecord, err)
	}
	return data, err
}

func readJSON(path string, value any) error {
	data, err := readBounded(path)
	if err != nil {
		return err
	}
	if err := json.Unmarshal(data, value); err != nil {
		return fmt.Errorf("%w: decode %s: %w", errNotRecord, path, err)
	}
	return nil
}

func writeJSON(path string, value any) error {
	data, err := json.Marshal(value)
	if err != nil {
		return fmt.Errorf("encode %s: %w", path, err)
	}
	return fileio.Replace(path, data, 0o600)
}
