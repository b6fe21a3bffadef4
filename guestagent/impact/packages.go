package impact

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"sync"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/scan"
)

// PackageLists is where dpkg keeps the list of each package's files.
const PackageLists = "/usr/lib/sysimage/dpkg/info"

// maxListLine bounds a line of such a list, in bytes, and maxPackages the number of lists.
const (
	maxListLine = 64 << 10
	maxPackages = 20_000
)

// PackageIndex finds the packages to which files belong, by the lists in a directory (dpkg-query(1)). It remembers what
// it has found: an apply asks about the same files as its plan.
type PackageIndex struct {
	Directory string

	mutex sync.Mutex
	// system is the system whose lists were read, owners the packages of each file that was asked about.
	system string
	owners map[string][]string
}

// maxOwners bounds how many files an index remembers.
const maxOwners = 8192

// Set sets the packages to which the affected units' files belong. system names the system that is mounted: another
// name means other lists. It reads one line at a time: the lists of a large system have many megabytes. Without such
// lists there are no packages.
func (x *PackageIndex) Set(ctx context.Context, system string, a *Assessment) error {
	x.mutex.Lock()
	defer x.mutex.Unlock()
	if x.owners == nil || x.system != system || len(x.owners) > maxOwners {
		x.system, x.owners = system, map[string][]string{}
	}
	wanted := map[string][]string{}
	for _, affected := range a.Affected {
		for _, name := range affected.Paths {
			if _, known := x.owners[name]; !known {
				wanted[name] = nil
			}
		}
	}
	if err := lookUp(ctx, x.Directory, wanted); err != nil {
		return fmt.Errorf("read the package lists: %w", err)
	}
	maps.Copy(x.owners, wanted)
	for i := range a.Affected {
		var owners []string
		for _, name := range a.Affected[i].Paths {
			owners = append(owners, x.owners[name]...)
		}
		slices.Sort(owners)
		a.Affected[i].Packages = slices.Compact(owners)
	}
	return nil
}

// lookUp adds to each of the wanted files the packages that name it.
func lookUp(ctx context.Context, directory string, wanted map[string][]string) error {
	if len(wanted) == 0 {
		return nil
	}
	names, err := fileNames(directory, maxPackages)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	reader := listReader{buffer: make([]byte, maxListLine), wanted: wanted, lengths: map[int]bool{}}
	for name := range wanted {
		reader.lengths[len(name)] = true
	}
	for _, name := range names {
		owner, isList := strings.CutSuffix(name, ".list")
		if !isList {
			continue
		}
		if err := errors.Join(ctx.Err(), reader.read(directory+"/"+name, strings.Split(owner, ":")[0])); err != nil {
			return err
		}
	}
	return nil
}

// listReader finds the wanted files in the lists of packages.
type listReader struct {
	buffer []byte
	wanted map[string][]string
	// lengths are the lengths of the wanted paths, in bytes. They exclude nearly all lines without a look-up.
	lengths map[int]bool
}

// read adds the package to the wanted files that its list names.
func (l *listReader) read(name, owner string) (err error) {
	file, err := os.Open(name)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	kept := 0
	for {
		n, err := file.Read(l.buffer[kept:])
		data := l.buffer[:kept+n]
		for {
			end := scan.IndexByte(data, '\n')
			if end < 0 {
				break
			}
			l.line(data[:end], owner)
			data = data[end+1:]
		}
		if errors.Is(err, io.EOF) {
			l.line(data, owner)
			return nil
		}
		if err != nil {
			return err
		}
		if kept = copy(l.buffer, data); kept == len(l.buffer) {
			return fmt.Errorf("%s: a line of more than %d bytes", name, maxListLine)
		}
	}
}

// line looks one path up. Packages may still name files by the symbolic links of a merged /usr.
func (l *listReader) line(line []byte, owner string) {
	const usr = "/usr"
	if !l.lengths[len(line)] && !l.lengths[len(usr)+len(line)] {
		return
	}
	if owners, wanted := l.wanted[string(line)]; wanted {
		l.wanted[string(line)] = append(owners, owner)
		return
	}
	if !bytes.HasPrefix(line, []byte("/lib")) && !bytes.HasPrefix(line, []byte("/bin")) &&
		!bytes.HasPrefix(line, []byte("/sbin")) {
		return
	}
	merged := usr + string(line)
	if owners, wanted := l.wanted[merged]; wanted {
		l.wanted[merged] = append(owners, owner)
	}
}

// fileNames lists a directory, at most so many names.
func fileNames(directory string, most int) (names []string, err error) {
	file, err := os.Open(directory)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	names, err = file.Readdirnames(most)
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return names, err
}
