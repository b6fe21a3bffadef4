package guest

// Quick removes from a guest what boots do that no test needs, and units that start by themselves later. Under
// emulation, a boot then takes at least a third less time. systemd-logind stays, because it handles the power
// button that the host presses.
func Quick() []Edit {
	edits := []Edit{
		// A guest has 425 devices. It only needs drivers for disks, network, random numbers and memory (virtio),
		// for the watchdog, found by its class, and for the power button.
		Write("etc/systemd/system/systemd-udev-trigger.service.d/quick.conf", 0o644, `[Service]
ExecStart=
ExecStart=udevadm trigger --action=add --subsystem-match=virtio --subsystem-match=net --subsystem-match=block
ExecStart=udevadm trigger --action=add --subsystem-match=pci --attr-match=class=0x088000
ExecStart=udevadm trigger --action=add --subsystem-match=acpi --attr-match=hid=LNXPWRBN
`),
		// A boot logs a thousand lines. Only unusual ones are kept.
		Write("etc/systemd/system.conf.d/quick.conf", 0o644, "[Manager]\nLogLevel=notice\n"),
		Write("etc/systemd/journald.conf.d/quick.conf", 0o644, "[Journal]\nStorage=volatile\nAudit=no\nReadKMsg=no\n"),
		// This file lists no modules. A test that needs some writes another file.
		Remove("etc/modules-load.d/modules.conf"),
		// The keys of other types take ten times as long to make.
		Write("etc/systemd/system/sharedos-ssh-host-keys.service.d/quick.conf", 0o644, "[Service]\nExecStart=\n"+
			"ExecStart=/usr/bin/ssh-keygen -q -t ed25519 -N \"\" -f /etc/ssh/ssh_host_ed25519_key\n"),
		// sshd checks its configuration by itself when it starts.
		Write("etc/systemd/system/ssh.service.d/quick.conf", 0o644, "[Service]\nExecStartPre=\n"),
	}
	// Generators also run at every reload, so in every refresh.
	for _, generator := range []string{
		"debug", "fstab", "getty", "gpt-auto", "hibernate-resume", "rc-local", "run", "ssh",
		"system-update", "sysv", "tpm2",
	} {
		edits = append(edits, Link("etc/systemd/system-generators/systemd-"+generator+"-generator", "/dev/null"))
	}
	for _, unit := range []string{
		"timers.target", "getty.target", "e2scrub_reap.service", "systemd-networkd-persistent-storage.service",
		"dev-hugepages.mount", "dev-mqueue.mount", "sys-kernel-debug.mount", "sys-kernel-tracing.mount",
		"sys-fs-fuse-connections.mount",
		"modprobe@configfs.service", "modprobe@drm.service", "modprobe@fuse.service",
		"modprobe@efi_pstore.service", "modprobe@loop.service",
		"sys-kernel-config.mount", "run-lock.mount", "kmod-static-nodes.service",
		"systemd-udev-load-credentials.service",
		"systemd-random-seed.service", "systemd-sysctl.service", "systemd-update-utmp.service",
		"systemd-user-sessions.service",
		"systemd-remount-fs.service", "systemd-tmpfiles-setup-dev-early.service",
		"systemd-tmpfiles-setup-dev.service", "systemd-journal-flush.service", "systemd-journald-audit.socket",
		"systemd-creds.socket", "systemd-hostnamed.socket", "systemd-initctl.socket", "systemd-sysext.socket",
		// systemd reads these units at every reload, too, and never starts them in a guest.
		"ldconfig.service", "systemd-hwdb-update.service", "systemd-journal-catalog-update.service",
		"systemd-update-done.service", "systemd-binfmt.service", "proc-sys-fs-binfmt_misc.automount",
		"proc-sys-fs-binfmt_misc.mount", "systemd-firstboot.service", "systemd-pcrmachine.service",
		"systemd-pcrphase.service", "systemd-pcrphase-sysinit.service", "systemd-pcrphase-initrd.service",
		"systemd-pcrextend.socket", "systemd-pcrlock.socket", "systemd-tpm2-setup.service",
		"systemd-tpm2-setup-early.service", "tpm2.target", "systemd-pstore.service", "systemd-confext.service",
		"systemd-sysext.service", "systemd-battery-check.service", "systemd-bsod.service",
		"systemd-hibernate-resume.service", "systemd-hibernate-clear.service", "systemd-ask-password-console.path",
		"systemd-ask-password-wall.path", "sshd-keygen.service",
	} {
		edits = append(edits, Link("etc/systemd/system/"+unit, "/dev/null"))
	}
	return edits
}

// Lean is Quick, and leaves out udev, systemd-networkd and the D-Bus daemon, too: under emulation they take a third of
// the processor time of a boot. It also leaves out what only people read: manual pages, translations, documentation.
// Devices have the names and modes that devtmpfs gives them, and a unit gives the interface of QEMU's user-mode network
// its address. A test that needs udev, a driver that udev loads (such as the watchdog's), DHCP or systemd-logind takes
// Quick.
func Lean() []Edit {
	edits := append(Quick(),
		Write("etc/systemd/system/user-mode-network.service", 0o644, userModeNetwork),
		Link("etc/systemd/system/multi-user.target.wants/user-mode-network.service", "../user-mode-network.service"),
		// The agent does not start networkd if there is another configuration of the network.
		Write("etc/network/interfaces", 0o644, "iface eth0 inet manual\n"),
		// Each login loads fifteen modules of PAM otherwise.
		Write("etc/ssh/sshd_config.d/quick.conf", 0o644, "UsePAM no\n"),
	)
	// These are two fifths of Debian's files, and a third of their bytes. Each publishing of a release and each refresh
	// reads or compares them.
	for _, path := range []string{
		"usr/share/doc", "usr/share/man", "usr/share/info", "usr/share/locale", "usr/share/bash-completion",
		"usr/share/lintian", "usr/share/bug", "usr/share/vim", "usr/share/zsh", "usr/share/fish",
		"usr/lib/udev/hwdb.d", "usr/lib/udev/hwdb.bin",
	} {
		edits = append(edits, Remove(path))
	}
	for _, unit := range []string{
		"systemd-udevd.service", "systemd-udevd-control.socket", "systemd-udevd-kernel.socket",
		"systemd-udev-trigger.service",
		"systemd-modules-load.service", "systemd-logind.service", "dbus.service", "dbus.socket", "tmp.mount",
	} {
		edits = append(edits, Link("etc/systemd/system/"+unit, "/dev/null"))
	}
	return edits
}

// userModeNetwork gives the interface the address to which QEMU forwards ports.
const userModeNetwork = `[Unit]
Description=Address in QEMU's user-mode network

[Service]
Type=oneshot
RemainAfterExit=yes
ExecStart=/bin/sh -c "modprobe virtio_net && ip address replace 10.0.2.15/24 dev eth0 && ip link set eth0 up"
`
