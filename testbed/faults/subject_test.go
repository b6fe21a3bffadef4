package faults

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/failpoint"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/transport"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
	"github.com/sharedos/terraform-provider-sharedos/testbed/guest"
)

// callLimit bounds one wait for an agent. It is generous, because a guest is slow on a busy machine.
const callLimit = 3 * time.Minute

// goodOnce is a directory in the guest that the check of badThere makes in one attempt and removes in the next.
const goodOnce = "/run/sharedos-good-once"

// subject is a VM whose refreshes are disturbed. It has the layers of both releases attached. A
// test moves it from the release that it runs to the other one, which may be the earlier one.
type subject struct {
	*guest.VM
	*world
	// at is the release that it runs. looks is the result of look on each release when no refresh is in flight.
	at    tree.Digest
	looks map[tree.Digest]string
	// strategy and maxImpact are those of its refreshes.
	strategy  string
	maxImpact agentapi.Level
}

// newSubject makes a VM that runs the first release, and fills looks for both releases.
func (w *world) newSubject(t *testing.T, name string, shape func(*vm.Spec)) *subject {
	t.Helper()
	made, err := w.Create(t.Context(), name, w.one, shape)
	if err != nil {
		t.Fatal(err)
	}
	s := &subject{VM: made, world: w, at: w.one, looks: map[tree.Digest]string{}, strategy: vm.Live,
		maxImpact: agentapi.Level_RESTART}
	s.run(t, "echo here > /etc/mark/changed-here.conf; mkdir "+failpoint.Directory)
	s.learn(t)
	return s
}

// learn moves the VM to the other release and back, and fills looks.
func (s *subject) learn(t *testing.T) {
	t.Helper()
	for range 2 {
		s.mustMove(t)
		s.looks[s.at] = s.look(t)
	}
	if s.looks[s.one] == s.looks[s.two] {
		t.Fatal("look finds no difference between the two releases")
	}
}

// attach attaches the layers of a release, in the running VM and in its definition.
func (s *subject) attach(t *testing.T, id tree.Digest) {
	t.Helper()
	manifest, err := s.Host.Publisher.Get(t.Context(), id)
	if err != nil {
		t.Fatal(err)
	}
	for _, layer := range manifest.Layers {
		path, err := s.Host.Store.LayerPath(t.Context(), layer.ID)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.Host.Fleet.Hypervisor.AttachLayer(t.Context(), s.Spec.Name,
			hypervisor.LayerDevice{ID: layer.ID, Path: path}); err != nil {
			t.Fatal(err)
		}
	}
}

func (s *subject) run(t *testing.T, command string) string {
	t.Helper()
	text, err := s.Run(t.Context(), command)
	if err != nil {
		t.Fatal(err)
	}
	return text
}

// other is the release that the VM does not run.
func (s *subject) other() tree.Digest {
	if s.at == s.one {
		return s.two
	}
	return s.one
}

// begin begins a refresh to the other release. With a health check the refresh watches for so long
// that even a slow guest checks again.
func (s *subject) begin(t *testing.T, checks ...*agentapi.HealthCheck) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), callLimit)
	defer cancel()
	agent, err := s.Agent(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = agent.Close() }()
	target := s.target(t, agent, s.at, s.other())
	settle := time.Duration(0)
	if len(checks) > 0 {
		settle = callLimit
	}
	started, err := agent.Refresh(ctx, &agentapi.RefreshRequest{
		Target: target, AllowDowngrade: true, Strategy: s.strategy, MaxImpact: s.maxImpact, HealthChecks: checks,
		SettleMs: settle.Milliseconds(),
	})
	if err != nil || !started.GetStarted() {
		t.Fatalf("begin the refresh: %v, %v", started, err)
	}
}

// target uploads the contents lists of two releases to the agent, and returns the target that names both releases.
func (s *subject) target(t *testing.T, agent *transport.Agent, from, to tree.Digest) *agentapi.Target {
	t.Helper()
	target := &agentapi.Target{}
	for _, id := range []tree.Digest{from, to} {
		note, manifest, err := guest.Stack(t.Context(), s.Host.Publisher, s.Operator, id)
		if err != nil {
			t.Fatal(err)
		}
		if id == to {
			target.To = note
		} else {
			target.From = note
		}
		contents, err := s.Host.Store.GetBlob(t.Context(), manifest.Contents)
		if err != nil {
			t.Fatal(err)
		}
		put(t, agent, manifest.Contents, contents)
	}
	return target
}

// partSize is how many bytes of a blob one message carries.
const partSize = 1 << 20

func put(t *testing.T, agent *transport.Agent, blob release.Blob, data []byte) {
	t.Helper()
	for offset := 0; offset < len(data); offset += partSize {
		answer, err := agent.Put(t.Context(), &agentapi.PutRequest{
			Digest: blob.Digest.String(), Size: blob.Size, Offset: int64(offset),
			Data: data[offset:min(offset+partSize, len(data))],
		})
		if err != nil {
			t.Fatal(err)
		}
		if answer.GetComplete() {
			return
		}
	}
}

// mustMove moves the VM to the other release. It fails the test if the refresh is not committed.
func (s *subject) mustMove(t *testing.T) {
	t.Helper()
	s.attach(t, s.two)
	s.begin(t)
	if status, err := s.Settled(t.Context()); err != nil || !status.GetLast().GetCommitted() {
		t.Fatalf("a refresh without a fault: %v, %v", status.GetLast(), err)
	}
	s.at = s.other()
}

// badThere is a health check that is good on the release that the VM runs. On the other release every second
// attempt is bad, and the first is good, so that the refresh goes on to watch whether the check stays good.
// So the refresh rolls back as soon as it checks again, however slow the guest is. A check that is always
// bad has until its timeout to become good, and a timeout that is short is missed by a guest that is slow.
func (s *subject) badThere() *agentapi.HealthCheck {
	name := "one"
	if s.at == s.two {
		name = "two"
	}
	return &agentapi.HealthCheck{Name: "mark", TimeoutMs: callLimit.Milliseconds(),
		Kind: &agentapi.HealthCheck_Command{Command: &agentapi.Command{
			Argv: []string{"/bin/sh", "-c",
				fmt.Sprintf("grep -q %s /usr/share/mark || mkdir %s || ! rmdir %[2]s", name, goodOnce)},
		}}}
}

// separator stands between the description and the triggered failpoints in what inspect reads.
const separator = "\n=== triggered\n"

// look describes everything in the VM that a refresh changes: files in /usr, mount points with two
// mounts, the agent's records on the private disk, the state of nginx, and every entry in /etc.
func (s *subject) look(t *testing.T) string {
	t.Helper()
	looks, _ := s.inspect(t)
	return looks
}

// inspect returns what look returns, and the failpoints that have triggered in this boot since they were armed.
func (s *subject) inspect(t *testing.T) (looks string, triggered []string) {
	t.Helper()
	looks, points, _ := strings.Cut(s.run(t, `set -e
echo "usr: $(cat /usr/share/mark) $(sha256sum < /usr/lib/x86_64-linux-gnu`+library+`) $(cd /usr/share; echo *-only)"
echo "mounted twice: $(cut -d ' ' -f 5 /proc/self/mountinfo | sort | uniq -d)"
echo "state: $(cd /run/sharedos/private/sharedos; ls -I undo-settled)"
systemctl show -p ActiveState -p Environment nginx.service
cd /etc
find . -mindepth 1 ! -name .pwd.lock -printf '%P %y %m %U %G %l\n' | sort
find . -type f ! -name .pwd.lock -exec sha256sum {} + | sort -k2
echo "=== triggered"
if [ -e `+failpoint.Directory+`/`+failpoint.Triggered+` ]; then cat `+failpoint.Directory+`/`+
		failpoint.Triggered+`; fi`), separator)
	if points == "" {
		return strings.TrimSuffix(looks, strings.TrimSuffix(separator, "\n")), nil
	}
	return looks, strings.Split(points, "\n")
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

// The outcomes of a refresh.
const (
	oldStack = "old stack"
	newStack = "new stack"
)

// ended waits for the end of a refresh. It returns on which stack the refresh ended, and the failpoints that have
// triggered. It fails the test unless no refresh is in flight and everything in the VM belongs to that stack.
func (s *subject) ended(t *testing.T) (outcome string, triggered []string) {
	t.Helper()
	status, err := s.Settled(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	outcome, runs := oldStack, s.at
	if status.GetStack().GetBase() == s.other().String() {
		outcome, runs = newStack, s.other()
	}
	if status.GetStack().GetBase() != runs.String() {
		t.Errorf("it runs %s, which is neither of the two", status.GetStack().GetBase())
	}
	looks, triggered := s.inspect(t)
	if looks != s.looks[runs] {
		t.Errorf("the agent reports the %s, but the VM differs from it:\n%s", outcome, difference(s.looks[runs], looks))
	}
	s.mustMap(t, looks)
	s.at = runs
	return outcome, triggered
}

// mustEnd waits for the end of a refresh, and fails the test unless it ends on the wanted stack.
func (s *subject) mustEnd(t *testing.T, want string) {
	t.Helper()
	if got, _ := s.ended(t); got != want {
		t.Fatalf("without a fault the refresh ends on the %s", got)
	}
}

// kind describes the records that the next refresh reads, in addition to what look describes.
func (s *subject) kind(t *testing.T) string {
	t.Helper()
	return s.run(
		t, "cd /run/sharedos/private/sharedos && sha256sum committed.json attempts.json && find undo* -type f | sort")
}

// mustMap fails the test unless a process maps the library that is in /usr, and no process maps another version of it.
func (s *subject) mustMap(t *testing.T, looks string) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), callLimit)
	defer cancel()
	agent, err := s.Agent(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = agent.Close() }()
	mapped, err := agent.Mapped(ctx, &agentapi.MappedRequest{Suffix: library})
	if err != nil {
		t.Fatal(err)
	}
	if len(mapped.GetFiles()) == 0 {
		t.Errorf("no process maps %s", library)
	}
	for _, file := range mapped.GetFiles() {
		if _, digest, _ := strings.Cut(file.GetDigest(), ":"); !strings.Contains(looks, digest) {
			t.Errorf("%s, process %d, maps another %s than the one in /usr", file.GetUnit(), file.GetPid(), library)
		}
	}
}

// arm arms failpoints of the agent, each "<action> <n> <name>".
func (s *subject) arm(t *testing.T, points ...string) {
	t.Helper()
	s.run(t, fmt.Sprintf("mkdir -p %s && cd %[1]s && rm -f %s && printf '%%s\\n' '%s' > %s",
		failpoint.Directory, failpoint.Triggered, strings.Join(points, "' '"), failpoint.Armed))
}

// awaitTriggered waits until a failpoint has triggered, in this agent or in one that starts meanwhile.
func (s *subject) awaitTriggered(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), callLimit)
	defer cancel()
	for {
		_, err := s.Run(ctx,
			fmt.Sprintf("timeout 100 sh -c 'until [ -s %s/%s ]; do sleep 0.15; done'",
				failpoint.Directory, failpoint.Triggered))
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatal(err)
		case <-time.After(200 * time.Millisecond): // the command ended with the system
		}
	}
}

// resume ends the pause of an agent that a failpoint pauses. The agent may be on its way to the point.
func (s *subject) resume(t *testing.T) {
	t.Helper()
	s.awaitTriggered(t)
	s.run(t, fmt.Sprintf("rm -f %s/%s", failpoint.Directory, failpoint.Triggered))
}

// wants is the specification of the VM with another release.
func (s *subject) wants(id tree.Digest) vm.Spec {
	spec := s.Spec
	spec.Base = id
	return spec
}

// apply moves the VM to the second release, as the provider does.
func (s *subject) apply(t *testing.T) {
	t.Helper()
	if _, err := s.Refresh(t.Context(), s.two); err != nil {
		t.Fatalf("the apply: %v", err)
	}
	s.at = s.two
}

// reset moves the VM to the first release, and checks that the layers of the second one are detached.
func (s *subject) reset(t *testing.T) {
	t.Helper()
	s.back(t)
	attached, err := s.Host.Fleet.Hypervisor.AttachedLayers(t.Context(), s.Spec.Name)
	if err != nil || len(attached) != 1 {
		t.Fatalf("on the first release it has the layers %v, %v", attached, err)
	}
}

// back moves the VM to the first release, and updates its definition. A VM that was booted from the
// second release still uses the layers of that one.
func (s *subject) back(t *testing.T) {
	t.Helper()
	if s.at == s.two {
		s.mustMove(t)
	}
	if _, err := s.Refresh(t.Context(), s.one); err != nil {
		t.Fatal(err)
	}
}

// converge moves the VM to the other release if the last refresh did not, as the next apply does.
func (s *subject) converge(t *testing.T, outcome string) {
	t.Helper()
	if outcome == newStack {
		return
	}
	s.mustMove(t)
	if looks := s.look(t); looks != s.looks[s.at] {
		t.Errorf("after the next refresh the VM differs from the release:\n%s", difference(s.looks[s.at], looks))
	}
}
