// Package fileio reads files within bounds, and writes them so that a power cut loses nothing that was reported as
// written.
package fileio

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"sync"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/failpoint"
)

// ErrTooLong means that a file has more bytes than the caller allows.
var ErrTooLong = errors.New("the file is too long")

// Read reads a file of at most limit bytes. A longer file is ErrTooLong.
func Read(path string, limit int64) (data []byte, err error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	data, err = io.ReadAll(io.LimitReader(file, limit+1))
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if int64(len(data)) > limit {
		return nil, fmt.Errorf("read %s: %w: more than %d bytes", path, ErrTooLong, limit)
	}
	return data, nil
}

// Write writes a file in place. If power is cut before it returns, the file may be missing or have any content.
func Write(path string, data []byte) error { return write(path, data, 0o600) }

// Replace replaces the content of a file. Whenever power is cut, the file has the old content or the new one, and the
// new one once Replace has returned nil, even if others replace it at the same time.
//
// The new content is first written to a hidden draft in the same directory. Each process has its own, because two
// agents run while one takes over from the other. The draft of a process that was killed is overwritten by the next
// process with the same number.
func Replace(path string, data []byte, mode fs.FileMode) error {
	replacing.Lock()
	defer replacing.Unlock()
	draft := draftOf(path)
	err := Remove(draft) // the draft of a killed process may have another mode
	if err == nil {
		err = write(draft, data, mode)
	}
	if err == nil && failpoint.Built {
		err = failpoint.Hit("before rename " + filepath.Base(path))
	}
	if err == nil {
		err = os.Rename(draft, path)
	}
	if err != nil {
		return fmt.Errorf("write %s: %w", path, errors.Join(err, Remove(draft)))
	}
	if err := SyncDirectory(filepath.Dir(path)); err != nil {
		return err
	}
	if failpoint.Built {
		return failpoint.Hit("after rename " + filepath.Base(path))
	}
	return nil
}

// replacing keeps two goroutines from writing the same draft.
var replacing sync.Mutex

func draftOf(path string) string {
	return filepath.Join(filepath.Dir(path), "."+filepath.Base(path)+"."+strconv.Itoa(os.Getpid())+".new")
}

func write(path string, data []byte, mode fs.FileMode) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, mode)
	if err != nil {
		return err
	}
	return Fill(file, data, mode)
}

// Fill writes the content of a file that was just created, sets its mode whatever the umask is, syncs and closes it.
func Fill(file *os.File, data []byte, mode fs.FileMode) (err error) {
	defer func() { err = errors.Join(err, file.Close()) }()
	if err := file.Chmod(mode); err != nil {
		return err
	}
	if _, err := file.Write(data); err != nil {
		return err
	}
	return file.Sync()
}

// Remove removes a file or an empty directory, if it exists.
func Remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// SyncDirectory syncs the names in a directory: what was renamed, created or removed there.
func SyncDirectory(path string) (err error) {
	directory, err := os.Open(path)
	if err != nil {
		return fmt.Errorf("sync %s: %w", path, err)
	}
	defer func() { err = errors.Join(err, directory.Close()) }()
	if err := directory.Sync(); err != nil {
		return fmt.Errorf("sync %s: %w", path, err)
	}
	return nil
}
