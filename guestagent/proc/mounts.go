package proc

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
)

// maxMounts bounds a mount table that is read: systemd's own sandboxing makes some hundred mounts at most.
const maxMounts = 100_000

// errTooManyMounts means that a mount table has more than maxMounts lines.
var errTooManyMounts = errors.New("too many mounts")

// Mount is one line of a mountinfo file (proc_pid_mountinfo(5)).
type Mount struct{ *mountinfo.Info }

// PeerGroup is "shared:N", or "" for a mount that is not shared.
func (m *Mount) PeerGroup() string {
	for _, field := range strings.Fields(m.Optional) {
		if strings.HasPrefix(field, "shared:") {
			return field
		}
	}
	return ""
}

// Device is the mounted file system.
func (m *Mount) Device() Device { return Device{Major: uint32(m.Major), Minor: uint32(m.Minor)} }

// MountTable is what one process sees mounted, in the kernel's order, which is by the time of mounting since Linux 6.8.
type MountTable []Mount

// Mounts returns the mount table of the process.
func (p *Process) Mounts() (MountTable, error) { return ReadMountTable(p.Path("mountinfo")) }

// MountNamespace returns the inode number of the process's mount namespace.
func (p *Process) MountNamespace() (uint64, error) {
	stat, err := p.Stat("ns/mnt")
	return stat.Ino, err
}

// OwnMountTable returns the mount table of the calling thread.
func OwnMountTable() (MountTable, error) { return ReadMountTable("/proc/thread-self/mountinfo") }

// ReadMountTable reads a mountinfo file.
func ReadMountTable(path string) (table MountTable, err error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	count := 0
	infos, err := mountinfo.GetMountsFromReader(file, func(*mountinfo.Info) (skip, stop bool) {
		count++
		return false, count > maxMounts
	})
	if err != nil {
		return nil, fmt.Errorf("read %s: %w", path, err)
	}
	if count > maxMounts {
		return nil, fmt.Errorf("read %s: %w", path, errTooManyMounts)
	}
	table = make(MountTable, len(infos))
	for i, info := range infos {
		table[i] = Mount{info}
	}
	return table, nil
}

// At returns the mount at a mount point that path lookups see; nil if nothing is mounted there. Of several mounts at
// one place it is the topmost, which is not the last to be mounted if one was mounted beneath it.
func (t MountTable) At(path string) *Mount {
	stacked := t.Stacked(path)
	if len(stacked) == 0 {
		return nil
	}
	return stacked[len(stacked)-1]
}

// Stacked returns the mounts at a mount point, each beneath the next.
func (t MountTable) Stacked(path string) []*Mount {
	var here []*Mount
	for i := range t {
		if t[i].Mountpoint == path {
			here = append(here, &t[i])
		}
	}
	depth := func(m *Mount) (depth int) {
		for range here { // the kernel's table has no cycle, and a bounded loop need not trust that
			below := slices.IndexFunc(here, func(other *Mount) bool { return other.ID == m.Parent })
			if below < 0 {
				break
			}
			m = here[below]
			depth++
		}
		return depth
	}
	slices.SortStableFunc(here, func(a, b *Mount) int { return cmp.Compare(depth(a), depth(b)) })
	return here
}

// ByID returns the mount of an id; nil if there is none.
func (t MountTable) ByID(id int) *Mount {
	for i := range t {
		if t[i].ID == id {
			return &t[i]
		}
	}
	return nil
}
