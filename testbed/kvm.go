package testbed

import (
	"context"
	"errors"
	"os"
	"os/exec"
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
// /dev/kvm on which QEMU ends at once ("failed to set MSR …"); libvirt looks no further than whether it opens, so
// the testbed then hides it. $SHAREDOS_TEST_KVM=off hides one that breaks later.
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
