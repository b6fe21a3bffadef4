package source

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

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// DiskImage is the root file system in the image of a disk, as clouds take them: raw or qcow2, with a GPT, an MBR or no
// partition table. Of a GPT, the partition is taken whose type says that it is a root file system for this machine's
// architecture, else the only one of Linux's general type; one for /boot (XBOOTLDR) is laid over the root's /boot.
//
// The file system is mounted by the kernel of this machine, read-only and attached nowhere, which takes root
// (CAP_SYS_ADMIN) and a loop device: no library of Go's reads extended attributes, without which file capabilities
// would be lost. Whoever made the image can send this kernel what he likes: take images from those whom you would
// let run as root.
type DiskImage struct {
	// Path of the image.
	Path string
	// Download brings the image, instead of Path; nil if there is none.
	Download *Download
	// Partition is the number of the partition; 0 finds it by its type.
	Partition int
	// CacheDir is a directory in which digests of files are remembered, and where room is taken for what is unpacked
	// while it is read; empty: none are, and it is taken where the system has its temporary files.
	CacheDir string
	// Limits bound what the file system may hold; zero values mean the defaults.
	Limits Limits
}

// ErrRequirement means that this machine or the user who runs this cannot do what a source needs.
var ErrRequirement = errors.New("a requirement is missing")

// TarLimits are the limits of what Open yields.
func (d DiskImage) TarLimits() Limits { return d.Limits }

// String names the image for a user.
func (d DiskImage) String() string {
	if d.Download != nil {
		return fmt.Sprintf("disk image %q", d.Download)
	}
	return fmt.Sprintf("disk image %q", d.Path)
}

// ReadableAtPlan is true for a file, which is there or not, and for at most 256 MiB to fetch.
func (d DiskImage) ReadableAtPlan() bool {
	return d.Download == nil || d.Download.readableAtPlan(d.CacheDir)
}

// Fingerprint is "disk:sha256:<64 hex>:<partition>", of the bytes of the image. The file is read once per path, size,
// modification time and inode.
func (d DiskImage) Fingerprint(ctx context.Context) (_ string, err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("fingerprint %s: %w", d, err)
		}
	}()
	if d.Download != nil {
		return fmt.Sprintf("disk:%s:%d", d.Download.Digest, d.Partition), nil
	}
	file, id, err := openArchive(d.Path)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	digest, err := digestOnce(ctx, d.CacheDir, file, id)
	if err != nil {
		return "", err
	}
	return fmt.Sprintf("disk:%s:%d", digest, d.Partition), nil
}

// Open yields the file system as a tar stream.
func (d DiskImage) Open(ctx context.Context, progress Progress) (io.ReadCloser, error) {
	if d.Download != nil {
		fetched := d
		path, err := d.Download.fetch(ctx, d.CacheDir, d.Limits.withDefaults().Content, told(progress, "fetching "+d.Download.String()))
		if err != nil {
			return nil, &sourceError{source: d, err: err}
		}
		fetched.Path, fetched.Download = path, nil
		return fetched.Open(ctx, progress)
	}
	file, id, err := openArchive(d.Path)
	if err != nil {
		return nil, &sourceError{source: d, err: err}
	}
	return newTarPipe(ctx, d, func(ctx context.Context, out *tar.Writer) (err error) {
		defer func() { err = errors.Join(err, file.Close()) }()
		if err := d.write(ctx, file, progress, out); err != nil {
			return err
		}
		info, err := file.Stat()
		if err == nil && identify(id.Path, info) != id {
			err = errors.New("it changed while it was read: try again when it is complete")
		}
		return err
	}), nil
}

func (d DiskImage) write(ctx context.Context, file *os.File, progress Progress, out *tar.Writer) (err error) {
	disk, err := openDisk(file)
	if err != nil {
		return err
	}
	found, err := findRoots(disk, disk.Size(), d.Partition, runtime.GOARCH)
	if err != nil {
		return err
	}
	tell := told(progress, "reading "+filepath.Base(d.Path))
	isBoot := func(p string) bool { return found.boot != nil && p == "boot" }
	// The root file system's own /boot is hidden, as it is when the other one is mounted over it.
	if err := d.writePartition(ctx, file, disk, found.root, tree.Root, isBoot, tell, out); err != nil {
		return fmt.Errorf("partition %s: %w", found.root, err)
	}
	if found.boot == nil {
		return nil
	}
	never := func(string) bool { return false }
	if err := d.writePartition(ctx, file, disk, *found.boot, "boot", never, tell, out); err != nil {
		return fmt.Errorf("partition %s: %w", found.boot, err)
	}
	return nil
}

// writePartition mounts a partition and writes what is in it.
func (d DiskImage) writePartition(ctx context.Context, file *os.File, from disk, p partition, at string,
	skip func(string) bool, tell func(int64), out *tar.Writer,
) (err error) {
	name := fileSystemOf(from, p.offset)
	if name == "" {
		return errors.New("it holds no file system that is known (ext4, xfs, btrfs); if it is encrypted or a volume group, make an archive of it in a VM")
	}
	backing, offset := file, p.offset
	if packed, ok := from.(*qcow2); ok {
		if backing, err = d.unpack(ctx, packed, p, tell); err != nil {
			return fmt.Errorf("unpack it: %w", err)
		}
		defer func() { err = errors.Join(err, backing.Close()) }()
		offset = 0
	}
	root, err := mountImage(backing, offset, p.size, name)
	if err != nil {
		return fmt.Errorf("mount its %s: %w", name, err)
	}
	if name == "btrfs" && at == tree.Root {
		if err := refuseSubvolumes(root); err != nil {
			return errors.Join(err, root.Close())
		}
	}
	stream := dirStream{root: root, at: at, special: true, tell: tell,
		skip: func(p string) bool { return neverShared(p) || skip(p) },
		// What fsck has found belongs to nobody, and the directory for it to ext4 alone.
		omit: func(p string) bool { return p == path.Join(at, "lost+found") },
	}
	return errors.Join(stream.write(ctx, out), root.Close())
}

// disk is what an image is the image of. Size is in bytes.
type disk interface {
	io.ReaderAt
	Size() int64
}

// rawDisk is the disk in a raw image.
type rawDisk struct {
	*os.File
	size int64
}

func (d rawDisk) Size() int64 { return d.size }

// otherImages are forms that are not read, by their first bytes.
var otherImages = map[string]string{
	"KDMV": "VMDK", "# Disk DescriptorFile": "VMDK", "vhdxfile": "VHDX", "conectix": "VHD", "<<< ": "VDI",
	"\x1f\x8b": "gzip", "\x28\xb5\x2f\xfd": "zstd", "\xfd7zXZ\x00": "xz",
}

// openDisk finds the form of an image by its first bytes.
func openDisk(file *os.File) (disk, error) {
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	head := make([]byte, 512)
	if _, err := file.ReadAt(head, 0); err != nil {
		return nil, fmt.Errorf("it is too short to be a disk: %w: %w", ErrCorrupt, err)
	}
	for start, form := range otherImages {
		if string(head[:len(start)]) == start {
			return nil, fmt.Errorf("it is of the form %s: unpack it, or convert it with qemu-img convert -O qcow2", form)
		}
	}
	if string(head[:4]) == qcow2Magic {
		return openQcow2(file, info.Size())
	}
	return rawDisk{file, info.Size()}, nil
}

// unpack writes a partition into a file without a name. Where the image has nothing, the file has holes.
func (d DiskImage) unpack(ctx context.Context, from *qcow2, p partition, tell func(int64)) (_ *os.File, err error) {
	if d.CacheDir != "" {
		if err := os.MkdirAll(d.CacheDir, 0o700); err != nil {
			return nil, err
		}
	}
	file, err := os.CreateTemp(d.CacheDir, "disk-*")
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, file.Close())
		}
	}()
	if err := os.Remove(file.Name()); err != nil {
		return nil, err
	}
	if err := file.Truncate(p.size); err != nil {
		return nil, err
	}
	most, written := d.Limits.withDefaults().Content, int64(0)
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
			if written += int64(len(chunk)); written > most {
				return nil, fmt.Errorf("more than %d bytes: %w; raise the limit if this is meant to be one operating system", most, ErrLimit)
			}
			if _, err := file.WriteAt(chunk, at); err != nil {
				return nil, err
			}
			tell(int64(len(chunk)))
			at += int64(len(chunk))
		}
	}
	return file, nil
}
