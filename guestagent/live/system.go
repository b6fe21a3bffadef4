package live

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/impact"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/mounts"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/units"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/standin/paths"
)

const (
	// roomBytes and roomFiles are what a refresh needs at most on the private disk, including /etc.
	roomBytes = 16 << 20
	roomFiles = 1024
	// runBytes is what it needs in /run.
	runBytes = 1 << 20
)

// ErrRoom means that a disk is full or read-only.
var ErrRoom = errors.New("no room for a refresh")

// FactsOf is what System asks of systemd.
type FactsOf interface {
	Facts(ctx context.Context, names []string) (map[string]impact.Unit, error)
	// Instances returns the instances of templates ("x@.service") that are active.
	Instances(ctx context.Context, templates []string) ([]string, error)
}

// System implements refresh.System.
type System struct {
	Usr   *Usr
	Units FactsOf
	// Agent is the unit of this program.
	Agent string

	packages impact.PackageIndex
}

// NewSystem is this system. agent is the unit of this program.
func NewSystem(usr *Usr, units FactsOf, agent string) *System {
	return &System{Usr: usr, Units: units, Agent: agent, packages: impact.PackageIndex{Directory: impact.PackageLists}}
}

// BootID implements refresh.System.
func (s *System) BootID() (string, error) {
	data, err := os.ReadFile("/proc/sys/kernel/random/boot_id")
	if err != nil {
		return "", err
	}
	return strings.TrimSpace(string(data)), nil
}

// Kernel implements refresh.System.
func (s *System) Kernel() (string, error) { return mounts.KernelRelease() }

// Root implements refresh.System.
func (s *System) Root() (string, error) { return mounts.RootDevice("/") }

// Obstacle implements refresh.System.
func (s *System) Obstacle() string { return s.Usr.usr.Obstacle() }

// Moment implements refresh.System.
func (s *System) Moment() (uint64, error) {
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now); err != nil {
		return 0, fmt.Errorf("read the monotonic clock: %w", err)
	}
	return uint64(now.Nano() / int64(time.Microsecond)), nil
}

// Packages implements refresh.System.
func (s *System) Packages(ctx context.Context, a *impact.Assessment) error {
	mounted, err := s.Usr.usr.Superblock()
	if err != nil {
		return err
	}
	return s.packages.Set(ctx, mounted.Device, a)
}

// Snapshot implements refresh.System.
func (s *System) Snapshot(ctx context.Context, changes *impact.Changes, named []string,
	swapped bool) (impact.Snapshot, error) {
	reader := &impact.Reader{Proc: "/proc"}
	snapshot, err := s.Usr.snapshot(swapped, reader)
	if err != nil {
		return impact.Snapshot{}, err
	}
	if reader.Confines, err = confinement(); err != nil {
		return impact.Snapshot{}, err
	}
	if snapshot.Processes, err = reader.Processes(ctx, changes); err != nil {
		return impact.Snapshot{}, err
	}
	names, err := s.concerned(ctx, changes, snapshot.Processes, named, swapped)
	if err != nil {
		return impact.Snapshot{}, err
	}
	snapshot.Units, err = s.Units.Facts(ctx, append(names, named...))
	return snapshot, err
}

// concerned returns the units that the changes may concern, about which systemd has to be asked. After a swap systemd
// has read its files again, so that they do not matter any more.
func (s *System) concerned(ctx context.Context, changes *impact.Changes, processes []impact.Process, named []string,
	swapped bool) ([]string, error) {
	seen := map[string]bool{s.Agent: true, impact.ManagerUnit: true, "": true}
	var names, others []string
	for i := range processes {
		p := &processes[i]
		if !p.Session && !seen[p.Unit] && changes.Concerned(p) {
			seen[p.Unit] = true
			names = append(names, p.Unit)
		}
	}
	if swapped {
		return names, nil
	}
	if changes.Appeared() {
		links, err := units.Links()
		if err != nil {
			return nil, err
		}
		changes.EnableAppeared(links)
	}
	names = slices.Concat(names, changes.Removed(), changes.BootUnits())
	templates := changes.RemovedTemplates()
	for _, name := range named {
		if impact.IsTemplate(name) { // files may be declared for all of its instances
			templates = append(templates, name)
		}
	}
	if len(templates) > 0 {
		instances, err := s.Units.Instances(ctx, templates)
		if err != nil {
			return nil, err
		}
		names = append(names, instances...)
	}
	for _, enabled := range changes.Enabled() {
		if !enabled.User {
			names = append(names, enabled.Unit, enabled.By)
		}
	}
	for i := range processes {
		if p := &processes[i]; !p.Session && !seen[p.Unit] {
			seen[p.Unit] = true
			others = append(others, p.Unit)
		}
	}
	referring, err := units.Referring(others)
	return append(names, referring...), err
}

// Swapped implements refresh.System.
func (s *System) Swapped() (bool, error) { return s.Usr.Swapped() }

// Pinned implements refresh.System.
func (s *System) Pinned(ctx context.Context) ([]string, error) {
	pinned, err := s.Usr.pinned(ctx)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, p := range pinned {
		for i, name := range p.Units {
			if name == "" {
				name = fmt.Sprintf("process %d", p.PIDs[i])
			}
			if name != s.Agent && !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	slices.Sort(names)
	return names, nil
}

// generatorDirectories are the directories of generators (systemd.generator(7)). systemd's own are named "systemd-*".
var generatorDirectories = []string{
	"/run/systemd/system-generators", "/etc/systemd/system-generators",
	"/usr/local/lib/systemd/system-generators", "/usr/lib/systemd/system-generators",
}

// ForeignGenerators implements refresh.System.
func (s *System) ForeignGenerators() (bool, error) {
	return foreignGenerators(generatorDirectories)
}

func foreignGenerators(directories []string) (bool, error) {
	for _, directory := range directories {
		entries, err := os.ReadDir(directory)
		if errors.Is(err, os.ErrNotExist) {
			continue
		}
		if err != nil {
			return false, err
		}
		if slices.ContainsFunc(entries, func(e os.DirEntry) bool { return !ownGenerator(e.Name()) }) {
			return true, nil
		}
	}
	return false, nil
}

// ownGenerator reports whether a generator is systemd's or the agent's.
func ownGenerator(name string) bool {
	return strings.HasPrefix(name, "systemd-") || name == path.Base(paths.Generator)
}

// Room implements refresh.System.
func (s *System) Room(context.Context) error {
	for _, place := range []struct {
		path         string
		bytes, files uint64
	}{{mounts.StateDir, roomBytes, roomFiles}, {mounts.RunDir, runBytes, roomFiles}} {
		var stat unix.Statfs_t
		if err := unix.Statfs(place.path, &stat); err != nil {
			return fmt.Errorf("room in %s: %w", place.path, err)
		}
		if stat.Flags&unix.ST_RDONLY != 0 {
			return fmt.Errorf("%w: %s is read-only", ErrRoom, place.path)
		}
		if free := stat.Bavail * uint64(max(stat.Frsize, 1)); free < place.bytes {
			return fmt.Errorf("%w: %s has %d bytes left of %d that it needs; grow the disk or remove files", ErrRoom,
				place.path, free, place.bytes)
		}
		if stat.Files > 0 && stat.Ffree < place.files {
			return fmt.Errorf("%w: %s has %d inodes left of %d that it needs; remove files", ErrRoom,
				place.path, stat.Ffree, place.files)
		}
	}
	// Some disks report failed writes only when they are synced. The request and the journal were synced just now.
	return nil
}
