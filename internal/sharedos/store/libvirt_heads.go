package store

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/libvirtconn"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// recordTries is how often a record is read that does not verify: a writer may have passed the reader twice.
const recordTries = 5

// PutManifest implements Store.
func (s *Libvirt) PutManifest(ctx context.Context, id tree.Digest, signed []byte) error {
	if id.IsZero() || len(signed) == 0 || len(signed) > MaxRecord {
		return fmt.Errorf("store release %s: a signed manifest of %d bytes is not possible", id, len(signed))
	}
	return s.setRecord(ctx, "store release "+id.String(), ReleaseName(id), signed)
}

// GetManifest implements Store.
func (s *Libvirt) GetManifest(ctx context.Context, id tree.Digest) ([]byte, error) {
	return s.record(ctx, "read release "+id.String(), ReleaseName(id))
}

// SetHistory implements Store.
func (s *Libvirt) SetHistory(ctx context.Context, kind release.Kind, name string, history History) error {
	volume, err := HeadName(kind, name)
	if err != nil {
		return err
	}
	what := fmt.Sprintf("record the history of %s %q", kind, name)
	if len(history.Releases) == 0 {
		return s.delete(ctx, what, volume)
	}
	text, err := EncodeHistory(history)
	if err != nil {
		return fmt.Errorf("%s: %w", what, err)
	}
	return s.setRecord(ctx, what, volume, text)
}

// History implements Store.
func (s *Libvirt) History(ctx context.Context, kind release.Kind, name string) (History, error) {
	volume, err := HeadName(kind, name)
	if err != nil {
		return History{}, err
	}
	return s.history(ctx, fmt.Sprintf("read the history of %s %q", kind, name), volume)
}

func (s *Libvirt) history(ctx context.Context, what, volume string) (History, error) {
	text, err := s.record(ctx, what, volume)
	if err != nil {
		return History{}, err
	}
	history, err := DecodeHistory(text)
	if err != nil {
		return History{}, fmt.Errorf("%s: %w", what, err)
	}
	return history, nil
}

// Histories implements Store.
func (s *Libvirt) Histories(ctx context.Context) (map[Named]History, error) {
	volumes, err := s.Volumes(ctx)
	if err != nil {
		return nil, err
	}
	all := map[Named]History{}
	for _, volume := range volumes {
		name, _ := ParseVolumeName(volume.Name)
		if name.Kind != HeadVolume {
			continue
		}
		history, err := s.history(ctx, "read "+volume.Name, volume.Name)
		if errors.Is(err, ErrNotFound) {
			continue
		}
		if err != nil {
			return nil, err
		}
		all[name.Of] = history
	}
	return all, nil
}

// record returns the content of a record.
func (s *Libvirt) record(ctx context.Context, what, name string) ([]byte, error) {
	volume, err := s.volume(ctx, what, name, false)
	if err != nil {
		return nil, err
	}
	if volume.capacity < recordCapacity {
		return nil, fmt.Errorf("%s: volume %s has %d bytes, and a record has %d: %w", what, volume.path, volume.capacity, recordCapacity, ErrCorrupt)
	}
	var now current
	for try := 1; ; try++ {
		err = s.transfer(ctx, what, func(t *libvirtconn.Transfer) error {
			now, err = readRecord(reader(t, volume))
			return err
		})
		if !errors.Is(err, ErrCorrupt) || try == recordTries {
			break
		}
		select {
		case <-ctx.Done():
			return nil, fmt.Errorf("%s: %w", what, ctx.Err())
		case <-time.After(20 * time.Millisecond):
		}
	}
	if err != nil {
		return nil, s.readFailure(volume.path, err)
	}
	return now.content, nil
}

func (s *Libvirt) setRecord(ctx context.Context, what, name string, content []byte) error {
	volume, err := s.fit(ctx, what, name, recordCapacity)
	if err != nil {
		return err
	}
	err = s.transfer(ctx, what, func(t *libvirtconn.Transfer) error {
		write := func(offset int64, data []byte) error {
			return t.Upload(volume.StorageVol, offset, int64(len(data)), bytes.NewReader(data), nil)
		}
		return writeRecord(reader(t, volume), write, content)
	})
	if err != nil {
		return fmt.Errorf("volume %s: %w", volume.path, err)
	}
	return nil
}

func reader(t *libvirtconn.Transfer, volume held) readAt {
	return func(offset, length int64) ([]byte, error) { return t.Download(volume.StorageVol, offset, length) }
}
