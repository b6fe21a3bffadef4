package refresh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/boot"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/failpoint"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/mounts"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
)

const (
	// softRebootVersion is systemd's first that can reboot the userland alone, and take another root for it.
	softRebootVersion = 254
	kexecLoaded       = "/sys/kernel/kexec_loaded"
	kexecDisabled     = "/proc/sys/kernel/kexec_load_disabled"
	lockdown          = "/sys/kernel/security/lockdown"
	// maxCommandLine is COMMAND_LINE_SIZE of x86, in bytes.
	maxCommandLine = 2048
)

// TargetOf is what LiveStarter asks the manager of services.
type TargetOf interface {
	// Begin has it go to a target that ends this boot, or its userland.
	Begin(ctx context.Context, target string) error
	Version(ctx context.Context) (int, error)
}

// LiveStarter starts stacks of this system.
type LiveStarter struct{ Units TargetOf }

// Obstacles implements Starter.
func (l LiveStarter) Obstacles(ctx context.Context) (map[Rung]string, error) {
	found := map[Rung]string{}
	version, err := l.Units.Version(ctx)
	if err != nil {
		return nil, err
	}
	if version < softRebootVersion {
		found[SoftReboot] = fmt.Sprintf("a soft-reboot needs systemd %d, this is %d", softRebootVersion, version)
	}
	if reason, err := noKexec(); err != nil {
		return nil, err
	} else if reason != "" {
		found[Kexec] = reason
	}
	return found, nil
}

// noKexec says why this kernel starts no other one; "" if it does.
func noKexec() (string, error) {
	if _, err := os.Stat(kexecLoaded); errors.Is(err, os.ErrNotExist) {
		return "the kernel was built without kexec", nil
	} else if err != nil {
		return "", err
	}
	disabled, err := os.ReadFile(kexecDisabled)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	if strings.TrimSpace(string(disabled)) == "1" {
		return "kernel.kexec_load_disabled is set", nil
	}
	mode, err := os.ReadFile(lockdown)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", err
	}
	// "[none] integrity confidentiality": the one in brackets holds. Under lockdown only signed kernels are taken.
	if len(mode) > 0 && !strings.Contains(string(mode), "[none]") {
		return "the kernel is locked down: " + strings.TrimSpace(string(mode)), nil
	}
	return "", nil
}

// SoftReboot implements Starter.
func (l LiveStarter) SoftReboot(ctx context.Context) error {
	if err := boot.ForgetNext(); err != nil {
		return fmt.Errorf("soft-reboot: %w", err)
	}
	return l.Units.Begin(ctx, "soft-reboot.target")
}

// Kexec implements Starter. The kernel is loaded before systemd ends anything, so that one which it does not take, for
// its format or for a signature, interrupts nothing.
func (l LiveStarter) Kexec(ctx context.Context, kernel, initramfs io.Reader, commandLine string, trial release.Stack) error {
	if kernel == nil {
		return setWatchdog(0)
	}
	commandLine = strings.TrimSpace(commandLine + " " + boot.TrialArgument + boot.TrialKey(trial))
	if len(commandLine) >= maxCommandLine {
		return fmt.Errorf("kexec: the command line has %d bytes, a kernel takes %d", len(commandLine), maxCommandLine-1)
	}
	if err := loadKernel(kernel, initramfs, commandLine); err != nil {
		return fmt.Errorf("kexec: load the kernel: %w", err)
	}
	limit := kexecLimit
	if failpoint.Built {
		limit = kexecLimit / 6 // enough for an emulated guest on a busy machine, and tests wait for all of it
	}
	if err := setWatchdog(limit); err != nil {
		return err
	}
	return l.Units.Begin(ctx, "kexec.target")
}

// loadKernel has the running kernel check and take another one (kexec_file_load(2)). It wants files.
func loadKernel(kernel, initramfs io.Reader, commandLine string) error {
	first, ok := kernel.(*os.File)
	if !ok {
		return fmt.Errorf("the kernel is no file but a %T", kernel)
	}
	second, ok := initramfs.(*os.File)
	if !ok {
		return fmt.Errorf("the initramfs is no file but a %T", initramfs)
	}
	return unix.KexecFileLoad(int(first.Fd()), int(second.Fd()), commandLine, 0)
}

// Reboot implements Starter.
func (l LiveStarter) Reboot(ctx context.Context) error { return l.Units.Begin(ctx, "reboot.target") }

// MarkBad implements Records.
func (LiveRecords) MarkBad(stack release.Stack) error { return boot.MarkBad(stack) }

// MarkGood implements Records.
func (LiveRecords) MarkGood(stack release.Stack) error { return boot.MarkGood(stack) }

// Root implements System.
func (s *LiveSystem) Root() (string, error) { return mounts.RootDevice("/") }

// kexecLimit bounds the way from a kexec that is asked for to the agent in the new system: the end of the old one's
// services, which systemd gives 90 s each, and a boot.
const kexecLimit = 15 * time.Minute

// The watchdog that the host gives every VM is an Intel 6300ESB: when its time is over it resets the machine, whatever that
// does. It outlasts a kexec, since it is driven past the kernel, whose own driver stops it on the way there.
//
// Its registers are as in the 6300ESB I/O Controller Hub's datasheet, chapter 16, and as Linux and QEMU have them
// (drivers/watchdog/i6300esb.c, hw/watchdog/wdt_i6300esb.c).
const (
	watchdogSlot = "0000:00:0f.0"
	watchdogDir  = "/sys/bus/pci/devices/" + watchdogSlot
	// watchdogUnbind is there if a driver has it.
	watchdogUnbind = watchdogDir + "/driver/unbind"
	watchdogID     = "\x86\x80\xab\x25"

	// In the configuration space: a byte with whether it takes part in memory, the low bytes of where, how its time is
	// told, and the lock register, whose bits lock it until a reset and let it run.
	watchdogCommand, watchdogMemory = 0x04, 0x02
	watchdogBase                    = 0x10
	watchdogConfig, watchdogQuiet   = 0x60, 0x03 // about a thousand ticks a second, and no interrupt before the end
	watchdogLock, watchdogRuns      = 0x68, 0x02
	// In memory: two timers of 20 bits, which run one after the other, and a register that takes the words which unlock them.
	watchdogReload, watchdogPage = 0x0c, 4096
	// watchdogTicks is how many ticks of one timer make a second of both.
	watchdogTicks = 512
)

// setWatchdog has the machine reset in limit, at most half an hour, or not any more if that is 0. It does nothing if there is
// no watchdog, as in a VM that was started by an earlier definition, and keeps off one that runs for somebody else.
//
// It is one function, and in this file, since the agent has little room: each costs bytes of tables.
func setWatchdog(limit time.Duration) error {
	file, err := os.OpenFile(watchdogDir+"/config", os.O_RDWR, 0)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var space [watchdogLock + 1]byte
	_, err = file.ReadAt(space[:], 0)
	_, driven := os.Lstat(watchdogUnbind)
	switch runs := space[watchdogLock] != 0; {
	case err != nil || string(space[:len(watchdogID)]) != watchdogID:
	case limit == 0 && runs && driven != nil:
		// One that a driver has runs for somebody else: a driver stops it when it begins.
		_, err = file.WriteAt([]byte{0}, watchdogLock)
	case limit > 0 && !runs:
		if driven == nil { // a driver that nobody uses
			err = os.WriteFile(watchdogUnbind, []byte(watchdogSlot), 0)
		}
		memory := -1
		if err == nil { // this process ends with the system, and what it has opened here with it
			memory, err = unix.Open(watchdogDir+"/resource0", unix.O_RDWR|unix.O_CLOEXEC, 0)
		}
		page := uintptr(0)
		if err == nil {
			var failed syscall.Errno
			page, _, failed = unix.Syscall6(unix.SYS_MMAP, 0, watchdogPage, unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED, uintptr(memory), 0)
			if failed != 0 {
				err = failed
			}
		}
		if err == nil {
			registers := unsafe.Add(*(*unsafe.Pointer)(unsafe.Pointer(&page)), int(space[watchdogBase+1]&0x0f)<<8|int(space[watchdogBase]&0xf0))
			for timer := range 2 {
				// Two words unlock the write after them. A store that is not atomic may be left out.
				atomic.StoreUint32((*uint32)(unsafe.Add(registers, watchdogReload)), 0x80)
				atomic.StoreUint32((*uint32)(unsafe.Add(registers, watchdogReload)), 0x86)
				atomic.StoreUint32((*uint32)(unsafe.Add(registers, 4*timer)), uint32(limit/time.Second*watchdogTicks))
			}
			_, err = file.WriteAt([]byte{watchdogRuns}, watchdogLock)
		}
	}
	return errors.Join(err, file.Close())
}
