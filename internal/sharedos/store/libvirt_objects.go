package store

import (
	"context"
	"errors"
	"fmt"
	"io"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// MaxBlob is the maximum size in bytes of a blob that GetBlob reads.
const MaxBlob = 256 << 20

// PutLayer implements Objects.
func (s *Libvirt) PutLayer(ctx context.Context, layer release.Layer, content io.ReaderAt, progress Progress) (bool, error) {
	what := "upload layer " + layer.ID.String()
	if layer.ID.IsZero() || layer.Size < HeadSize || layer.Size%HeadSize != 0 ||
		layer.DataSize <= 0 || layer.DataSize > layer.Size || layer.DataSize%HeadSize != 0 {
		return false, fmt.Errorf("%s: a layer cannot have %d bytes with %d of data", what, layer.Size, layer.DataSize)
	}
	return s.put(ctx, what, LayerName(layer.ID), layer.Size, content, progress)
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
func (s *Libvirt) put(ctx context.Context, what, name string, size int64, content io.ReaderAt, progress Progress) (bool, error) {
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
	// Processes that upload the same content at the same time write the same bytes to the same places, so they need no lock.
	to, err := s.ensureSize(ctx, what, name, size)
	if err != nil {
		return false, err
	}
	return true, s.upload(ctx, what, to, head, size, content, progress)
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
		return nil, fmt.Errorf("%s: volume %s has %d bytes, not %d: %w", what, name, found.capacity, blob.Size, ErrNotFound)
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
