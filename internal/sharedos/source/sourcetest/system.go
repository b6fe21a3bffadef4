// Package sourcetest provides operating systems and inputs of all kinds for tests.
package sourcetest

import (
	"archive/tar"
	"bytes"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"time"
)

// System is a small operating system that can be a base: files by path; a value of "-> x" is a link to x.
type System map[string]string

// NewSystem returns a system with a kernel of the release, and with version 1 of the package server.
func NewSystem(kernel string) System {
	modules := "usr/lib/modules/" + kernel + "/"
	s := System{
		"bin": "-> usr/bin", "sbin": "-> usr/sbin", "lib": "-> usr/lib", "usr/sbin/init": "-> /lib/systemd/systemd",
		"usr/lib/systemd/systemd": "\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x03\x00\x3e\x00",
		"usr/sbin/mkfs.ext4":      "mkfs",
		"etc/passwd":              "root:x:0:0::/root:/bin/sh\nwww-data:x:33:33::/:/bin/false\n",
		"etc/group":               "root:x:0:\nwww-data:x:33:\n",
		"etc/os-release":          "PRETTY_NAME=\"Test GNU/Linux 13\"\n",
		"boot/vmlinuz-" + kernel:  "image",
		modules + "modules.dep":   "",
		modules + "modules.builtin": "virtio_pci.ko\nvirtio_blk.ko\nvirtio_net.ko\nvmw_vsock_virtio_transport.ko\n" +
			"erofs.ko\noverlay.ko\ndm-mod.ko\ndm-verity.ko\next4.ko\n",
		"usr/share/weight": strings.Repeat("weight", 20_000), // so that small changes make deltas
		"usr/bin/server":   "version 1",
		"etc/server.conf":  "port 80",
	}
	s.Install("server", "1")
	return s
}

// Install adds a package to the package manager's records.
func (s System) Install(name, version string) {
	s["var/lib/dpkg/status"] += fmt.Sprintf(
		"Package: %s\nStatus: install ok installed\nArchitecture: amd64\nVersion: %s\n\n", name, version)
}

// With returns a copy that differs in some files: paths and contents in turn. An empty content removes a file.
func (s System) With(changes ...string) System {
	other := maps.Clone(s)
	for i := 0; i < len(changes); i += 2 {
		if other[changes[i]] = changes[i+1]; changes[i+1] == "" {
			delete(other, changes[i])
		}
	}
	return other
}

// Tar returns the system as a tar stream, the same one for the same system.
func (s System) Tar() ([]byte, error) { return s.TarOf(slices.Sorted(maps.Keys(s))) }

// TarOf is Tar with the files in the order of names.
func (s System) TarOf(names []string) ([]byte, error) {
	var stream bytes.Buffer
	w := tar.NewWriter(&stream)
	for _, name := range names {
		header := &tar.Header{Name: name, Mode: 0o755, Typeflag: tar.TypeReg, Size: int64(len(s[name])),
			ModTime: time.Unix(1_700_000_000, 0)}
		if target, ok := strings.CutPrefix(s[name], "-> "); ok {
			header.Typeflag, header.Linkname, header.Size = tar.TypeSymlink, target, 0
		}
		if err := w.WriteHeader(header); err != nil {
			return nil, fmt.Errorf("write %s: %w", name, err)
		}
		if header.Typeflag == tar.TypeReg {
			if _, err := io.WriteString(w, s[name]); err != nil {
				return nil, fmt.Errorf("write %s: %w", name, err)
			}
		}
	}
	if err := w.Close(); err != nil {
		return nil, fmt.Errorf("end the stream: %w", err)
	}
	return stream.Bytes(), nil
}
