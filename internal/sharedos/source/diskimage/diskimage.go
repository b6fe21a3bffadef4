// Package diskimage reads the root file system from the image of a disk.
package diskimage

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"path/filepath"
	"runtime"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/cache"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/directory"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/fetch"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/tarstream"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// Source is the root file system in a disk image, raw or qcow2, with a GPT, an MBR or no partition table. In a GPT, the
// root is the partition whose type says that it is a root file system for this machine's architecture, or else the only
// partition of the general Linux type. The content of a boot partition (XBOOTLDR) replaces that of the root's /boot.
//
// This machine's kernel mounts the file system, read-only and detached from the mount tree. That takes root
// (CAP_SYS_ADMIN) and a loop device. No Go library reads extended attributes, without which file capabilities would get
// lost. The kernel thus parses what the author of the image wrote: use only images of authors whom you would let run
// programs as root.
type Source struct {
	// Path of the image.
	Path string
	// Download replaces Path by an image to download; nil if there is none.
	Download *fetch.Download
	// Partition is the number of the partition; 0 selects it by type.
	Partition int
	// CacheDir is a directory for digests of files, and for the disk of a qcow2 image while it is read. If it is empty,
	// digests are not stored, and the disk goes to the system's directory for temporary files.
	CacheDir string
	// Limits bound what the file system may contain; zero values mean the defaults.
	Limits source.Limits
}

// TarLimits returns the limits of the stream that Open returns.
func (s Source) TarLimits() source.Limits { return s.Limits }

// String names the image for a user.
func (s Source) String() string {
	if s.Download != nil {
		return fmt.Sprintf("disk image %q", s.Download)
	}
	return fmt.Sprintf("disk image %q", s.Path)
}

// Fingerprint returns "disk:sha256:<64 hex>:<partition>", from the digest of the image.
func (s Source) Fingerprint(ctx context.Context) (string, error) {
	digest, err := fetch.Digest(ctx, s.Path, s.Download, s.CacheDir)
	if err != nil {
		return "", fmt.Errorf("fingerprint %s: %w", s, err)
	}
	return fmt.Sprintf("disk:%s:%d", digest, s.Partition), nil
}

// Open returns the file system as a tar stream.
func (s Source) Open(ctx context.Context, progress source.Progress) (io.ReadCloser, error) {
	file, err := fetch.Open(ctx, s.Path, s.Download, s.CacheDir, s.Limits, progress)
	if err != nil {
		return nil, source.Wrap(s, err)
	}
	read := progress.Counter("reading "+filepath.Base(file.Name()), 0)
	return tarstream.Pipe(ctx, s, func(ctx context.Context, out *tar.Writer) (err error) {
		defer func() { err = errors.Join(err, file.Close()) }()
		if err := s.write(ctx, file, read, out); err != nil {
			return err
		}
		return file.CheckUnchanged()
	}), nil
}

func (s Source) write(ctx context.Context, file *cache.File, read func(int64), out *tar.Writer) (err error) {
	disk, err := openDisk(file)
	if err != nil {
		return err
	}
	found, err := findRoots(disk, disk.Size(), s.Partition, runtime.GOARCH)
	if err != nil {
		return err
	}
	root := directory.Tree{Path: tree.Root, Special: true, Read: read}
	if found.boot != nil {
		// A boot partition hides the root's own /boot, as it does when it is mounted there.
		root.Skip = func(p string) bool { return p == "boot" }
	}
	if err := s.writePartition(ctx, file, disk, found.root, root, out); err != nil {
		return fmt.Errorf("partition %s: %w", found.root, err)
	}
	if found.boot == nil {
		return nil
	}
	boot := directory.Tree{Path: "boot", Special: true, Read: read}
	if err := s.writePartition(ctx, file, disk, *found.boot, boot, out); err != nil {
		return fmt.Errorf("partition %s: %w", found.boot, err)
	}
	return nil
}

// writePartition mounts a partition and writes its content as the described tree.
func (s Source) writePartition(ctx context.Context, file *cache.File, from disk, p partition, content directory.Tree,
	out *tar.Writer) (err error) {
	name := fileSystemOf(from, p.offset)
	if name == "" {
		return errors.New(
			"it holds no file system that is supported (ext4, xfs, btrfs); if it is encrypted or a volume group, make an archive of it in a VM")
	}
	backing, offset := file.File, p.offset
	if image, ok := from.(*qcow2); ok {
		if backing, err = s.unpack(ctx, image, p, content.Read); err != nil {
			return fmt.Errorf("unpack it: %w", err)
		}
		defer func() { err = errors.Join(err, backing.Close()) }()
		offset = 0
	}
	root, err := mount(backing, offset, p.size, name)
	if err != nil {
		return fmt.Errorf("mount its %s: %w", name, err)
	}
	if name == "btrfs" && content.Path == tree.Root {
		if err := refuseSubvolumes(root); err != nil {
			return errors.Join(err, root.Close())
		}
	}
	// fsck creates lost+found on ext4; it is not part of the OS.
	lost := path.Join(content.Path, "lost+found")
	content.Root, content.Omit = root, func(p string) bool { return p == lost }
	return errors.Join(content.Write(ctx, out), root.Close())
}

// disk is the disk in an image.
type disk interface {
	io.ReaderAt
	// Size is in bytes.
	Size() int64
}

// unsupported are image formats that are not read, by their first bytes.
var unsupported = map[string]string{
	"KDMV": "VMDK", "# Disk DescriptorFile": "VMDK", "vhdxfile": "VHDX", "conectix": "VHD", "<<< ": "VDI",
	"\x1f\x8b": "gzip", "\x28\xb5\x2f\xfd": "zstd", "\xfd7zXZ\x00": "xz",
}

// openDisk detects the format of an image from its first bytes.
func openDisk(file *cache.File) (disk, error) {
	head := make([]byte, 512)
	if _, err := file.ReadAt(head, 0); err != nil {
		return nil, fmt.Errorf("it is too short to be a disk: %w: %w", source.ErrCorrupt, err)
	}
	for start, format := range unsupported {
		if string(head[:len(start)]) == start {
			return nil, fmt.Errorf("it has the format %s: unpack it, or convert it with qemu-img convert -O qcow2",
				format)
		}
	}
	if string(head[:4]) == qcow2Magic {
		return openQcow2(file, file.Size())
	}
	return file, nil
}

// unpack writes a partition of a qcow2 image into an unnamed file. Clusters that the image does not have become holes.
func (s Source) unpack(ctx context.Context, from *qcow2, p partition, read func(int64)) (_ *os.File, err error) {
	if s.CacheDir != "" {
		if err := os.MkdirAll(s.CacheDir, 0o700); err != nil {
			return nil, err
		}
	}
	file, err := cache.UnnamedFile(s.CacheDir)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, file.Close())
		}
	}()
	if err := file.Truncate(p.size); err != nil {
		return nil, err
	}
	limits, written := s.Limits.OrDefault(), int64(0)
	buf := make([]byte, 1<<20)
	for at := int64(0); at < p.size; {
		if ctx.Err() != nil {
			return nil, context.Cause(ctx)
		}
		hole, length, err := from.hole(p.offset + at)
		if err != nil {
			return nil, err
		}
		end := min(at+length, p.size)
		if hole {
			at = end
			continue
		}
		for at < end {
			chunk := buf[:min(int64(len(buf)), end-at)]
			if _, err := from.ReadAt(chunk, p.offset+at); err != nil {
				return nil, err
			}
			written += int64(len(chunk))
			if err := limits.CheckContent(written); err != nil {
				return nil, err
			}
			if _, err := file.WriteAt(chunk, at); err != nil {
				return nil, err
			}
			read(int64(len(chunk)))
			at += int64(len(chunk))
		}
	}
	return file, nil
}
