package service

import (
	"fmt"
	"os"
	"runtime/debug"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/fileio"
)

// giveBack returns to the system what the agent needs no more: the heap of the work that is done, and the pages of
// its own program, most of which ran only for that work and come back from the page cache when they run again.
func giveBack() error {
	debug.FreeOSMemory()
	self, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	maps, err := fileio.Read("/proc/self/maps", maxMaps)
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(maps)) {
		start, length, ok := ownPages(line, self)
		if !ok {
			continue
		}
		// The wrapper of x/sys takes a slice; of the program's own text there is none.
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, start, length, unix.MADV_DONTNEED); errno != 0 {
			return fmt.Errorf("give back pages of %s: %w", self, errno)
		}
	}
	return nil
}

// ownPages reads a line of /proc/<pid>/maps (proc_pid_maps(5)): where a mapping of the program is that cannot have
// been written to, so that nothing is lost with its pages.
func ownPages(line, program string) (start, length uintptr, ok bool) {
	fields := strings.Fields(line)
	if len(fields) != 6 || fields[5] != program || len(fields[1]) != 4 || fields[1][0] != 'r' || fields[1][1] != '-' || fields[1][3] != 'p' {
		return 0, 0, false
	}
	from, to, found := strings.Cut(fields[0], "-")
	first, err := strconv.ParseUint(from, 16, 64)
	if !found || err != nil {
		return 0, 0, false
	}
	end, err := strconv.ParseUint(to, 16, 64)
	if err != nil || end <= first {
		return 0, 0, false
	}
	return uintptr(first), uintptr(end - first), true
}
