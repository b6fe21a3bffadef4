package refresh

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/boot"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/failpoint"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/fileio"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/mounts"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/slots"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
)

const (
	requestFile = mounts.StateDir + "/request.pb"
	// maxRecord bounds a record that is read, in bytes. A request carries a few signed manifests.
	maxRecord = 16 << 20
)

// errAbsent means that a record was never written.
var errAbsent = errors.New("no such record")

// errNotRecord means that a record was read, and is none.
var errNotRecord = errors.New("not a record")

// LiveRecords are the records on the private disk.
type LiveRecords struct {
	// Given is the stack that the host gave at boot.
	Given release.Stack
}

// Journal implements Records.
func (LiveRecords) Journal() (Record, error) {
	return readJournal(mounts.Journal)
}

func readJournal(path string) (Record, error) {
	data, err := slots.Read(path)
	switch {
	case errors.Is(err, slots.ErrAbsent):
		return Record{}, ErrNoJournal
	case errors.Is(err, slots.ErrDamaged):
		return Record{}, fmt.Errorf("%w: %w", ErrDamaged, err)
	case err != nil:
		return Record{}, err
	}
	var record Record
	if err := json.Unmarshal(data, &record); err != nil {
		return Record{}, fmt.Errorf("%w: decode %s: %w", ErrDamaged, path, err)
	}
	return record, nil
}

func writeJournal(path string, record Record) error {
	data, err := json.Marshal(record)
	if err != nil {
		return fmt.Errorf("encode %s: %w", path, err)
	}
	return slots.Write(path, data)
}

// SaveJournal implements Records.
func (LiveRecords) SaveJournal(record Record) error {
	if failpoint.Built {
		if err := failpoint.Hit("before journal " + string(record.State)); err != nil {
			return err
		}
	}
	if err := writeJournal(mounts.Journal, record); err != nil {
		return err
	}
	if failpoint.Built {
		return failpoint.Hit("after journal " + string(record.State))
	}
	return nil
}

// Request implements Records.
func (LiveRecords) Request() ([]byte, error) { return readBounded(requestFile) }

// SaveRequest implements Records. It is written in place, with one sync for it and its name: the request from before is
// needed no more, and this one only once the journal says so, which is after that.
func (LiveRecords) SaveRequest(data []byte) error {
	if err := fileio.Write(requestFile, data); err != nil {
		return fmt.Errorf("write %s: %w", requestFile, err)
	}
	return nil
}

// Committed implements Records.
func (LiveRecords) Committed() (release.Stack, uint64, bool, error) {
	record, err := boot.ReadCommitted()
	if errors.Is(err, boot.ErrNoRecord) {
		return release.Stack{}, 0, false, nil
	}
	return record.Stack, record.Generation, err == nil, err
}

// Commit implements Records.
func (l LiveRecords) Commit(stack release.Stack) (uint64, error) {
	before, err := boot.ReadCommitted()
	first := errors.Is(err, boot.ErrNoRecord)
	if err != nil && !first {
		return 0, err
	}
	next := boot.CommittedRecord{Stack: stack, Generation: before.Generation, Given: l.Given, Previous: before.Previous}
	if first || !before.Stack.Same(stack) {
		next.Generation++
		next.Previous = &before.Stack
	}
	if first {
		next.Previous = &l.Given // which is what booted
	}
	// Boots that it did not come up in were of an earlier time.
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
