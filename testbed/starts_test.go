package testbed

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

func TestStartsAreCountedFromADomainsLog(t *testing.T) {
	const log = `2026-11-29 09:00:00.250+0000: starting up libvirt version: 11.3.0, qemu version: 10.0.2, kernel: 6.18, hostname: a
LC_ALL=C \
PATH=/usr/bin \
/usr/bin/qemu-system-x86_64 -name guest=web
char device redirected to /dev/pts/0 (label charserial0)
2026-11-29T09:00:09.000000Z qemu-system-x86_64: terminating on signal 15 from pid 1
2026-11-29 09:00:10.250+0000: shutting down, reason=destroyed
2026-11-29 10:01:00.000+0100: starting up libvirt version: 11.3.0, qemu version: 10.0.2, kernel: 6.18, hostname: a
`
	got := parseStarts(log, time.Date(2026, 11, 29, 9, 2, 0, 0, time.UTC))
	if want := (Starts{Count: 2, Ran: 70 * time.Second}); got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
}

func TestAFaultOfTheEmulatorIsRecognised(t *testing.T) {
	b := &Testbed{dir: t.TempDir()}
	write := func(name, text string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Dir(name), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(name, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	const crashed = "2026-11-30 10:04:36.422+0000: shutting down, reason=crashed\n"
	const stall = "[   88.560058] rcu: \tPossible timer handling issue on cpu=3 timer-softirq=2\r\n"
	for _, vm := range []struct {
		name, log, console string
		failed             bool
	}{
		{name: "absent"},
		{name: "killed", log: crashed},
		{
			name: "assertion", failed: true,
			log: "qemu-system-x86_64: system/physmem.c:2678: iotlb_to_section: Assertion `section_index < d->map.sections_nb' failed.\n" + crashed,
		},
		{name: "busy", console: stall},
		{name: "timer", console: strings.Repeat(stall, 3), failed: true},
	} {
		if vm.name != "absent" {
			write(filepath.Join(b.dir, "log", "qemu", vm.name+".log"), vm.log)
			write(filepath.Join(b.StateDir(), "console", vm.name+".log"), vm.console)
		}
		if got := b.EmulatorFailed(vm.name); got != vm.failed {
			t.Errorf("%s: failed is %t", vm.name, got)
		}
	}
}
