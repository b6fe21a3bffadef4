package boot

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/fileio"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/mounts"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
)

// maxRecord bounds a record in bytes. A stack of 64 layers takes about 12 KiB.
const maxRecord = 1 << 20

// ErrNoRecord is returned when a record was never written. Any other failure to read one is not that.
var ErrNoRecord = errors.New("no such record")

// Origin tells where the running stack was taken from.
type Origin string

// The origins of a stack.
const (
	// Given is the stack of the BootConfig, that the host passed at start.
	Given Origin = "given"
	// FromCommitted is the stack that a refresh committed on the private disk.
	FromCommitted Origin = "committed"
	// Trial is the stack that a refresh starts, which is not committed yet.
	Trial Origin = "trial"
	// Earlier is the stack that ran before the one that was committed last.
	Earlier Origin = "earlier"
)

// BootRecord is what init assembled, or a soft-reboot in its place. It lives in /run (mounts.BootRecord) and so ends
// with the boot.
type BootRecord struct {
	// Stack that / and /usr were assembled from.
	Stack  release.Stack `json:"stack"`
	Origin Origin        `json:"origin"`
	// Generation of the stack inside this VM: that of the committed record, or 0 for one that the host gave.
	Generation uint64 `json:"generation"`
	// Given is the BootConfig's stack, whether booted or not. A refresh copies it into CommittedRecord.Given.
	Given release.Stack `json:"given"`
	// Operators are Ed25519 public keys, base64 (standard, padded).
	Operators []string `json:"operators"`
	Hostname  string   `json:"hostname"`
	// UUID of the domain, canonical lower-case form.
	UUID string `json:"uuid"`
	// PrivateDisk is the device node of the private disk, "/dev/vdb".
	PrivateDisk string `json:"private_disk"`
	// Root is the device number of the root file system, "major:minor", and Work its work directory on the private disk.
	Root string `json:"root"`
	Work string `json:"work,omitempty"`
	// Failed says, in the record of a soft-reboot, why its stack could not be assembled.
	Failed string `json:"failed,omitempty"`
	// Alone is true when there is no other stack to boot if this one does not come up, or none that has not failed, too.
	Alone bool `json:"alone,omitempty"`
	// FirstBoot is true when this boot formatted the private disk.
	FirstBoot bool `json:"first_boot"`
	// Refused names stacks that were preferred to this one and why each was not booted.
	Refused []string `json:"refused,omitempty"`
	// Moved tells of the carry of /etc that this boot did; nil if it did none.
	Moved *Moved `json:"moved,omitempty"`
	// Steps of init in order, with the time that each took.
	Steps []Step `json:"steps"`
}

// Moved is a boot's carry of /etc from the stack that was committed to the one that boots.
type Moved struct {
	From release.Stack `json:"from"`
	// Carried counts the paths, and Conflicts are those that were left as they are, each with the reason.
	Carried   int      `json:"carried"`
	Conflicts []string `json:"conflicts,omitempty"`
}

// Step is one step of init.
type Step struct {
	Name         string `json:"name"`
	Milliseconds int64  `json:"milliseconds"`
}

// CommittedRecord is the newest stack that a refresh committed, or that was booted in its place: the one that this VM's
// /etc is at. It lives on the private disk (mounts.Committed).
type CommittedRecord struct {
	Stack release.Stack `json:"stack"`
	// Generation grows by one with each commit in this VM; 0 is the first boot's.
	Generation uint64 `json:"generation"`
	// Given is BootRecord.Given of the boot in which it was committed. When the host gives another
	// stack than this one later, the host has moved on, and its stack is the newer of the two.
	Given release.Stack `json:"given"`
	// Previous is the stack that ran before; it is booted if Stack does not come up.
	Previous *release.Stack `json:"previous,omitempty"`
}

// AttemptsRecord counts the boots of a stack that have not come up yet. It lives on the private disk.
type AttemptsRecord struct {
	// Counts by release.Stack.Key. A stack that came up is not in it.
	Counts map[string]int `json:"counts"`
}

// attemptsPath is beside the journal: it must survive whatever happens during boot.
const attemptsPath = mounts.StateDir + "/attempts.json"

// ReadBootRecord reads what the root is that runs: what init assembled, or what a soft-reboot switched to since.
// failed says why the last soft-reboot did not switch to what it was to start; "" if it did or if none was.
func ReadBootRecord() (record BootRecord, failed string, err error) {
	root, err := mounts.RootDevice("/")
	if err != nil {
		return record, "", err
	}
	return readBootRecord(mounts.BootRecord, mounts.NextRecord, root)
}

// readBootRecord does so for the records of two files and a root file system.
func readBootRecord(present, next, root string) (BootRecord, string, error) {
	record, err := readRecord[BootRecord](next)
	switch {
	case errors.Is(err, ErrNoRecord):
		record, err = readRecord[BootRecord](present)
		return record, "", err
	case err != nil:
		return record, "", err
	case record.Failed == "" && record.Root == root:
		// No process has an earlier /usr any more.
		return record, "", errors.Join(fileio.Remove(mounts.UsrRecord), os.Rename(next, present))
	}
	failed := record.Failed
	if failed == "" {
		failed = "systemd did not switch to the root that was assembled for it"
	}
	record, err = readRecord[BootRecord](present)
	return record, failed, err
}

// ForgetNext removes the record of the last soft-reboot, so that what the next one does can be told.
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

// MarkGood tells that the stack came up, so that its boot attempts count no more.
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

// MarkBad tells that the stack does not come up: it is booted only if there is no other one.
func MarkBad(stack release.Stack) error {
	attempts, err := readRecord[AttemptsRecord](attemptsPath)
	if err != nil && !errors.Is(err, ErrNoRecord) {
		return err
	}
	return attempts.set(stack, maxAttempts)
}

// WriteRecord writes a value as JSON so that path holds the old bytes or the new ones, whenever power is cut:
// a temporary file beside it, fsync, rename, fsync of the directory.
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

// readRecord reads a record whole, or says why not.
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
