package debian

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/cache"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/tarstream"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// File is a regular file that is added to a tree or replaces one of its files. Missing directories above it are added.
type File struct {
	// Path in the tree, absolute: "/etc/motd".
	Path string
	// Content of the file; or From, the path of a file of this machine that has the content.
	Content, From string
	// Mode consists of permission, setuid, setgid and sticky bits.
	Mode     uint32
	UID, GID uint32
}

// fileEntry is a file with its entry in the tree.
type fileEntry struct {
	tree.Entry
	file File
}

// fileEntries checks the files and returns their entries, sorted by path.
func fileEntries(ctx context.Context, cacheDir string, files []File) ([]fileEntry, error) {
	var all []fileEntry
	for _, f := range files {
		e := fileEntry{file: f, Entry: tree.Entry{
			Type: tree.Regular, Mode: f.Mode, UID: f.UID, GID: f.GID, ModTime: time.Unix(0, 0),
			Size: int64(len(f.Content)), Digest: tree.Sum([]byte(f.Content)),
		}}
		var ok bool
		if e.Path, ok = strings.CutPrefix(f.Path, "/"); !ok {
			return nil, fmt.Errorf("file %q: not an absolute path: %w", f.Path, source.ErrRefused)
		}
		if err := tree.CheckPath(e.Path); err != nil {
			return nil, fmt.Errorf("file %q: %w: %w", f.Path, err, source.ErrRefused)
		}
		if f.Mode&^0o7777 != 0 {
			return nil, fmt.Errorf("file %q: mode %#o is impossible: %w", f.Path, f.Mode, source.ErrRefused)
		}
		if f.From != "" {
			var err error
			if e.Size, e.Digest, err = fileDigest(ctx, cacheDir, f.From); err != nil {
				return nil, fmt.Errorf("file %q: %w", f.Path, err)
			}
		}
		all = append(all, e)
	}
	slices.SortFunc(all, func(a, b fileEntry) int { return tree.Compare(a.Path, b.Path) })
	for i := 1; i < len(all); i++ {
		if all[i].Path == all[i-1].Path {
			return nil, fmt.Errorf("file %q is listed twice: %w", all[i].file.Path, source.ErrRefused)
		}
	}
	return all, nil
}

// fileDigest returns the size in bytes and the digest of a file of this machine.
func fileDigest(ctx context.Context, cacheDir, path string) (_ int64, _ tree.Digest, err error) {
	file, err := cache.OpenFile(path)
	if err != nil {
		return 0, tree.Digest{}, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	digest, err := file.Digest(ctx, cacheDir)
	return file.Size(), digest, err
}

// addFiles returns a tar stream with files added at its end: of two entries of one path the later one counts.
func addFiles(ctx context.Context, name fmt.Stringer, from io.ReadCloser, files []fileEntry) io.ReadCloser {
	return tarstream.Pipe(ctx, name, func(ctx context.Context, out *tar.Writer) (err error) {
		defer func() { err = errors.Join(err, from.Close()) }()
		scan := tarstream.NewScanner(ctx, from, source.Limits{}, tarstream.Usage{})
		given := make(map[string]bool, len(files))
		for _, f := range files {
			given[f.Path] = true
		}
		err = tarstream.Copy(out, scan, func(path string, header *tar.Header) (bool, error) {
			return true, checkReplaced(path, header, given)
		})
		if err != nil {
			return err
		}
		for _, f := range files {
			if err := f.write(out); err != nil {
				return fmt.Errorf("add %q to the tree: %w", f.file.Path, err)
			}
		}
		return nil
	})
}

// checkReplaced returns an error if a file that is added would replace a directory with all that is in it, or a link at
// the top, such as /bin. Other links, such as /etc/resolv.conf, may be replaced.
func checkReplaced(p string, header *tar.Header, given map[string]bool) error {
	if given[p] && header.Typeflag == tar.TypeSymlink && tree.Parent(p) == tree.Root {
		return fmt.Errorf("file %q: it would replace a link to %q that the OS needs: %w", "/"+p,
			header.Linkname, source.ErrRefused)
	}
	if header.Typeflag != tar.TypeDir {
		p = tree.Parent(p)
	}
	for ; p != tree.Root; p = tree.Parent(p) {
		if given[p] {
			return fmt.Errorf("file %q: it would replace a directory: %w", "/"+p, source.ErrRefused)
		}
	}
	return nil
}

func (f fileEntry) write(out *tar.Writer) (err error) {
	if err := out.WriteHeader(tarstream.Header(f.Entry)); err != nil {
		return err
	}
	if f.file.From == "" {
		_, err := io.WriteString(out, f.file.Content)
		return err
	}
	file, err := cache.OpenFile(f.file.From)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	sum := sha256.New()
	n, err := io.Copy(out, io.TeeReader(io.LimitReader(file, f.Size), sum))
	if err != nil {
		return err
	}
	if n != f.Size || tree.Digest(sum.Sum(nil)) != f.Digest {
		return source.ErrChanged
	}
	return nil
}

// packageFile is a .deb file of this machine.
type packageFile struct {
	path   string
	digest tree.Digest
}

// packageFiles returns the package files at some paths.
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

// copyTo copies the package into a directory, verifies its digest, and returns the path of the copy. The copy is
// readable for everyone, since mmdebstrap may run processes as other users.
func (p packageFile) copyTo(dir string) (_ string, err error) {
	from, err := cache.OpenFile(p.path)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, from.Close()) }()
	to, err := os.OpenFile(filepath.Join(dir, p.digest.Hex()+".deb"), os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o644)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, to.Close()) }()
	sum := sha256.New()
	if _, err := io.Copy(io.MultiWriter(to, sum), from); err != nil {
		return "", err
	}
	if tree.Digest(sum.Sum(nil)) != p.digest {
		return "", fmt.Errorf("package %q: %w", p.path, source.ErrChanged)
	}
	return to.Name(), nil
}
