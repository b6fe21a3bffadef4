package refresh

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/boot"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/failpoint"
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
	if err := writeSynced(requestFile, data); err != nil {
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
	if first || !SameStack(before.Stack, stack) {
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

func readBounded(path string) (data []byte, err error) {
	file, err := os.Open(path)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("read %s: %w", path, errAbsent)
	}
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	data, err = io.ReadAll(io.LimitReader(file, maxRecord+1))
	if err == nil && len(data) > maxRecord {
		err = fmt.Errorf("%w: read %s: more than %d bytes", errNotRecord, path, maxRecord)
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
	return writeDurably(path, data)
}

// writeDurably replaces a file so that whenever power is cut the old bytes or the new ones are there.
func writeDurably(path string, data []byte) error {
	temporary := path + ".new"
	if err := writeSynced(temporary, data); err != nil {
		return fmt.Errorf("write %s: %w", path, errors.Join(err, removeIfThere(temporary)))
	}
	if failpoint.Built {
		if err := failpoint.Hit("before rename " + filepath.Base(path)); err != nil {
			return errors.Join(err, removeIfThere(temporary))
		}
	}
	if err := os.Rename(temporary, path); err != nil {
		return fmt.Errorf("write %s: %w", path, errors.Join(err, removeIfThere(temporary)))
	}
	return syncDirectory(filepath.Dir(path))
}

func writeSynced(path string, data []byte) (err error) {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	if _, err := file.Write(data); err != nil {
		return err
	}
	return file.Sync()
}

func removeIfThere(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

func syncDirectory(path string) (err error) {
	directory, err := os.Open(path)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, directory.Close()) }()
	return directory.Sync()
}
