package mounts

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/proc"
	"github.com/sharedos/terraform-provider-sharedos/testbed/matrix"
)

const inNamespaceVariable = "SHAREDOS_TEST_IN_NAMESPACE"

// inNamespace runs the calling test once more in a process with a mount namespace of its own, where it may mount
// what it likes: all of it ends with that process. It returns true in there.
func inNamespace(t *testing.T) bool {
	t.Helper()
	if os.Getenv(inNamespaceVariable) != "" {
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			t.Fatalf("make the namespace private: %v", err)
		}
		return true
	}
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	command := exec.CommandContext(ctx, "/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v", "-test.timeout=100s")
	command.Env = append(os.Environ(), inNamespaceVariable+"=1")
	command.SysProcAttr = &unix.SysProcAttr{Cloneflags: unix.CLONE_NEWNS, Pdeathsig: unix.SIGKILL}
	output, err := command.CombinedOutput()
	if err != nil {
		t.Fatalf("in a mount namespace: %v\n%s", err, output)
	}
	for _, line := range strings.Split(string(output), "\n") {
		if strings.Contains(line, "measured:") {
			t.Log(strings.TrimSpace(line))
		}
	}
	return false
}

// system is a small system of its own: a root, mounted layers and a /usr.
type system struct {
	root   string
	usr    Usr
	layers []string
}

// newSystem makes a root whose mount is shared, as systemd makes it.
func newSystem(t *testing.T, layers ...map[string]string) *system {
	t.Helper()
	root := filepath.Join(t.TempDir(), "root")
	must(t, os.Mkdir(root, 0o755))
	must(t, unix.Mount("root", root, "tmpfs", 0, "mode=0755"))
	must(t, unix.Mount("", root, "", unix.MS_SHARED, ""))
	s := &system{root: root,
		usr: Usr{Path: filepath.Join(root, "usr"), Scratch: filepath.Join(root, "layers"), Kernel: "7.0.1-running"}}
	must(t, os.Mkdir(s.usr.Path, 0o755))
	must(t, os.Mkdir(s.usr.Scratch, 0o755))
	for _, files := range layers {
		s.layers = append(s.layers, s.addLayer(t, files))
	}
	t.Cleanup(func() {
		// Detached here, so that t.TempDir finds nothing in its way.
		if err := unix.Unmount(root, unix.MNT_DETACH); err != nil {
			t.Errorf("unmount %s: %v", root, err)
		}
	})
	return s
}

// addLayer makes an EROFS image of files and mounts it.
func (s *system) addLayer(t *testing.T, files map[string]string) string {
	t.Helper()
	source := t.TempDir()
	for name, content := range files {
		path := filepath.Join(source, name)
		must(t, os.MkdirAll(filepath.Dir(path), 0o755))
		must(t, os.WriteFile(path, []byte(content), 0o644))
	}
	image := filepath.Join(t.TempDir(), "layer.erofs")
	if output, err := exec.Command("mkfs.erofs", "-Enoinline_data", image, source).CombinedOutput(); err != nil {
		t.Fatalf("mkfs.erofs: %v\n%s", err, output)
	}
	place := filepath.Join(s.usr.Scratch, fmt.Sprintf("%02d", len(s.layers)))
	must(t, os.MkdirAll(place, 0o755))
	// A file-backed mount of EROFS (Linux 6.12).
	must(t, unix.Mount(image, place, "erofs", unix.MS_RDONLY, ""))
	return place
}

// boot mounts the first /usr, as init does.
func (s *system) boot(t *testing.T, layers ...string) {
	t.Helper()
	tree, err := BuildTree(layers, "usr")
	must(t, err)
	must(t, unix.MoveMount(tree.FD(), "", unix.AT_FDCWD, s.usr.Path, unix.MOVE_MOUNT_F_EMPTY_PATH))
	must(t, tree.Close())
}

// swapTo swaps the /usr of layers in.
func (s *system) swapTo(t *testing.T, layers ...string) *Swapped {
	t.Helper()
	tree, err := s.usr.Build(t.Context(), layers)
	must(t, err)
	swapped, err := s.usr.Swap(tree)
	must(t, err)
	t.Cleanup(func() { must(t, swapped.Previous.Close()) })
	return swapped
}

func (s *system) read(t *testing.T, name string) string {
	t.Helper()
	data, err := os.ReadFile(filepath.Join(s.usr.Path, name))
	if errors.Is(err, os.ErrNotExist) {
		return "absent"
	}
	must(t, err)
	return string(data)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func TestSwapShowsTheNewStackAndUndoesIt(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	s := newSystem(t,
		map[string]string{"usr/lib/version": "1", "usr/lib/kept": "same", "usr/bin/tool": "tool 1", "etc/x": "x"},
		map[string]string{"usr/lib/version": "2", "usr/bin/added": "new"},
	)
	s.boot(t, s.layers[0])
	swapped := s.swapTo(t, s.layers...)
	if got := s.read(t, "lib/version") + s.read(t, "bin/added") + s.read(t, "lib/kept"); got != "2newsame" {
		t.Errorf("after the swap: %q", got)
	}
	if err := os.WriteFile(filepath.Join(s.usr.Path, "lib/version"), nil, 0o644); !errors.Is(err, unix.EROFS) {
		t.Errorf("write to /usr: %v, want read-only", err)
	}
	undone, err := s.usr.Swap(swapped.Previous)
	must(t, err)
	if got := s.read(t, "lib/version") + s.read(t, "bin/added"); got != "1absent" {
		t.Errorf("after the undo: %q", got)
	}
	must(t, undone.Previous.Close())
	if mounted := s.mountsAtUsr(t); mounted != 1 {
		t.Errorf("%d mounts at /usr, want one", mounted)
	}
	// And back again, from an overlay to an overlay.
	s.swapTo(t, s.layers...)
	s.swapTo(t, append(s.layers, s.addLayer(t, map[string]string{"usr/lib/version": "3"}))...)
	if got := s.read(t, "lib/version") + s.read(t, "lib/kept"); got != "3same" {
		t.Errorf("after the third swap: %q", got)
	}
}

func (s *system) mountsAtUsr(t *testing.T) int {
	t.Helper()
	table, err := proc.OwnMountTable()
	must(t, err)
	count := 0
	for i := range table {
		if table[i].Mountpoint == s.usr.Path {
			count++
		}
	}
	return count
}

func TestSwapNeverShowsAMomentWithoutUsr(t *testing.T) {
	if !inNamespace(t) {
		matrix.Record(t, "a loop opens files as fast as it can", "during 200 swaps",
			"every open finds the old file or the new one")
		return
	}
	s := newSystem(t,
		map[string]string{"usr/lib/both": "a", "usr/lib/version": "1"},
		map[string]string{"usr/lib/version": "2"},
	)
	s.boot(t, s.layers[0])
	ctx, stop := context.WithCancel(t.Context())
	var readers sync.WaitGroup
	var opens, misses [2]int
	for i := range opens {
		readers.Add(1)
		go func() {
			defer readers.Done()
			for ctx.Err() == nil {
				fd, err := unix.Open(s.usr.Path+"/lib/both", unix.O_RDONLY|unix.O_CLOEXEC, 0)
				opens[i]++
				if err != nil {
					misses[i]++
					continue
				}
				if err := unix.Close(fd); err != nil {
					misses[i]++
				}
			}
		}()
	}
	const swaps = 200
	took := make([]time.Duration, 0, swaps)
	for i := range swaps {
		tree, err := s.usr.Build(ctx, s.layers[:1+(i+1)%2])
		must(t, err)
		swapped, err := s.usr.Swap(tree)
		must(t, err)
		must(t, swapped.Previous.Close())
		took = append(took, swapped.Took)
	}
	stop()
	readers.Wait()
	slices.Sort(took)
	t.Logf("measured: %d swaps, %d opens, %d missed, median %v", swaps, opens[0]+opens[1],
		misses[0]+misses[1], took[swaps/2])
	if misses[0]+misses[1] > 0 || opens[0] == 0 || opens[1] == 0 {
		t.Errorf("%v opens missed of %v", misses, opens)
	}
}

// namespace is a process in a mount namespace of its own.
type namespace struct {
	command *exec.Cmd
	input   io.WriteCloser
	output  *bufio.Reader
}

// newNamespace runs a shell in a copy of the mount tree. set-up runs first; then each line given to ask runs.
func newNamespace(t *testing.T, propagation, setup string) *namespace {
	t.Helper()
	command := exec.Command("unshare", "--mount", "--propagation", propagation, "sh", "-c",
		setup+` && echo ready && while read -r line; do eval "$line"; done`)
	command.SysProcAttr = &unix.SysProcAttr{Pdeathsig: unix.SIGKILL}
	var failed bytes.Buffer
	command.Stderr = &failed
	input, err := command.StdinPipe()
	must(t, err)
	output, err := command.StdoutPipe()
	must(t, err)
	must(t, command.Start())
	n := &namespace{command: command, input: input, output: bufio.NewReader(output)}
	t.Cleanup(func() {
		must(t, input.Close())
		if err := command.Wait(); err != nil {
			t.Errorf("namespace: %v: %s", err, failed.String())
		}
	})
	if line, err := n.output.ReadString('\n'); err != nil || line != "ready\n" {
		t.Fatalf("namespace: %q, %v: %s", line, err, failed.String())
	}
	return n
}

func (n *namespace) ask(t *testing.T, line string) string {
	t.Helper()
	_, err := fmt.Fprintln(n.input, line)
	must(t, err)
	answer, err := n.output.ReadString('\n')
	must(t, err)
	return strings.TrimSuffix(answer, "\n")
}

func TestSwapFollowsIntoPlainCopiesAndTheAuditFindsTheOthers(t *testing.T) {
	if !inNamespace(t) {
		matrix.Record(t, "a service has its own mount of /usr", "after the swap", "the audit reports it")
		return
	}
	s := newSystem(t,
		map[string]string{"usr/lib/version": "1", "usr/lib/sub/file": "1",
			"usr/lib/modules/7.0.1-running/modules.dep": "x"},
		map[string]string{"usr/lib/version": "2", "usr/lib/sub/file": "2"},
	)
	s.boot(t, s.layers...)
	old, err := s.usr.Superblock()
	must(t, err)
	var plain []*namespace
	for range 30 {
		plain = append(plain, newNamespace(t, "slave", "true"))
	}
	// What systemd makes of ProtectSystem=, ProtectKernelModules= and BindReadOnlyPaths=.
	bound := newNamespace(t, "slave", fmt.Sprintf("mount --bind %[1]s %[1]s", s.usr.Path))
	covered := newNamespace(t, "slave", fmt.Sprintf("mount -t tmpfs none %s/lib/sub", s.usr.Path))
	elsewhere := newNamespace(t, "slave", fmt.Sprintf("mkdir %[1]s/x && mount --bind %[1]s/usr/lib %[1]s/x", s.root))
	version := "cat " + s.usr.Path + "/lib/version; echo"

	layers := []string{s.layers[0], s.layers[1], s.addLayer(t, map[string]string{"usr/lib/version": "3"})}
	swapped := s.swapTo(t, layers...)
	t.Logf("measured: swap with 33 copies of the mount tree took %v", swapped.Took)
	for i, n := range plain {
		if got := n.ask(t, version); got != "3" {
			t.Errorf("plain copy %d sees version %s", i, got)
		}
	}
	if got := bound.ask(t, version) + covered.ask(t, version); got != "22" {
		t.Errorf("pinned copies see versions %s; the audit below rests on them seeing the old one", got)
	}
	// Only this test's own processes: others may be out of its reach.
	proc := t.TempDir()
	for _, n := range append(plain, bound, covered, elsewhere) {
		pid := strconv.Itoa(n.command.Process.Pid)
		must(t, os.Symlink(filepath.Join("/proc", pid), filepath.Join(proc, pid)))
	}
	must(t, os.Symlink("/proc/0", filepath.Join(proc, "0"))) // one that ended meanwhile
	pinned, err := s.usr.Audit(t.Context(), proc, []Superblock{old})
	must(t, err)
	places := map[int][]string{}
	for _, p := range pinned {
		for _, pid := range p.PIDs {
			places[pid] = p.Places
		}
	}
	for _, want := range []struct {
		name string
		*namespace
		place string
	}{{"bound", bound, s.usr.Path}, {"covered", covered, s.usr.Path},
		{"elsewhere", elsewhere, filepath.Join(s.root, "x")}} {
		if got := places[want.command.Process.Pid]; !slices.Contains(got, want.place) {
			t.Errorf("%s: the audit names %q, want %q among them", want.name, got, want.place)
		}
		delete(places, want.command.Process.Pid)
	}
	if len(places) > 0 {
		t.Errorf("the audit names processes that see the new /usr: %v", places)
	}
}

func TestModulesOfTheRunningKernelStay(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	const running, next = "usr/lib/modules/7.0.1-running/", "usr/lib/modules/7.0.2-next/"
	s := newSystem(t, map[string]string{running + "modules.dep": "dep",
		running + "kernel/x.ko": "x", "usr/lib/version": "1"})
	other := s.addLayer(t, map[string]string{next + "modules.dep": "dep", "usr/lib/version": "2", "usr/share/doc": "d"})
	s.layers = append(s.layers, other)
	third := s.addLayer(t, map[string]string{"usr/lib/version": "3"})
	s.boot(t, s.layers[0])
	s.swapTo(t, other) // a full layer without the old kernel
	if got := s.read(t, "lib/version") + s.read(t, "lib/modules/7.0.1-running/kernel/x.ko") +
		s.read(t, "lib/modules/7.0.2-next/modules.dep"); got != "2xdep" {
		t.Errorf("after the swap: %q", got)
	}
	s.swapTo(t, other, third)
	if got := s.read(t, "lib/version") + s.read(t, "lib/modules/7.0.1-running/kernel/x.ko"); got != "3x" {
		t.Errorf("after the second swap: %q", got)
	}
	// Back on a stack that brings them itself, nothing is mounted there any more.
	s.swapTo(t, s.layers[0])
	table, err := proc.OwnMountTable()
	must(t, err)
	if table.At(filepath.Join(s.usr.Path, "lib/modules/7.0.1-running")) != nil {
		t.Error("a mount stays over modules that the stack brings")
	}
	if got := s.read(t, "lib/modules/7.0.1-running/kernel/x.ko"); got != "x" {
		t.Errorf("modules: %q", got)
	}
}

func TestNestedMountsAreCarriedOver(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	s := newSystem(t,
		map[string]string{"usr/share/a/x": "1", "usr/lib/f": "1", "usr/lib/gone/y": "1"},
		map[string]string{"usr/share/a/x": "2", "usr/lib/f": "2"},
	)
	s.boot(t, s.layers[0])
	data, file := filepath.Join(s.root, "data"), filepath.Join(s.root, "file")
	must(t, os.Mkdir(data, 0o755))
	must(t, os.WriteFile(filepath.Join(data, "x"), []byte("mine"), 0o644))
	must(t, os.WriteFile(file, []byte("my file"), 0o644))
	must(t, unix.Mount(data, filepath.Join(s.usr.Path, "share/a"), "", unix.MS_BIND, ""))
	must(t, unix.Mount(data, filepath.Join(s.usr.Path, "lib/gone"), "", unix.MS_BIND, ""))
	must(t, unix.Mount(file, filepath.Join(s.usr.Path, "lib/f"), "", unix.MS_BIND, ""))
	// Two more, over each other, of which the other mount of the directory knows nothing.
	must(t, unix.Mount("", filepath.Join(s.usr.Path, "share/a"), "", unix.MS_PRIVATE, ""))
	for _, content := range []string{"lower", "upper"} {
		must(t, unix.Mount("tmpfs", filepath.Join(s.usr.Path, "share/a"), "tmpfs", 0, ""))
		must(t, os.WriteFile(filepath.Join(s.usr.Path, "share/a/x"), []byte(content), 0o644))
	}
	before, err := os.Stat(s.usr.Path)
	must(t, err)
	s.swapTo(t, s.layers[1])
	for _, content := range []string{"upper", "lower"} {
		if got := s.read(t, "share/a/x"); got != content {
			t.Errorf("of the mounts over each other, %q is seen where %q was", got, content)
		}
		must(t, unix.Unmount(filepath.Join(s.usr.Path, "share/a"), 0))
	}
	if got := s.read(t, "share/a/x") + s.read(t, "lib/gone/x") + s.read(t, "lib/f"); got != "mineminemy file" {
		t.Errorf("after the swap: %q", got)
	}
	after, err := os.Stat(s.usr.Path)
	must(t, err)
	if before.Mode() != after.Mode() {
		t.Errorf("mode of /usr became %v", after.Mode())
	}
	must(t, unix.Mount("tmpfs", filepath.Join(s.usr.Path, "share/a"), "tmpfs", 0, ""))
	must(t, os.Mkdir(filepath.Join(s.usr.Path, "share/a/b"), 0o755))
	must(t, unix.Mount(data, filepath.Join(s.usr.Path, "share/a/b"), "", unix.MS_BIND, ""))
	s.usr.Kernel = "6.12.0"
	if text := s.usr.Obstacle(); !strings.Contains(text, "share/a/b") || !strings.Contains(text, "unmount it first") {
		t.Errorf("the assessment says %q", text)
	}
	if tree, err := s.usr.Build(t.Context(), []string{s.layers[0]}); !errors.Is(err, ErrConstraint) ||
		!strings.Contains(err.Error(), "share/a/b") {
		t.Errorf("a mount below two over each other: %v, %v", tree, err)
	}
	must(t, unix.Unmount(filepath.Join(s.usr.Path, "share/a/b"), 0))
	tree, err := s.usr.Build(t.Context(), []string{s.addLayer(t, map[string]string{"usr/share/a": "a file now"})})
	if !errors.Is(err, ErrConstraint) {
		t.Errorf("a mount on a directory that becomes a file: %v, %v", tree, err)
	}
}

func TestASwapThatTheKernelRefusesChangesNothing(t *testing.T) {
	if !inNamespace(t) {
		matrix.Record(t, "a kernel or a mount on which a swap is not possible", "at the swap",
			"refused with the reason, old stack")
		return
	}
	s := newSystem(t, map[string]string{"usr/lib/version": "1"}, map[string]string{"usr/lib/version": "2"})
	tree, err := s.usr.Build(t.Context(), s.layers[1:])
	must(t, err)
	if _, err := s.usr.Swap(tree); !errors.Is(err, ErrConstraint) ||
		!strings.Contains(err.Error(), "not a mount point") {
		t.Errorf("swap of what is no mount point: %v", err)
	}
	tree, err = s.usr.Build(t.Context(), s.layers[1:])
	must(t, err)
	root := Usr{Path: "/", Scratch: s.usr.Scratch, Kernel: s.usr.Kernel}
	if _, err := root.Swap(tree); !errors.Is(err, ErrConstraint) || !strings.Contains(err.Error(), "parent") {
		t.Errorf("swap of the root: %v", err)
	}
	if got := s.read(t, "lib/version"); got != "absent" {
		t.Errorf("something was changed: version %s", got)
	}
	if _, err := root.Swap(&Detached{fd: -1}); err == nil {
		t.Error("a mount that was given up was swapped in")
	}
	if _, err := s.usr.Build(t.Context(), []string{t.TempDir()}); err == nil {
		t.Error("a stack without layers of its own was built")
	}
}

// What somebody else has mounted over /usr, as systemd-sysext does, is not detached by a swap: the assessment says so.
func TestAMountOverUsrIsAnObstacle(t *testing.T) {
	if !inNamespace(t) {
		matrix.Record(t, "another file system is mounted over /usr", "at the assessment",
			"no live refresh, the mount stays")
		return
	}
	s := newSystem(t, map[string]string{"usr/lib/version": "1"}, map[string]string{"usr/lib/extension": "1"})
	s.usr.Kernel = "6.12.0"
	if text := s.usr.Obstacle(); !strings.Contains(text, "not a mount point") {
		t.Errorf("without a mount: %q", text)
	}
	s.boot(t, s.layers[0])
	if text := s.usr.Obstacle(); text != "" {
		t.Errorf("alone: %q", text)
	}
	extension, err := BuildTree(s.layers, "usr")
	must(t, err)
	must(t, unix.MoveMount(extension.FD(), "", unix.AT_FDCWD, s.usr.Path, unix.MOVE_MOUNT_F_EMPTY_PATH))
	must(t, extension.Close())
	if text := s.usr.Obstacle(); !strings.Contains(text, "type overlay") || !strings.Contains(text, "systemd-sysext") ||
		!strings.Contains(text, "unmerge") {
		t.Errorf("with an extension: %q", text)
	}
	must(t, unix.Unmount(s.usr.Path, unix.UMOUNT_NOFOLLOW))
	if text := s.usr.Obstacle(); text != "" {
		t.Errorf("unmerged: %q", text)
	}
}

// After a swap a file of a layer that both stacks have is known as the same one, and another one at its path is not.
func TestFilesOfALayerAreKnownOnEachUsr(t *testing.T) {
	if !inNamespace(t) {
		return
	}
	s := newSystem(t, map[string]string{"usr/lib/kept": "same", "usr/lib/version": "1"},
		map[string]string{"usr/lib/version": "2"}, map[string]string{"usr/lib/version": "3"})
	type known struct {
		layer int
		inode uint64
	}
	stat := func(file *os.File, devices []uint64) known {
		var stat unix.Stat_t
		must(t, unix.Fstat(int(file.Fd()), &stat))
		return known{slices.Index(devices, stat.Dev), stat.Ino}
	}
	var kept, changed []known
	for count := 1; count <= len(s.layers); count++ {
		if count == 1 {
			s.boot(t, s.layers[0])
		} else {
			s.swapTo(t, s.layers[:count]...)
		}
		current, err := s.usr.Current()
		must(t, err)
		devices, err := current.LayerDevices(s.layers[:count], "usr")
		must(t, err)
		must(t, current.Close())
		for name, list := range map[string]*[]known{"lib/kept": &kept, "lib/version": &changed} {
			file, err := os.Open(filepath.Join(s.usr.Path, name))
			must(t, err)
			// A process keeps it open over all swaps.
			t.Cleanup(func() { must(t, file.Close()) })
			*list = append(*list, stat(file, devices))
		}
	}
	for i, one := range kept {
		if one.layer != 0 || one.inode != kept[0].inode {
			t.Errorf("on the /usr of %d layers the kept file is of layer %d, inode %d; at first it was %d", i+1,
				one.layer, one.inode, kept[0].inode)
		}
		if changed[i].layer != i {
			t.Errorf("on the /usr of %d layers the changed file is of layer %d", i+1, changed[i].layer)
		}
	}
}

// An agent that is killed between the two calls of a swap leaves the new /usr mounted beneath the old one.
func TestASwapThatWasCutOffBetweenItsCallsIsFinished(t *testing.T) {
	if !inNamespace(t) {
		matrix.Record(t, "SIGKILL of the agent", "between the calls of a swap", "the next agent finishes it")
		return
	}
	s := newSystem(t, map[string]string{"usr/version": "one"}, map[string]string{"usr/version": "two"})
	s.boot(t, s.layers[0])
	must(t, s.usr.Finish()) // nothing was begun
	if got := s.read(t, "version"); got != "one" {
		t.Fatalf("a finish without a swap shows %s", got)
	}
	for range 2 { // an agent after it may be cut off, too
		next, err := s.usr.Build(t.Context(), s.layers[1:])
		must(t, err)
		must(t, unix.MoveMount(next.FD(), "", unix.AT_FDCWD, s.usr.Path, unix.MOVE_MOUNT_F_EMPTY_PATH|moveMountBeneath))
		must(t, next.Close())
	}
	if got := s.read(t, "version"); got != "one" {
		t.Fatalf("cut off it shows %s", got)
	}
	table, err := proc.OwnMountTable()
	must(t, err)
	if stacked := table.Stacked(s.usr.Path); len(stacked) != 3 || table.At(s.usr.Path).ID != mountID(t, s.usr.Path) {
		t.Fatalf("%d mounts, on top %d, and a lookup ends on %d", len(stacked),
			table.At(s.usr.Path).ID, mountID(t, s.usr.Path))
	}
	must(t, s.usr.Finish())
	if got := s.read(t, "version"); got != "two" {
		t.Errorf("finished it shows %s", got)
	}
	table, err = proc.OwnMountTable()
	must(t, err)
	if stacked := table.Stacked(s.usr.Path); len(stacked) != 1 {
		t.Errorf("%d mounts are left", len(stacked))
	}
	s.swapTo(t, s.layers[0])
	if got := s.read(t, "version"); got != "one" {
		t.Errorf("the next swap shows %s", got)
	}
}

// mountID is that of the mount on which a path lookup ends.
func mountID(t *testing.T, path string) int {
	t.Helper()
	var stat unix.Statx_t
	must(t, unix.Statx(unix.AT_FDCWD, path, 0, unix.STATX_MNT_ID, &stat))
	return int(stat.Mnt_id)
}
