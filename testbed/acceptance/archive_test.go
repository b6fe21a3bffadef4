package acceptance

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
	"testing"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
	"github.com/sharedos/terraform-provider-sharedos/testbed"
)

// Packages of the guests, and libraries of theirs: nginx maps the first, nginx and sshd map the second.
var packages = []string{
	"linux-image-cloud-amd64", "systemd-sysv", "dbus", "kmod", "e2fsprogs", "iproute2", "openssh-server", "nginx-light",
}

const (
	libssl    = "/libssl.so.3"
	libcrypto = "/libcrypto.so.3"
)

// cachedTar returns an archive by what it is made from. It is made once.
func cachedTar(t *testing.T, input string, write func(io.Writer) error) string {
	t.Helper()
	cache, err := testbed.CacheDir()
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(cache, "archives", tree.Sum([]byte(input)).Hex()+".tar")
	if _, err := os.Stat(path); err == nil {
		return path
	}
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	file, err := os.CreateTemp(filepath.Dir(path), ".new-*")
	if err != nil {
		t.Fatal(err)
	}
	if err = errors.Join(write(file), file.Close()); err == nil {
		err = os.Rename(file.Name(), path)
	}
	if err != nil {
		t.Fatal(errors.Join(err, os.Remove(file.Name())))
	}
	return path
}

// debianTar returns an archive of Debian 13 with the updates of the given suites; nil is all of them.
func debianTar(t *testing.T, suites []string) string {
	t.Helper()
	cache, err := testbed.CacheDir()
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Minute)
	defer cancel()
	// The provider's own place for it, so that the demo and these tests build it once together.
	debian := &source.Debian{Suite: "trixie", AdditionalSuites: suites, Packages: packages, CacheDir: filepath.Join(cache, "debian")}
	input, err := debian.Fingerprint(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return cachedTar(t, input, func(to io.Writer) error {
		stream, err := debian.Open(ctx, func(string, int64, int64) {})
		if err != nil {
			return err
		}
		_, err = io.Copy(to, stream)
		return errors.Join(err, stream.Close())
	})
}

// patchedTar returns Debian 13 with all updates that its archive has today, and with another build of OpenSSL. What
// the archive has changes from day to day, and on some days nothing of it concerns a running service; a byte behind
// the last section makes a library that differs and works.
func patchedTar(t *testing.T) string {
	t.Helper()
	plain := debianTar(t, nil)
	return cachedTar(t, plain+" with another OpenSSL", func(to io.Writer) error {
		file, err := os.Open(plain)
		if err != nil {
			return err
		}
		defer func() { _ = file.Close() }() // it was only read
		libraries := []string{libssl, libcrypto}
		from, out := tar.NewReader(file), tar.NewWriter(to)
		for {
			header, err := from.Next()
			if errors.Is(err, io.EOF) {
				break
			}
			if err != nil {
				return err
			}
			more := ""
			libraries = slices.DeleteFunc(libraries, func(name string) bool {
				if header.Typeflag == tar.TypeReg && strings.HasSuffix(header.Name, name) {
					more = "\x00"
					return true
				}
				return false
			})
			header.Size += int64(len(more))
			if err := out.WriteHeader(header); err != nil {
				return err
			}
			if _, err := io.Copy(out, io.MultiReader(from, strings.NewReader(more))); err != nil {
				return err
			}
		}
		if len(libraries) > 0 {
			return fmt.Errorf("%s has no %v", plain, libraries)
		}
		return out.Close()
	})
}
