package live

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/boot"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/failpoint"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/journal"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
)

const (
	// softRebootVersion is the first version of systemd that can reboot the userland alone, into another root.
	softRebootVersion = 254
	kexecLoaded       = "/sys/kernel/kexec_loaded"
	kexecDisabled     = "/proc/sys/kernel/kexec_load_disabled"
	lockdown          = "/sys/kernel/security/lockdown"
	// maxCommandLine is COMMAND_LINE_SIZE of x86, in bytes.
	maxCommandLine = 2048
)

// Targets is what Starter asks of systemd.
type Targets interface {
	// Begin starts a target that ends this boot, or its userland.
	Begin(ctx context.Context, target string) error
	Version(ctx context.Context) (int, error)
}

// Starter implements refresh.Starter.
type Starter struct{ Units Targets }

// Obstacles implements refresh.Starter.
func (l Starter) Obstacles(ctx context.Context) (map[journal.Strategy]string, error) {
	found := map[journal.Strategy]string{}
	version, err := l.Units.Version(ctx)
	if err != nil {
		return nil, err
	}
	if version < softRebootVersion {
		found[journal.SoftReboot] = fmt.Sprintf("a soft-reboot needs systemd %d, this is %d",
			softRebootVersion, version)
	}
	if reason, err := noKexec(); err != nil {
		return nil, err
	} else if reason != "" {
		found[journal.Kexec] = reason
	}
	return found, nil
}

// noKexec says why this kernel cannot start another one; "" if it can.
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
	// "[none] integrity confidentiality": the word in brackets is the current mode. Under lockdown only signed kernels
	// are accepted.
	if len(mode) > 0 && !strings.Contains(string(mode), "[none]") {
		return "the kernel is locked down: " + strings.TrimSpace(string(mode)), nil
	}
	return "", nil
}

// SoftReboot implements refresh.Starter.
func (l Starter) SoftReboot(ctx context.Context) error {
	if err := boot.ForgetNext(); err != nil {
		return fmt.Errorf("soft-reboot: %w", err)
	}
	return l.Units.Begin(ctx, "soft-reboot.target")
}

// Kexec implements refresh.Starter. The kernel is loaded before systemd stops anything, so a kernel that is not
// accepted, for its format or its signature, interrupts nothing.
func (l Starter) Kexec(ctx context.Context, kernel, initramfs io.Reader, commandLine string,
	trial release.Stack) error {
	if kernel == nil {
		return setWatchdog(0)
	}
	commandLine = strings.TrimSpace(commandLine + " " + boot.TrialArgument + boot.TrialKey(trial))
	if len(commandLine) >= maxCommandLine {
		return fmt.Errorf("kexec: the command line has %d bytes, and a kernel accepts %d",
			len(commandLine), maxCommandLine-1)
	}
	if err := loadKernel(kernel, initramfs, commandLine); err != nil {
		return fmt.Errorf("kexec: load the kernel: %w", err)
	}
	limit := kexecLimit
	if failpoint.Built {
		limit = kexecLimit / 6 // enough for an emulated guest on a busy machine
		// A test whose kernel hangs for certain waits for all of it.
		if err := failpoint.Hit("before a kexec with a short watchdog"); errors.Is(err, failpoint.ErrInjected) {
			limit = kexecLimit / 15
		} else if err != nil {
			return err
		}
	}
	if err := setWatchdog(limit); err != nil {
		return err
	}
	return l.Units.Begin(ctx, "kexec.target")
}

// loadKernel has the running kernel check and load another one (kexec_file_load(2)), which takes files.
func loadKernel(kernel, initramfs io.Reader, commandLine string) error {
	first, ok := kernel.(*os.File)
	if !ok {
		return fmt.Errorf("the kernel is a %T, not a file", kernel)
	}
	second, ok := initramfs.(*os.File)
	if !ok {
		return fmt.Errorf("the initramfs is a %T, not a file", initramfs)
	}
	return unix.KexecFileLoad(int(first.Fd()), int(second.Fd()), commandLine, 0)
}

// Reboot implements refresh.Starter.
func (l Starter) Reboot(ctx context.Context) error { return l.Units.Begin(ctx, "reboot.target") }
