//go:build faults

package main

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/boot"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/crashtest"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/mounts"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
)

// bootID is a file with another text in each machine.
const bootID = "/run/boot_id"

// imagesDir has the files of layers, for the agent to verify. A soft-reboot takes along what is mounted in RunDir.
const imagesDir = mounts.RunDir + "/images"

// start builds an initramfs in new namespaces, and boots from it. It returns only on failure.
func start(file string) error {
	data, err := os.ReadFile(file)
	if err != nil {
		return err
	}
	var machine crashtest.Machine
	if err := json.Unmarshal(data, &machine); err != nil {
		return err
	}
	// A mount whose parent is shared cannot be moved (mount(2), MS_MOVE).
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make the namespace private: %w", err)
	}
	root := filepath.Join(filepath.Dir(file), "initramfs")
	if err := os.Mkdir(root, 0o755); err != nil {
		return err
	}
	if err := mountInitramfs(root); err != nil {
		return err
	}
	if err := attach(root, machine); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(root, bootID), []byte(rand.Text()), 0o600); err != nil {
		return err
	}
	if err := pretend(root, machine); err != nil {
		return err
	}
	if err := enter(root); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	return boot.Assemble(ctx, machine.Config)
}

// kernelFile has the release of the kernel that a machine pretends to run.
const kernelFile = "/run/kernel"

// pretend has the machine run a kernel with the arguments of a trial.
func pretend(root string, machine crashtest.Machine) error {
	if machine.Kernel != "" {
		if err := os.WriteFile(filepath.Join(root, kernelFile), []byte(machine.Kernel), 0o600); err != nil {
			return err
		}
	}
	arguments := filepath.Join(root, "run/cmdline")
	text := "quiet"
	if machine.Trial != "" {
		text += " " + boot.TrialArgument + machine.Trial
	}
	if err := os.WriteFile(arguments, []byte(text+"\n"), 0o600); err != nil {
		return err
	}
	if err := unix.Mount(arguments, filepath.Join(root, "proc/cmdline"), "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("replace /proc/cmdline: %w", err)
	}
	return nil
}

// mountInitramfs mounts a tmpfs as the root of an initramfs, and the file systems in it that init
// mounts first. Its /sys is a tmpfs, too, which shows the disks of this machine only.
func mountInitramfs(root string) error {
	for _, m := range []struct{ path, kind, options string }{
		{"", "tmpfs", "mode=0755"},
		{"proc", "proc", ""},
		{"sys", "tmpfs", "mode=0755"},
		{"dev", "tmpfs", "mode=0755"},
		{"run", "tmpfs", "mode=0755"},
	} {
		path := filepath.Join(root, m.path)
		if err := os.MkdirAll(path, 0o755); err != nil {
			return err
		}
		if err := unix.Mount(m.kind, path, m.kind, 0, m.options); err != nil {
			return fmt.Errorf("mount %s: %w", path, err)
		}
	}
	return unix.Mknod(filepath.Join(root, "dev/null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3)))
}

// attach attaches the private disk as a loop device, mounts the layers where the agent looks for
// open layers, and binds this program where boot installs the agent.
func attach(root string, machine crashtest.Machine) error {
	loop, err := openLoop(machine.Disk)
	if err != nil {
		return fmt.Errorf("attach %s: %w", machine.Disk, err)
	}
	// The descriptor stays open until this process executes init. By then the disk is mounted,
	// which keeps the loop device.
	var stat unix.Stat_t
	if err := unix.Fstat(loop, &stat); err != nil {
		return err
	}
	if err := unix.Mknod(filepath.Join(root, "dev/vda"), unix.S_IFBLK|0o600, int(stat.Rdev)); err != nil {
		return fmt.Errorf("attach %s: %w", machine.Disk, err)
	}
	info, err := os.Stat(machine.Disk)
	if err != nil {
		return err
	}
	disk := filepath.Join(root, "sys/block/vda")
	if err := os.MkdirAll(disk, 0o755); err != nil {
		return err
	}
	for name, value := range map[string]string{
		"serial": agentapi.PrivateDiskSerial, "ro": "0", "size": strconv.FormatInt(info.Size()/512, 10),
		"dev": fmt.Sprintf("%d:%d", unix.Major(stat.Rdev), unix.Minor(stat.Rdev)),
	} {
		if err := os.WriteFile(filepath.Join(disk, name), []byte(value+"\n"), 0o644); err != nil {
			return err
		}
	}
	for _, image := range machine.Layers {
		place := filepath.Join(root, mounts.LayerPath(image.Layer.ID))
		if err := os.MkdirAll(place, 0o700); err != nil {
			return err
		}
		// A file-backed mount (Linux 6.12, CONFIG_EROFS_FS_BACKED_BY_FILE).
		if err := unix.Mount(image.Path, place, "erofs", unix.MS_RDONLY|unix.MS_NODEV, ""); err != nil {
			return fmt.Errorf("mount layer %s: %w", image.Path, err)
		}
		if err := bindFile(image.Path, filepath.Join(root, imagesDir, image.Layer.ID.Hex())); err != nil {
			return err
		}
	}
	return bindFile("/proc/self/exe", filepath.Join(root, mounts.AgentBinary))
}

func bindFile(from, to string) error {
	if err := os.MkdirAll(filepath.Dir(to), 0o700); err != nil {
		return err
	}
	if err := os.WriteFile(to, nil, 0o600); err != nil {
		return err
	}
	if err := unix.Mount(from, to, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s at %s: %w", from, to, err)
	}
	return nil
}

// openLoop attaches a file to a free loop device. The kernel detaches it after its last use
// (loop(4), LO_FLAGS_AUTOCLEAR).
func openLoop(file string) (device int, err error) {
	backing, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		return -1, err
	}
	defer func() { err = errors.Join(err, backing.Close()) }()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return -1, err
	}
	defer func() { err = errors.Join(err, control.Close()) }()
	for range 100 {
		number, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
		if err != nil {
			return -1, fmt.Errorf("find a free loop device: %w", err)
		}
		device, err := unix.Open("/dev/loop"+strconv.Itoa(number), unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			return -1, fmt.Errorf("open loop device %d: %w", number, err)
		}
		config := unix.LoopConfig{Fd: uint32(backing.Fd()), Info: unix.LoopInfo64{Flags: unix.LO_FLAGS_AUTOCLEAR}}
		err = unix.IoctlLoopConfigure(device, &config)
		if err == nil {
			return device, nil
		}
		if closing := unix.Close(device); closing != nil || !errors.Is(err, unix.EBUSY) {
			return -1, errors.Join(fmt.Errorf("configure loop device %d: %w", number, err), closing)
		}
		// Another machine was faster.
	}
	return -1, errors.New("another process was faster each time")
}

// enter makes a directory the root, and unmounts the previous root.
func enter(root string) error {
	if err := unix.Chdir(root); err != nil {
		return fmt.Errorf("enter %s: %w", root, err)
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("enter %s: %w", root, err)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("unmount the root before %s: %w", root, err)
	}
	if err := unix.Chdir("/"); err != nil {
		return fmt.Errorf("enter %s: %w", root, err)
	}
	return nil
}

// softReboot switches to the root that the agent assembled, as systemd does
// (systemd-soft-reboot.service(8)). If there is none, it does nothing.
func softReboot() error {
	mounted, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	if !strings.Contains(string(mounted), " "+mounts.NextRoot+" ") {
		return nil
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return fmt.Errorf("make / private: %w", err)
	}
	for _, place := range []string{"/proc", "/sys", "/dev"} { // the agent has mounted /run there
		if err := unix.Mount(place, filepath.Join(mounts.NextRoot, place), "", unix.MS_MOVE, ""); err != nil {
			return fmt.Errorf("move %s into the next root: %w", place, err)
		}
	}
	if err := enter(mounts.NextRoot); err != nil {
		return err
	}
	return shareAll()
}

// shareAll makes every mount shared, in a peer group of its own, as systemd does when it starts.
func shareAll() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, ""); err != nil {
		return fmt.Errorf("make / shared: %w", err)
	}
	return nil
}
