package testbed

import (
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
