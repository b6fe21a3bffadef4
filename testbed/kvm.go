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

// kvmProbe is how long a guest without a disk has to run before its KVM is taken to work.
const kvmProbe = 2 * time.Second

// hideKVM puts a file over the device that not even root may write to. libvirtd takes a KVM that it can open for one
// that works, and asks QEMU all over again, for every VM, when QEMU has no KVM nevertheless.
const hideKVM = `if [ -e /dev/kvm ]; then
	: > /var/lib/libvirt/no-kvm
	mount --bind /var/lib/libvirt/no-kvm /dev/kvm
	mount -o remount,bind,ro /dev/kvm
fi
`

// emulated reports whether guests of the testbed have to be emulated. A host that is a VM itself may have a
// /dev/kvm on which QEMU ends at once ("failed to set MSR …"), or one without hardware behind it (PVM), on which QEMU stops in
// the middle of a kernel ("internal-error": VEX instructions are not emulated); libvirt looks no further than whether it
// opens, so the testbed then hides it. $SHAREDOS_TEST_KVM=off hides one that breaks later.
func emulated(ctx context.Context) (bool, error) {
	if os.Getenv("SHAREDOS_TEST_KVM") == "off" {
		return true, nil
	}
	device, err := os.OpenFile("/dev/kvm", os.O_RDWR, 0)
	if err != nil {
		return false, nil // libvirt sees the same
	}
	if err := device.Close(); err != nil {
		return false, err
	}
	if hardware, err := virtualizes(); err != nil || !hardware {
		return true, err
	}
	ctx, cancel := context.WithTimeout(ctx, kvmProbe)
	defer cancel()
	err = exec.CommandContext(ctx, "qemu-system-x86_64", "-machine", "q35,accel=kvm", "-cpu", "host", "-nodefaults", "-display", "none").Run()
	if errors.Is(ctx.Err(), context.DeadlineExceeded) {
		return false, nil
	}
	var ended *exec.ExitError
	if errors.As(err, &ended) {
		return true, nil
	}
	return false, err
}

// virtualizes reports whether the processor runs guests by itself: VT-x and AMD-V are flags of it. What other architectures
// than x86 have is not told by flags, and taken to be there.
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
