package store

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"slices"

	"github.com/digitalocean/go-libvirt"
	"libvirt.org/go/libvirtxml"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/libvirtconn"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// MaxBlob is how large a blob may be that GetBlob reads into memory, in bytes.
const MaxBlob = 256 << 20

// held is a volume with its size.
type held struct {
	libvirt.StorageVol
	path                 string
	capacity, allocation int64
	// device is true for a block device, which may hold what was there before it was made.
	device bool
	// made is true if it was made just now, by this process.
	made bool
}

func (s *Libvirt) describe(l *libvirt.Libvirt, volume libvirt.StorageVol) (held, error) {
	path, err := l.StorageVolGetPath(volume)
	if err != nil {
		return held{}, err
	}
	kind, capacity, allocation, err := l.StorageVolGetInfo(volume)
	if err != nil {
		return held{}, err
	}
	return held{
		StorageVol: volume, path: path, capacity: int64(capacity), allocation: int64(allocation),
		device: libvirt.StorageVolType(kind) == libvirt.StorageVolBlock,
	}, nil
}

// volume returns the volume of a name, whole or torn; ErrNotFound if there is none.
func (s *Libvirt) volume(ctx context.Context, what, name string, stores bool) (held, error) {
	var found held
	err := s.call(ctx, what, stores, func(l *libvirt.Libvirt, pool libvirt.StoragePool) error {
		volume, err := s.find(l, pool, name)
		if err != nil {
			return err
		}
		found, err = s.describe(l, volume)
		if libvirtconn.Is(err, libvirt.ErrNoStorageVol) {
			return fmt.Errorf("volume %s: %w", name, ErrNotFound)
		}
		return err
	})
	return found, err
}

// create returns the volume of a name as it is, and makes it with size bytes if there is none, of which the pool reserves
// so many at once.
func (s *Libvirt) create(ctx context.Context, what, name string, size, reserve int64) (held, error) {
	var made held
	err := s.call(ctx, what, true, func(l *libvirt.Libvirt, pool libvirt.StoragePool) error {
		now := false
		volume, err := s.find(l, pool, name)
		if errors.Is(err, ErrNotFound) {
			volume, now, err = s.createIn(l, pool, name, size, reserve)
		}
		if err != nil {
			return fmt.Errorf("make volume %s of %d bytes in storage pool %q: %w; see that the pool has room and is writable", name, size, s.config.Pool, err)
		}
		made, err = s.describe(l, volume)
		made.made = now
		return err
	})
	return made, err
}

// createIn makes a volume. made is false if somebody else was faster.
func (s *Libvirt) createIn(l *libvirt.Libvirt, pool libvirt.StoragePool, name string, size, reserve int64) (_ libvirt.StorageVol, made bool, _ error) {
	volume, err := makeVolume(l, pool, name, size, reserve)
	if libvirtconn.Is(err, libvirt.ErrStorageVolExist) {
		volume, err = s.find(l, pool, name)
		return volume, false, err
	}
	return volume, err == nil, err
}

// volumeDefinition describes a raw volume, of which so many bytes are reserved.
func volumeDefinition(name string, size, reserve int64) (string, error) {
	definition, err := xml.Marshal(libvirtxml.StorageVolume{
		Name:       name,
		Capacity:   &libvirtxml.StorageVolumeSize{Unit: "bytes", Value: uint64(size)},
		Allocation: &libvirtxml.StorageVolumeSize{Unit: "bytes", Value: uint64(reserve)},
		Target:     &libvirtxml.StorageVolumeTarget{Format: &libvirtxml.StorageVolumeTargetFormat{Type: "raw"}},
	})
	if err != nil {
		return "", fmt.Errorf("describe volume %s: %w", name, err)
	}
	return string(definition), nil
}

// fit is create for content that can be written again: a volume that is too short for it is replaced. All of it is reserved:
// libvirtd 11.3 crashes when the disk is full in the middle of an upload, and reserving only fails.
func (s *Libvirt) fit(ctx context.Context, what, name string, size int64) (held, error) {
	volume, err := s.create(ctx, what, name, size, size)
	if err != nil || volume.capacity >= size {
		return volume, err
	}
	if err := s.delete(ctx, what, name); err != nil {
		return held{}, err
	}
	return s.create(ctx, what, name, size, size)
}

// whole reports whether a volume's first bytes have been written, which happens last.
func (s *Libvirt) whole(ctx context.Context, what string, volume held) (bool, error) {
	length := min(volume.capacity, HeadSize)
	if length == 0 {
		return false, nil
	}
	var head []byte
	err := s.transfer(ctx, what, func(t *libvirtconn.Transfer) error {
		var err error
		head, err = t.Download(volume.StorageVol, 0, length)
		return err
	})
	if err != nil {
		return false, s.readFailure(volume.Name, err)
	}
	return !isZero(head), nil
}

// readFailure tells a volume that went away meanwhile from one that could not be read.
func (s *Libvirt) readFailure(name string, err error) error {
	if libvirtconn.Is(err, libvirt.ErrNoStorageVol) {
		return fmt.Errorf("volume %s: %w", name, ErrNotFound)
	}
	return err
}

// put uploads content under a name unless the whole of it is there, and reports whether it did.
func (s *Libvirt) put(ctx context.Context, what, name string, size int64, content io.ReaderAt, progress Progress) (bool, error) {
	volume, err := s.volume(ctx, what, name, true)
	if err == nil && volume.capacity >= size {
		whole, err := s.whole(ctx, what, volume)
		if whole || err != nil && !errors.Is(err, ErrNotFound) {
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
		return false, fmt.Errorf("%s: it starts with %d zero bytes, which is what a torn volume starts with", what, len(head))
	}
	// Two uploads of the same content write the same bytes to the same places: neither has to know of the other.
	if volume, err = s.fit(ctx, what, name, size); err != nil {
		return false, err
	}
	return true, s.upload(ctx, what, volume, head, size, content, progress)
}

func (s *Libvirt) upload(ctx context.Context, what string, volume held, head []byte, size int64, content io.ReaderAt, progress Progress) error {
	tell := func(done int64) {
		if progress != nil {
			progress(done, size)
		}
	}
	first := int64(len(head))
	err := s.transfer(ctx, what, func(t *libvirtconn.Transfer) error {
		if size > first {
			rest := io.NewSectionReader(content, first, size-first)
			if err := t.Upload(volume.StorageVol, first, size-first, rest, tell); err != nil {
				return err
			}
		}
		return t.Upload(volume.StorageVol, 0, first, bytes.NewReader(head), nil)
	})
	if err != nil {
		return fmt.Errorf("storage pool %q, volume %s: %w", s.config.Pool, volume.path, err)
	}
	tell(size)
	return nil
}

// PutLayer implements Store.
func (s *Libvirt) PutLayer(ctx context.Context, layer release.Layer, content io.ReaderAt, progress Progress) (bool, error) {
	if layer.ID.IsZero() || layer.Size < HeadSize || layer.Size%HeadSize != 0 ||
		layer.DataSize <= 0 || layer.DataSize > layer.Size || layer.DataSize%HeadSize != 0 {
		return false, fmt.Errorf("upload layer %s: %d bytes with %d of data are not what a layer has", layer.ID, layer.Size, layer.DataSize)
	}
	return s.put(ctx, "upload layer "+layer.ID.String(), LayerName(layer.ID), layer.Size, content, progress)
}

// LayerPath implements Store.
func (s *Libvirt) LayerPath(ctx context.Context, id tree.Digest) (string, error) {
	return s.path(ctx, "find layer "+id.String(), LayerName(id))
}

// BlobPath implements Store.
func (s *Libvirt) BlobPath(ctx context.Context, digest tree.Digest) (string, error) {
	return s.path(ctx, "find blob "+digest.String(), BlobName(digest))
}

func (s *Libvirt) path(ctx context.Context, what, name string) (string, error) {
	volume, err := s.volume(ctx, what, name, false)
	if err != nil {
		return "", err
	}
	whole, err := s.whole(ctx, what, volume)
	if err != nil {
		return "", err
	}
	if !whole {
		return "", fmt.Errorf("%s: volume %s is torn: %w", what, name, ErrNotFound)
	}
	return volume.path, nil
}

// PutBlob implements Store.
func (s *Libvirt) PutBlob(ctx context.Context, blob release.Blob, content io.ReaderAt, progress Progress) error {
	if blob.Digest.IsZero() || blob.Size <= 0 {
		return fmt.Errorf("upload blob %s: a size of %d bytes is not possible", blob.Digest, blob.Size)
	}
	_, err := s.put(ctx, "upload blob "+blob.Digest.String(), BlobName(blob.Digest), blob.Size, content, progress)
	return err
}

// GetBlob implements Store.
func (s *Libvirt) GetBlob(ctx context.Context, blob release.Blob) ([]byte, error) {
	what, name := "read blob "+blob.Digest.String(), BlobName(blob.Digest)
	if blob.Size <= 0 || blob.Size > MaxBlob {
		return nil, fmt.Errorf("%s: %d bytes cannot be read into memory, at most %d can", what, blob.Size, MaxBlob)
	}
	volume, err := s.volume(ctx, what, name, false)
	if err != nil {
		return nil, err
	}
	if volume.capacity < blob.Size {
		return nil, fmt.Errorf("%s: volume %s has %d bytes, not %d: %w", what, name, volume.capacity, blob.Size, ErrNotFound)
	}
	var data []byte
	err = s.transfer(ctx, what, func(t *libvirtconn.Transfer) error {
		var err error
		data, err = t.Download(volume.StorageVol, 0, blob.Size)
		return err
	})
	if err != nil {
		return nil, s.readFailure(name, err)
	}
	if isZero(data[:min(len(data), HeadSize)]) {
		return nil, fmt.Errorf("%s: volume %s is torn: %w", what, name, ErrNotFound)
	}
	if tree.Sum(data) != blob.Digest {
		return nil, fmt.Errorf("%s: volume %s: %w", what, volume.path, ErrCorrupt)
	}
	return data, nil
}

// delete removes a volume; one that is gone already is no error.
func (s *Libvirt) delete(ctx context.Context, what, name string) error {
	err := s.call(ctx, what, false, func(l *libvirt.Libvirt, pool libvirt.StoragePool) error {
		volume, err := s.find(l, pool, name)
		if err != nil {
			return err
		}
		if err := l.StorageVolDelete(volume, 0); err != nil && !libvirtconn.Is(err, libvirt.ErrNoStorageVol) {
			return fmt.Errorf("volume %s in storage pool %q: %w", name, s.config.Pool, err)
		}
		return nil
	})
	if errors.Is(err, ErrNotFound) {
		return nil
	}
	return err
}

// Volumes implements Store.
func (s *Libvirt) Volumes(ctx context.Context) ([]Volume, error) {
	return s.list(ctx, "list volumes", LayerVolume, BlobVolume, ReleaseVolume, HeadVolume, DiskVolume)
}

// ListObjects implements Objects.
func (s *Libvirt) ListObjects(ctx context.Context) ([]Volume, error) {
	return s.list(ctx, "list objects", LayerVolume, BlobVolume, ReleaseVolume)
}

// ListHeads implements Heads.
func (s *Libvirt) ListHeads(ctx context.Context) ([]Volume, error) {
	return s.list(ctx, "list histories", HeadVolume)
}

// ListDisks implements Disks.
func (s *Libvirt) ListDisks(ctx context.Context) ([]Volume, error) {
	return s.list(ctx, "list private disks", DiskVolume)
}

// list returns the volumes of some kinds. A pool that does not exist has none.
func (s *Libvirt) list(ctx context.Context, what string, kinds ...VolumeKind) ([]Volume, error) {
	var volumes []Volume
	err := s.call(ctx, what, false, func(l *libvirt.Libvirt, pool libvirt.StoragePool) error {
		volumes = nil
		if err := s.refresh(l, pool); err != nil {
			return err
		}
		all, _, err := l.StoragePoolListAllVolumes(pool, 1, 0)
		if err != nil {
			return err
		}
		for _, one := range all {
			if name, ours := ParseVolumeName(one.Name); !ours || !slices.Contains(kinds, name.Kind) {
				continue
			}
			volume, err := s.describe(l, one)
			if libvirtconn.Is(err, libvirt.ErrNoStorageVol) {
				continue
			}
			if err != nil {
				return fmt.Errorf("volume %s: %w", one.Name, err)
			}
			volumes = append(volumes, volume.public())
		}
		return nil
	})
	if errors.Is(err, ErrNotFound) {
		return nil, nil
	}
	return volumes, err
}

func (h held) public() Volume {
	return Volume{Name: h.Name, Path: h.path, Capacity: h.capacity, Allocation: h.allocation}
}

// Sweep implements Store.
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
	s.swept.Store(true)
	return swept, s.dropPool(ctx)
}
