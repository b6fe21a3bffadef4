package impact

import (
	"fmt"
	"slices"
	"strings"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// BootFile is a file that a running system loads once, at boot, and that is another one by now.
type BootFile struct {
	// Path relative to the root.
	Path string `json:"path"`
	// Loaded identifies the content that was loaded; "" if there was no such file.
	Loaded string `json:"loaded,omitempty"`
}

// bootKind is a kind of such files. A refresh does not have them loaded: what loads them would also reset what the
// administrator, or a program, has set since the boot, and no way back could restore that.
type bootKind struct {
	what string
	// files and directories have the files; those in directories have the suffix.
	files, directories []string
	suffix             string
	// unit loads them; "" if a kernel or no single unit does. Without the unit, nothing has loaded them.
	// idle is true for a unit that, as long as it does not run, will load nothing at the next boot either.
	unit string
	idle bool
	// level is the lowest impact that loads them: SOFT_REBOOT or KEXEC; never if nothing does.
	level agentapi.Level
	// by says how an administrator has them loaded without a boot; "" if that is not possible.
	by string
}

// never is the level of files that nothing loads in a VM of a shared OS.
const never = agentapi.Level_REBOOT + 1

// configuration returns the directories of a name that packages and administrators have files in.
func configuration(name string) []string {
	return []string{"usr/lib/" + name + "/", "var/usrlocal/lib/" + name + "/", "etc/" + name + "/"}
}

// bootKinds are all kinds that are known. Not among them is what the running system takes up by itself or the refresh
// applies: rules of udev, which systemd-udevd reads again when they change (it compares them before each event), unit
// files, sysusers.d and tmpfiles.d.
var bootKinds = []bootKind{
	{ // sysctl.d(5)
		what: "kernel settings", files: []string{"etc/sysctl.conf"},
		directories: configuration("sysctl.d"), suffix: ".conf",
		unit: "systemd-sysctl.service", level: agentapi.Level_SOFT_REBOOT,
		by: "systemctl restart systemd-sysctl.service",
	},
	{ // modprobe.d(5): modules that are loaded later get them
		what:        "options of kernel modules that are loaded already",
		directories: configuration("modprobe.d"), suffix: ".conf",
		level: agentapi.Level_KEXEC,
	},
	{ // modules-load.d(5)
		what: "kernel modules to be loaded", files: []string{"etc/modules"},
		directories: configuration("modules-load.d"), suffix: ".conf",
		unit: "systemd-modules-load.service", level: agentapi.Level_SOFT_REBOOT,
		by: "systemctl restart systemd-modules-load.service",
	},
	{ // binfmt.d(5)
		what: "formats of executables", directories: configuration("binfmt.d"), suffix: ".conf",
		unit: "systemd-binfmt.service", level: agentapi.Level_SOFT_REBOOT,
		by: "systemctl restart systemd-binfmt.service",
	},
	{ // apparmor.d(5): a profile is in the kernel until it is replaced
		what: "AppArmor profiles", directories: []string{"etc/apparmor.d/"},
		unit: "apparmor.service", idle: true, level: agentapi.Level_SOFT_REBOOT,
		by: "systemctl reload apparmor.service",
	},
	{ // fstab(5): the generator has made the units, which a boot starts
		what: "mounts and swap", files: []string{"etc/fstab"}, level: agentapi.Level_SOFT_REBOOT,
		by: "mount -a, swapon -a",
	},
	{ // crypttab(5), veritytab(5), integritytab(5): as fstab
		what: "encrypted and verified devices", files: []string{"etc/crypttab", "etc/veritytab", "etc/integritytab"},
		level: agentapi.Level_SOFT_REBOOT,
	},
	{ // kernel-install(8), grub-mkconfig(8)
		what:        "kernel command line",
		files:       []string{"etc/kernel/cmdline", "usr/lib/kernel/cmdline", "etc/default/grub"},
		directories: []string{"etc/default/grub.d/", "etc/kernel/cmdline.d/", "usr/lib/kernel/cmdline.d/"},
		level:       never,
	},
}

// kindOf returns the kind of a file; nil if it is none that is loaded at boot.
func kindOf(name string) *bootKind {
	for i := range bootKinds {
		kind := &bootKinds[i]
		if slices.Contains(kind.files, name) || strings.HasSuffix(name, kind.suffix) &&
			slices.ContainsFunc(kind.directories,
				func(directory string) bool { return strings.HasPrefix(name, directory) }) {
			return kind
		}
	}
	return nil
}

// bootChange is a change of a file that is loaded at boot.
type bootChange struct{ path, old, new string }

// identity identifies the content of a file.
func identity(e *tree.Entry) string {
	switch {
	case e == nil:
		return ""
	case e.Type == tree.Symlink:
		return "link to " + e.Link
	}
	return e.Digest.String()
}

// LoadedBefore adds the files that earlier refreshes of this boot have changed.
func (c *Changes) LoadedBefore(files []BootFile) { c.bootBefore = files }

// BootUnits are the units that load what changes at boot.
func (c *Changes) BootUnits() (units []string) {
	for _, change := range c.boot {
		if kind := kindOf(change.path); kind.unit != "" {
			units = append(units, kind.unit)
		}
	}
	slices.Sort(units)
	return slices.Compact(units)
}

// bootFiles returns the files that are not as they were loaded, once these changes are there. What
// a unit loads that the refresh renews is loaded again.
func (c *Changes) bootFiles(units map[string]Unit, renewed func(unit string) bool) (files []BootFile) {
	now := map[string]string{} // by path, what differs from what was loaded
	for _, file := range c.bootBefore {
		now[file.Path] = file.Loaded
	}
	for _, change := range c.boot {
		loaded, differs := now[change.path]
		if !differs {
			loaded = change.old
		}
		if now[change.path] = loaded; loaded == change.new {
			delete(now, change.path)
		}
	}
	for name, loaded := range now {
		kind := kindOf(name)
		if kind == nil {
			continue // an agent of another version knew it
		}
		if unit, known := units[kind.unit]; kind.unit != "" {
			changed := slices.ContainsFunc(c.boot, func(change bootChange) bool { return change.path == name })
			if renewed(kind.unit) || changed && (!known || unit.Masked || kind.idle && unit.State == "inactive") {
				continue
			}
		}
		files = append(files, BootFile{Path: name, Loaded: loaded})
	}
	slices.SortFunc(files, func(a, b BootFile) int { return strings.Compare(a.Path, b.Path) })
	return files
}

// Outlasting returns the files that a rung of this level does not load.
func Outlasting(files []BootFile, level agentapi.Level) []BootFile {
	return slices.DeleteFunc(slices.Clone(files), func(file BootFile) bool {
		kind := kindOf(file.Path)
		return kind == nil || kind.level <= level
	})
}

// BootTexts describes files that are not as they were loaded, one line for each kind: what it is,
// the files, and when or how they are loaded.
func BootTexts(files []BootFile) (texts []string) {
	const shown = 3
	for i := range bootKinds {
		kind := &bootKinds[i]
		var names []string
		for _, file := range files {
			if kindOf(file.Path) == kind {
				names = append(names,
					"/"+strings.Replace(file.Path, "var/usrlocal/", "usr/local/", 1)) // tree.CarriedByOS
			}
		}
		if len(names) == 0 {
			continue
		}
		if more := len(names) - shown; more > 0 {
			names = append(names[:shown], fmt.Sprintf("%d more", more))
		}
		texts = append(texts, kind.what+" ("+strings.Join(names, ", ")+"): "+kind.when())
	}
	return texts
}

// when says when a running system loads the files.
func (k *bootKind) when() string {
	when := "at the next boot"
	switch k.level {
	case never:
		return "without effect, since the host gives the VM its kernel and command line"
	case agentapi.Level_SOFT_REBOOT:
		when += " or soft-reboot"
	}
	if k.by != "" {
		when += ", or by an administrator (" + k.by + ")"
	}
	return when
}
