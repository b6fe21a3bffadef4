package live

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/impact"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/mounts"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/proc"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// maxEarlier bounds how many swapped-out /usr are remembered. A process on an older one counts as one of a container.
const maxEarlier = 256

// maxStacks bounds for how many /usr the layers are remembered, by which the users of a layer are found.
const maxStacks = 32

// Usr implements refresh.Usr.
type Usr struct {
	usr mounts.Usr
	// file is the record of the swaps of this boot.
	file string
	// Booted are the mount points of the layers of which the first /usr of this boot consists, bottom to top.
	Booted []string

	mutex    sync.Mutex
	previous *mounts.Detached
	// alike are pairs of files of different layers that were compared by content.
	alike map[filePair]bool
}

// usrRecord is the record in /run: it is kept when the agent is restarted, and lost at a boot.
type usrRecord struct {
	// Swapping is true from before a swap until it is settled.
	Swapping bool `json:"swapping"`
	// Earlier are the superblocks of all /usr that were mounted in this boot, possibly including the current one.
	Earlier []mounts.Superblock `json:"earlier"`
	// Stacks are the stacks of the /usr that were swapped in.
	Stacks []stackRecord `json:"stacks,omitempty"`
	// Forgotten are the layers of stacks that are not in Stacks any more because there were too many.
	Forgotten []string `json:"forgotten,omitempty"`
	// Swaps are those of this boot, in their order.
	Swaps []swapRecord `json:"swaps,omitempty"`
}

// stackRecord is the stack from which a /usr was built.
type stackRecord struct {
	// Layers are their ids in hexadecimal, bottom to top.
	Layers []string `json:"layers"`
	// Devices are the device numbers that its files show. The first is the file system's own.
	Devices []uint64 `json:"devices"`
	// Files are those of the files of each layer: mounts.NoFiles, and 0 if unknown.
	Files []uint64 `json:"files,omitempty"`
}

// swapRecord is one swap.
type swapRecord struct {
	// Ticks is when it was done, in clock ticks since boot.
	Ticks uint64            `json:"ticks"`
	Usr   mounts.Superblock `json:"usr"`
}

// ticksPerSecond is what proc_pid_stat(5) counts in: USER_HZ, which Linux has the same on all that this runs on.
const ticksPerSecond = 100

// NewUsr is the /usr of this system, with its record in file.
func NewUsr(file string) (*Usr, error) {
	usr, err := mounts.SystemUsr()
	if err != nil {
		return nil, err
	}
	return &Usr{usr: usr, file: file}, nil
}

func (l *Usr) load() (usrRecord, error) {
	var record usrRecord
	err := readJSON(l.file, &record)
	if errors.Is(err, errAbsent) {
		err = nil
	}
	return record, err
}

// begin records that a swap to layers is about to happen. It reports whether the earlier swap was settled. A swap that
// an earlier agent did not finish is finished first: nothing may stay mounted beneath /usr.
func (l *Usr) begin(next *mounts.Detached, layers []string) (settled bool, err error) {
	record, err := l.load()
	if err != nil {
		return false, err
	}
	if settled = !record.Swapping; !settled {
		if err := l.usr.Finish(); err != nil {
			return false, err
		}
	}
	present, err := l.usr.Superblock()
	if err != nil {
		return false, err
	}
	record.Swapping = true
	if !slices.Contains(record.Earlier, present) {
		record.Earlier = append(record.Earlier, present)
		record.Earlier = record.Earlier[max(0, len(record.Earlier)-maxEarlier):]
	}
	// Only swaps change /usr, and they record it here. So one that is not recorded is the one of the boot.
	if number, err := proc.ParseDevice(present.Device, 10); err != nil {
		return false, err
	} else if settled && len(l.Booted) > 0 && record.stackOn(number.Number()) == nil {
		if err := l.recordBooted(&record); err != nil {
			return false, err
		}
	}
	stack, err := stackOf(next, layers)
	if err != nil {
		return false, err
	}
	record.add(stack)
	return settled, writeJSON(l.file, record)
}

// recordBooted records the stack of the /usr that is mounted since the boot.
func (l *Usr) recordBooted(record *usrRecord) (err error) {
	current, err := l.usr.Current()
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, current.Close()) }()
	stack, err := stackOf(current, l.Booted)
	if err == nil {
		record.add(stack)
	}
	return err
}

// stackOf returns what is recorded of a /usr that consists of layers.
func stackOf(usr *mounts.Detached, layers []string) (stack stackRecord, err error) {
	if stack.Devices, err = usr.Devices(layers, "usr"); err != nil {
		return stack, err
	}
	if stack.Files, err = usr.LayerDevices(layers, "usr"); err != nil {
		return stack, err
	}
	for _, layer := range layers {
		stack.Layers = append(stack.Layers, filepath.Base(layer))
	}
	return stack, nil
}

// add adds a stack. If a device number is used again, its earlier file system is gone.
func (r *usrRecord) add(stack stackRecord) {
	r.Stacks = slices.DeleteFunc(r.Stacks, func(s stackRecord) bool {
		return slices.ContainsFunc(s.Devices, func(d uint64) bool { return slices.Contains(stack.Devices, d) })
	})
	r.Stacks = append(r.Stacks, stack)
	for len(r.Stacks) > maxStacks {
		for _, layer := range r.Stacks[0].Layers {
			if !slices.Contains(r.Forgotten, layer) {
				r.Forgotten = append(r.Forgotten, layer)
			}
		}
		r.Stacks = r.Stacks[1:]
	}
}

// stackOn returns the stack whose /usr is the file system of a device number; nil if none is recorded.
func (r *usrRecord) stackOn(device uint64) *stackRecord {
	for i := range r.Stacks {
		if len(r.Stacks[i].Devices) > 0 && r.Stacks[i].Devices[0] == device {
			return &r.Stacks[i]
		}
	}
	return nil
}

// Swap implements refresh.Usr.
func (l *Usr) Swap(ctx context.Context, layers []string) error {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	next, err := l.usr.Build(ctx, layers)
	if err != nil {
		return err
	}
	settled, err := l.begin(next, layers)
	if err != nil {
		return errors.Join(err, next.Close())
	}
	swapped, err := l.usr.Swap(next)
	if err != nil {
		return err
	}
	if !settled {
		// The previous /usr may be the new one already: an earlier agent may have swapped it in.
		return errors.Join(swapped.Previous.Close(), l.swapped())
	}
	l.previous = swapped.Previous
	return l.swapped()
}

// Back implements refresh.Usr.
func (l *Usr) Back(ctx context.Context, layers []string) error {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	record, err := l.load()
	if err != nil {
		return err
	}
	if !record.Swapping {
		return nil // there was no swap
	}
	next := l.previous
	l.previous = nil
	if next == nil {
		if next, err = l.usr.Build(ctx, layers); err != nil {
			return err
		}
	}
	if _, err := l.begin(next, layers); err != nil {
		return errors.Join(err, next.Close())
	}
	swapped, err := l.usr.Swap(next)
	if err != nil {
		return err
	}
	return errors.Join(swapped.Previous.Close(), l.swapped())
}

// swapped records which /usr is mounted from now on: a process that starts later has not seen an earlier one.
func (l *Usr) swapped() error {
	record, err := l.load()
	if err != nil {
		return err
	}
	present, err := l.usr.Superblock()
	if err != nil {
		return err
	}
	var now unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_BOOTTIME, &now); err != nil {
		return fmt.Errorf("read the clock since boot: %w", err)
	}
	record.Swaps = append(record.Swaps, swapRecord{uint64(now.Nano() / int64(time.Second/ticksPerSecond)), present})
	record.Swaps = record.Swaps[max(0, len(record.Swaps)-maxEarlier):]
	return writeJSON(l.file, record)
}

// Swapped reports whether /usr was swapped in this boot, so that a process can run code of an earlier one.
func (l *Usr) Swapped() (bool, error) {
	record, err := l.load()
	return len(record.Swaps) > 0, err
}

// snapshot returns the part of a snapshot that concerns /usr, and has a reader compare what processes use.
func (l *Usr) snapshot(swapped bool, reader *impact.Reader) (impact.Snapshot, error) {
	var snapshot impact.Snapshot
	record, err := l.load()
	if err != nil {
		return snapshot, err
	}
	present, all, err := l.superblocks()
	if err != nil {
		return snapshot, err
	}
	now, err := proc.ParseDevice(present.Device, 10)
	if err != nil {
		return snapshot, err
	}
	if len(record.Swaps) > 0 {
		reader.Compare = l.comparer(record, now).compare
	}
	for _, superblock := range all {
		device, err := proc.ParseDevice(superblock.Device, 10)
		if err != nil {
			return snapshot, err
		}
		snapshot.Usr = append(snapshot.Usr, device)
		if superblock != present {
			reader.Swapped = append(reader.Swapped, device)
		}
		if swapped && superblock == present {
			snapshot.Fresh = device
		}
	}
	for _, swap := range record.Swaps {
		device, err := proc.ParseDevice(swap.Usr.Device, 10)
		if err != nil {
			return snapshot, err
		}
		snapshot.Swaps = append(snapshot.Swaps, impact.Swap{Ticks: swap.Ticks, Usr: device})
	}
	return snapshot, nil
}

// Settle implements refresh.Usr.
func (l *Usr) Settle() error {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	err := l.previous.Close()
	l.previous = nil
	record, loadErr := l.load()
	if loadErr != nil {
		return errors.Join(err, loadErr)
	}
	if !record.Swapping {
		return err
	}
	record.Swapping = false
	return errors.Join(err, writeJSON(l.file, record))
}

// Shown returns how a layer shows through each /usr of this boot that was built with it.
func (l *Usr) Shown(id tree.Digest) ([]mounts.Shown, error) {
	record, err := l.load()
	if err != nil {
		return nil, err
	}
	return record.shown(id.Hex()), nil
}

func (r *usrRecord) shown(layer string) []mounts.Shown {
	var all []mounts.Shown
	for _, stack := range r.Stacks {
		at := slices.Index(stack.Layers, layer)
		if at < 0 || len(stack.Devices) == 0 {
			continue
		}
		one := mounts.Shown{System: stack.Devices[0], Files: stack.Devices} // any file may be one of the layer
		if at < len(stack.Files) && stack.Files[at] == mounts.NoFiles {
			one.Files = nil
		} else if at < len(stack.Files) && stack.Files[at] != 0 {
			one.Files = []uint64{stack.Files[at]}
		}
		all = append(all, one)
	}
	return all
}

// Whole returns the same with every file counted as one of the layer: a file system has all its layers in use as long
// as one of its files is used. It returns nothing if it is not known any more which file systems have the layer.
func (l *Usr) Whole(id tree.Digest) ([]mounts.Shown, error) {
	record, err := l.load()
	if err != nil {
		return nil, err
	}
	return record.whole(id.Hex()), nil
}

func (r *usrRecord) whole(layer string) []mounts.Shown {
	if slices.Contains(r.Forgotten, layer) {
		return nil
	}
	var all []mounts.Shown
	for _, stack := range r.Stacks {
		if slices.Contains(stack.Layers, layer) && len(stack.Devices) > 0 {
			all = append(all, mounts.Shown{System: stack.Devices[0], Files: stack.Devices})
		}
	}
	return all
}

// Unpin has the mount namespaces that still show an earlier /usr show the current one, where that is possible.
func (l *Usr) Unpin(ctx context.Context) error {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	present, all, err := l.superblocks()
	if err != nil {
		return err
	}
	return l.usr.Unpin(ctx, "/proc",
		slices.DeleteFunc(slices.Clone(all), func(s mounts.Superblock) bool { return s == present }))
}

// superblocks returns the current /usr, and all that were mounted in this boot.
func (l *Usr) superblocks() (present mounts.Superblock, all []mounts.Superblock, err error) {
	record, err := l.load()
	if err != nil {
		return present, nil, err
	}
	if present, err = l.usr.Superblock(); err != nil {
		return present, nil, err
	}
	all = record.Earlier
	if !slices.Contains(all, present) {
		all = append(all, present)
	}
	return present, all, nil
}

// pinned returns the mount namespaces that see an earlier /usr.
func (l *Usr) pinned(ctx context.Context) ([]mounts.Pinned, error) {
	present, all, err := l.superblocks()
	if err != nil {
		return nil, err
	}
	earlier := slices.DeleteFunc(slices.Clone(all), func(s mounts.Superblock) bool { return s == present })
	return l.usr.Audit(ctx, "/proc", earlier)
}
