package services_test

import (
	"embed"
	"fmt"
	"io/fs"
	"path"
	"strings"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/testbed/guest"
)

//go:embed testdata/guest
var programs embed.FS

// directory has the tests' programs in the guest.
const directory = "usr/lib/t"

// sandboxes are the directives that give a service a mount namespace of its own, alone and together. The name
// identifies them in the fault matrix.
var sandboxes = []struct {
	name       string
	directives []string
}{
	{"no sandbox", nil},
	{"ProtectSystem=yes", []string{"ProtectSystem=yes"}},
	{"ProtectSystem=full", []string{"ProtectSystem=full"}},
	{"ProtectSystem=strict", []string{"ProtectSystem=strict"}},
	{"ProtectKernelModules=yes", []string{"ProtectKernelModules=yes"}},
	{"PrivateTmp=yes", []string{"PrivateTmp=yes"}},
	{"DynamicUser=yes", []string{"DynamicUser=yes"}},
	{"BindReadOnlyPaths=/usr", []string{"BindReadOnlyPaths=/usr"}},
	{"BindReadOnlyPaths=/usr/share", []string{"BindReadOnlyPaths=/usr/share"}},
	{"TemporaryFileSystem=/usr/share/doc", []string{"TemporaryFileSystem=/usr/share/doc"}},
	{"RootDirectory= with /usr bound into it", []string{"RootDirectory=/var/lib/t/bound", "BindReadOnlyPaths=/usr"}},
	{"all of these directives together", []string{
		"ProtectSystem=strict", "ProtectKernelModules=yes", "PrivateTmp=yes", "DynamicUser=yes",
		"BindReadOnlyPaths=/usr/share",
		"TemporaryFileSystem=/usr/share/doc",
	}},
}

// sandboxUnit names the unit of a sandbox with a program. Each sandbox has one with a program that changes and one
// with a program that does not.
func sandboxUnit(i int, program string) string {
	return fmt.Sprintf("sandbox-%d-%s.service", i, program)
}

// unit is the text of a service.
func unit(lines ...string) string {
	return "[Service]\nType=exec\n" + strings.Join(lines, "\n") + "\n"
}

// after is the text of a service with a [Unit] section.
func after(section string, lines ...string) string {
	return "[Unit]\n" + section + "\n" + unit(lines...)
}

const changing, same = "ExecStart=/usr/lib/t/changing 1000000", "ExecStart=/usr/lib/t/same 1000000"

// start records in a file that the unit was started.
const start = "ExecStartPre=/bin/sh -c 'echo %n >> /run/starts'"

// units are those that all releases have.
func units() map[string]string {
	all := map[string]string{
		"first.service":  unit(start, changing),
		"second.service": after("Requires=first.service\nAfter=first.service", start, changing),
		"third.service":  after("PartOf=first.service\nAfter=first.service", start, same),
		"late.service":   after("After=late.target", start, changing),
		"late.target":    "[Unit]\nRequires=zero.service\nAfter=zero.service\n",
		"zero.service":   unit(start, changing),

		// A unit without processes that stands for others, like Debian's postgresql.service.
		"umbrella.service": "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=/bin/true\n",
		"server.service":   after("PartOf=umbrella.service\nBefore=umbrella.service", start, changing),
		"customer.service": after("After=umbrella.service", start, changing),

		"answer.socket":  "[Socket]\nListenStream=127.0.0.1:7000\nBacklog=128\n",
		"answer.service": unit("ExecStart=/usr/lib/t/answer"),
		"direct.service": "[Service]\nType=notify\nExecStart=/usr/lib/t/answer 7001\n",
		"still.service":  "[Service]\nType=notify\nExecStart=/usr/lib/t/unchanging 7002\n",

		"report.service":   unit(changing),
		"reload.service":   unit(changing, "ExecReload=/bin/sh -c 'echo reloaded >> /run/reloads'"),
		"declared.service": unit(start, same),
		"refusing.service": after("RefuseManualStop=yes", changing),
		"once.service":     "[Service]\nType=oneshot\nExecStart=/usr/lib/t/changing 1000000\nTimeoutStartSec=infinity\n",
		"exited.service": "[Service]\nType=oneshot\nRemainAfterExit=yes\n" + start +
			"\nExecStart=/usr/lib/t/changing 0\n",
		"script.service": unit(start, "ExecStart=/usr/bin/env sh /usr/lib/t/script"),
		"inline.service": unit(start, `ExecStart=/bin/sh -c '. /usr/lib/t/functions; while :; do sleep 1000; done'`),
		"env.service":    unit(start, "EnvironmentFile=/etc/t.env", same),
		"dropin.service": unit(start, same),
		"typed@.service": unit(start, same),
		"own.service":    unit("RootDirectory=/var/lib/t/own", "ExecStart=/usr/lib/t/changing 1000000"),

		"plain.service":    unit("AppArmorProfile=t-plain", same),
		"attached.service": unit("AppArmorProfile=t-attached", same),

		"bomb.service":  unit("ExecStart=/usr/lib/t/bomb", "TasksMax=60", "TimeoutStopSec=4"),
		"deaf.service":  unit("ExecStart=/usr/lib/t/deaf", "TimeoutStopSec=4"),
		"stone.service": unit("ExecStart=/usr/lib/t/deaf", "TimeoutStopSec=infinity"),
		"swarm.service": unit("ExecStart=/usr/lib/t/swarm", "TimeoutStopSec=10"),
		"moody.service": unit("ExecStart=/usr/lib/t/moody"),
	}
	for i, sandbox := range sandboxes {
		all[sandboxUnit(i, "changing")] = unit(append([]string{changing}, sandbox.directives...)...)
		all[sandboxUnit(i, "same")] = unit(append([]string{same}, sandbox.directives...)...)
	}
	return all
}

// manual are the units that nothing starts at boot.
var manual = map[string]bool{
	"answer.service": true, "late.target": true, "once.service": true, "typed@.service": true,
	"bomb.service": true, "swarm.service": true,
	"stone.service": true, "refusing.service": true, "plain.service": true, "attached.service": true,
}

// contents returns the edits of one release. Everything that changes contains the version. The third and the fourth
// release differ from the second in one program only.
func contents(t *testing.T, version string) []guest.Edit {
	t.Helper()
	moody := version
	if version == "three" || version == "four" {
		version = "two"
	}
	edits := append(guest.Quick(),
		guest.Write("usr/share/mark", 0o644, version),
		guest.Copy(directory+"/changing", "usr/bin/sleep", "\x00"+version),
		guest.Copy(directory+"/same", "usr/bin/sleep", ""),
		guest.Write(directory+"/script", 0o755, "#!/bin/sh\n# "+version+"\nwhile :; do sleep 1000; done\n"),
		guest.Write(directory+"/functions", 0o644, "# "+version+"\n"),
		guest.Write("usr/share/t/data/x", 0o644, version),
		guest.Write("etc/t.env", 0o644, "VERSION="+version+"\n"),
		guest.Write("usr/share/dbus-1/system.d/t.conf", 0o644, "<busconfig><!-- "+version+" --></busconfig>\n"),
		// A root directory with its own files, and one that shows the system's.
		guest.Write("usr/lib/tmpfiles.d/t.conf", 0o644, strings.Join([]string{
			"C /var/lib/t/own/usr/lib/t/changing - - - - /usr/lib/t/changing",
			"C /var/lib/t/own/usr/lib/x86_64-linux-gnu/libc.so.6 - - - - /usr/lib/x86_64-linux-gnu/libc.so.6",
			"C /var/lib/t/own/lib64/ld-linux-x86-64.so.2 - - - - /usr/lib/x86_64-linux-gnu/ld-linux-x86-64.so.2",
			"L /var/lib/t/own/lib - - - - usr/lib",
			"d /var/lib/t/bound - - - -", "d /var/lib/t/bound/usr - - - -",
			"L /var/lib/t/bound/lib - - - - usr/lib", "L /var/lib/t/bound/lib64 - - - - usr/lib64",
		}, "\n")+"\n"),
	)
	files, err := fs.Glob(programs, "testdata/guest/*")
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range files {
		base, version := strings.TrimPrefix(name, "testdata/guest/"), version
		text := program(t, base)
		if base == "moody" {
			version = moody
		}
		if base == "answer" {
			edits = append(edits, guest.Write(directory+"/unchanging", 0o755, text))
		}
		edits = append(edits, guest.Write(directory+"/"+base, 0o755, strings.ReplaceAll(text, "VERSION", version)))
	}
	for name, text := range units() {
		edits = append(edits, enabled(name, text)...)
	}
	edits = append(edits,
		guest.Link("usr/lib/systemd/system/multi-user.target.wants/typed@1.service", "../typed@.service"))
	edits = append(edits, secret("etc/munge/munge.key", "usr/sbin/mungekey")...)
	switch version {
	case "one":
		edits = append(edits, enabled("gone.service", unit("ExecStart=/usr/lib/t/same 1000000"))...)
		edits = append(edits,
			guest.Write("usr/lib/systemd/system/dropin.service.d/removed.conf", 0o644, "[Service]\nNice=1\n"))
	default:
		// libpcre2 is mapped by PID 1, sshd and the message bus.
		edits = append(edits, guest.Append("/libpcre2-8.so.0.14.0", "\x00"+version),
			guest.Append("/usr/bin/bash", "\x00"+version),
			guest.Write("usr/lib/systemd/system/typed@.service.d/added.conf", 0o644, "[Service]\nNice=1\n"))
		edits = append(edits, enabled("new.service", unit(start, same))...)
		edits = append(edits, secret("etc/bind/rndc.key", "usr/sbin/rndc-confgen")...)
	}
	return edits
}

// ofTheBuild is in each secret that is made while a base is built.
const ofTheBuild = "made while the base was built"

// secret writes a secret of a package, and the tool of the package that makes it.
func secret(name, tool string) []guest.Edit {
	makes := "#!/bin/sh\numask 077\nmkdir -p /" + path.Dir(name) +
		"\ncat /proc/sys/kernel/random/uuid > /" + name + "\n"
	return []guest.Edit{guest.Write(name, 0o400, ofTheBuild+"\n"), guest.Write(tool, 0o755, makes)}
}

// enabled writes a unit, and has it started at boot.
func enabled(name, text string) []guest.Edit {
	edits := []guest.Edit{guest.Write("usr/lib/systemd/system/"+name, 0o644, text)}
	if !manual[name] {
		edits = append(edits, guest.Link("usr/lib/systemd/system/multi-user.target.wants/"+name, "../"+name))
	}
	return edits
}
