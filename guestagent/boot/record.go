package boot

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/etcmerge"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/fileio"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/mounts"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
)

// maxRecord bounds a record in bytes. A stack of 64 layers takes about 12 KiB.
const maxRecord = 1 << 20

// ErrNoRecord is returned when a record was never written. Any other failure to read one is not that.
var ErrNoRecord = errors.New("no such record")

// Origin is why a stack was booted.
type Origin string

// The origins of a stack.
const (
	// Configured is the stack in the domain's definition, which the host passed in the BootConfig.
	Configured Origin = "given"
	// FromCommitted is the stack that a refresh committed on the private disk.
	FromCommitted Origin = "committed"
	// Trial is the stack that a refresh has started and not committed yet.
	Trial Origin = "trial"
	// Earlier is the stack that ran before the last committed one.
	Earlier Origin = "earlier"
)

// BootRecord describes what init, or a soft-reboot since, has assembled. It is in /run (mounts.BootRecord), so it ends
// with the boot.
type BootRecord struct {
	// Stack is the stack from which / and /usr were assembled.
	Stack  release.Stack `json:"stack"`
	Origin Origin        `json:"origin"`
	// Generation of the stack in this VM.
	Generation uint64 `json:"generation"`
	// Configured is the stack in the domain's definition, whether booted or not.
	Configured release.Stack `json:"given"`
	// Detaches is that of the BootConfig.
	Detaches int `json:"detaches,omitempty"`
	// Operators are Ed25519 public keys, base64 (standard, padded).
	Operators []string `json:"operators"`
	Hostname  string   `json:"hostname"`
	// UUID of the domain, canonical lower-case form.
	UUID string `json:"uuid"`
	// PrivateDisk is the device node of the private disk, "/dev/vdb".
	PrivateDisk string `json:"private_disk"`
	// Root is the device number of the root file system, "major:minor", and Work its work directory on the private
	// disk.
	Root string `json:"root"`
	Work string `json:"work,omitempty"`
	// Failed is for a soft-reboot: why its root could not be assembled.
	Failed string `json:"failed,omitempty"`
	// Alone is true when there is no other stack to boot if this one fails, or none that has not failed as well.
	Alone bool `json:"alone,omitempty"`
	// FirstBoot is true when this boot formatted the private disk.
	FirstBoot bool `json:"first_boot"`
	// Refused are the stacks that were preferred to this one, each with the reason why it was not booted.
	Refused []string `json:"refused,omitempty"`
	// Moved is the carry of /etc by this boot; nil if there was none.
	Moved *Moved `json:"moved,omitempty"`
	// Steps of init in order, with the time that each took.
	Steps []Step `json:"steps"`
}

// Moved is a carry of /etc by a boot, from the committed stack to the one that boots.
type Moved struct {
	From release.Stack `json:"from"`
	// Carried is the number of carried paths.
	Carried int `json:"carried"`
	// Conflicts are what is not as in the release, at most maxConflicts of them.
	Conflicts []etcmerge.Conflict `json:"conflict_details,omitempty"`
}

// maxConflicts bounds the conflicts in a BootRecord, whose size is bounded: a VM boots whatever it has changed.
const maxConflicts = 200

// Step is one step of init.
type Step struct {
	Name         string `json:"name"`
	Milliseconds int64  `json:"milliseconds"`
}

// CommittedRecord is the last stack that a refresh committed, or that was booted in its place. This VM's /etc belongs
// to it. The record is on the private disk (mounts.Committed).
type CommittedRecord struct {
	Stack release.Stack `json:"stack"`
	// Generation grows by one with each commit in this VM; 0 is the first boot's.
	Generation uint64 `json:"generation"`
	// Configured is BootRecord.Configured of the boot in which the stack was committed. If the VM is configured with
	// another stack later, the host has changed it since, and that stack is the newer one.
	Configured release.Stack `json:"given"`
	// Detaches is BootRecord.Detaches of that boot.
	Detaches int `json:"detaches,omitempty"`
	// Wanted is the stack to which the host has moved the VM, if the VM has attached or detached components by itself
	// since; nil if it has not. A VM that is configured with it still boots Stack.
	Wanted *release.Stack `json:"wanted,omitempty"`
	// Previous is the stack that ran before. It is booted if Stack fails.
	Previous *release.Stack `json:"previous,omitempty"`
}

// AttemptsRecord counts the boots of stacks that have not succeeded yet. It is on the private disk.
type AttemptsRecord struct {
	// Counts by release.Stack.Key. A stack that has booted successfully is not in it.
	Counts map[string]int `json:"counts"`
}

// attemptsPath is on the private disk, like the journal: it has to survive a failed boot.
const attemptsPath = mounts.StateDir + "/attempts.json"

// ReadBootRecord returns the record of the running root, which init has assembled, or to which a soft-reboot has
// switched since. failed says why the last soft-reboot did not switch to its stack; "" if it did or if there was none.
func ReadBootRecord() (record BootRecord, failed string, err error) {
	root, err := mounts.RootDevice("/")
	if err != nil {
		return record, "", err
	}
	return readBootRecord(mounts.BootRecord, mounts.NextRecord, root)
}

// readBootRecord is ReadBootRecord for two files and the device number of the root file system.
func readBootRecord(present, next, root string) (BootRecord, string, error) {
	record, err := readRecord[BootRecord](next)
	switch {
	case errors.Is(err, ErrNoRecord):
		record, err = readRecord[BootRecord](present)
		return record, "", err
	case err != nil:
		return record, "", err
	case record.Failed == "" && record.Root == root:
		// After a soft-reboot no process uses an earlier /usr.
		return record, "", errors.Join(fileio.Remove(mounts.UsrRecord), os.Rename(next, present))
	}
	failed := record.Failed
	if failed == "" {
		failed = "systemd did not switch to the root that was assembled for it"
	}
	record, err = readRecord[BootRecord](present)
	return record, failed, err
}

// ForgetNext removes the record of the last soft-reboot, before the next one writes its own.
func ForgetNext() error {
	return fileio.Remove(mounts.NextRecord)
}

// ReadCommitted reads the newest committed stack; ErrNoRecord if no stack was ever booted.
func ReadCommitted() (CommittedRecord, error) {
	return readRecord[CommittedRecord](mounts.Committed)
}

// WriteCommitted makes record the newest committed stack. When it returns nil the record is on the disk.
func WriteCommitted(record CommittedRecord) error {
	return WriteRecord(mounts.Committed, record)
}

// MarkGood records that the stack boots: its attempts do not count any more.
func MarkGood(stack release.Stack) error {
	attempts, err := readRecord[AttemptsRecord](attemptsPath)
	if errors.Is(err, ErrNoRecord) {
		return nil
	}
	if err != nil {
		return err
	}
	if attempts.of(stack) == 0 {
		return nil
	}
	return WriteRecord(attemptsPath, attempts.without(stack))
}

// MarkBad records that the stack fails to boot: it is booted only if there is no other one.
func MarkBad(stack release.Stack) error {
	attempts, err := readRecord[AttemptsRecord](attemptsPath)
	if err != nil && !errors.Is(err, ErrNoRecord) {
		return err
	}
	return attempts.set(stack, maxAttempts)
}

// WriteRecord writes a value as JSON. Whenever power is cut, path has the old content or the new one.
func WriteRecord(path string, value any) (err error) {
	data, err := json.MarshalIndent(value, "", "  ")
	if err != nil {
		return fmt.Errorf("encode %s: %w", path, err)
	}
	if len(data) > maxRecord {
		return fmt.Errorf("write %s: %d bytes are more than a record may have (%d)", path, len(data), maxRecord)
	}
	return fileio.Replace(path, append(data, '\n'), 0o600)
}

// readRecord reads a record.
func readRecord[T any](path string) (T, error) {
	var value T
	data, err := fileio.Read(path, maxRecord)
	if errors.Is(err, fs.ErrNotExist) {
		return value, fmt.Errorf("read %s: %w", path, ErrNoRecord)
	}
	if err != nil {
		return value, err
	}
	if err := json.Unmarshal(data, &value); err != nil {
		return value, fmt.Errorf("decode %s: %w", path, err)
	}
	return value, nil
}
