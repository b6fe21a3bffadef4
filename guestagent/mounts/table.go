package mounts

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/moby/sys/mountinfo"
)

// maxMounts bounds a mount table that is read: systemd's own sandboxing makes some hundred at most.
const maxMounts = 100_000

// errTooManyMounts ends the reading of a mount table that no system needs.
var errTooManyMounts = errors.New("too many mounts")

// mount is one line of a mountinfo file (proc_pid_mountinfo(5)).
type mount struct{ *mountinfo.Info }

// peerGroup is "shared:N", or "" for a mount that is not shared.
func (m *mount) peerGroup() string {
	for _, field := range strings.Fields(m.Optional) {
		if strings.HasPrefix(field, "shared:") {
			return field
		}
	}
	return ""
}

// superblock names the mounted file system.
func (m *mount) superblock() string { return fmt.Sprintf("%d:%d", m.Major, m.Minor) }

// mountTable is what one process sees mounted, in the kernel's order, which is by the time of mounting since Linux 6.8.
type mountTable []mount

func readMountTable(path string) (table mountTable, err error) {
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
	table = make(mountTable, len(infos))
	for i, info := range infos {
		table[i] = mount{info}
	}
	return table, nil
}

// at is the mount that a path lookup ends on at a mount point; nil if nothing is mounted there. Of several over each
// other it is the one on top, which is not the last to be mounted where one was mounted beneath it.
func (t mountTable) at(path string) *mount {
	stacked := t.stacked(path)
	if len(stacked) == 0 {
		return nil
	}
	return stacked[len(stacked)-1]
}

// stacked are the mounts at a mount point, each beneath the next.
func (t mountTable) stacked(path string) []*mount {
	var here []*mount
	for i := range t {
		if t[i].Mountpoint == path {
			here = append(here, &t[i])
		}
	}
	depth := func(m *mount) (depth int) {
		for range here { // no table has a circle, and a loop that is bounded needs not trust that
			below := slices.IndexFunc(here, func(other *mount) bool { return other.ID == m.Parent })
			if below < 0 {
				break
			}
			m = here[below]
			depth++
		}
		return depth
	}
	slices.SortStableFunc(here, func(a, b *mount) int { return cmp.Compare(depth(a), depth(b)) })
	return here
}

func (t mountTable) byID(id int) *mount {
	for i := range t {
		if t[i].ID == id {
			return &t[i]
		}
	}
	return nil
}

// EachMount tells, for every mount of a mountinfo file, its id and the number of its file system.
func EachMount(path string, each func(id int, major, minor uint32)) error {
	table, err := readMountTable(path)
	if err != nil {
		return err
	}
	for i := range table {
		each(table[i].ID, uint32(table[i].Major), uint32(table[i].Minor))
	}
	return nil
}
