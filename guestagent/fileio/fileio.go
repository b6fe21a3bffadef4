// Package fileio reads files within bounds, and writes them so that a cut of power takes nothing away that was said to be written.
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

// ErrTooLong means that a file has more bytes than are read of it.
var ErrTooLong = errors.New("the file is too long")

// Read reads a file of at most limit bytes. One that is longer is ErrTooLong.
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

// Write writes a file in place: when power is cut before it returns, what is in the file, and whether it is there, is not known.
func Write(path string, data []byte) error { return write(path, data, 0o600) }

// Replace gives a file other content so that it has the old one or the new one whenever power is cut, and the new one once
// Replace has returned nil, whoever else replaces it at the same time. It uses a hidden file beside it, one for each process: two
// agents run while one takes over. What is left of one that was cut off is overwritten by the next of that number.
func Replace(path string, data []byte, mode fs.FileMode) error {
	replacing.Lock()
	defer replacing.Unlock()
	draft := draftOf(path)
	err := Remove(draft) // what is left of one that was cut off may have another mode
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

// replacing keeps two of this process from having one draft.
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

// Fill writes the content of a file that was just made, syncs and closes it. The mode is what is asked for, whatever the umask is.
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

// Remove removes a file, or an empty directory, that need not be there.
func Remove(path string) error {
	if err := os.Remove(path); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// SyncDirectory has the names in a directory on the disk as they are now: what was renamed to, made or removed there.
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
