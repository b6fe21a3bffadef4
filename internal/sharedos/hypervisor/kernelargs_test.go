package hypervisor_test

import (
	"strings"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
)

func TestKernelArgumentsThatAreOursAreRefused(t *testing.T) {
	t.Parallel()
	for _, arg := range []string{
		"root=/dev/vda", "rootflags=ro", "ro", "rw", "init=/bin/sh", "rdinit=/bin/sh", "initrd=x", "console=tty0",
		"panic=0", "sharedos.trial=x", `"root"=/dev/vda`, `r"oo"t=x`,
		"systemd.machine-id=x", "systemd.hostname=x", "--", "", "a b", "a\tb", "a\nb", "é", `a="b`,
	} {
		if err := hypervisor.CheckKernelArg(arg); err == nil {
			t.Errorf("%q is accepted", arg)
		}
	}
	for _, arg := range []string{"mitigations=auto", "transparent_hugepage=never", "systemd.unified_cgroup_hierarchy=1",
		"rootless", "initcall_debug", `dyndbg="file:a"`, "nosmt"} {
		if err := hypervisor.CheckKernelArg(arg); err != nil {
			t.Errorf("%q: %v", arg, err)
		}
	}
	for length, good := range map[int]bool{hypervisor.MaxKernelArgs: true, hypervisor.MaxKernelArgs + 1: false} {
		if err := hypervisor.CheckKernelArgs([]string{"a", strings.Repeat("b", length-2)}); (err == nil) != good {
			t.Errorf("%d bytes: %v", length, err)
		}
	}
}
