package main

import (
	"archive/tar"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path"
	"path/filepath"
	"strings"
	"time"
)

// aptMirror is a Debian archive on this machine with the packages of one call of apt-get.
type aptMirror struct {
	// Packages is how many it has.
	Packages int
	// Bytes of all of them.
	Bytes  int64
	port   uint16
	server *http.Server
	served chan error
}

// mirrorPatch is mirrorOf for "apt-get upgrade".
func mirrorPatch(ctx context.Context, dir, plain, updated string) (*aptMirror, error) {
	return mirrorOf(ctx, dir, plain, updated, "--with-new-pkgs", "upgrade")
}

// mirrorOf fetches the packages that a call of apt-get would install in a system with the tree plain and the package
// sources of the tree updated, from the mirrors of this machine, and serves them on 127.0.0.1.
func mirrorOf(ctx context.Context, dir, plain, updated string, call ...string) (*aptMirror, error) {
	state := filepath.Join(dir, "apt")
	for _, sub := range []string{"lists/partial", "archives/partial"} {
		if err := os.MkdirAll(filepath.Join(state, sub), 0o755); err != nil {
			return nil, err
		}
	}
	status, err := fromTar(plain, func(name string) bool { return name == "var/lib/dpkg/status" })
	if err != nil {
		return nil, err
	}
	sources, err := fromTar(updated, func(name string) bool {
		return name == "etc/apt/sources.list" || path.Dir(name) == "etc/apt/sources.list.d" && path.Ext(name) == ".list"
	})
	if err != nil {
		return nil, err
	}
	// The packages are only unpacked in a guest of the benchmark. This machine may lack the keys of another Debian
	// release.
	trusted := strings.ReplaceAll("\n"+sources, "\ndeb http", "\ndeb [trusted=yes] http")
	for name, text := range map[string]string{"status": status, "sources.list": trusted} {
		if err := os.WriteFile(filepath.Join(state, name), []byte(text), 0o644); err != nil {
			return nil, err
		}
	}
	for _, arguments := range [][]string{{"update"}, append([]string{"-y", "--download-only"}, call...)} {
		all := append([]string{
			"-qq", "-o", "Dir::State::lists=" + filepath.Join(state, "lists"), "-o",
			"Dir::Cache::archives=" + filepath.Join(state, "archives"),
			"-o", "Dir::State::status=" + filepath.Join(state, "status"), "-o",
			"Dir::Etc::sourcelist=" + filepath.Join(state, "sources.list"),
			"-o", "Dir::Etc::sourceparts=/dev/null", "-o", "Dir::Etc::preferencesparts=/dev/null", "-o",
			"APT::Sandbox::User=root",
			"-o", "APT::Default-Release=", "-o", "Dir::Cache::pkgcache=", "-o", "Dir::Cache::srcpkgcache=",
			"-o", "Debug::NoLocking=true",
		}, arguments...)
		if text, err := exec.CommandContext(ctx, "apt-get", all...).CombinedOutput(); err != nil {
			return nil, fmt.Errorf("fetch packages: apt-get %v: %w: %s", arguments, err, text)
		}
	}
	m := &aptMirror{served: make(chan error, 1)}
	if err := m.index(ctx, filepath.Join(state, "archives")); err != nil {
		return nil, err
	}
	if m.Packages == 0 {
		return nil, fmt.Errorf("the archive has nothing for apt-get %v: there is nothing to measure", call)
	}
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	if at, ok := listener.Addr().(*net.TCPAddr); ok {
		m.port = uint16(at.Port)
	}
	m.server = &http.Server{Handler: http.FileServer(http.Dir(filepath.Join(state, "archives"))),
		ReadHeaderTimeout: 10 * time.Second}
	go func() { m.served <- m.server.Serve(listener) }()
	return m, nil
}

// close ends the server.
func (m *aptMirror) close() error {
	err := m.server.Close()
	if served := <-m.served; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}

// source is the line in sources.list(5) for the mirror. In a guest on QEMU's user network, 10.0.2.2 is this
// machine's loopback.
func (m *aptMirror) source() string {
	return fmt.Sprintf("deb [trusted=yes] http://10.0.2.2:%d ./\n", m.port)
}

// index writes the index of a flat archive (https://wiki.debian.org/DebianRepository/Format).
func (m *aptMirror) index(ctx context.Context, dir string) (err error) {
	entries, err := filepath.Glob(filepath.Join(dir, "*.deb"))
	if err != nil {
		return err
	}
	out, err := os.Create(filepath.Join(dir, "Packages"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, out.Close()) }()
	for _, file := range entries {
		// apt keeps escaped colons in file names, and the server serves files by their names.
		name := strings.ReplaceAll(filepath.Base(file), "%3a", ".")
		plain := filepath.Join(dir, name)
		if plain != file {
			if err := os.Rename(file, plain); err != nil {
				return err
			}
		}
		control, err := exec.CommandContext(ctx, "dpkg-deb", "--field", plain).Output()
		if err != nil {
			return fmt.Errorf("read the fields of %s: %w", plain, err)
		}
		size, digest, err := sumFile(plain)
		if err != nil {
			return err
		}
		_, err = fmt.Fprintf(out, "%s\nFilename: ./%s\nSize: %d\nSHA256: %s\n\n",
			strings.TrimRight(string(control), "\n"), name, size, digest)
		if err != nil {
			return err
		}
		m.Packages++
		m.Bytes += size
	}
	return nil
}

func sumFile(name string) (size int64, digest string, err error) {
	file, err := os.Open(name)
	if err != nil {
		return 0, "", err
	}
	defer func() { _ = file.Close() }() // it was only read
	sum := sha256.New()
	size, err = io.Copy(sum, file)
	return size, hex.EncodeToString(sum.Sum(nil)), err
}

// fromTar returns the concatenated contents of the files of an archive whose names are wanted.
func fromTar(archive string, wanted func(name string) bool) (string, error) {
	file, err := os.Open(archive)
	if err != nil {
		return "", err
	}
	defer func() { _ = file.Close() }() // it was only read
	var text strings.Builder
	for in := tar.NewReader(file); ; {
		header, err := in.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return "", fmt.Errorf("read %s: %w", archive, err)
		}
		if header.Typeflag == tar.TypeReg && wanted(strings.TrimPrefix(path.Clean("/"+header.Name), "/")) {
			if _, err := io.Copy(&text, in); err != nil {
				return "", fmt.Errorf("read %s: %w", archive, err)
			}
			text.WriteString("\n")
		}
	}
	if text.Len() == 0 {
		return "", fmt.Errorf("%s has none of the files that were looked for", archive)
	}
	return text.String(), nil
}
