// Package journal is the journal of refreshes: its states, its record, and its file on the private disk.
//
// The agent journals every state of a refresh before it acts on it (package refresh). Init and the unit that prepares a
// soft-reboot read the journal, too (package boot): they boot an uncommitted stack only if the journal says so.
//
// The form on disk is the same in all versions of the agent: a VM can be restarted with another version, or an agent be
// replaced, in the middle of a refresh.
package journal

import (
	"encoding/json"
	"errors"
	"fmt"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/slots"
)

var (
	// ErrNone means that no refresh was ever started in this VM.
	ErrNone = errors.New("no journal")
	// ErrDamaged means that the file contains no journal, so that it is unknown whether a refresh was in flight.
	ErrDamaged = errors.New("the journal of refreshes was damaged; restart the VM")
)

// Read reads the journal in the file at path. Another error than ErrNone and ErrDamaged may not occur the next time.
func Read(path string) (Record, error) {
	data, err := slots.Read(path)
	switch {
	case errors.Is(err, slots.ErrAbsent):
		return Record{}, ErrNone
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

// Write replaces the journal. Once it has returned nil the record is on the disk.
func Write(path string, record Record) error {
	data, err := json.Marshal(record)
	if err != nil {
		return fmt.Errorf("encode %s: %w", path, err)
	}
	return slots.Write(path, data)
}
