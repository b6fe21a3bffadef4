package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/testbed"
	"github.com/sharedos/terraform-provider-sharedos/testbed/guest"
)

// plainGuest is a VM as people run it today: all of Debian on a disk of its own. It has the processor, memory and
// emulation of the guests with which it is compared.
type plainGuest struct {
	key     *guest.Key
	address string
	qemu    *exec.Cmd
	console string
}

// Bounds of an emulated guest.
const (
	bootLimit    = 5 * time.Minute
	upgradeLimit = 15 * time.Minute
)

// bootPlain makes a disk from an archive of Debian and boots it with the archive's own kernel.
func bootPlain(ctx context.Context, dir, archive string, key *guest.Key, sources string) (_ *plainGuest, err error) {
	root := filepath.Join(dir, "plain")
	if err := os.Mkdir(root, 0o755); err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(root)) }()
	if err := command(ctx, "tar", "-xf", archive, "-C", root, "--xattrs", "--xattrs-include=*",
		"--numeric-owner"); err != nil {
		return nil, err
	}
	if err := furnish(ctx, root, key, sources); err != nil {
		return nil, err
	}
	p := &plainGuest{key: key, console: filepath.Join(dir, "plain.console")}
	disk, kernel, initrd := filepath.Join(dir, "plain.raw"), filepath.Join(dir, "plain.vmlinuz"),
		filepath.Join(dir, "plain.initrd")
	for from, to := range map[string]string{"vmlinuz": kernel, "initrd.img": initrd} {
		if err := command(ctx, "cp", "--dereference", filepath.Join(root, from), to); err != nil {
			return nil, err
		}
	}
	if err := command(ctx, "mkfs.ext4", "-q", "-L", "plain", "-d", root, disk, "4G"); err != nil {
		return nil, err
	}
	port, err := testbed.FreePort()
	if err != nil {
		return nil, err
	}
	p.address = net.JoinHostPort("127.0.0.1", strconv.Itoa(int(port)))
	p.qemu = exec.CommandContext(ctx, "qemu-system-x86_64", "-machine", "q35,accel=tcg", "-cpu", "max", "-smp", "1",
		"-m", "512", "-nodefaults", "-display", "none",
		"-kernel", kernel, "-initrd", initrd, "-append", "root=LABEL=plain rw console=ttyS0 quiet",
		"-drive", "if=virtio,format=raw,file="+disk, "-serial", "file:"+p.console,
		"-netdev", "user,id=lan,hostfwd=tcp:127.0.0.1:"+strconv.Itoa(int(port))+"-:22", "-device",
		"virtio-net-pci,netdev=lan")
	p.qemu.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.qemu.Start(); err != nil {
		return nil, fmt.Errorf("start QEMU: %w", err)
	}
	if err := p.await(ctx); err != nil {
		text, _ := os.ReadFile(p.console)
		return nil, errors.Join(fmt.Errorf("%w; the end of its console: %s", err, text[max(0, len(text)-2000):]),
			p.end())
	}
	return p, nil
}

// furnish writes what a provisioned VM has: a network, an administrator's key, host keys, package sources.
func furnish(ctx context.Context, root string, key *guest.Key, sources string) error {
	for name, text := range map[string]string{
		"etc/fstab":                      "LABEL=plain / ext4 defaults 0 1\n",
		"etc/hostname":                   "plain\n",
		"etc/apt/sources.list":           sources,
		"etc/systemd/network/80.network": "[Match]\nType=ether\n[Network]\nDHCP=yes\n",
		"root/.ssh/authorized_keys":      key.Authorized + "\n",
	} {
		at := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(at), 0o700); err != nil {
			return err
		}
		if err := os.WriteFile(at, []byte(text), 0o600); err != nil {
			return err
		}
	}
	if err := os.Chmod(filepath.Join(root, "etc/systemd/network"), 0o755); err != nil {
		return err
	}
	for _, public := range []string{"etc/fstab", "etc/hostname", "etc/apt/sources.list",
		"etc/systemd/network/80.network"} {
		if err := os.Chmod(filepath.Join(root, public), 0o644); err != nil {
			return err
		}
	}
	lists, err := filepath.Glob(filepath.Join(root, "etc/apt/sources.list.d", "*"))
	if err != nil {
		return err
	}
	for _, list := range lists {
		if err := os.Remove(list); err != nil {
			return err
		}
	}
	for _, step := range [][]string{{"ssh-keygen", "-A"}, {"systemctl", "enable", "systemd-networkd"}} {
		if err := command(ctx, "chroot", append([]string{root}, step...)...); err != nil {
			return err
		}
	}
	return nil
}

func (p *plainGuest) run(ctx context.Context, line string) (string, error) {
	return p.key.Run(ctx, p.address, line, nil)
}

// await waits until the guest has started all units.
func (p *plainGuest) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, bootLimit)
	defer cancel()
	for {
		_, err := p.run(ctx, "systemctl is-system-running --wait || true")
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("wait for the plain guest: %w", err)
		case <-time.After(time.Second):
		}
	}
}

// upgrade brings the packages to the versions of the release, with the kernel, as administrators do it today. It
// returns how long that took in the guest, and how many processes still run code that was replaced.
func (p *plainGuest) upgrade(ctx context.Context) (took time.Duration, stale int, err error) {
	if _, err := p.run(ctx, "apt-get -qq update"); err != nil {
		return 0, 0, err
	}
	if took, err = p.apt(ctx, "-o Dpkg::Options::=--force-confold --with-new-pkgs upgrade"); err != nil {
		return 0, 0, err
	}
	text, err := p.run(ctx, `grep -lE '/(usr/)?(lib|bin|sbin).* \(deleted\)$' /proc/[0-9]*/maps 2>/dev/null | wc -l`)
	if err != nil {
		return 0, 0, err
	}
	if stale, err = strconv.Atoi(strings.TrimSpace(text)); err != nil {
		return 0, 0, fmt.Errorf("count the processes with replaced code: %w", err)
	}
	return took, stale, nil
}

// apt returns how long a call of apt-get takes in the guest, until all of it is on the disk.
func (p *plainGuest) apt(ctx context.Context, call string) (time.Duration, error) {
	ctx, cancel := context.WithTimeout(ctx, upgradeLimit)
	defer cancel()
	text, err := p.run(ctx, "set -e; from=$(date +%s%N); DEBIAN_FRONTEND=noninteractive apt-get -qq -y "+call+
		" >/root/apt.log 2>&1; sync; echo $(($(date +%s%N) - from))")
	if err != nil {
		return 0, err
	}
	nanos, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read how long apt-get took: %w", err)
	}
	return time.Duration(nanos), nil
}

// end ends the guest.
func (p *plainGuest) end() error {
	if err := p.qemu.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return err
	}
	var killed *exec.ExitError
	if err := p.qemu.Wait(); err != nil && !errors.As(err, &killed) {
		return err
	}
	return nil
}

// command runs a program. Its error has the program's output.
func command(ctx context.Context, name string, arguments ...string) error {
	text, err := exec.CommandContext(ctx, name, arguments...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s %s: %w: %s", name, strings.Join(arguments, " "), err, bytes.TrimSpace(text))
	}
	return nil
}
