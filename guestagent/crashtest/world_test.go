package crashtest

import (
	"bufio"
	"bytes"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

const (
	// orderLimit bounds an order. diskSize is the size of a private disk in bytes.
	orderLimit = 5 * time.Minute
	diskSize   = 128 << 20
)

// world has three releases, and a component on the first: "extra" stands for the stack of both. A live refresh moves a
// machine between one and two, and between one and extra. Release three has another dynamic loader, so a move to or
// from it takes a soft-reboot.
type world struct {
	dir      string
	program  string
	key      ed25519.PrivateKey
	releases map[string]*made
	base     files
	// images are all layers, chain those of the last release.
	images, chain []Image
	last          *made
	lastTree      *tree.Tree
	// kernel is the release of the kernel of the next releases; "" for that of the host.
	kernel string
	// disks has the private disk of a machine that runs a release, and has run others before. looks
	// describes that machine. On the disk, a file in /opt was changed, which the next refresh
	// replaces: before describes the machine with it.
	disks         map[string]disk
	looks, before map[string]string
	// purged describes the machine that runs release one after the component has gone with what it brought.
	purged string
}

func newWorld(t *testing.T) *world {
	t.Helper()
	w := emptyWorld(t)
	base := w.base
	w.release(t, "one", base.named("one"))
	w.component(t, "extra", "extra", base.named("one").with("extra"))
	w.release(t, "two", base.named("two"))
	three := base.named("three")
	three.content[loader] = append(bytes.Clone(three.content[loader]), 0)
	w.release(t, "three", three)
	w.learn(t)
	return w
}

// emptyWorld makes a world without releases.
func emptyWorld(t *testing.T) *world {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{dir: t.TempDir(), key: key, releases: map[string]*made{}, disks: map[string]disk{},
		looks: map[string]string{}, before: map[string]string{}}
	w.program = filepath.Join(w.dir, "machine")
	// As the GNUmakefile compiles the agent, so that most of it is in Go's cache.
	build := exec.CommandContext(t.Context(), "go", "build", "-tags=faults", "-trimpath", "-ldflags=-s -w",
		"-o", w.program, "./machine")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the program of a machine: %v: %s", err, out)
	}
	w.base = system(t, w.program)
	return w
}

// learn fills disks and looks.
func (w *world) learn(t *testing.T) {
	t.Helper()
	blank := filepath.Join(w.dir, "blank.img")
	if err := os.WriteFile(blank, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(blank, diskSize); err != nil {
		t.Fatal(err)
	}
	m := w.boot(t, blank, "one")
	m.carryOut(t, Order{Write: map[string]string{
		"/etc/mark/changed-here.conf": "here", "/opt/acme/changed-here.conf": "here", "/opt/acme/mine": "here",
	}})
	// The first round brings the accounts of all releases, which stay: after it, each release looks the same each time.
	for _, step := range [][2]string{
		{"one", "extra"}, {"extra", "one"}, {"one", "three"}, {"three", "one"}, {"one", "two"}, {"two", "one"},
		{"one", "extra"}, {"extra", "one"}, {"one", "three"}, {"three", "one"}, {"one", "two"}, {"two", "one"}, {"one", "two"},
	} {
		order := w.move(t, step[0], step[1], starting(slices.Contains(step[:], "three")))
		order.Sync = true
		answer := m.carryOut(t, order)
		if !answer.Result.Committed || w.name(answer.Result.Stack) != step[1] {
			t.Fatalf("a refresh from %s to %s without a fault: %+v", step[0], step[1], answer.Result)
		}
		w.looks[step[1]] = answer.Look
		w.before[step[1]] = m.carryOut(t,
			Order{Write: map[string]string{"/opt/acme/changed-here.conf": "here"}, Sync: true}).Look
		w.disks[step[1]] = snapshot(t, blank)
	}
	m.end(t)
	w.learnOwn(t)
	purge := kind{from: "extra", to: "one", purge: true}
	m = w.machine(t, purge)
	answer := m.carryOut(t, w.refresh(t, purge))
	m.end(t)
	w.purged = answer.Look
	for _, gone := range []string{"etc/extra/mode.conf", "etc/extra/changed-here.conf"} {
		of := func(look string) string { return (found{Answer: Answer{Look: look}}).file(gone).text }
		if of(w.looks["one"]) == "" || of(w.purged) != "" {
			t.Fatalf("with the component gone, /%s is %q, and after a purge %q: %+v", gone, of(w.looks["one"]),
				of(w.purged), answer.Result)
		}
	}
	if strings.Contains(w.looks["one"], "twice") || w.looks["one"] == w.looks["two"] ||
		w.looks["two"] == w.looks["three"] {
		t.Fatalf("the releases look like\n%s\n%s\n%s", w.looks["one"], w.looks["two"], w.looks["three"])
	}
}

// The disks of machines that were configured with release two when they were started, and that the
// host has moved to release one since: moved runs it, and used has attached the component by itself.
const moved, used = "moved", "used"

// learnOwn fills disks with these.
func (w *world) learnOwn(t *testing.T) {
	t.Helper()
	blank := filepath.Join(w.dir, "own.img")
	w.disks["two"].write(t, blank)
	m := w.boot(t, blank, "two")
	defer m.end(t)
	for _, step := range []struct {
		disk, from, to string
		own            bool
	}{{moved, "two", "one", false}, {used, "one", "extra", true}} {
		order := w.move(t, step.from, step.to, func(r *agentapi.RefreshRequest) { r.Own = step.own })
		order.Sync = true
		if answer := m.carryOut(t, order); !answer.Result.Committed || w.name(answer.Result.Stack) != step.to {
			t.Fatalf("a refresh from %s to %s without a fault: %+v", step.from, step.to, answer.Result)
		}
		m.carryOut(t, Order{Write: map[string]string{"/opt/acme/changed-here.conf": "here"}, Sync: true})
		w.disks[step.disk] = snapshot(t, blank)
	}
}

// starting changes a request to one by a soft-reboot, if that is needed.
func starting(starts bool) func(*agentapi.RefreshRequest) {
	return func(r *agentapi.RefreshRequest) {
		if starts {
			r.Strategy, r.MaxImpact = "soft_reboot", agentapi.Level_SOFT_REBOOT
		}
	}
}

// machine is a running machine.
type machine struct {
	// disk is the file of its private disk.
	disk      string
	process   *exec.Cmd
	orders    io.WriteCloser
	answers   *bufio.Reader
	complaint *locked
	ended     bool
}

// locked is a buffer that can be read while a process writes to it.
type locked struct {
	mutex sync.Mutex
	text  bytes.Buffer
}

// Write implements io.Writer.
func (l *locked) Write(data []byte) (int, error) {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	return l.text.Write(data)
}

func (l *locked) String() string {
	l.mutex.Lock()
	defer l.mutex.Unlock()
	return l.text.String()
}

// boot starts a machine with a disk. The release is the one in its boot configuration.
func (w *world) boot(t *testing.T, disk, given string) *machine {
	t.Helper()
	return w.bootWith(t, disk, given, w.images)
}

// bootWith starts a machine to which only these layers are attached.
func (w *world) bootWith(t *testing.T, disk, given string, layers []Image) *machine {
	t.Helper()
	return w.bootAs(t, Machine{Disk: disk, Layers: layers}, given)
}

// bootAs starts a machine with the boot configuration of a release. Of that in the Machine, only Detaches counts.
func (w *world) bootAs(t *testing.T, as Machine, given string) *machine {
	t.Helper()
	dir := t.TempDir()
	as.Config = agentapi.BootConfig{
		Stack:     w.releases[given].stack,
		Operators: []string{base64.StdEncoding.EncodeToString(w.public())}, Hostname: "machine",
		Detaches: as.Config.Detaches,
	}
	data, err := json.Marshal(as)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "machine.json")
	if err := os.WriteFile(file, data, 0o600); err != nil {
		t.Fatal(err)
	}
	m := &machine{disk: as.Disk,
		process:   exec.CommandContext(context.WithoutCancel(t.Context()), w.program, "boot", file),
		complaint: &locked{}}
	m.process.Stderr = m.complaint
	// A Go program that lives for milliseconds starts faster without a garbage collector and with one processor.
	m.process.Env = append(os.Environ(), "GOGC=off", "GOMAXPROCS=1")
	// All processes of a machine end with its first one.
	m.process.SysProcAttr = &unix.SysProcAttr{Cloneflags: unix.CLONE_NEWNS | unix.CLONE_NEWPID}
	if m.orders, err = m.process.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	output, err := m.process.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	m.answers = bufio.NewReader(output)
	if err := m.process.Start(); err != nil {
		t.Fatalf("boot a machine (this takes root, for mount and pid namespaces): %v", err)
	}
	t.Cleanup(func() { m.end(t) })
	return m
}

// end cuts the power of a machine.
func (m *machine) end(t *testing.T) {
	t.Helper()
	if m.ended {
		return
	}
	m.ended = true
	if err := m.process.Process.Kill(); err != nil && !errors.Is(err, os.ErrProcessDone) {
		t.Error(err)
	}
	var exit *exec.ExitError
	if err := m.process.Wait(); err != nil && !errors.As(err, &exit) {
		t.Error(err)
	}
	if t.Failed() {
		t.Logf("the machine said: %s", m.complaint)
	}
}

// carryOut gives an order and returns the answer to it.
func (m *machine) carryOut(t *testing.T, order Order) Answer {
	t.Helper()
	watch := time.AfterFunc(orderLimit, func() { _ = m.process.Process.Kill() }) // then reading the answer fails
	defer watch.Stop()
	if err := json.NewEncoder(m.orders).Encode(order); err != nil {
		t.Fatalf("give an order: %v: %s", err, m.complaint)
	}
	line, err := m.answers.ReadBytes('\n')
	var answer Answer
	if err == nil {
		err = json.Unmarshal(line, &answer)
	}
	if err != nil || answer.Error != "" {
		t.Fatalf("carry an order out: %v %s: %s", err, answer.Error, m.complaint)
	}
	return answer
}

// mustBeWhole fails the test unless no refresh is in flight, and everything in the machine belongs
// to the release that the agent reports. It returns that release.
func (w *world) mustBeWhole(t *testing.T, k kind, answer Answer) string {
	t.Helper()
	runs := w.name(answer.Result.Stack)
	if answer.Result.State != "idle" {
		t.Errorf("it is in state %s: %s", answer.Result.State, answer.Result.Error)
	}
	look := w.looks[runs]
	switch {
	case runs == k.from:
		look = w.before[runs]
	case k.purge:
		look = w.purged
	}
	is := answer.Look
	if k.purge {
		// The VM remembers the request of its last refresh for later boots, however that refresh ended.
		const policy = "state: purge-components\n"
		look, is = strings.Replace(look, policy, "", 1), strings.Replace(is, policy, "", 1)
	}
	if is != look {
		t.Errorf("it reports release %s and does not look like it:\n%s", runs, difference(look, is))
	}
	return runs
}

// difference returns the lines that only one of two texts has.
func difference(before, after string) string {
	a, b := strings.Split(before, "\n"), strings.Split(after, "\n")
	var lines []string
	for _, line := range a {
		if !slices.Contains(b, line) {
			lines = append(lines, "- "+line)
		}
	}
	for _, line := range b {
		if !slices.Contains(a, line) {
			lines = append(lines, "+ "+line)
		}
	}
	return strings.Join(lines, "\n")
}
