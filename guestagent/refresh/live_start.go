package refresh

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/boot"
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
	commandLine = strings.TrimSpace(commandLine + " " + boot.TrialArgument + boot.TrialKey(trial))
	if len(commandLine) >= maxCommandLine {
		return fmt.Errorf("kexec: the command line has %d bytes, a kernel takes %d", len(commandLine), maxCommandLine-1)
	}
	if err := loadKernel(kernel, initramfs, commandLine); err != nil {
		return fmt.Errorf("kexec: load the kernel: %w", err)
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

// Distrust implements Records.
func (LiveRecords) Distrust(stack release.Stack) error { return boot.MarkBad(stack) }

// Trust implements Records.
func (LiveRecords) Trust(stack release.Stack) error { return boot.MarkGood(stack) }

// Root implements System.
func (s *LiveSystem) Root() (string, error) { return mounts.RootDevice("/") }
