package mounts

import (
	"fmt"
	"runtime"
	"strings"
	"testing"
)

// newPinned is a system whose /usr was swapped, with what to audit by.
func newPinned(t *testing.T) (s *system, old Superblock) {
	t.Helper()
	// The processes of the namespaces end with the thread that has started them. So it must be none
	// that is thrown away.
	runtime.LockOSThread()
	s = newSystem(t,
		map[string]string{"usr/lib/version": "1", "usr/lib/sub/file": "1", "usr/lib/a/b/file": "1",
			"usr/lib/gone/file": "1", "usr/lib/one": "1"},
		map[string]string{"usr/lib/version": "2"},
		map[string]string{"usr/lib/version": "3", "usr/lib/sub/file": "3", "usr/lib/a/b/file": "3", "usr/lib/one": "3"},
	)
	s.boot(t, s.layers[:2]...)
	old, err := s.usr.Superblock()
	must(t, err)
	return s, old
}

func TestNamespacesThatKeepAnOldUsrFollow(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	s, old := newPinned(t)
	usr := s.usr.Path
	// What systemd makes of BindReadOnlyPaths=, ProtectKernelModules= and InaccessiblePaths=, of a
	// directory and a file.
	namespaces := map[string]*namespace{
		"bound":   newNamespace(t, "slave", fmt.Sprintf("mount --bind %[1]s %[1]s", usr)),
		"covered": newNamespace(t, "slave", fmt.Sprintf("mount -t tmpfs none %s/lib/sub", usr)),
		"nested": newNamespace(t, "slave", fmt.Sprintf(
			"mount -t tmpfs none %[1]s/lib/a && mkdir %[1]s/lib/a/b && mount -t tmpfs none %[1]s/lib/a/b && touch %[1]s/lib/a/b/x", usr)),
		"a file": newNamespace(t, "slave", fmt.Sprintf("mount --bind /dev/null %s/lib/one", usr)),
		// systemd shares the mounts of a service again after it has made them slaves.
		"shared": newNamespace(t, "slave",
			fmt.Sprintf("mount -t tmpfs none %s/lib/sub && mount --make-rshared /", usr)),
	}
	var pids []int
	for _, n := range namespaces {
		pids = append(pids, n.command.Process.Pid)
	}
	s.swapTo(t, s.layers[2])
	for name, n := range namespaces {
		if got := n.ask(t, "cat "+usr+"/lib/version; echo"); got != "2" {
			t.Errorf("%s: before, it sees version %s; what follows rests on 2", name, got)
		}
	}
	root := procOf(t, pids...)
	must(t, s.usr.Unpin(t.Context(), root, []Superblock{old}))
	inside := map[string]string{
		"bound":   "cat " + usr + "/lib/sub/file",
		"covered": "ls -A " + usr + "/lib/sub",
		"nested":  "ls -A " + usr + "/lib/a " + usr + "/lib/a/b | tr '\\n' ' '",
		"a file":  "cat " + usr + "/lib/one",
		"shared":  "ls -A " + usr + "/lib/sub",
	}
	want := map[string]string{"bound": "3", "nested": fmt.Sprintf("%[1]s/lib/a: b  %[1]s/lib/a/b: x ", usr)}
	for name, n := range namespaces {
		if got := n.ask(t, "cat "+usr+"/lib/version; echo"); got != "3" {
			t.Errorf("%s: it sees version %s", name, got)
		}
		if got := n.ask(t, "echo $("+inside[name]+")"); got != strings.Join(strings.Fields(want[name]), " ") {
			t.Errorf("%s: below /usr it sees %q", name, got)
		}
	}
	if got := s.read(t, "lib/sub/file") + s.read(t, "lib/one") + s.read(t, "lib/a/b/file"); got != "333" {
		t.Errorf("here is seen %q", got)
	}
	if pinned, err := s.usr.Audit(t.Context(), root, []Superblock{old}); err != nil || len(pinned) > 0 {
		t.Errorf("pinned are %+v, %v", pinned, err)
	}
	// They are pinned by the next swap again, and follow again.
	second, err := s.usr.Superblock()
	must(t, err)
	s.swapTo(t, s.layers[0], s.layers[2])
	must(t, s.usr.Unpin(t.Context(), root, []Superblock{old, second}))
	for name, n := range namespaces {
		if got := n.ask(t, "ls "+usr+"/lib/gone | tr -d '\\n'; echo"); got != "file" {
			t.Errorf("%s: after the second swap it sees %s", name, got)
		}
	}
}

func TestNamespacesThatCannotFollowStayAsTheyAre(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	s, old := newPinned(t)
	usr := s.usr.Path
	namespaces := map[string]*namespace{
		"elsewhere, too": newNamespace(t, "slave",
			fmt.Sprintf("mkdir %[1]s/x && mount --bind %[1]s/usr/lib %[1]s/x && mount -t tmpfs none %[2]s/lib/sub",
				s.root, usr)),
		"a mount point that went": newNamespace(t, "slave", fmt.Sprintf("mount -t tmpfs none %s/lib/gone", usr)),
		"a part of it below":      newNamespace(t, "slave", fmt.Sprintf("mount --bind %[1]s/lib/a %[1]s/lib/sub", usr)),
		"private":                 newNamespace(t, "private", "true"),
		"something else over it": newNamespace(t, "slave",
			fmt.Sprintf("mount -t tmpfs none %[1]s && mkdir %[1]s/lib && echo 2 > %[1]s/lib/version", usr)),
	}
	var pids []int
	for _, n := range namespaces {
		pids = append(pids, n.command.Process.Pid)
	}
	s.swapTo(t, s.layers[2])
	before := map[string]string{}
	for name, n := range namespaces {
		before[name] = n.ask(t, "echo $(cat /proc/self/mountinfo)")
	}
	must(t, s.usr.Unpin(t.Context(), procOf(t, pids...), []Superblock{old}))
	for name, n := range namespaces {
		if got := n.ask(t, "echo $(cat /proc/self/mountinfo)"); got != before[name] {
			t.Errorf("%s: its mounts were\n%s\nand are\n%s", name, before[name], got)
		}
	}
	if got := s.read(t, "lib/version"); got != "3" {
		t.Errorf("here is seen %q", got)
	}
}

// A copy whose mounts go to this namespace, too, is not touched: what covers its /usr would cover this one.
func TestANamespaceThatSharesItsMountsStaysAsItIs(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	s, old := newPinned(t)
	n := newNamespace(t, "unchanged",
		fmt.Sprintf("mount --make-rprivate %[1]s/usr && mount -t tmpfs none %[1]s/usr/lib/sub", s.root))
	s.swapTo(t, s.layers[2])
	must(t, s.usr.Unpin(t.Context(), procOf(t, n.command.Process.Pid), []Superblock{old}))
	if got := s.read(t, "lib/sub/file"); got != "3" {
		t.Errorf("here is seen %q", got)
	}
	if mounted := s.mountsAtUsr(t); mounted != 1 {
		t.Errorf("%d mounts at /usr here, want one", mounted)
	}
}
