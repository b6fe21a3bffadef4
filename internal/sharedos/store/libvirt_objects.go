package store

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/digitalocean/go-libvirt"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/layer"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/libvirtconn"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// MaxBlob is the maximum size in bytes of a blob that GetBlob reads.
const MaxBlob = 256 << 20

// PutLayer implements Objects.
func (s *Libvirt) PutLayer(ctx context.Context, wanted release.Layer, content io.ReaderAt,
	progress Progress) (bool, error) {
	what := "upload layer " + wanted.ID.String()
	if wanted.ID.IsZero() || wanted.Size < HeadSize || wanted.Size%HeadSize != 0 ||
		wanted.DataSize <= 0 || wanted.DataSize > wanted.Size || wanted.DataSize%HeadSize != 0 {
		return false, fmt.Errorf("%s: a layer cannot have %d bytes with %d of data", what, wanted.Size, wanted.DataSize)
	}
	return s.put(ctx, what, LayerName(wanted.ID), wanted.Size, content, progress)
}

// PutBlob implements Objects.
func (s *Libvirt) PutBlob(ctx context.Context, blob release.Blob, content io.ReaderAt, progress Progress) error {
	what := "upload blob " + blob.Digest.String()
	if blob.Digest.IsZero() || blob.Size <= 0 {
		return fmt.Errorf("%s: a size of %d bytes is not possible", what, blob.Size)
	}
	_, err := s.put(ctx, what, BlobName(blob.Digest), blob.Size, content, progress)
	return err
}

// put uploads content unless the volume of the name is complete, and reports whether it uploaded anything.
func (s *Libvirt) put(ctx context.Context, what, name string, size int64, content io.ReaderAt,
	progress Progress) (bool, error) {
	existing, err := s.find(ctx, what, name, storing)
	if err == nil && existing.capacity >= size {
		complete, err := s.isComplete(ctx, what, existing)
		if complete || err != nil && !errors.Is(err, ErrNotFound) {
			return false, err
		}
	} else if err != nil && !errors.Is(err, ErrNotFound) {
		return false, err
	}
	head := make([]byte, min(size, HeadSize))
	if _, err := io.ReadFull(io.NewSectionReader(content, 0, size), head); err != nil {
		return false, fmt.Errorf("%s: read the start of it: %w", what, err)
	}
	if isZero(head) {
		return false, fmt.Errorf("%s: it starts with %d zero bytes, which marks a torn volume", what, len(head))
	}
	// Processes that upload the same content at the same time write the same bytes to the same
	// places, so they need no lock.
	to, err := s.ensureSize(ctx, what, name, size)
	if err != nil {
		return false, err
	}
	if err := s.upload(ctx, what, to, head, size, content, progress); err != nil {
		return true, err
	}
	s.verified.Store(name, true)
	return true, nil
}

// LayerPath implements Objects.
func (s *Libvirt) LayerPath(ctx context.Context, id tree.Digest) (string, error) {
	return s.path(ctx, "find layer "+id.String(), LayerName(id))
}

// BlobPath implements Objects.
func (s *Libvirt) BlobPath(ctx context.Context, digest tree.Digest) (string, error) {
	return s.path(ctx, "find blob "+digest.String(), BlobName(digest))
}

func (s *Libvirt) path(ctx context.Context, what, name string) (string, error) {
	found, err := s.find(ctx, what, name, reading)
	if err != nil {
		return "", err
	}
	complete, err := s.isComplete(ctx, what, found)
	if err != nil {
		return "", err
	}
	if !complete {
		return "", fmt.Errorf("%s: volume %s is torn: %w", what, name, ErrNotFound)
	}
	return found.path, nil
}

// GetBlob implements Objects.
func (s *Libvirt) GetBlob(ctx context.Context, blob release.Blob) ([]byte, error) {
	what, name := "read blob "+blob.Digest.String(), BlobName(blob.Digest)
	if blob.Size <= 0 || blob.Size > MaxBlob {
		return nil, fmt.Errorf("%s: its size of %d bytes is not between 1 and %d", what, blob.Size, MaxBlob)
	}
	found, err := s.find(ctx, what, name, reading)
	if err != nil {
		return nil, err
	}
	if found.capacity < blob.Size {
		return nil, fmt.Errorf("%s: volume %s has %d bytes, not %d: %w", what, name,
			found.capacity, blob.Size, ErrNotFound)
	}
	data, err := s.read(ctx, what, found, blob.Size)
	if err != nil {
		return nil, err
	}
	if isZero(data[:min(len(data), HeadSize)]) {
		return nil, fmt.Errorf("%s: volume %s is torn: %w", what, name, ErrNotFound)
	}
	if tree.Sum(data) != blob.Digest {
		return nil, fmt.Errorf("%s: volume %s: %w", what, found.path, ErrCorrupt)
	}
	return data, nil
}

// VerifyLayer implements Objects.
func (s *Libvirt) VerifyLayer(ctx context.Context, wanted release.Layer) error {
	name := LayerName(wanted.ID)
	if _, known := s.verified.Load(name); known {
		return nil
	}
	what := "verify layer " + wanted.ID.String()
	found, err := s.find(ctx, what, name, reading)
	if err != nil {
		return err
	}
	if complete, err := s.isComplete(ctx, what, found); err != nil || !complete {
		return errors.Join(err, fmt.Errorf("%s: volume %s is torn: %w", what, name, ErrNotFound))
	}
	if found.capacity < wanted.Size {
		return fmt.Errorf("%s: volume %s has %d bytes instead of %d: %w", what, found.path,
			found.capacity, wanted.Size, ErrCorrupt)
	}
	err = s.transfer(ctx, what, func(t *libvirtconn.Transfer) error {
		return layer.VerifyStream(ctx, wanted,
			func(offset, length int64) ([]byte, error) { return t.Download(found.StorageVol, offset, length) })
	})
	if errors.Is(err, layer.ErrDamaged) {
		return fmt.Errorf("%s: volume %s: %w: %w", what, found.path, ErrCorrupt, err)
	}
	if err == nil {
		s.verified.Store(name, true)
	}
	return absent(name, err)
}

// VerifyBlob implements Objects.
func (s *Libvirt) VerifyBlob(ctx context.Context, blob release.Blob) error {
	name := BlobName(blob.Digest)
	if _, known := s.verified.Load(name); known {
		return nil
	}
	if _, err := s.GetBlob(ctx, blob); err != nil {
		return err
	}
	s.verified.Store(name, true)
	return nil
}

// PutManifest implements Objects.
func (s *Libvirt) PutManifest(ctx context.Context, id tree.Digest, signed []byte) error {
	what := "store manifest " + id.String()
	if id.IsZero() || len(signed) == 0 || len(signed) > MaxRecord {
		return fmt.Errorf("%s: a signed manifest of %d bytes is not possible", what, len(signed))
	}
	return s.writeRecord(ctx, what, ReleaseName(id), signed)
}

// GetManifest implements Objects.
func (s *Libvirt) GetManifest(ctx context.Context, id tree.Digest) ([]byte, error) {
	return s.readRecord(ctx, "read manifest "+id.String(), ReleaseName(id))
}

// ListObjects implements Objects.
func (s *Libvirt) ListObjects(ctx context.Context) ([]Volume, error) {
	return s.list(ctx, "list objects", LayerVolume, BlobVolume, ReleaseVolume)
}

// Unfinished implements Objects.
func (s *Libvirt) Unfinished(ctx context.Context) (bool, error) {
	var left bool
	err := s.call(ctx, "look for an unfinished deletion", reading,
		func(l *libvirt.Libvirt, pool libvirt.StoragePool) error {
			left = false
			needed, err := s.handles(l, pool, HeadVolume, DiskVolume)
			if err != nil || len(needed) > 0 {
				return err
			}
			ours, err := s.handles(l, pool, LayerVolume, BlobVolume, ReleaseVolume, LockVolume)
			if err != nil || len(ours) > 0 {
				left = err == nil
				return err
			}
			definition, err := poolDefinition(l, pool)
			left = err == nil && s.originOf(definition) != ""
			return err
		})
	if errors.Is(err, ErrNotFound) {
		return false, nil
	}
	return left, err
}

// Sweep implements Objects.
func (s *Libvirt) Sweep(ctx context.Context, keep map[tree.Digest]bool) ([]Volume, error) {
	volumes, err := s.Volumes(ctx)
	if err != nil {
		return nil, fmt.Errorf("sweep: %w", err)
	}
	var swept []Volume
	for _, volume := range volumes {
		name, _ := ParseVolumeName(volume.Name)
		if name.Digest.IsZero() || keep[name.Digest] {
			continue
		}
		if err := s.delete(ctx, "sweep", volume.Name); err != nil {
			return swept, err
		}
		swept = append(swept, volume)
	}
	if len(swept) < len(volumes) {
		return swept, nil
	}
	// The caller's own lock is still a volume of the pool, so Lock removes the pool after it.
	s.empty.Store(true)
	return swept, s.removePool(ctx)
}
