package guest

// Quick takes out of a guest what a boot does that no test needs which adds these edits, and what runs on its own account.
// Under emulation a boot takes at least a third less time with them. systemd-logind stays: it is who hears the host's power button.
func Quick() []Edit {
	edits := []Edit{
		// Of 425 devices, what a guest has drivers to load for: disks, network, random numbers and memory (virtio), the watchdog,
		// by its class, and the power button.
		Write("etc/systemd/system/systemd-udev-trigger.service.d/quick.conf", 0o644, `[Service]
ExecStart=
ExecStart=udevadm trigger --action=add --subsystem-match=virtio --subsystem-match=net --subsystem-match=block
ExecStart=udevadm trigger --action=add --subsystem-match=pci --attr-match=class=0x088000
ExecStart=udevadm trigger --action=add --subsystem-match=acpi --attr-match=hid=LNXPWRBN
`),
		// Of the thousand lines that a boot logs, those that tell of something unusual.
		Write("etc/systemd/system.conf.d/quick.conf", 0o644, "[Manager]\nLogLevel=notice\n"),
		Write("etc/systemd/journald.conf.d/quick.conf", 0o644, "[Journal]\nStorage=volatile\nAudit=no\nReadKMsg=no\n"),
		// It says that there are no modules to load. A test that has some writes another file.
		Remove("etc/modules-load.d/modules.conf"),
		// It looks at its configuration once more when it starts.
		Write("etc/systemd/system/ssh.service.d/quick.conf", 0o644, "[Service]\nExecStartPre=\n"),
	}
	// They run at every reload, too, which is part of every refresh.
	for _, generator := range []string{"getty", "gpt-auto", "hibernate-resume", "rc-local", "run", "ssh", "system-update", "sysv", "tpm2"} {
		edits = append(edits, Link("etc/systemd/system-generators/systemd-"+generator+"-generator", "/dev/null"))
	}
	for _, unit := range []string{
		"timers.target", "getty.target", "e2scrub_reap.service", "systemd-networkd-persistent-storage.service",
		"dev-hugepages.mount", "dev-mqueue.mount", "sys-kernel-debug.mount", "sys-kernel-tracing.mount", "sys-fs-fuse-connections.mount",
		"modprobe@configfs.service", "modprobe@drm.service", "modprobe@fuse.service", "modprobe@efi_pstore.service", "modprobe@loop.service",
		"sys-kernel-config.mount", "run-lock.mount", "kmod-static-nodes.service", "systemd-udev-load-credentials.service",
		"systemd-random-seed.service", "systemd-sysctl.service", "systemd-update-utmp.service", "systemd-user-sessions.service",
		"systemd-remount-fs.service", "systemd-tmpfiles-setup-dev-early.service",
		"systemd-tmpfiles-setup-dev.service", "systemd-journal-flush.service", "systemd-journald-audit.socket",
		"systemd-creds.socket", "systemd-hostnamed.socket", "systemd-initctl.socket", "systemd-sysext.socket",
	} {
		edits = append(edits, Link("etc/systemd/system/"+unit, "/dev/null"))
	}
	return edits
}
