package debian

import (
	"context"
	_ "embed"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/cache"
)

const (
	// packagesDir is the directory in the cache for packages that were downloaded. The name of one is <sha256>_<name in
	// apt's cache>.
	packagesDir = "packages"
	// fetchedDir is the directory in it for those of a build that is running.
	fetchedDir = ".fetched"
	// keepPackages is how many bytes of packages are kept: the base and the components of several releases.
	keepPackages = 2 << 30
)

//go:embed keep.sh
var keepScript string

// kept are the packages that earlier builds downloaded. It is used under the lock of the cache.
type kept struct{ dir string }

// keptIn makes the directory for packages in a cache.
func keptIn(cacheDir string) (kept, error) {
	k := kept{filepath.Join(cacheDir, packagesDir)}
	// What a build that was ended has left is not complete.
	if err := os.RemoveAll(k.fetched()); err != nil {
		return k, err
	}
	return k, os.MkdirAll(k.fetched(), 0o700)
}

func (k kept) fetched() string { return filepath.Join(k.dir, fetchedDir) }

// args are arguments of mmdebstrap: one hook gives apt what is kept, and others hand over what apt has fetched. Dir is
// a directory that everybody can read.
func (k kept) args(dir string) ([]string, error) {
	script := filepath.Join(dir, "keep.sh")
	if err := os.WriteFile(script, []byte(keepScript), 0o644); err != nil {
		return nil, err
	}
	packages := k.dir
	if os.Geteuid() != 0 {
		// mmdebstrap runs its hooks as another user.
		packages = filepath.Join(dir, "packages")
		if err := k.linkTo(packages); err != nil {
			return nil, err
		}
	}
	return []string{
		"--skip=essential/unlink", // so that these packages are still there at the end
		`--setup-hook=sh ` + quoted(script) + ` "$1" ` + quoted(packages),
		`--customize-hook=cd "$1/var/cache/apt" && if [ -e kept ]; then (cd archives && xargs rm -f <../kept) && rm kept; fi`,
		"--customize-hook=sync-out /var/cache/apt/archives " + quoted(k.fetched()),
	}, nil
}

// quoted makes a text one word of a shell's command line.
func quoted(text string) string { return "'" + strings.ReplaceAll(text, "'", `'\''`) + "'" }

// linkTo makes a directory with what is kept.
func (k kept) linkTo(dir string) error {
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	return k.each(func(name string) error {
		from, to := filepath.Join(k.dir, name), filepath.Join(dir, name)
		if os.Link(from, to) == nil {
			return nil
		}
		data, err := os.ReadFile(from) // another file system
		if err != nil {
			return err
		}
		return os.WriteFile(to, data, 0o644)
	})
}

// each calls f for each package that is kept.
func (k kept) each(f func(name string) error) error {
	entries, err := os.ReadDir(k.dir)
	if err != nil {
		return err
	}
	for _, e := range entries {
		if e.Type().IsRegular() && isKept(e.Name()) {
			if err := f(e.Name()); err != nil {
				return err
			}
		}
	}
	return nil
}

// isKept reports whether a file of the directory is a package.
func isKept(name string) bool {
	digest, deb, ok := strings.Cut(name, "_")
	return ok && len(digest) == 64 && filepath.Ext(deb) == ".deb"
}

// add keeps what a build has fetched, and removes what was not used for longest.
func (k kept) add(ctx context.Context, progress source.Progress) (err error) {
	defer func() { err = errors.Join(err, os.RemoveAll(k.fetched())) }()
	entries, err := os.ReadDir(k.fetched())
	if err != nil {
		return fmt.Errorf("keep the packages: %w", err)
	}
	packages, size := 0, int64(0)
	for _, e := range entries {
		if !e.Type().IsRegular() || filepath.Ext(e.Name()) != ".deb" {
			continue // apt's lock, and its directory for downloads
		}
		n, err := k.addOne(ctx, filepath.Join(k.fetched(), e.Name()))
		if err != nil {
			return fmt.Errorf("keep package %q: %w", e.Name(), err)
		}
		packages, size = packages+1, size+n
	}
	progress(fmt.Sprintf("kept the %d packages that were fetched, %d KiB", packages, size>>10), 0, 0)
	return cache.SweepBytes(k.dir, keepPackages, isKept)
}

// addOne keeps one package, and returns its size in bytes.
func (k kept) addOne(ctx context.Context, path string) (_ int64, err error) {
	file, err := cache.OpenFile(path)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	digest, err := cache.DigestOf(ctx, file)
	if err != nil {
		return 0, err
	}
	if err := os.Chmod(path, 0o644); err != nil {
		return 0, err
	}
	return file.Size(), os.Rename(path, filepath.Join(k.dir, digest.Hex()+"_"+filepath.Base(path)))
}
