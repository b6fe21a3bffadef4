package rootfs

import (
	"debug/elf"
	"errors"
	"fmt"
	"io/fs"
	"strings"
	"unicode"
	"unicode/utf8"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// maxOSRelease bounds the file, and maxPrettyName the only value that is used, both in bytes.
const (
	maxOSRelease  = 1 << 20
	maxPrettyName = 256
)

// OSRelease returns the PRETTY_NAME of os-release(5), or its default "Linux".
func OSRelease(t *tree.Tree) (string, error) {
	data, err := readFirst(t, maxOSRelease, "etc/os-release", "usr/lib/os-release")
	if errors.Is(err, fs.ErrNotExist) {
		return "Linux", nil
	}
	if err != nil {
		return "", fmt.Errorf("read os-release: %w", err)
	}
	name := ""
	for line := range strings.Lines(string(data)) {
		if value, ok := strings.CutPrefix(strings.TrimSpace(line), "PRETTY_NAME="); ok {
			name = unquote(value)
		}
	}
	if name == "" {
		return "Linux", nil
	}
	if len(name) > maxPrettyName || !utf8.ValidString(name) || strings.ContainsFunc(name, unicode.IsControl) {
		return "", fmt.Errorf("read os-release: PRETTY_NAME %q: %w", source.Shorten(name), source.ErrMalformed)
	}
	return name, nil
}

// unquote removes the shell quoting that os-release(5) allows: one pair of quotes, and backslashes.
func unquote(value string) string {
	if len(value) >= 2 && value[0] == '\'' && value[len(value)-1] == '\'' {
		return value[1 : len(value)-1]
	}
	if len(value) >= 2 && value[0] == '"' && value[len(value)-1] == '"' {
		value = value[1 : len(value)-1]
	}
	var b strings.Builder
	escaped := false
	for i := range len(value) {
		if value[i] == '\\' && !escaped {
			escaped = true
			continue
		}
		escaped = false
		b.WriteByte(value[i])
	}
	return b.String()
}

// architectures maps ELF machines to Debian's names.
var architectures = map[elf.Machine]string{elf.EM_X86_64: "amd64", elf.EM_AARCH64: "arm64"}

// Architecture returns Debian's name of the architecture that the tree's systemd is built for.
func Architecture(t *tree.Tree) (string, error) {
	r, _, err := t.OpenFile(initPath)
	if err != nil {
		return "", fmt.Errorf("find the architecture: %w", err)
	}
	header := make([]byte, 20)
	_, err = readFull(r, header)
	if err != nil {
		return "", fmt.Errorf("find the architecture: read %s: %w", initPath, err)
	}
	// In both supported kinds of ELF files, the machine is a little-endian 16-bit word at offset 18.
	if string(header[:4]) != elf.ELFMAG || elf.Data(header[elf.EI_DATA]) != elf.ELFDATA2LSB {
		return "", fmt.Errorf("find the architecture: %s is not a little-endian ELF program: %w",
			initPath, source.ErrMalformed)
	}
	machine := elf.Machine(uint16(header[18]) | uint16(header[19])<<8)
	name, ok := architectures[machine]
	if !ok {
		return "", fmt.Errorf("the tree is built for %s: only amd64 and arm64 are supported", machine)
	}
	return name, nil
}
