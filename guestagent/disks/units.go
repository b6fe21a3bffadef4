package disks

import (
	"fmt"
	"path/filepath"
	"strings"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/mounts"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
)

// unitDir is the directory of units that last until the next boot; see systemd.unit(5).
const unitDir = "/run/systemd/system"

// byID is the link that udev makes for a virtio disk.
const byID = "/dev/disk/by-id/virtio-"

// escape writes a path as systemd does in the names of units; see systemd.unit(5), "String Escaping
// for Inclusion in Unit Names".
func escape(path string) string {
	var out strings.Builder
	for i, b := range []byte(strings.TrimPrefix(path, "/")) {
		switch {
		case b == '/':
			out.WriteByte('-')
		case b >= '0' && b <= '9', b|0x20 >= 'a' && b|0x20 <= 'z', b == '_', b == ':', b == '.' && i > 0:
			out.WriteByte(b)
		default:
			fmt.Fprintf(&out, `\x%02x`, b)
		}
	}
	return out.String()
}

// mountUnit is the name of the unit that mounts something at a path.
func mountUnit(point string) string { return escape(point) + ".mount" }

// makeUnit and growUnit are the names of the units that make and grow the file system of a disk.
func makeUnit(serial string) string { return "sharedos-make-" + escape(serial) + ".service" }
func growUnit(serial string) string { return "sharedos-grow-" + escape(serial) + ".service" }

const (
	// attachedWait is how many seconds a boot waits for udev to name a disk that the kernel shows
	// already. An emulated guest on a busy host takes more than half a minute. absentWait is the
	// same for another disk, which may never come.
	attachedWait = 600
	absentWait   = 30
)

// filesOf are the unit files of a disk, by their paths below unitDir, and the link by which the boot
// wants the mount. What is wanted only does not keep the boot from going on. wait is in seconds.
func filesOf(disk agentapi.MountedDisk, wait int) (files map[string]string, link string) {
	device, mount := escape(byID+disk.Serial)+".device", mountUnit(disk.MountPoint)
	options := "rw"
	if disk.ReadOnly {
		options = "ro"
	}
	return map[string]string{
		mount: `[Unit]
Description=Disk ` + disk.Serial + ` at ` + disk.MountPoint + `
Requires=` + makeUnit(disk.Serial) + `
After=` + makeUnit(disk.Serial) + `
Wants=` + growUnit(disk.Serial) + `

[Mount]
What=` + byID + disk.Serial + `
Where=` + disk.MountPoint + `
Type=` + disk.FileSystem + `
Options=` + options + `
`,
		makeUnit(disk.Serial): `[Unit]
Description=Make the file system of disk ` + disk.Serial + ` if the disk is empty
DefaultDependencies=no
BindsTo=` + device + `
After=` + device + `
Conflicts=shutdown.target
Before=shutdown.target

[Service]
Type=oneshot
ExecStart=` + mounts.AgentBinary + ` make-disk ` + disk.Serial + ` ` + disk.FileSystem + `
TimeoutStartSec=300
`,
		growUnit(disk.Serial): `[Unit]
Description=Grow the file system of disk ` + disk.Serial + ` to its disk
DefaultDependencies=no
Requires=` + mount + `
After=` + mount + `
Conflicts=shutdown.target
Before=shutdown.target

[Service]
Type=oneshot
ExecStart=` + mounts.AgentBinary + ` grow-disk ` + disk.Serial + `
TimeoutStartSec=300
`,
		filepath.Join(device+".d", "50-sharedos.conf"): fmt.Sprintf("[Unit]\nJobRunningTimeoutSec=%ds\n", wait),
	}, filepath.Join("local-fs.target.wants", mount)
}
