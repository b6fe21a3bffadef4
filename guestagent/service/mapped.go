package service

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/proc"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

const (
	// maxMapped bounds how many files one answer names, maxHashed how many bytes are read for it.
	maxMapped = 2000
	maxHashed = 512 << 20
)

// errSuffix means that a request asks for too many files.
var errSuffix = errors.New("a suffix has 4 to 255 bytes")

// mappedFiles returns the running processes that map a file whose path ends in suffix, and the digest of what they map.
func mappedFiles(ctx context.Context, procRoot, suffix string) ([]*agentapi.MappedFile, error) {
	if len(suffix) < 4 || len(suffix) > 255 {
		return nil, errSuffix
	}
	m := mapper{suffix: suffix, digests: map[fileID]tree.Digest{}}
	if err := proc.NewScanner(procRoot).Each(ctx, m.process); err != nil {
		return nil, err
	}
	return m.files, nil
}

// fileID identifies a mapped file, so that it is read once, however many processes map it.
type fileID struct{ device, inode uint64 }

type mapper struct {
	suffix  string
	digests map[fileID]tree.Digest
	hashed  int64
	files   []*agentapi.MappedFile
}

func (m *mapper) process(p *proc.Process) error {
	type mapping struct{ shown, link string }
	var matching []mapping
	err := p.Maps(func(found proc.Mapping) error {
		shown := string(found.Path)
		if strings.HasSuffix(strings.TrimSuffix(shown, " (deleted)"), m.suffix) {
			matching = append(matching, mapping{shown, found.Link()})
		}
		return nil
	})
	if err != nil || len(matching) == 0 {
		return err
	}
	unit, _, err := p.Unit()
	if err != nil {
		return err
	}
	command, err := p.Command()
	if err != nil {
		return err
	}
	type key struct {
		fileID
		shown string
	}
	seen := map[key]bool{}
	for _, found := range matching {
		stat, err := p.Stat(found.link)
		if proc.Ended(err) {
			continue // unmapped meanwhile
		}
		if err != nil {
			return err
		}
		id := fileID{stat.Dev, stat.Ino}
		if seen[key{id, found.shown}] {
			continue
		}
		seen[key{id, found.shown}] = true
		digest, err := m.digest(p.Path(found.link), id)
		if proc.Ended(err) {
			continue
		}
		if err != nil {
			return err
		}
		if len(m.files) >= maxMapped {
			return fmt.Errorf("more than %d files are mapped; ask for a longer suffix", maxMapped)
		}
		m.files = append(m.files, &agentapi.MappedFile{
			Unit: unit, Pid: int64(p.PID), Command: command, Path: found.shown, Digest: digest.String(),
		})
	}
	return nil
}

// digest returns the digest of the file behind a link, which it reads if it does not know the file yet.
func (m *mapper) digest(link string, id fileID) (digest tree.Digest, err error) {
	if known, found := m.digests[id]; found {
		return known, nil
	}
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
	digest = tree.Digest(sum.Sum(nil))
	m.digests[id] = digest
	return digest, nil
}
