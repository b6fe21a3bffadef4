package impact

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"pgregory.net/rapid"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

func version(n int) *tree.Entry {
	if n == 0 {
		return nil
	}
	return &tree.Entry{Type: tree.Regular, Mode: 0o644, Size: 1, Digest: tree.Sum([]byte{byte(n)})}
}

// atBoot are the units that load files at boot, as they are in a running system.
func atBoot() map[string]Unit {
	units := map[string]Unit{}
	for _, name := range []string{"systemd-sysctl.service", "systemd-modules-load.service",
		"systemd-binfmt.service", "apparmor.service"} {
		units[name] = Unit{Name: name, State: "active", CanReload: name == "apparmor.service"}
	}
	return units
}

// What a running system loads once, at boot, is pending once a live refresh has changed it, until a rung that loads it.
func TestWhatIsLoadedAtBootIsPending(t *testing.T) {
	const (
		restart = "at the next boot or soft-reboot, or by an administrator (systemctl restart %s)"
		later   = "at the next boot or soft-reboot"
		boot    = "at the next boot"
	)
	for name, want := range map[string]struct {
		what, when string
		level      agentapi.Level
	}{
		"usr/lib/sysctl.d/50-x.conf": {"kernel settings", fmt.Sprintf(restart, "systemd-sysctl.service"),
			agentapi.Level_SOFT_REBOOT},
		"var/usrlocal/lib/sysctl.d/x.conf": {"kernel settings", fmt.Sprintf(restart, "systemd-sysctl.service"),
			agentapi.Level_SOFT_REBOOT},
		"etc/sysctl.d/x.conf": {"kernel settings", fmt.Sprintf(restart, "systemd-sysctl.service"),
			agentapi.Level_SOFT_REBOOT},
		"etc/sysctl.conf": {"kernel settings", fmt.Sprintf(restart, "systemd-sysctl.service"),
			agentapi.Level_SOFT_REBOOT},
		"usr/lib/modprobe.d/x.conf": {"options of kernel modules that are loaded already",
			boot, agentapi.Level_KEXEC},
		"etc/modprobe.d/x.conf": {"options of kernel modules that are loaded already",
			boot, agentapi.Level_KEXEC},
		"usr/lib/modules-load.d/x.conf": {"kernel modules to be loaded",
			fmt.Sprintf(restart, "systemd-modules-load.service"), agentapi.Level_SOFT_REBOOT},
		"etc/modules-load.d/x.conf": {"kernel modules to be loaded",
			fmt.Sprintf(restart, "systemd-modules-load.service"), agentapi.Level_SOFT_REBOOT},
		"etc/modules": {"kernel modules to be loaded",
			fmt.Sprintf(restart, "systemd-modules-load.service"), agentapi.Level_SOFT_REBOOT},
		"usr/lib/binfmt.d/x.conf": {"formats of executables",
			fmt.Sprintf(restart, "systemd-binfmt.service"), agentapi.Level_SOFT_REBOOT},
		"etc/apparmor.d/usr.sbin.x": {"AppArmor profiles",
			later + ", or by an administrator (systemctl reload apparmor.service)", agentapi.Level_SOFT_REBOOT},
		"etc/apparmor.d/abstractions/base": {"AppArmor profiles",
			later + ", or by an administrator (systemctl reload apparmor.service)", agentapi.Level_SOFT_REBOOT},
		"etc/fstab": {"mounts and swap",
			later + ", or by an administrator (mount -a, swapon -a)", agentapi.Level_SOFT_REBOOT},
		"etc/crypttab": {"encrypted and verified devices", later,
			agentapi.Level_SOFT_REBOOT},
		"etc/default/grub": {"kernel command line",
			"without effect, since the host gives the VM its kernel and command line", never},
		"etc/default/grub.d/x.cfg": {"kernel command line",
			"without effect, since the host gives the VM its kernel and command line", never},
		"usr/lib/kernel/cmdline": {"kernel command line",
			"without effect, since the host gives the VM its kernel and command line", never},
		"usr/lib/udev/rules.d/60-x.rules":           {}, // systemd-udevd reads them again by itself
		"etc/udev/rules.d/60-x.rules":               {},
		"usr/lib/tmpfiles.d/x.conf":                 {}, // the refresh applies these
		"usr/lib/sysusers.d/x.conf":                 {},
		"usr/lib/sysctl.d/README":                   {}, // nothing reads these
		"etc/sysctl.d/x.conf.dpkg-old":              {},
		"etc/modprobe.d/README":                     {},
		"usr/share/doc/procps/examples/sysctl.conf": {},
	} {
		for _, change := range [][2]int{{1, 2}, {0, 1}, {1, 0}} {
			c := NewChanges()
			c.Add(name, version(change[0]), version(change[1]))
			a := Assess(c, Snapshot{Units: atBoot()}, Policy{})
			if want.what == "" {
				if len(a.Pending)+len(a.Boot)+len(c.BootUnits()) > 0 {
					t.Errorf("%s: %q", name, a.Pending)
				}
				continue
			}
			shown := "/" + strings.Replace(name, "var/usrlocal", "usr/local", 1)
			if text := want.what + " (" + shown + "): " + want.when; !slices.Equal(a.Pending, []string{text}) ||
				!slices.Equal(a.Message().GetPending(), a.Pending) {
				t.Errorf("%s, %v: %q", name, change, a.Pending)
			}
			for _, rung := range []agentapi.Level{agentapi.Level_NONE, agentapi.Level_SOFT_REBOOT,
				agentapi.Level_KEXEC, agentapi.Level_REBOOT} {
				if outlasts := len(Outlasting(a.Boot, rung)) > 0; outlasts != (rung < want.level) {
					t.Errorf("%s outlasts %s: %v", name, rung, outlasts)
				}
			}
			if a.Level != agentapi.Level_NONE {
				t.Errorf("%s interrupts: %s", name, a.Level)
			}
		}
	}
}

// A refresh that renews what loads the files is no reason to wait for a boot. Neither is a unit
// that loads nothing here.
func TestWhatLoadsFilesMayBeRenewed(t *testing.T) {
	const sysctl, modules, apparmor = "usr/lib/sysctl.d/x.conf", "etc/modules-load.d/x.conf", "etc/apparmor.d/x"
	for name, test := range map[string]struct {
		file   string
		units  func(units map[string]Unit)
		policy Policy
		told   bool
	}{
		"the policy has it restarted": {file: sysctl, policy: Policy{Extra: map[string][]string{"systemd-sysctl.service": {"usr/lib/sysctl.d/"}}}},
		"the policy has it reloaded":  {file: apparmor, policy: Policy{Extra: map[string][]string{"apparmor.service": {"etc/apparmor.d/"}}}},
		"the policy leaves it alone": {file: sysctl, told: true, policy: Policy{
			Default: Report, Extra: map[string][]string{"systemd-sysctl.service": {"usr/lib/sysctl.d/"}}}},
		"there is no such unit": {file: sysctl, units: func(units map[string]Unit) { delete(units, "systemd-sysctl.service") }},
		"it is masked": {file: modules,
			units: func(units map[string]Unit) { units["systemd-modules-load.service"] = Unit{Masked: true} }},
		"it had nothing to load, and will have": {file: modules, told: true, units: func(units map[string]Unit) {
			units["systemd-modules-load.service"] = Unit{State: "inactive"}
		}},
		"the kernel has no AppArmor": {file: apparmor, units: func(units map[string]Unit) { units["apparmor.service"] = Unit{State: "inactive"} }},
		"it has failed to load all": {file: apparmor, told: true,
			units: func(units map[string]Unit) { units["apparmor.service"] = Unit{State: "failed"} }},
	} {
		c := NewChanges()
		c.Add(test.file, version(1), version(2))
		units := atBoot()
		if test.units != nil {
			test.units(units)
		}
		if a := Assess(c, Snapshot{Units: units}, test.policy); (len(a.Boot) > 0) != test.told {
			t.Errorf("%s: %q", name, a.Pending)
		}
		if !slices.Equal(c.BootUnits(), []string{kindOf(test.file).unit}) {
			t.Errorf("%s: systemd is asked about %q", name, c.BootUnits())
		}
	}
}

// However many refreshes there are in one boot, pending is what differs from what the boot has loaded.
func TestPendingIsWhatDiffersFromWhatWasLoaded(t *testing.T) {
	paths := []string{"etc/fstab", "etc/sysctl.conf", "usr/lib/modprobe.d/a.conf", "usr/lib/sysctl.d/b.conf"}
	rapid.Check(t, func(t *rapid.T) {
		loaded := map[string]int{}
		for _, name := range paths {
			loaded[name] = rapid.IntRange(0, 2).Draw(t, name)
		}
		now, known := map[string]int{}, []BootFile(nil)
		for name, n := range loaded {
			now[name] = n
		}
		for range rapid.IntRange(1, 5).Draw(t, "refreshes") {
			c := NewChanges()
			c.LoadedBefore(known)
			for _, name := range paths {
				next := rapid.IntRange(0, 2).Draw(t, name)
				if next != now[name] {
					c.Add(name, version(now[name]), version(next))
				}
				now[name] = next
			}
			known = Assess(c, Snapshot{Units: atBoot()}, Policy{}).Boot
			for _, name := range paths {
				told := slices.ContainsFunc(known, func(file BootFile) bool { return file.Path == name })
				if told != (now[name] != loaded[name]) {
					t.Fatalf("%s is version %d, and %d was loaded: %v", name, now[name], loaded[name], known)
				}
			}
		}
	})
}

func TestManyFilesAreOneLine(t *testing.T) {
	var files []BootFile
	for i := range 5 {
		files = append(files, BootFile{Path: fmt.Sprintf("etc/modprobe.d/%d.conf", i)})
	}
	files = append(files, BootFile{Path: "etc/crypttab"}, BootFile{Path: "of/another/version"})
	want := []string{
		"options of kernel modules that are loaded already (/etc/modprobe.d/0.conf, /etc/modprobe.d/1.conf, /etc/modprobe.d/2.conf, 2 more): at the next boot",
		"encrypted and verified devices (/etc/crypttab): at the next boot or soft-reboot",
	}
	if got := BootTexts(files); !slices.Equal(got, want) {
		t.Errorf("%q", got)
	}
}
