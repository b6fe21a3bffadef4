package etcmerge

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

const (
	recordName = "steps.json"
	// toName is the file that holds Carrier.To.
	toName = "to"
	// maxRecord bounds the record in bytes: a step takes some 600.
	maxRecord = 64 << 20
	// lockLimit is how long lckpwdf(3) waits.
	lockLimit = 15 * time.Second
	lockPause = 50 * time.Millisecond
)

// record saves what undoes the steps. When it returns nil it is on the disk.
func (c Carrier) record(live *os.Root, steps []step) error {
	if err := os.RemoveAll(c.Record); err != nil {
		return err
	}
	if err := os.MkdirAll(c.Record, 0o700); err != nil {
		return err
	}
	for i := range steps {
		if !isRegular(steps[i].Before) {
			continue
		}
		data, err := readAt(live, steps[i].Path)
		if err != nil {
			return err
		}
		steps[i].Saved = strconv.Itoa(i)
		if err := os.WriteFile(filepath.Join(c.Record, steps[i].Saved), data, 0o600); err != nil {
			return err
		}
	}
	if err := os.WriteFile(filepath.Join(c.Record, toName), []byte(c.To), 0o600); err != nil {
		return err
	}
	data, err := json.Marshal(steps)
	if err != nil {
		return err
	}
	// The list appears, whole, after all that it names: it is what makes the record one.
	temporary := filepath.Join(c.Record, recordName+temporarySuffix)
	if err := os.WriteFile(temporary, data, 0o600); err != nil {
		return err
	}
	if err := syncFileSystem(c.Record); err != nil {
		return err
	}
	if err := os.Rename(temporary, filepath.Join(c.Record, recordName)); err != nil {
		return err
	}
	return syncFileSystem(c.Record)
}

// Settle makes the last carry final: it can no longer be undone.
func (c Carrier) Settle() error {
	if err := os.Remove(filepath.Join(c.Record, recordName)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return fmt.Errorf("settle /etc: %w", err)
	}
	if err := os.RemoveAll(c.Record); err != nil {
		return fmt.Errorf("settle /etc: %w", err)
	}
	return nil
}

// Carried tells what the recorded carry was to, by the name that it was given; false if none is recorded.
func (c Carrier) Carried() (to string, found bool, err error) {
	if _, err := os.Stat(filepath.Join(c.Record, recordName)); errors.Is(err, fs.ErrNotExist) {
		return "", false, nil
	} else if err != nil {
		return "", false, fmt.Errorf("look for a carry of /etc: %w", err)
	}
	data, err := readRecord(filepath.Join(c.Record, toName))
	if err != nil {
		return "", false, fmt.Errorf("look for a carry of /etc: %w", err)
	}
	return string(data), true, nil
}

// Undo restores content, mode, owner and time of what the recorded carry changed, whether it ended or was cut off.
// What was changed again since stays. Without a record it does nothing; done twice it does the same as once.
func (c Carrier) Undo(ctx context.Context) (err error) {
	data, err := readRecord(filepath.Join(c.Record, recordName))
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("undo /etc: %w", err)
	}
	var steps []step
	if err := json.Unmarshal(data, &steps); err != nil {
		return fmt.Errorf("undo /etc: decode the record: %w", err)
	}
	live, err := os.OpenRoot(c.Root)
	if err != nil {
		return fmt.Errorf("undo /etc: %w", err)
	}
	defer func() { err = errors.Join(err, live.Close()) }()
	if slices.ContainsFunc(steps, func(s step) bool { return accountFiles[s.Path] != nil }) {
		unlock, err := lockAccounts(ctx, live)
		if err != nil {
			return err
		}
		defer func() { err = errors.Join(err, unlock()) }()
	}
	if err := c.restore(live, steps); err != nil {
		return fmt.Errorf("undo /etc: %w", err)
	}
	if err := syncFileSystem(filepath.Join(c.Root, "etc")); err != nil {
		return fmt.Errorf("undo /etc: %w", err)
	}
	return c.Settle()
}

// restore takes away what came, deepest first, and then brings back what went, parents first.
func (c Carrier) restore(live *os.Root, steps []step) error {
	var back []step
	for _, s := range slices.Backward(steps) {
		plain, err := plainParents(live, s.Path)
		if err != nil {
			return err
		}
		if plain {
			if err := live.Remove(temporaryName(s.Path)); err != nil && !errors.Is(err, fs.ErrNotExist) {
				return err
			}
		}
		now, err := entryAt(live, s.Path)
		if err != nil {
			return err
		}
		if same(now, s.Before) || now != nil && !same(now, s.After) {
			continue // as it was, or this VM's own by now
		}
		back = append(back, s)
		if now == nil || s.Before != nil && (s.Before.Type == tree.Directory) == (now.Type == tree.Directory) {
			continue
		}
		err = live.Remove(s.Path)
		if errors.Is(err, unix.ENOTEMPTY) || errors.Is(err, unix.EEXIST) {
			continue // files of this VM's own are in there
		}
		if err != nil {
			return err
		}
	}
	for _, s := range slices.Backward(back) {
		if s.Before == nil {
			continue
		}
		err := put(live, s.Before, func() ([]byte, error) { return os.ReadFile(filepath.Join(c.Record, s.Saved)) })
		if err != nil {
			return err
		}
		if s.Before.Type != tree.Symlink {
			if err := live.Chtimes(s.Path, s.Before.ModTime, s.Before.ModTime); err != nil {
				return err
			}
		}
	}
	return nil
}

func readRecord(name string) (data []byte, err error) {
	file, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	data, err = io.ReadAll(io.LimitReader(file, maxRecord+1))
	if err == nil && len(data) > maxRecord {
		err = fmt.Errorf("read %s: more than %d bytes", name, maxRecord)
	}
	return bytes.Clone(data), err
}

// lockAccounts takes the lock that useradd(8) and its like take (lckpwdf(3)).
func lockAccounts(ctx context.Context, live *os.Root) (unlock func() error, err error) {
	file, err := live.OpenFile("etc/.pwd.lock", os.O_WRONLY|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock the account files: %w", err)
	}
	ctx, cancel := context.WithTimeout(ctx, lockLimit)
	defer cancel()
	for {
		lock := unix.Flock_t{Type: unix.F_WRLCK}
		err := unix.FcntlFlock(file.Fd(), unix.F_SETLK, &lock)
		if err == nil {
			return file.Close, nil // closing it lets it go
		}
		if !errors.Is(err, unix.EAGAIN) && !errors.Is(err, unix.EACCES) {
			return nil, errors.Join(fmt.Errorf("lock the account files: %w", err), file.Close())
		}
		select {
		case <-ctx.Done():
			return nil, errors.Join(fmt.Errorf("lock the account files: another program holds /etc/.pwd.lock: %w", ctx.Err()), file.Close())
		case <-time.After(lockPause):
		}
	}
}
