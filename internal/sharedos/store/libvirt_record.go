package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/libvirtconn"
)

// recordTries and recordPause say how often, and at what intervals, a record is read that does not
// verify. Two writers may have overtaken the reader, so that it saw parts of different contents.
const recordTries, recordPause = 5, 20 * time.Millisecond

// readRecord returns the content of a record.
func (s *Libvirt) readRecord(ctx context.Context, what, name string) ([]byte, error) {
	found, err := s.find(ctx, what, name, reading)
	if err != nil {
		return nil, err
	}
	if found.capacity < recordCapacity {
		return nil, fmt.Errorf("%s: volume %s has %d bytes instead of %d: %w", what, found.path, found.capacity,
			recordCapacity, ErrCorrupt)
	}
	var now current
	for try := 1; ; try++ {
		err = s.transfer(ctx, what, func(t *libvirtconn.Transfer) error {
			now, err = readRecord(reader(t, found))
			return err
		})
		if !errors.Is(err, ErrCorrupt) || try == recordTries {
			break
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%s: %w", what, ctx.Err())
		case <-time.After(recordPause):
		}
	}
	if err != nil {
		return nil, absent(found.path, err)
	}
	return now.content, nil
}

// writeRecord replaces the content of a record, and creates its volume.
func (s *Libvirt) writeRecord(ctx context.Context, what, name string, content []byte) error {
	to, err := s.ensureSize(ctx, what, name, recordCapacity)
	if err != nil {
		return err
	}
	err = s.transfer(ctx, what, func(t *libvirtconn.Transfer) error {
		write := func(offset int64, data []byte) error {
			return t.Upload(to.StorageVol, offset, int64(len(data)), bytes.NewReader(data), nil)
		}
		return writeRecord(reader(t, to), write, content)
	})
	if err != nil {
		return fmt.Errorf("volume %s: %w", to.path, err)
	}
	return nil
}

func reader(t *libvirtconn.Transfer, from volume) readAt {
	return func(offset, length int64) ([]byte, error) { return t.Download(from.StorageVol, offset, length) }
}
