package live

import (
	"encoding/binary"
	"errors"
	"io/fs"
	"os"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"
)

// kexecLimit bounds the time from the request of a kexec to the start of the agent in the new system: systemd stops the
// old services, with 90 s for each, and the new kernel boots.
const kexecLimit = 15 * time.Minute

// Every VM has a watchdog of the type Intel 6300ESB, which resets the machine when its time is over. It has to go on
// running through a kexec, so it is programmed directly: the kernel's own driver stops it on shutdown.
//
// Its registers are described in the 6300ESB I/O Controller Hub's datasheet, chapter 16, and in Linux and QEMU
// (drivers/watchdog/i6300esb.c, hw/watchdog/wdt_i6300esb.c).
const (
	watchdogSlot = "0000:00:0f.0"
	watchdogDir  = "/sys/bus/pci/devices/" + watchdogSlot
	// watchdogUnbind exists if a driver of the kernel has the device.
	watchdogUnbind = watchdogDir + "/driver/unbind"
	watchdogID     = "\x86\x80\xab\x25"

	// In the configuration space: the low bytes of the address of the device's memory, and the lock
	// register, one bit of which starts the watchdog.
	watchdogBase               = 0x10
	watchdogLock, watchdogRuns = 0x68, 0x02
	// In memory: two timers of 20 bits, which run one after the other, and a register that takes the words which unlock
	// them.
	watchdogReload, watchdogPage = 0x0c, 4096
	// watchdogTicks is how many ticks of one timer make a second of both.
	watchdogTicks = 512
)

// setWatchdog has the watchdog reset the machine after limit, which is at most half an hour. A limit of 0 stops it.
//
// It does nothing if the VM has no watchdog, as one that was started from an older definition, and leaves a watchdog
// alone that runs for another program.
func setWatchdog(limit time.Duration) error {
	file, err := os.OpenFile(watchdogDir+"/config", os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var space [watchdogLock + 1]byte
	if _, err = file.ReadAt(space[:], 0); err == nil && string(space[:len(watchdogID)]) == watchdogID {
		_, driven := os.Lstat(watchdogUnbind)
		err = setTimer(file, space[:], driven == nil, limit)
	}
	return errors.Join(err, file.Close())
}

// setTimer starts or stops a watchdog by its configuration space. driven is true if a driver of the kernel has it.
func setTimer(configuration *os.File, space []byte, driven bool, limit time.Duration) error {
	runs := space[watchdogLock] != 0
	if limit == 0 {
		if !runs || driven {
			return nil // the driver stops it, unless another program uses it
		}
		_, err := configuration.WriteAt([]byte{0}, watchdogLock)
		return err
	}
	if runs {
		return nil // for another program
	}
	if driven { // nothing uses it through the driver
		if err := os.WriteFile(watchdogUnbind, []byte(watchdogSlot), 0); err != nil {
			return err
		}
	}
	if err := writeTimers(binary.LittleEndian.Uint16(space[watchdogBase:])&0x0ff0, limit); err != nil {
		return err
	}
	_, err := configuration.WriteAt([]byte{watchdogRuns}, watchdogLock)
	return err
}

// writeTimers writes the time to the registers, which are at an offset of a page of the device's memory. The mapping
// ends with this process, which ends with the system.
func writeTimers(offset uint16, limit time.Duration) error {
	memory, err := unix.Open(watchdogDir+"/resource0", unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return err
	}
	page, _, failed := unix.Syscall6(unix.SYS_MMAP, 0, watchdogPage, unix.PROT_READ|unix.PROT_WRITE,
		unix.MAP_SHARED, uintptr(memory), 0)
	if err := unix.Close(memory); err != nil || failed != 0 {
		return errors.Join(err, errnoOf(failed))
	}
	registers := unsafe.Add(*(*unsafe.Pointer)(unsafe.Pointer(&page)), int(offset))
	for timer := range 2 {
		// Two words unlock the next write. The stores are atomic, so that the compiler omits none of them.
		atomic.StoreUint32((*uint32)(unsafe.Add(registers, watchdogReload)), 0x80)
		atomic.StoreUint32((*uint32)(unsafe.Add(registers, watchdogReload)), 0x86)
		atomic.StoreUint32((*uint32)(unsafe.Add(registers, 4*timer)), uint32(limit/time.Second*watchdogTicks))
	}
	return nil
}

// errnoOf is nil for 0.
func errnoOf(number syscall.Errno) error {
	if number == 0 {
		return nil
	}
	return number
}
