package rootfs_test

import (
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/rootfs"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/sourcetest"
)

// A file that a user gives is in every VM, or it is refused: none is dropped in silence.
func TestAGivenFileIsInTheTreeOrRefused(t *testing.T) {
	for p, good := range map[string]bool{
		"etc/resolv.conf": true, "etc/motd": true, "usr/bin/x": true, "opt/x": true, "etc/ssh/sshd_config": true,
		"var/lib/app/x": true, "root/.profile": true,
		"etc/hostname": false, "etc/machine-id": false, "var/lib/dbus/machine-id": false,
		"etc/ssh/ssh_host_rsa_key": false, "tmp/x": false, "var/tmp/x": false,
		"run/x": false, "boot/x": false, "dev/x": false, "proc/x": false, "sys/x": false, "var/log/app.log": false,
		"var/cache/apt/x": false, "etc/passwd-": false,
		"var/lib/systemd/random-seed": false, "etc/.updated": false,
	} {
		err := rootfs.CheckGiven(p)
		if (err == nil) != good {
			t.Errorf("/%s: %v", p, err)
		}
		if !good {
			continue
		}
		tr, err := rootfs.Normalise(sourcetest.ReadTar(t, sourcetest.Tar(t, sourcetest.File(p, "mine"))), p)
		sourcetest.Must(t, err)
		if e, err := tr.Resolve(p); err != nil || e.Size != 4 {
			t.Errorf("/%s is %+v, %v", p, e, err)
		}
	}
}
