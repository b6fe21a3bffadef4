package source

import (
	"archive/tar"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// OverlayFile is a regular file that is laid over a tree, in the place of a file that is there. Directories above it
// that are missing are made.
type OverlayFile struct {
	// Path in the tree, absolute: "/etc/motd".
	Path string
	// Content of the file, or From, a file of this machine that has it.
	Content, From string
	// Mode has permission, setuid, setgid and sticky bits.
	Mode     uint32
	UID, GID uint32
}

// overlayEntry is an overlay file as it goes into the tree.
type overlayEntry struct {
	tree.Entry
	file OverlayFile
}

// overlay reads what the files are, sorted by path. Files of this machine are read once per identity.
func overlay(ctx context.Context, cacheDir string, files []OverlayFile) ([]overlayEntry, error) {
	var all []overlayEntry
	for _, f := range files {
		e := overlayEntry{file: f, Entry: tree.Entry{
			Type: tree.Regular, Mode: f.Mode, UID: f.UID, GID: f.GID, ModTime: time.Unix(0, 0),
			Size: int64(len(f.Content)), Digest: tree.Sum([]byte(f.Content)),
		}}
		var ok bool
		if e.Path, ok = strings.CutPrefix(f.Path, "/"); !ok {
			return nil, fmt.Errorf("file %q: not an absolute path: %w", f.Path, ErrRefused)
		}
		if err := tree.CheckPath(e.Path); err != nil {
			return nil, fmt.Errorf("file %q: %w: %w", f.Path, err, ErrRefused)
		}
		if f.Mode&^0o7777 != 0 {
			return nil, fmt.Errorf("file %q: mode %#o is impossible: %w", f.Path, f.Mode, ErrRefused)
		}
		if f.From != "" {
			var err error
			if e.Size, e.Digest, err = fileDigest(ctx, cacheDir, f.From); err != nil {
				return nil, fmt.Errorf("file %q: %w", f.Path, err)
			}
		}
		all = append(all, e)
	}
	slices.SortFunc(all, func(a, b overlayEntry) int { return tree.Compare(a.Path, b.Path) })
	for i := 1; i < len(all); i++ {
		if all[i].Path == all[i-1].Path {
			return nil, fmt.Errorf("file %q stands twice: %w", all[i].file.Path, ErrRefused)
		}
	}
	return all, nil
}

// fileDigest is size and digest of a file, which is read once per path, size, modification time and inode.
func fileDigest(ctx context.Context, cacheDir, path string) (_ int64, _ tree.Digest, err error) {
	file, id, err := openArchive(path)
	if err != nil {
		return 0, tree.Digest{}, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	digest, err := digestOnce(ctx, cacheDir, file, id)
	return id.Size, digest, err
}

// overlaid is a tar stream with files laid over it: they come last, and the later of two of one path counts.
func overlaid(ctx context.Context, source fmt.Stringer, from io.ReadCloser, files []overlayEntry) io.ReadCloser {
	return newTarPipe(ctx, source, func(ctx context.Context, out *tar.Writer) (err error) {
		defer func() { err = errors.Join(err, from.Close()) }()
		scan := newTarScanner(ctx, from, Limits{})
		buffer := make([]byte, copyBuffer)
		for {
			header, err := scan.next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return err
			}
			if header.Typeflag == tar.TypeGNUSparse {
				header.Typeflag = tar.TypeReg // the holes come as zeros
			}
			header.Format = tar.FormatPAX
			if err := out.WriteHeader(header); err != nil {
				return fmt.Errorf("%q: %w", header.Name, err)
			}
			if _, err := io.CopyBuffer(out, scan.tar, buffer); err != nil {
				return fmt.Errorf("%q: %w", header.Name, err)
			}
		}
		for _, f := range files {
			if err := f.write(out); err != nil {
				return fmt.Errorf("lay %q over the tree: %w", f.file.Path, err)
			}
		}
		return nil
	})
}

func (f overlayEntry) write(out *tar.Writer) (err error) {
	if err := out.WriteHeader(tarHeader(f.Entry)); err != nil {
		return err
	}
	if f.file.From == "" {
		_, err := io.WriteString(out, f.file.Content)
		return err
	}
	file, _, err := openArchive(f.file.From)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	sum := newHash()
	n, err := io.Copy(out, io.TeeReader(io.LimitReader(file, f.Size), sum))
	if err != nil {
		return err
	}
	if n != f.Size || sumOf(sum) != f.Digest {
		return errChanged
	}
	return nil
}

// packageFile is a .deb of this machine.
type packageFile struct {
	path   string
	digest tree.Digest
}

// packageFiles finds out what the packages are.
func packageFiles(ctx context.Context, cacheDir string, paths []string) ([]packageFile, error) {
	var all []packageFile
	for _, path := range paths {
		if filepath.Ext(path) != ".deb" {
			return nil, fmt.Errorf("package %q: the name of a package file ends in .deb", path)
		}
		_, digest, err := fileDigest(ctx, cacheDir, path)
		if err != nil {
			return nil, fmt.Errorf("package %q: %w", path, err)
		}
		all = append(all, packageFile{path, digest})
	}
	return all, nil
}

// copyTo copies the package into a directory, checks it, and returns its path there. mmdebstrap's processes may be of
// other users, so everybody may read it.
func (p packageFile) copyTo(dir string) (_ string, err error) {
	from, _, err := openArchive(p.path)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, from.Close()) }()
	to, err := os.OpenFile(filepath.Join(dir, p.digest.Hex()+".deb"), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	sum := newHash()
	if _, err := io.Copy(io.MultiWriter(to, sum), from); err != nil {
		return "", err
	}
	if sumOf(sum) != p.digest {
		return "", fmt.Errorf("package %q: %w", p.path, errChanged)
	}
	return to.Name(), nil
}
