package guest

// Quick takes out of a guest what a boot does that no test needs which adds these edits, and what runs on its own account.
// Under emulation a boot takes a third less time with them. systemd-logind stays: it is who hears the host's power button.
func Quick() []Edit {
	var masked []Edit
	// They run at every reload, too, which is part of every refresh.
	for _, generator := range []string{"getty", "gpt-auto", "hibernate-resume", "rc-local", "run", "ssh", "system-update", "sysv", "tpm2"} {
		masked = append(masked, Link("etc/systemd/system-generators/systemd-"+generator+"-generator", "/dev/null"))
	}
	for _, unit := range []string{
		"timers.target", "getty.target", "e2scrub_reap.service", "systemd-networkd-persistent-storage.service",
		"dev-hugepages.mount", "dev-mqueue.mount", "sys-kernel-debug.mount", "sys-kernel-tracing.mount", "sys-fs-fuse-connections.mount",
		"modprobe@configfs.service", "modprobe@drm.service", "modprobe@fuse.service", "modprobe@efi_pstore.service", "modprobe@loop.service",
		"sys-kernel-config.mount", "run-lock.mount", "kmod-static-nodes.service", "systemd-udev-load-credentials.service",
		"systemd-random-seed.service", "systemd-sysctl.service", "systemd-update-utmp.service", "systemd-user-sessions.service",
	} {
		masked = append(masked, Link("etc/systemd/system/"+unit, "/dev/null"))
	}
	return masked
}
