package impact

import (
	"context"
	"fmt"
	"os"
	"path"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/proc"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// maxNames bounds how many paths a Reader remembers.
const maxNames = 16_384

// Reader reads processes, and which differing files they use, from a proc file system.
type Reader struct {
	// Proc is where it is mounted: "/proc".
	Proc string
	// Confines reports whether an AppArmor profile denies access to files on a detached mount. Nil: no process is
	// confined.
	Confines func(profile string) bool
	// Swapped are the file systems of /usr that were swapped out. Compare says which version of its path a file is that
	// a process uses from one of them: link is the link to it in the directory of the process. Nil: there is none.
	Swapped []proc.Device
	Compare func(p *proc.Process, link, name string) (Version, error)

	changes *Changes
	root    unix.Stat_t
	// files are the paths that were seen: the same few hundred files are mapped by every process.
	files map[string]*seenFile
}

// seenFile is what a path as /proc shows it means.
type seenFile struct {
	name                    string
	deleted, differs, inUsr bool
	// versions are those of the files at this path on /usr that were swapped out. They are read-only, so that a path
	// means one file.
	versions []versionOn
}

type versionOn struct {
	device  proc.Device
	version Version
}

// Processes reads all processes but kernel threads and this one. Of the files that a process uses it returns those that
// differ. A process that ends meanwhile is left out; one that cannot be read is an error.
func (r *Reader) Processes(ctx context.Context, changes *Changes) ([]Process, error) {
	if err := unix.Stat("/", &r.root); err != nil {
		return nil, fmt.Errorf("stat /: %w", err)
	}
	r.changes, r.files = changes, map[string]*seenFile{}
	defer func() { r.changes, r.files = nil, nil }()
	var processes []Process
	err := proc.NewScanner(r.Proc).Each(ctx, func(p *proc.Process) error {
		if p.PID == os.Getpid() {
			return nil
		}
		process, err := r.process(p)
		if err == nil && process != nil {
			processes = append(processes, *process)
		}
		return err
	})
	return processes, err
}

// process reads one process; nil for a kernel thread.
func (r *Reader) process(from *proc.Process) (p *Process, err error) {
	program, err := from.Program()
	if err != nil || program == nil {
		return nil, err
	}
	p = &Process{PID: from.PID, Program: r.file(program).name}
	if p.Unit, p.Session, err = from.Unit(); err != nil {
		return nil, err
	}
	if err := r.mapped(from, p); err != nil {
		return nil, err
	}
	if err := r.open(from, p); err != nil {
		return nil, err
	}
	if err := r.confined(from, p); err != nil {
		return nil, err
	}
	carried := func(u Use) bool { return u.Mapped && tree.OwnerOf(u.Path) == tree.CarriedByOS }
	if slices.ContainsFunc(p.Uses, carried) {
		if p.Started, err = from.Started(); err != nil {
			return nil, err
		}
	}
	interprets := false
	if l := interpreterOf(p.Program); l != "" {
		if interprets, err = r.script(from, p, l); err != nil {
			return nil, err
		}
	}
	if err := r.interpreted(from, p); err != nil {
		return nil, err
	}
	if !interprets && len(p.Uses) == 0 && p.Confined == "" {
		return p, nil // an assessment needs no more of it
	}
	if p.Command, err = from.Command(); err != nil {
		return nil, err
	}
	root, err := from.Stat("root")
	if err != nil {
		return nil, err
	}
	p.SystemRoot = root.Dev == r.root.Dev && root.Ino == r.root.Ino
	return p, nil
}

// confined notes the AppArmor profile of a process that denies it files on a detached mount.
func (r *Reader) confined(from *proc.Process, p *Process) error {
	if r.Confines == nil {
		return nil
	}
	profile, enforced, err := from.Profile()
	if err == nil && enforced && r.Confines(profile) {
		p.Confined = profile
	}
	return err
}

// script notes which differing scripts an interpreter may run, and when it was started. It returns false for an
// interpreter that runs none.
func (r *Reader) script(from *proc.Process, p *Process, l language) (runs bool, err error) {
	commandLine, err := from.CommandLine()
	if err != nil {
		return false, err
	}
	working := ""
	for i, word := range words(commandLine) {
		if i == maxPaths {
			break
		}
		if working == "" && !strings.HasPrefix(word, "/") {
			link, err := from.Link("cwd")
			if err != nil {
				return false, err
			}
			working = string(link)
		}
		named := argument(word, working)
		// A script may be run by a symbolic link: then its target counts, too.
		for _, name := range []string{named, behindLink(from, named)} {
			if r.changes.Differs(name) {
				p.Arguments = append(p.Arguments, name)
			}
		}
	}
	if len(p.Arguments) == 0 && r.changes.scripts[l] == nil {
		return false, nil
	}
	p.Started, err = from.Started()
	return true, err
}

// behindLink returns the target of a symbolic link in the root of a process; "" if the path is no link.
func behindLink(from *proc.Process, name string) string {
	target, err := os.Readlink(from.Path("root/" + name))
	if err != nil {
		return ""
	}
	if !path.IsAbs(target) {
		target = path.Join("/", path.Dir(name), target)
	}
	resolved, _ := Resolve(target)
	return resolved
}

// mapped adds the mapped files that differ.
func (r *Reader) mapped(from *proc.Process, p *Process) error {
	return from.Maps(func(m proc.Mapping) error {
		file := r.file(m.Path)
		program := file.name == p.Program
		if file.name == "" || !file.differs && !program && (len(r.Swapped) == 0 || !file.inUsr) {
			return nil
		}
		device, err := m.Device()
		if err != nil {
			return err
		}
		if program {
			p.ProgramDevice = device
		}
		version, err := r.version(from, m.Link, device, file)
		if err != nil {
			return err
		}
		if file.differs || version == Earlier {
			p.Uses = append(p.Uses,
				Use{Path: file.name, Device: device, Mapped: true, Deleted: file.deleted, Version: version})
		}
		return nil
	})
}

// version compares a file that a process uses from a swapped-out /usr with what is mounted.
func (r *Reader) version(from *proc.Process, link func() string, device proc.Device, file *seenFile) (Version, error) {
	if r.Compare == nil || !file.inUsr || !slices.Contains(r.Swapped, device) {
		return NotCompared, nil
	}
	for _, known := range file.versions {
		if known.device == device {
			return known.version, nil
		}
	}
	version, err := r.Compare(from, link(), file.name)
	if proc.Ended(err) {
		return NotCompared, nil // it is not used any more
	}
	if err == nil {
		file.versions = append(file.versions, versionOn{device, version})
	}
	return version, err
}

// interpreted adds what the process has read of earlier stacks.
func (r *Reader) interpreted(from *proc.Process, p *Process) error {
	all := r.changes.interpreted[p.PID]
	if len(all) == 0 {
		return nil
	}
	started, err := from.Started()
	if err != nil {
		return err
	}
	for _, one := range all {
		if one.Started == started {
			p.Started = started
			p.Uses = append(p.Uses, Use{Path: one.Path, Version: Earlier, Interpreted: true})
		}
	}
	return nil
}

// open adds the open files that differ.
func (r *Reader) open(from *proc.Process, p *Process) error {
	var mounts proc.MountTable
	return from.Files(func(f proc.OpenFile) error {
		file := r.file(f.Path)
		if !file.differs {
			return r.openEarlier(from, p, f, file)
		}
		if mounts == nil {
			var err error
			if mounts, err = from.Mounts(); err != nil {
				return err
			}
		}
		id, err := from.MountID(f)
		if proc.Ended(err) {
			return nil // closed meanwhile
		}
		if err != nil {
			return err
		}
		use := Use{Path: file.name, Deleted: file.deleted}
		// A detached mount is in no table: its device stays unknown, so that the file does not count as a new one.
		if mount := mounts.ByID(id); mount != nil {
			use.Device = mount.Device()
		}
		if r.Compare != nil && len(r.Swapped) > 0 && file.inUsr {
			if use.Version, err = r.Compare(from, f.Link, use.Path); proc.Ended(err) {
				return nil
			} else if err != nil {
				return err
			}
		}
		p.Uses = append(p.Uses, use)
		return nil
	})
}

// openEarlier adds an open file that does not differ now, if it is an earlier version. Compare knows by the file itself
// whether it is from a swapped-out /usr.
func (r *Reader) openEarlier(from *proc.Process, p *Process, f proc.OpenFile, file *seenFile) error {
	if r.Compare == nil || len(r.Swapped) == 0 || !file.inUsr {
		return nil
	}
	version, err := r.Compare(from, f.Link, file.name)
	if err == nil && version == Earlier {
		p.Uses = append(p.Uses, Use{Path: file.name, Deleted: file.deleted, Version: version})
	}
	if proc.Ended(err) {
		return nil // closed meanwhile
	}
	return err
}

// file returns what a path as /proc shows it means.
func (r *Reader) file(shown []byte) *seenFile {
	if seen := r.files[string(shown)]; seen != nil {
		return seen
	}
	seen := &seenFile{}
	seen.name, seen.deleted = Resolve(strings.ReplaceAll(string(shown), `\012`, "\n"))
	seen.differs, seen.inUsr = r.changes.Differs(seen.name), strings.HasPrefix(seen.name, "usr/")
	if len(r.files) < maxNames {
		r.files[string(shown)] = seen
	}
	return seen
}
