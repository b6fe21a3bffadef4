package mounts

import (
	"errors"
	"fmt"
	"os"
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

// mountTable is what one process sees mounted, in the kernel's order: parents before children, and of two mounts
// at the same place the upper one later.
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

// at is the mount that a path lookup ends on at a mount point; nil if nothing is mounted there.
func (t mountTable) at(path string) *mount {
	var top *mount
	for i := range t {
		if t[i].Mountpoint == path {
			top = &t[i]
		}
	}
	return top
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
