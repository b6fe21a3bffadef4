// Package storetest has a fake Store for tests of packages that use one, and the contracts of
// store.Objects, store.Heads, store.Disks and store.Locks.
//
// The fake keeps files in a directory. It is as strict as the store on libvirt: the same Contract runs against both.
package storetest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/layer"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// Store keeps volumes as files of one directory.
type Store struct {
	// Fail is called before every call with the names of the method and of the volume ("" if the call
	// is about the whole store). An error that it returns is returned by the call. It may be nil.
	Fail func(method, volume string) error
	// Extent is the size in bytes of which the size of every volume is a multiple, as in pools of
	// block devices. 0 is 1.
	Extent int64
	// Free is the room for private disks, if it is not zero.
	Free store.Room

	dir    string
	locker store.Locker
	// mu is locked for each step on a file, and never while a caller's content is read.
	mu    sync.Mutex
	calls []string
}

var _ store.Store = (*Store)(nil)

// New returns an empty Store in a directory that ends with the test.
func New(t testing.TB) *Store {
	t.Helper()
	return In(t.TempDir())
}

// In returns a Store in a directory, with what an earlier one stored there.
func In(dir string) *Store {
	s := &Store{dir: dir}
	s.locker.Volumes = LockVolumes(dir)
	return s
}

// Calls returns "Method volume" for each call so far that may have changed something.
func (s *Store) Calls() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.calls)
}

// Path returns where the fake keeps a volume, so that a test can damage it.
func (s *Store) Path(volume string) string { return filepath.Join(s.dir, volume) }

func (s *Store) enter(ctx context.Context, method, volume string, changes bool) error {
	if err := ctx.Err(); err != nil {
		return fmt.Errorf("%s %s: %w", method, volume, err)
	}
	if s.Fail != nil {
		if err := s.Fail(method, volume); err != nil {
			return err
		}
	}
	if changes {
		s.mu.Lock()
		s.calls = append(s.calls, strings.TrimSpace(method+" "+volume))
		s.mu.Unlock()
	}
	return nil
}

// PutLayer implements store.Objects.
func (s *Store) PutLayer(ctx context.Context, wanted release.Layer, content io.ReaderAt,
	progress store.Progress) (bool, error) {
	name := store.LayerName(wanted.ID)
	if err := s.enter(ctx, "PutLayer", name, true); err != nil {
		return false, err
	}
	if wanted.ID.IsZero() || wanted.Size < store.HeadSize || wanted.Size%store.HeadSize != 0 ||
		wanted.DataSize <= 0 || wanted.DataSize > wanted.Size || wanted.DataSize%store.HeadSize != 0 {
		return false, fmt.Errorf("upload layer %s: %d bytes with %d of data are not what a layer has", wanted.ID,
			wanted.Size, wanted.DataSize)
	}
	return s.put(ctx, name, wanted.Size, content, progress)
}

// PutBlob implements store.Objects.
func (s *Store) PutBlob(ctx context.Context, blob release.Blob, content io.ReaderAt, progress store.Progress) error {
	name := store.BlobName(blob.Digest)
	if err := s.enter(ctx, "PutBlob", name, true); err != nil {
		return err
	}
	if blob.Digest.IsZero() || blob.Size <= 0 {
		return fmt.Errorf("upload blob %s: a size of %d bytes is not possible", blob.Digest, blob.Size)
	}
	_, err := s.put(ctx, name, blob.Size, content, progress)
	return err
}

func (s *Store) put(ctx context.Context, name string, size int64, content io.ReaderAt,
	progress store.Progress) (bool, error) {
	if info, err := s.whole(name); err == nil && info.Size() == s.rounded(size) {
		return false, nil
	} else if err != nil && !errors.Is(err, store.ErrNotFound) {
		return false, err
	}
	head := make([]byte, min(size, store.HeadSize))
	if _, err := io.ReadFull(io.NewSectionReader(content, 0, size), head); err != nil {
		return false, fmt.Errorf("upload %s: read the start of it: %w", name, err)
	}
	if zero(head) {
		return false, fmt.Errorf("upload %s: it starts with %d zero bytes, which is what a torn volume starts with",
			name, len(head))
	}
	file, err := os.OpenFile(s.Path(name), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return false, err
	}
	defer func() { _ = file.Close() }()
	if err := file.Truncate(s.rounded(size)); err != nil {
		return false, err
	}
	done := int64(len(head))
	buffer := make([]byte, 1<<20)
	for done < size {
		if err := ctx.Err(); err != nil {
			return false, fmt.Errorf("upload %s: %w", name, err)
		}
		part := buffer[:min(int64(len(buffer)), size-done)]
		if _, err := io.ReadFull(io.NewSectionReader(content, done, size-done), part); err != nil {
			return false, fmt.Errorf("upload %s: read at %d: %w", name, done, err)
		}
		if _, err := file.WriteAt(part, done); err != nil {
			return false, err
		}
		done += int64(len(part))
		if progress != nil {
			progress(done-int64(len(head)), size)
		}
	}
	if _, err := file.WriteAt(head, 0); err != nil {
		return false, err
	}
	if progress != nil {
		progress(size, size)
	}
	return true, file.Sync()
}

// rounded is the size that a volume gets.
func (s *Store) rounded(size int64) int64 {
	if s.Extent <= 0 {
		return size
	}
	return (size + s.Extent - 1) / s.Extent * s.Extent
}

// whole returns ErrNotFound if the volume is not there or torn.
func (s *Store) whole(name string) (fs.FileInfo, error) {
	file, err := os.Open(s.Path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, fmt.Errorf("volume %s: %w", name, store.ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	defer func() { _ = file.Close() }()
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	head := make([]byte, min(info.Size(), store.HeadSize))
	if _, err := io.ReadFull(file, head); err != nil {
		return nil, err
	}
	if zero(head) {
		return nil, fmt.Errorf("volume %s is torn: %w", name, store.ErrNotFound)
	}
	return info, nil
}

// LayerPath implements store.Objects.
func (s *Store) LayerPath(ctx context.Context, id tree.Digest) (string, error) {
	return s.path(ctx, "LayerPath", store.LayerName(id))
}

// BlobPath implements store.Objects.
func (s *Store) BlobPath(ctx context.Context, digest tree.Digest) (string, error) {
	return s.path(ctx, "BlobPath", store.BlobName(digest))
}

func (s *Store) path(ctx context.Context, method, name string) (string, error) {
	if err := s.enter(ctx, method, name, false); err != nil {
		return "", err
	}
	if _, err := s.whole(name); err != nil {
		return "", err
	}
	return s.Path(name), nil
}

// GetBlob implements store.Objects.
func (s *Store) GetBlob(ctx context.Context, blob release.Blob) ([]byte, error) {
	name := store.BlobName(blob.Digest)
	if err := s.enter(ctx, "GetBlob", name, false); err != nil {
		return nil, err
	}
	info, err := s.whole(name)
	if err != nil {
		return nil, err
	}
	if info.Size() < blob.Size {
		return nil, fmt.Errorf("volume %s has %d bytes, not %d: %w", name, info.Size(), blob.Size, store.ErrNotFound)
	}
	data, err := os.ReadFile(s.Path(name))
	if err != nil {
		return nil, err
	}
	data = data[:blob.Size]
	if tree.Sum(data) != blob.Digest {
		return nil, fmt.Errorf("volume %s: %w", name, store.ErrCorrupt)
	}
	return data, nil
}

// ReadLayer implements store.Objects.
func (s *Store) ReadLayer(ctx context.Context, wanted release.Layer, use func(io.ReaderAt) error) (err error) {
	name := store.LayerName(wanted.ID)
	if err := s.enter(ctx, "ReadLayer", name, false); err != nil {
		return err
	}
	if _, err := s.whole(name); err != nil {
		return err
	}
	file, err := os.Open(s.Path(name))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	return use(io.NewSectionReader(file, 0, wanted.Size))
}

// VerifyLayer implements store.Objects. In tests that need no image, a layer's id may be the digest of its content.
func (s *Store) VerifyLayer(ctx context.Context, wanted release.Layer) error {
	name := store.LayerName(wanted.ID)
	if err := s.enter(ctx, "VerifyLayer", name, false); err != nil {
		return err
	}
	if _, err := s.whole(name); err != nil {
		return err
	}
	data, err := os.ReadFile(s.Path(name))
	if err != nil {
		return err
	}
	if int64(len(data)) < wanted.Size {
		return fmt.Errorf("volume %s has %d bytes instead of %d: %w", name, len(data), wanted.Size, store.ErrCorrupt)
	}
	if tree.Sum(data[:wanted.Size]) == wanted.ID {
		return nil
	}
	err = layer.VerifyStream(ctx, wanted,
		func(offset, length int64) ([]byte, error) { return data[offset : offset+length], nil })
	if errors.Is(err, layer.ErrDamaged) {
		return fmt.Errorf("volume %s: %w: %w", name, store.ErrCorrupt, err)
	}
	return err
}

// VerifyBlob implements store.Objects.
func (s *Store) VerifyBlob(ctx context.Context, blob release.Blob) error {
	if err := s.enter(ctx, "VerifyBlob", store.BlobName(blob.Digest), false); err != nil {
		return err
	}
	_, err := s.GetBlob(ctx, blob)
	return err
}

// PutManifest implements store.Objects.
func (s *Store) PutManifest(ctx context.Context, id tree.Digest, signed []byte) error {
	if err := s.enter(ctx, "PutManifest", store.ReleaseName(id), true); err != nil {
		return err
	}
	if id.IsZero() || len(signed) == 0 || len(signed) > store.MaxRecord {
		return fmt.Errorf("store release %s: a signed manifest of %d bytes is not possible", id, len(signed))
	}
	return s.replace(store.ReleaseName(id), signed)
}

// GetManifest implements store.Objects.
func (s *Store) GetManifest(ctx context.Context, id tree.Digest) ([]byte, error) {
	name := store.ReleaseName(id)
	if err := s.enter(ctx, "GetManifest", name, false); err != nil {
		return nil, err
	}
	if _, err := s.whole(name); err != nil {
		return nil, err
	}
	return os.ReadFile(s.Path(name))
}

func (s *Store) replace(name string, data []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	temporary := s.Path(".new-" + name)
	if err := os.WriteFile(temporary, data, 0o600); err != nil {
		return err
	}
	return os.Rename(temporary, s.Path(name))
}

// SetHistory implements store.Heads.
func (s *Store) SetHistory(ctx context.Context, kind release.Kind, name string, history store.History) error {
	volume, err := store.HeadName(kind, name)
	if err != nil {
		return err
	}
	if err := s.enter(ctx, "SetHistory", volume, true); err != nil {
		return err
	}
	if len(history.Releases) == 0 {
		return s.remove(volume)
	}
	text, err := store.EncodeHistory(history)
	if err != nil {
		return err
	}
	return s.replace(volume, text)
}

// History implements store.Heads.
func (s *Store) History(ctx context.Context, kind release.Kind, name string) (store.History, error) {
	volume, err := store.HeadName(kind, name)
	if err != nil {
		return store.History{}, err
	}
	if err := s.enter(ctx, "History", volume, false); err != nil {
		return store.History{}, err
	}
	return s.history(volume)
}

func (s *Store) history(volume string) (store.History, error) {
	if _, err := s.whole(volume); err != nil {
		return store.History{}, err
	}
	text, err := os.ReadFile(s.Path(volume))
	if err != nil {
		return store.History{}, err
	}
	return store.DecodeHistory(text)
}

// Histories implements store.Heads.
func (s *Store) Histories(ctx context.Context) (map[store.Named]store.History, error) {
	if err := s.enter(ctx, "Histories", "", false); err != nil {
		return nil, err
	}
	volumes, err := s.volumes(store.HeadVolume)
	if err != nil {
		return nil, err
	}
	all := map[store.Named]store.History{}
	for _, volume := range volumes {
		name, _ := store.ParseVolumeName(volume.Name)
		if all[name.Of], err = s.history(volume.Name); err != nil {
			return nil, err
		}
	}
	return all, nil
}

// CreatePrivateDisk implements store.Disks.
func (s *Store) CreatePrivateDisk(ctx context.Context, name string, size int64) (string, error) {
	if err := checkDisk(name); err != nil {
		return "", err
	}
	if err := s.enter(ctx, "CreatePrivateDisk", name, true); err != nil {
		return "", err
	}
	if size <= 0 {
		return "", fmt.Errorf("create private disk %s: a size of %d bytes is not possible", name, size)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if info, err := os.Stat(s.Path(name)); err == nil && info.Size() > s.rounded(size) {
		return "", fmt.Errorf("private disk %s: %w from %d to %d bytes", name, store.ErrShrink, info.Size(), size)
	}
	file, err := os.OpenFile(s.Path(name), os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return "", err
	}
	if err := errors.Join(file.Truncate(s.rounded(size)), file.Close()); err != nil {
		return "", err
	}
	return s.Path(name), nil
}

func checkDisk(volume string) error {
	if name, ok := store.ParseVolumeName(volume); !ok || name.Kind != store.DiskVolume {
		return fmt.Errorf("%q is not the name of a private disk's volume", volume)
	}
	return nil
}

// DeletePrivateDisk implements store.Disks.
func (s *Store) DeletePrivateDisk(ctx context.Context, name string) error {
	if err := checkDisk(name); err != nil {
		return err
	}
	if err := s.enter(ctx, "DeletePrivateDisk", name, true); err != nil {
		return err
	}
	return s.remove(name)
}

func (s *Store) remove(name string) error {
	if err := os.Remove(s.Path(name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return nil
}

// PrivateDisk implements store.Disks.
func (s *Store) PrivateDisk(ctx context.Context, name string) (store.Volume, error) {
	if err := checkDisk(name); err != nil {
		return store.Volume{}, err
	}
	if err := s.enter(ctx, "PrivateDisk", name, false); err != nil {
		return store.Volume{}, err
	}
	info, err := os.Stat(s.Path(name))
	if errors.Is(err, fs.ErrNotExist) {
		return store.Volume{}, fmt.Errorf("private disk %s: %w", name, store.ErrNotFound)
	}
	if err != nil {
		return store.Volume{}, err
	}
	return s.volume(info), nil
}

func (s *Store) volume(info fs.FileInfo) store.Volume {
	volume := store.Volume{Name: info.Name(), Path: s.Path(info.Name()), Capacity: info.Size()}
	if status, ok := info.Sys().(*syscall.Stat_t); ok {
		volume.Allocation = status.Blocks * 512
	}
	return volume
}

// Volumes implements store.Store.
func (s *Store) Volumes(ctx context.Context) ([]store.Volume, error) {
	if err := s.enter(ctx, "Volumes", "", false); err != nil {
		return nil, err
	}
	return s.volumes(store.LayerVolume, store.BlobVolume, store.ReleaseVolume, store.HeadVolume, store.DiskVolume)
}

// ListObjects implements store.Objects.
func (s *Store) ListObjects(ctx context.Context) ([]store.Volume, error) {
	if err := s.enter(ctx, "ListObjects", "", false); err != nil {
		return nil, err
	}
	return s.volumes(store.LayerVolume, store.BlobVolume, store.ReleaseVolume)
}

// ListHeads implements store.Heads.
func (s *Store) ListHeads(ctx context.Context) ([]store.Volume, error) {
	if err := s.enter(ctx, "ListHeads", "", false); err != nil {
		return nil, err
	}
	return s.volumes(store.HeadVolume)
}

// ListDisks implements store.Disks.
func (s *Store) ListDisks(ctx context.Context) ([]store.Volume, error) {
	if err := s.enter(ctx, "ListDisks", "", false); err != nil {
		return nil, err
	}
	return s.volumes(store.DiskVolume)
}

// volumes lists the volumes of some kinds.
func (s *Store) volumes(kinds ...store.VolumeKind) ([]store.Volume, error) {
	entries, err := os.ReadDir(s.dir)
	if err != nil {
		return nil, err
	}
	var volumes []store.Volume
	for _, entry := range entries {
		if name, ours := store.ParseVolumeName(entry.Name()); !ours || !slices.Contains(kinds, name.Kind) {
			continue
		}
		info, err := entry.Info()
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return nil, err
		}
		volumes = append(volumes, s.volume(info))
	}
	return volumes, nil
}

// Unfinished implements store.Objects.
func (s *Store) Unfinished(ctx context.Context) (bool, error) {
	if err := s.enter(ctx, "Unfinished", "", false); err != nil {
		return false, err
	}
	needed, err := s.volumes(store.HeadVolume, store.DiskVolume)
	if err != nil || len(needed) > 0 {
		return false, err
	}
	left, err := s.volumes(store.LayerVolume, store.BlobVolume, store.ReleaseVolume, store.LockVolume)
	return len(left) > 0, err
}

// Sweep implements store.Objects.
func (s *Store) Sweep(ctx context.Context, keep map[tree.Digest]bool) ([]store.Volume, error) {
	if err := s.enter(ctx, "Sweep", "", true); err != nil {
		return nil, err
	}
	volumes, err := s.volumes(store.LayerVolume, store.BlobVolume, store.ReleaseVolume)
	if err != nil {
		return nil, err
	}
	var swept []store.Volume
	for _, volume := range volumes {
		name, _ := store.ParseVolumeName(volume.Name)
		if keep[name.Digest] {
			continue
		}
		if err := s.remove(volume.Name); err != nil {
			return swept, err
		}
		swept = append(swept, volume)
	}
	return swept, nil
}

// Close implements store.Store.
func (s *Store) Close() error { return s.locker.Close(context.Background()) }

func zero(data []byte) bool { return len(bytes.TrimLeft(data, "\x00")) == 0 }

// Room implements store.Disks. Without Free, there is a pool of 1 TiB.
func (s *Store) Room(ctx context.Context) (store.Room, error) {
	if err := s.enter(ctx, "Room", "", false); err != nil {
		return store.Room{}, err
	}
	if s.Free != (store.Room{}) {
		return s.Free, nil
	}
	return store.Room{Capacity: 1 << 40, Available: 1 << 40, Thin: true, Directory: s.dir}, nil
}
