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

// maxOwnMaps bounds the text of the agent's own maps, in bytes.
const maxOwnMaps = 4 << 20

// giveBack returns memory to the system: the unused heap, and the pages of the agent's own program. Most of those were
// used only for the work that is done, and come back from the page cache when they are used again.
func giveBack() error {
	debug.FreeOSMemory()
	self, err := os.Readlink("/proc/self/exe")
	if err != nil {
		return err
	}
	maps, err := fileio.Read("/proc/self/maps", maxOwnMaps)
	if err != nil {
		return err
	}
	for line := range strings.Lines(string(maps)) {
		start, length, ok := ownPages(line, self)
		if !ok {
			continue
		}
		// The wrapper of x/sys takes a slice, and the program's own text has none.
		if _, _, errno := unix.Syscall(unix.SYS_MADVISE, start, length, unix.MADV_DONTNEED); errno != 0 {
			return fmt.Errorf("give back pages of %s: %w", self, errno)
		}
	}
	return nil
}

// ownPages reads a line of /proc/<pid>/maps (proc_pid_maps(5)). It returns the address range of a mapping of the
// program that cannot have been written to, so that nothing is lost with its pages.
func ownPages(line, program string) (start, length uintptr, ok bool) {
	fields := strings.Fields(line)
	if len(fields) != 6 || fields[5] != program || len(fields[1]) != 4 || fields[1][0] != 'r' ||
		fields[1][1] != '-' || fields[1][3] != 'p' {
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
