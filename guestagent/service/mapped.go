package service

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/fileio"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/impact"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

const (
	// maxMapped bounds how many files one answer names, maxHashed how many bytes are read for it.
	maxMapped = 2000
	maxHashed = 512 << 20
	maxMaps   = 32 << 20
)

// errSuffix means that a question is too wide.
var errSuffix = errors.New("a suffix has 4 to 255 bytes")

// mappedFiles answers which running processes map files of a path suffix, and the digest of what they map.
func mappedFiles(ctx context.Context, proc, suffix string) ([]*agentapi.MappedFile, error) {
	if len(suffix) < 4 || len(suffix) > 255 {
		return nil, errSuffix
	}
	entries, err := os.ReadDir(proc)
	if err != nil {
		return nil, err
	}
	m := mapper{proc: proc, suffix: suffix, digests: map[fileID]tree.Digest{}}
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		if err := ctx.Err(); err != nil {
			return nil, err
		}
		if err := m.process(pid); err != nil && !ended(err) {
			return nil, fmt.Errorf("process %d: %w", pid, err)
		}
	}
	return m.files, nil
}

// ended reports whether an error means that a process, or one of its mappings, is not there any more.
func ended(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH)
}

// fileID tells one mapped file from another: the same file is read once, however many map it.
type fileID struct{ device, inode uint64 }

type mapper struct {
	proc, suffix string
	digests      map[fileID]tree.Digest
	hashed       int64
	files        []*agentapi.MappedFile
}

func (m *mapper) process(pid int) error {
	directory := path.Join(m.proc, strconv.Itoa(pid))
	maps, err := fileio.Read(path.Join(directory, "maps"), maxMaps)
	if err != nil {
		return err
	}
	seen := map[string]bool{}
	for line := range strings.Lines(string(maps)) {
		slash := strings.IndexByte(line, '/')
		if slash < 0 {
			continue
		}
		shown := strings.TrimSuffix(line[slash:], "\n")
		name := strings.TrimSuffix(shown, " (deleted)")
		span, _, _ := strings.Cut(line, " ")
		if !strings.HasSuffix(name, m.suffix) {
			continue
		}
		link := path.Join(directory, "map_files", shortSpan(span))
		var stat unix.Stat_t
		if err := unix.Stat(link, &stat); err != nil {
			if ended(err) {
				continue // unmapped meanwhile
			}
			return fmt.Errorf("stat %s: %w", link, err)
		}
		id := fileID{stat.Dev, stat.Ino}
		key := fmt.Sprintf("%d:%d %s", id.device, id.inode, shown)
		if seen[key] {
			continue
		}
		seen[key] = true
		if err := m.add(directory, pid, link, shown, id); err != nil && !ended(err) {
			return err
		}
	}
	return nil
}

// shortSpan is an address range as map_files has it: without leading zeros.
func shortSpan(span string) string {
	from, to, _ := strings.Cut(span, "-")
	trim := func(s string) string {
		if s = strings.TrimLeft(s, "0"); s == "" {
			return "0"
		}
		return s
	}
	return trim(from) + "-" + trim(to)
}

func (m *mapper) add(directory string, pid int, link, shown string, id fileID) error {
	if len(m.files) >= maxMapped {
		return fmt.Errorf("more than %d files are mapped; ask for a longer suffix", maxMapped)
	}
	digest, known := m.digests[id]
	if !known {
		var err error
		if digest, err = m.digest(link); err != nil {
			return err
		}
		m.digests[id] = digest
	}
	cgroup, err := fileio.Read(path.Join(directory, "cgroup"), 64<<10)
	if err != nil {
		return err
	}
	command, err := fileio.Read(path.Join(directory, "comm"), 4<<10)
	if err != nil {
		return err
	}
	unit, _ := impact.UnitOf(string(cgroup))
	m.files = append(m.files, &agentapi.MappedFile{
		Unit: unit, Pid: int64(pid), Command: strings.TrimSpace(string(command)), Path: shown, Digest: digest.String(),
	})
	return nil
}

func (m *mapper) digest(link string) (digest tree.Digest, err error) {
	file, err := os.Open(link)
	if err != nil {
		return digest, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	sum := sha256.New()
	n, err := io.Copy(sum, io.LimitReader(file, maxHashed-m.hashed+1))
	m.hashed += n
	if err != nil {
		return digest, fmt.Errorf("read %s: %w", link, err)
	}
	if m.hashed > maxHashed {
		return digest, fmt.Errorf("the mapped files have more than %d bytes; ask for a longer suffix", maxHashed)
	}
	return tree.Digest(sum.Sum(nil)), nil
}
