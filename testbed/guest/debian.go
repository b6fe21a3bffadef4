package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/debian"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
	"github.com/sharedos/terraform-provider-sharedos/testbed"
)

// Packages of the guests.
var Packages = []string{
	"linux-image-cloud-amd64", "systemd-sysv", "dbus", "kmod", "e2fsprogs", "iproute2", "openssh-server", "nginx-light",
}

// Additional suites of a Debian release.
var (
	// Plain is the release alone.
	Plain = []string{}
	// Updated is the release with its updates and security suites, so with all patches since its last point
	// release.
	Updated []string
)

// Debian is a release of Debian that guests are made of.
type Debian struct {
	// Suite is its code name.
	Suite    string
	Packages []string
}

var (
	// Trixie is Debian 13: Linux 6.12 and systemd 257.
	Trixie = Debian{"trixie", Packages}
	// Bare is Debian 13 without a service but sshd, for components to be added to.
	Bare = Debian{"trixie", withoutServices}
	// Bookworm is Debian 12. Its Linux 6.1 cannot mount beneath another mount and takes all lower directories of an
	// overlay in one option. Its systemd 252 has no soft-reboot. The package set is the smallest for a guest with
	// SSH.
	Bookworm = Debian{"bookworm", withoutServices}
)

var withoutServices = []string{
	"linux-image-cloud-amd64", "systemd-sysv", "dbus", "kmod", "e2fsprogs", "iproute2", "openssh-server",
}

// DebianTar makes an archive of Debian 13 with the given additional suites, unless there is one, and returns its
// path.
func DebianTar(ctx context.Context, suites []string) (string, error) { return Trixie.Tar(ctx, suites) }

// Tar makes an archive of the release with the given additional suites, unless there is one, and returns its path.
func (d Debian) Tar(ctx context.Context, suites []string) (string, error) {
	cache, err := testbed.CacheDir()
	if err != nil {
		return "", err
	}
	// The provider has its cache in the same place, so the demo and the tests build each tree only once.
	debian := &debian.Source{Suite: d.Suite, AdditionalSuites: suites, Packages: d.Packages,
		CacheDir: filepath.Join(cache, "debian")}
	input, err := debian.Fingerprint(ctx)
	if err != nil {
		return "", err
	}
	return CachedTar(ctx, input, func(to io.Writer) error {
		stream, err := debian.Open(ctx, func(string, int64, int64) {})
		if err != nil {
			return err
		}
		_, err = io.Copy(to, stream)
		return errors.Join(err, stream.Close())
	})
}

// MakeArchives makes the archives with which tests with guests begin, unless they exist, in the order in which
// tests need them. A test that needs one of them waits until it is made.
func MakeArchives(ctx context.Context) error {
	for _, archive := range []struct {
		debian Debian
		suites []string
	}{{Trixie, Plain}, {Trixie, Updated}, {Bookworm, Plain}, {Bookworm, Updated}} {
		if _, err := archive.debian.Tar(ctx, archive.suites); err != nil {
			return fmt.Errorf("make an archive of %s: %w", archive.debian.Suite, err)
		}
	}
	return nil
}

// CachedTar returns the path of an archive that is named by its input. It calls write if there is no such archive
// yet. Other processes that need the same archive wait meanwhile.
func CachedTar(ctx context.Context, input string, write func(io.Writer) error) (_ string, err error) {
	cache, err := testbed.CacheDir()
	if err != nil {
		return "", err
	}
	path := filepath.Join(cache, "archives", tree.Sum([]byte(input)).Hex()+".tar")
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		return "", err
	}
	lock := strings.TrimSuffix(path, ".tar") + ".lock"
	if err := os.WriteFile(lock, nil, 0o600); err != nil {
		return "", err
	}
	unlock, err := testbed.Lock(ctx, lock)
	if err != nil {
		return "", err
	}
	defer func() { err = errors.Join(err, unlock()) }()
	if _, err := os.Stat(path); err == nil {
		return path, nil
	}
	file, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		return "", err
	}
	if err = errors.Join(write(file), file.Close()); err == nil {
		err = os.Rename(file.Name(), path)
	}
	if err != nil {
		return "", errors.Join(fmt.Errorf("make the archive of %s: %w", input, err), os.Remove(file.Name()))
	}
	return path, nil
}
