package configure

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/fileio"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/guestconfig"
)

// The directory of the record on the private disk, below mounts.StateDir, and what is in it. Nobody
// but root can read it.
const (
	// Directory has the record.
	Directory = "configuration"
	// recordName is what the system was given last, attemptName what is needed to take an attempt
	// back that has not ended.
	recordName  = "record.json"
	attemptName = "attempt.json"
	// savedName has the files of the stack that the configuration overrides, undoName the files before an attempt.
	savedName = "saved"
	undoName  = "undo"
	maxRecord = 32 << 20
)

// Record is what the system was given last, and what was there before.
type Record struct {
	// ID of Document; "" if there is none.
	ID       string          `json:"id,omitempty"`
	Document json.RawMessage `json:"document,omitempty"`
	// Entries are the files that were written, by path.
	Entries map[string]Entry `json:"entries,omitempty"`
	// Units are those that were enabled, disabled, started or stopped, by name.
	Units map[string]UnitRecord `json:"units,omitempty"`
	// Directories were made for files, relative to the root, parents first.
	Directories []string `json:"directories,omitempty"`
	// Accounts were made, Sysctl has the values of kernel parameters before they were set, and SysctlIs
	// those that the kernel told afterwards, which may be in another form than they were given.
	Accounts []string          `json:"accounts,omitempty"`
	Sysctl   map[string]string `json:"sysctl,omitempty"`
	SysctlIs map[string]string `json:"sysctl_is,omitempty"`
}

// document is what the system was given last; an empty document if nothing.
func (r *Record) document() (*guestconfig.Document, error) {
	if len(r.Document) == 0 {
		return guestconfig.New(), nil
	}
	return guestconfig.Decode(r.Document)
}

// Entry is a file that was written.
type Entry struct {
	Is State `json:"is"`
	// Was is what was there before, which the stack had; nil if nothing was.
	Was *State `json:"was,omitempty"`
	// SecretVersion is that of the secret that the file has.
	SecretVersion int64 `json:"secret_version,omitempty"`
}

// UnitRecord is a unit whose state is configured.
type UnitRecord struct {
	// Enabled is whether it was enabled before; nil if that is not configured.
	Enabled *bool `json:"enabled,omitempty"`
	// Active is whether it ran before; nil if that is not configured. Runs is true if it ran when it had been started.
	Active *bool `json:"active,omitempty"`
	Runs   bool  `json:"runs,omitempty"`
}

// attempt is what takes an application back: everything as it was before it.
type attempt struct {
	// To is the id of the document that is being applied, From that of the record.
	From  string          `json:"from"`
	To    string          `json:"to"`
	Steps []step          `json:"steps"`
	Units map[string]unit `json:"units,omitempty"`
	// Accounts are those that the attempt may make, Sysctl the values that it may change.
	Accounts []string          `json:"accounts,omitempty"`
	Sysctl   map[string]string `json:"sysctl,omitempty"`
	// Directories are those that were made so far, parents first, and Touched the units that were started, stopped,
	// restarted or reloaded.
	Directories []string `json:"directories,omitempty"`
	Touched     []string `json:"touched,omitempty"`
	// Swap is what the attempt does to the swap file.
	Swap *swapChange `json:"swap,omitempty"`
	// Manager is the network manager whose files the attempt changes, and Networks are the networks that it changes.
	Manager  guestconfig.Manager `json:"manager,omitempty"`
	Networks []string            `json:"networks,omitempty"`
}

// step is one path that is written or removed.
type step struct {
	Path   string `json:"path"`
	Before *State `json:"before,omitempty"`

	after   *State
	content []byte
}

// unit is a unit before an attempt.
type unit struct {
	Active  bool  `json:"active"`
	Enabled *bool `json:"enabled,omitempty"`
}

// records are the files of a record.
type records struct{ directory string }

func (r records) path(name ...string) string {
	return filepath.Join(append([]string{r.directory}, name...)...)
}

// fileFor is the name of a file that has the content of a path.
func fileFor(name string) string {
	sum := sha256.Sum256([]byte(name))
	return hex.EncodeToString(sum[:])
}

func (r records) prepare() error {
	for _, directory := range []string{r.directory, r.path(savedName), r.path(undoName)} {
		if err := os.MkdirAll(directory, 0o700); err != nil {
			return err
		}
	}
	return nil
}

func readJSON(name string, to any) (found bool, err error) {
	text, err := fileio.Read(name, maxRecord)
	if errors.Is(err, fs.ErrNotExist) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if err := json.Unmarshal(text, to); err != nil {
		return false, fmt.Errorf("read %s: %w", name, err)
	}
	return true, nil
}

func writeJSON(name string, from any) error {
	text, err := json.Marshal(from)
	if err != nil {
		return err
	}
	return fileio.Replace(name, text, 0o600)
}

// read returns the record; an empty one if there is none.
func (r records) read() (*Record, error) {
	var record Record
	if _, err := readJSON(r.path(recordName), &record); err != nil {
		return nil, fmt.Errorf("read what was configured: %w", err)
	}
	return &record, nil
}

// save saves the content of a path in one of the directories.
func (r records) save(directory, name string, content []byte) error {
	return fileio.Replace(r.path(directory, fileFor(name)), content, 0o600)
}

func (r records) saved(directory, name string) ([]byte, error) {
	return fileio.Read(r.path(directory, fileFor(name)), maxFile)
}

// commit makes record the one that counts.
func (r records) commit(record *Record) error {
	if err := writeJSON(r.path(recordName), record); err != nil {
		return fmt.Errorf("record what was configured: %w", err)
	}
	return nil
}

// endAttempt removes what would take the attempt back, and saved files that nothing refers to.
func (r records) endAttempt(record *Record) error {
	if err := fileio.Remove(r.path(attemptName)); err != nil {
		return err
	}
	keep := map[string]bool{}
	for name, entry := range record.Entries {
		if entry.Was != nil {
			keep[fileFor(name)] = true
		}
	}
	var failures []error
	for _, directory := range []string{undoName, savedName} {
		files, err := os.ReadDir(r.path(directory))
		if err != nil && !errors.Is(err, fs.ErrNotExist) {
			failures = append(failures, err)
		}
		for _, file := range files {
			if directory == undoName || !keep[file.Name()] {
				failures = append(failures, fileio.Remove(r.path(directory, file.Name())))
			}
		}
	}
	return errors.Join(failures...)
}

// Owned returns patterns (path.Match) of the absolute paths that the configuration in a state directory
// owns and a release may have, so that a refresh leaves them alone. An attempt that has not ended counts.
func Owned(stateDirectory string) ([]string, error) {
	r := records{filepath.Join(stateDirectory, Directory)}
	record, err := r.read()
	if err != nil {
		return nil, err
	}
	var open attempt
	if _, err := readJSON(r.path(attemptName), &open); err != nil {
		return nil, fmt.Errorf("read what was being configured: %w", err)
	}
	owned := slices.Collect(maps.Keys(record.Entries))
	for _, s := range open.Steps {
		owned = append(owned, s.Path)
	}
	for i, name := range owned {
		owned[i] = "/" + actual(name)
	}
	owned = slices.DeleteFunc(owned, func(name string) bool {
		return !slices.ContainsFunc([]string{"/etc/", "/var/opt/", "/var/usrlocal/"},
			func(top string) bool { return strings.HasPrefix(name, top) })
	})
	slices.Sort(owned)
	owned = slices.Compact(owned)
	for i, name := range owned {
		owned[i] = literal(name)
	}
	return owned, nil
}

// literal is the pattern that matches a path and nothing else.
func literal(name string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path.Clean(name))
}
