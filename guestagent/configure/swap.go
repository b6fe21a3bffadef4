package configure

import (
	"context"
	"crypto/rand"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/fileio"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/guestconfig"
)

// swapReserve is what a new swap file leaves free on the private disk, in bytes.
const swapReserve = 64 << 20

// swapChange is what happens to the swap file, in bytes; from and to are 0 for none.
type swapChange struct {
	From int64 `json:"from"`
	To   int64 `json:"to"`
	// active is true if the file is in use.
	active bool
}

func (c *Configurator) swapFile() string { return filepath.Join(c.Root, guestconfig.SwapFile) }

// swapSize is the size of the swap file in bytes; 0 if there is none.
func (c *Configurator) swapSize() (int64, error) {
	info, err := os.Lstat(c.swapFile())
	if errors.Is(err, fs.ErrNotExist) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	if !info.Mode().IsRegular() {
		return 0, fmt.Errorf("%s: %w", guestconfig.SwapFile, errOdd)
	}
	return info.Size(), nil
}

// planSwap decides whether the swap file is made, removed or made anew. ErrRefused if it does not
// fit on the disk, or if the pages in it do not fit into the memory.
func (c *Configurator) planSwap(ctx context.Context, record *Record, p *plan) error {
	before, err := record.document()
	if err != nil || before.Swap == 0 && p.document.Swap == 0 {
		return err
	}
	is, err := c.swapSize()
	if err != nil {
		return err
	}
	if before.Swap == 0 && is != 0 {
		return fmt.Errorf(
			"%w: swap: there is a file %s that this configuration has not written: remove it in the guest",
			ErrRefused, guestconfig.SwapFile)
	}
	state, err := c.Units.ActiveState(ctx, guestconfig.SwapUnit)
	if err != nil {
		return err
	}
	change := swapChange{From: is, To: p.document.Swap, active: isActive(state)}
	if change.From == change.To && change.active {
		return nil
	}
	if change.active {
		if err := c.pagesFit(); err != nil {
			return err
		}
	}
	if more := change.To - change.From; more > 0 {
		var room unix.Statfs_t
		if err := unix.Statfs(filepath.Join(c.Root, "var"), &room); err != nil {
			return fmt.Errorf("look at the room for a swap file: %w", err)
		}
		if free := int64(room.Bavail) * room.Bsize; more+swapReserve > free {
			return fmt.Errorf(
				"%w: swap: it takes %d MiB more, and the private disk has %d MiB free, of which %d MiB stay free: use a smaller size or a larger disk",
				ErrRefused, more>>20, free>>20, int64(swapReserve)>>20)
		}
	}
	p.swap = &change
	return nil
}

// pagesFit returns ErrRefused if the pages in the swap file do not fit into the memory: the file
// cannot be taken out of use then.
func (c *Configurator) pagesFit() error {
	used, err := c.swapUsed()
	if err != nil {
		return err
	}
	available, err := c.memoryAvailable()
	if err != nil {
		return err
	}
	if used > available {
		return fmt.Errorf(
			"%w: swap: %d MiB of the swap file are in use, and %d MiB of memory are available for them: stop what needs the memory, or give the VM more",
			ErrRefused, used>>20, available>>20)
	}
	return nil
}

// swapUsed is how many bytes of the swap file are in use (/proc/swaps, in KiB).
func (c *Configurator) swapUsed() (int64, error) {
	text, err := fileio.Read(filepath.Join(c.Root, "proc/swaps"), maxParameter)
	if err != nil {
		return 0, fmt.Errorf("read what is swapped out: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) > 3 && fields[0] == guestconfig.SwapFile {
			used, err := strconv.ParseInt(fields[3], 10, 64)
			if err != nil {
				return 0, fmt.Errorf("read what is swapped out: %w", err)
			}
			return used << 10, nil
		}
	}
	return 0, nil
}

// memoryAvailable is how many bytes of memory programs can get without swapping (proc_meminfo(5), in KiB).
func (c *Configurator) memoryAvailable() (int64, error) {
	text, err := fileio.Read(filepath.Join(c.Root, "proc/meminfo"), maxParameter)
	if err != nil {
		return 0, fmt.Errorf("read the memory: %w", err)
	}
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) > 1 && fields[0] == "MemAvailable:" {
			kib, err := strconv.ParseInt(fields[1], 10, 64)
			if err != nil {
				return 0, fmt.Errorf("read the memory: %w", err)
			}
			return kib << 10, nil
		}
	}
	return 0, errors.New("read the memory: the kernel does not say what is available")
}

// stopSwap takes the swap file out of use before it changes.
func (a *application) stopSwap(ctx context.Context) error {
	if a.plan.swap == nil {
		return nil
	}
	if err := a.touch(guestconfig.SwapUnit); err != nil || !a.plan.swap.active {
		return err
	}
	return a.Units.Withdraw(ctx, guestconfig.SwapUnit)
}

// startSwap makes the swap file and takes it into use. systemd has read its unit.
func (a *application) startSwap(ctx context.Context) error {
	if a.plan.swap == nil {
		return nil
	}
	if err := a.makeSwap(a.plan.swap.To); err != nil || a.plan.swap.To == 0 {
		return err
	}
	if _, _, err := a.Units.Start(ctx, guestconfig.SwapUnit); err != nil {
		return fmt.Errorf("swap: %w: %s", err, a.Units.Failure(ctx, guestconfig.SwapUnit))
	}
	return nil
}

// takeSwapBack has the swap file of before, which is not in use meanwhile.
func (c *Configurator) takeSwapBack(ctx context.Context, open *attempt) error {
	if open.Swap == nil {
		return nil
	}
	is, err := c.swapSize()
	if err != nil {
		return err
	}
	state, err := c.Units.ActiveState(ctx, guestconfig.SwapUnit)
	if err != nil || is == open.Swap.From && open.Units[guestconfig.SwapUnit].Active == isActive(state) {
		return err // such as when the file could not be taken out of use
	}
	if err := c.Units.Withdraw(ctx, guestconfig.SwapUnit); err != nil {
		return err
	}
	return c.makeSwap(open.Swap.From)
}

// makeSwap makes the swap file anew, without holes and for root alone, or removes it if size is 0.
// It must not be in use.
func (c *Configurator) makeSwap(size int64) (err error) {
	defer func() {
		if err != nil {
			err = fmt.Errorf("make the swap file %s: %w", guestconfig.SwapFile, err)
		}
	}()
	name := c.swapFile()
	if err := fileio.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if size == 0 {
		if err := os.Remove(filepath.Dir(name)); err != nil && !errors.Is(err, fs.ErrNotExist) &&
			!errors.Is(err, unix.ENOTEMPTY) {
			return err
		}
		return nil
	}
	if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
		return err
	}
	file, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, file.Close()) }()
	if err := unix.Fallocate(int(file.Fd()), 0, 0, size); err != nil {
		return err
	}
	if _, err := file.WriteAt(swapHeader(size, os.Getpagesize()), 0); err != nil {
		return err
	}
	return file.Sync()
}

// swapHeader is the first page of a swap area (union swap_header in the kernel's
// include/linux/swap.h): 1 KiB for a boot sector, the version, the number of the last page, the
// number of bad pages and a UUID, and the signature at the end.
func swapHeader(size int64, page int) []byte {
	header := make([]byte, page)
	binary.NativeEndian.PutUint32(header[1024:], 1)
	binary.NativeEndian.PutUint32(header[1028:], uint32(size/int64(page)-1))
	_, _ = rand.Read(header[1036:1052]) // it never fails
	copy(header[page-10:], "SWAPSPACE2")
	return header
}
