package testbed

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"time"
)

// kvmProbe is how long a QEMU without a disk must run before its KVM counts as working.
const kvmProbe = 2 * time.Second

// hideKVM hides the KVM device behind a file to which not even root may write. libvirtd takes a KVM device that it
// can open for one that works. If QEMU then finds it does not work, libvirtd asks QEMU for its capabilities again
// for every VM.
const hideKVM = `if [ -e /dev/kvm ]; then
	: > /var/lib/libvirt/no-kvm
	mount --bind /var/lib/libvirt/no-kvm /dev/kvm
	mount -o remount,bind,ro /dev/kvm
fi
`

// emulated reports whether guests of the testbed must be emulated. A host that is a VM itself may have a /dev/kvm
// on which QEMU ends at once ("failed to set MSR …"), or one without hardware behind it (PVM), on which QEMU stops
// in the middle of a kernel ("internal-error": VEX instructions are not emulated). libvirt only checks that the
// device opens, so the testbed hides it. $SHAREDOS_TEST_KVM=off hides a device that fails later.
func emulated(ctx context.Context) (bool, error) {
	if os.Getenv("SHAREDOS_TEST_KVM") == "off" {
		return true, nil
	}
	device, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return false, nil // libvirt cannot open it either
	}
	if err := device.Close(); err != nil {
		return false, err
	}
	if hardware, err := virtualizes(); err != nil || !hardware {
		return true, err
	}
	ctx, cancel := context.WithTimeout(ctx, kvmProbe)
	defer cancel()
	err = exec.CommandContext(ctx, "qemu-system-x86_64", "-machine", "q35,accel=kvm", "-cpu", "host", "-nodefaults",
		"-display", "none").Run()
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return false, nil
	}
	var ended *exec.ExitError
	if errors.As(err, &ended) {
		return true, nil
	}
	return false, err
}

// virtualizes reports whether the processor has hardware virtualization: VT-x and AMD-V are flags of it. On other
// architectures than x86 no flag says so, and virtualizes assumes it.
func virtualizes() (bool, error) {
	if runtime.GOARCH != "amd64" {
		return true, nil
	}
	info, err := os.ReadFile("/proc/cpuinfo")
	if err != nil {
		return false, err
	}
	for line := range strings.Lines(string(info)) {
		if name, flags, _ := strings.Cut(line, ":"); strings.TrimSpace(name) == "flags" {
			fields := strings.Fields(flags)
			return slices.Contains(fields, "vmx") || slices.Contains(fields, "svm"), nil
		}
	}
	return false, nil
}
