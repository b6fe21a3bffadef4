package hypervisor

import (
	"errors"
	"fmt"
	"slices"
	"strings"
)

// MaxKernelArgs bounds the kernel arguments of a domain together, in bytes. A kernel accepts 2047,
// with those of this package.
const MaxKernelArgs = 1024

// ownArgs are the names of the kernel arguments that say how a VM boots, each with why it cannot be given.
var ownArgs = []struct{ names, why string }{
	{"root rootflags rootfstype rootwait rootdelay ro rw", "the agent assembles the root file system"},
	{"init rdinit initrd noinitrd", "the VM boots the agent, which starts systemd"},
	{"console earlycon earlyprintk", "the console goes to the log on the host"},
	{"panic", "a kernel that panics reboots after 10 seconds"},
	{"systemd.machine_id", "the machine id follows from the UUID of the VM"},
	{"systemd.hostname", "use the attribute hostname"},
}

// CheckKernelArg checks an argument for the kernel that a user gives.
func CheckKernelArg(arg string) error {
	if arg == "" || strings.ContainsFunc(arg, func(r rune) bool { return r <= ' ' || r >= 0x7f }) {
		return errors.New(
			"it is empty, or has a space or a character that is not ASCII: each argument is an element of its own")
	}
	if strings.Count(arg, `"`)%2 != 0 {
		return errors.New(
			"it has a quotation mark without its other one, so that the arguments behind it would be part of it")
	}
	if arg == "--" {
		return errors.New("what follows it are arguments of the first program, which is the agent")
	}
	name, _, _ := strings.Cut(strings.ReplaceAll(arg, `"`, ""), "=")
	name = strings.ReplaceAll(name, "-", "_") // to the kernel they are the same
	if strings.HasPrefix(name, "sharedos.") {
		return errors.New(`arguments that begin with "sharedos." are this provider's own`)
	}
	for _, own := range ownArgs {
		if slices.Contains(strings.Fields(own.names), name) {
			return fmt.Errorf("this provider sets %s itself: %s", name, own.why)
		}
	}
	return nil
}

// CheckKernelArgs checks the arguments together, which must each be good.
func CheckKernelArgs(args []string) error {
	if size := len(strings.Join(args, " ")); size > MaxKernelArgs {
		return fmt.Errorf("the kernel arguments have %d bytes together, and %d are allowed", size, MaxKernelArgs)
	}
	return nil
}
