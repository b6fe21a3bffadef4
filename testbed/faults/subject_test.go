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

// callLimit bounds what is asked of an agent at a time. It is generous: a machine that runs several guests is slow.
const callLimit = 3 * time.Minute

// subject is a VM that faults befall. It has the layers of both releases attached, and moves from the one that it
// runs to the other, be that the earlier one: what is tried is how a move ends, in either direction.
type subject struct {
	*guest.VM
	*world
	// at is the release that it runs; looks is what it looks like on each when nothing is under way.
	at    tree.Digest
	looks map[tree.Digest]string
	// strategy of its refreshes, and what they may interrupt.
	strategy  string
	maxImpact agentapi.Level
}

// newSubject makes a VM that runs the first release, and learns what it looks like on both.
func (w *world) newSubject(t *testing.T, name string, shape func(*vm.Spec)) *subject {
	t.Helper()
	made, err := w.Create(t.Context(), name, w.one, shape)
	if err != nil {
		t.Fatal(err)
	}
	s := &subject{VM: made, world: w, at: w.one, looks: map[tree.Digest]string{}, strategy: vm.Live, maxImpact: agentapi.Level_RESTART}
	s.run(t, "echo here > /etc/mark/changed-here.conf; mkdir "+failpoint.Directory)
	s.learn(t)
	return s
}

// learn has it look at both releases.
func (s *subject) learn(t *testing.T) {
	t.Helper()
	for range 2 {
		s.mustMove(t)
		s.looks[s.at] = s.look(t)
	}
	if s.looks[s.one] == s.looks[s.two] {
		t.Fatal("the two releases look the same")
	}
}

// attach plugs the layers of a release in, for this start and for later ones.
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
		if err := s.Host.Fleet.Hypervisor.AttachLayer(t.Context(), s.Spec.Name, hypervisor.LayerDevice{ID: layer.ID, Path: path}); err != nil {
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

// other is the release that it does not run.
func (s *subject) other() tree.Digest {
	if s.at == s.one {
		return s.two
	}
	return s.one
}

// begin starts a move to the other release.
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
	started, err := agent.Refresh(ctx, &agentapi.RefreshRequest{
		Target: target, AllowDowngrade: true, Strategy: s.strategy, MaxImpact: s.maxImpact, HealthChecks: checks,
	})
	if err != nil || !started.GetStarted() {
		t.Fatalf("begin to move: %v, %v", started, err)
	}
}

// target hands over what the agent needs to move from one release to another, and names both.
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

// partSize is how much of a blob one message carries.
const partSize = 1 << 20

func put(t *testing.T, agent *transport.Agent, blob release.Blob, data []byte) {
	t.Helper()
	for offset := 0; offset < len(data); offset += partSize {
		answer, err := agent.Put(t.Context(), &agentapi.PutRequest{
			Digest: blob.Digest.String(), Size: blob.Size, Offset: int64(offset), Data: data[offset:min(offset+partSize, len(data))],
		})
		if err != nil {
			t.Fatal(err)
		}
		if answer.GetComplete() {
			return
		}
	}
}

// mustMove moves to the other release and fails if that does not succeed.
func (s *subject) mustMove(t *testing.T) {
	t.Helper()
	s.attach(t, s.two)
	s.begin(t)
	if status, err := s.Settled(t.Context()); err != nil || !status.GetLast().GetCommitted() {
		t.Fatalf("a refresh without a fault: %v, %v", status.GetLast(), err)
	}
	s.at = s.other()
}

// badThere is a health check that is good on the release that it runs and bad on the other.
func (s *subject) badThere() *agentapi.HealthCheck {
	name := "one"
	if s.at == s.two {
		name = "two"
	}
	return &agentapi.HealthCheck{Name: "mark", TimeoutMs: 2500, Kind: &agentapi.HealthCheck_Command{Command: &agentapi.Command{
		Argv: []string{"/usr/bin/grep", "-q", name, "/usr/share/mark"},
	}}}
}

// behind separates in the answer to look what the VM looks like from the points that have struck in it.
const behind = "\n=== struck\n"

// look describes all of a VM that a refresh changes: the files of /usr, what is mounted twice, what is left of a refresh
// on the private disk, whether its service runs, and every entry below /etc. A file with which the room on the disk is
// tried may be left, for the next refresh to write again.
func (s *subject) look(t *testing.T) string {
	t.Helper()
	looks, _ := s.inspect(t)
	return looks
}

// inspect is look, with the points that have struck in this boot since they were armed.
func (s *subject) inspect(t *testing.T) (looks string, struck []string) {
	t.Helper()
	looks, points, _ := strings.Cut(s.run(t, `set -e
echo "usr: $(cat /usr/share/mark) $(sha256sum < /usr/lib/x86_64-linux-gnu`+library+`) $(cd /usr/share; echo *-only)"
echo "mounted twice: $(cut -d ' ' -f 5 /proc/self/mountinfo | sort | uniq -d)"
echo "state: $(cd /run/sharedos/private/sharedos; ls -I undo-settled)"
echo "nginx: $(systemctl is-active nginx.service) $(systemctl show -P Environment nginx.service)"
cd /etc
find . -mindepth 1 ! -name .pwd.lock -printf '%P %y %m %U %G %l\n' | sort
find . -type f ! -name .pwd.lock -exec sha256sum {} + | sort -k2
echo "=== struck"
if [ -e `+failpoint.Directory+`/`+failpoint.Struck+` ]; then cat `+failpoint.Directory+`/`+failpoint.Struck+`; fi`), behind)
	if points == "" {
		return strings.TrimSuffix(looks, strings.TrimSuffix(behind, "\n")), nil
	}
	return looks, strings.Split(points, "\n")
}

// difference shows the lines that only one of two texts has.
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

// The ends of a refresh.
const (
	oldStack = "old stack"
	newStack = "new stack"
)

// ended waits for the end of a move, and tells on which stack it ended and which points have struck. It fails the test
// unless all of the VM is on that one, with nothing under way.
func (s *subject) ended(t *testing.T) (outcome string, struck []string) {
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
		t.Errorf("it runs %s, which is neither", status.GetStack().GetBase())
	}
	looks, struck := s.inspect(t)
	if looks != s.looks[runs] {
		t.Errorf("it says that it runs the %s, and looks otherwise:\n%s", outcome, difference(s.looks[runs], looks))
	}
	s.mustMap(t, looks)
	s.at = runs
	return outcome, struck
}

// mustMap fails unless somebody maps the library that /usr has, and nobody another one.
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
		t.Errorf("nobody maps %s", library)
	}
	for _, file := range mapped.GetFiles() {
		if _, digest, _ := strings.Cut(file.GetDigest(), ":"); !strings.Contains(looks, digest) {
			t.Errorf("%s, process %d, maps another %s than /usr has", file.GetUnit(), file.GetPid(), library)
		}
	}
}

// arm has the agent's points strike, each "<action> <n> <name>".
func (s *subject) arm(t *testing.T, points ...string) {
	t.Helper()
	s.run(t, fmt.Sprintf("mkdir -p %s && cd %[1]s && rm -f %s && printf '%%s\\n' '%s' > %s",
		failpoint.Directory, failpoint.Struck, strings.Join(points, "' '"), failpoint.Armed))
}

// held waits until a point holds the agent, be that one which is started meanwhile.
func (s *subject) held(t *testing.T) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), callLimit)
	defer cancel()
	for {
		_, err := s.Run(ctx, fmt.Sprintf("timeout 100 sh -c 'until [ -s %s/%s ]; do sleep 0.15; done'", failpoint.Directory, failpoint.Struck))
		if err == nil {
			return
		}
		select {
		case <-ctx.Done():
			t.Fatal(err)
		case <-time.After(200 * time.Millisecond): // the system ended under the command
		}
	}
}

// relieve lets an agent go on that a point holds.
func (s *subject) relieve(t *testing.T) {
	t.Helper()
	s.run(t, fmt.Sprintf("rm -f %s/%s", failpoint.Directory, failpoint.Struck))
}

// wants is the VM as it is asked for, with a release.
func (s *subject) wants(id tree.Digest) vm.Spec {
	spec := s.Spec
	spec.Base = id
	return spec
}

// apply moves the VM to the second release as a provider does.
func (s *subject) apply(t *testing.T) {
	t.Helper()
	if _, err := s.Refresh(t.Context(), s.two); err != nil {
		t.Fatalf("the apply: %v", err)
	}
	s.at = s.two
}

// reset brings the VM to the first release, with a definition of just that.
func (s *subject) reset(t *testing.T) {
	t.Helper()
	s.back(t)
	plugged, err := s.Host.Fleet.Hypervisor.AttachedLayers(t.Context(), s.Spec.Name)
	if err != nil || len(plugged) != 1 {
		t.Fatalf("back on the first release it has the layers %v, %v", plugged, err)
	}
}

// back has it run the first release, and its definition say so. A VM that was booted from the second one still holds its
// layers.
func (s *subject) back(t *testing.T) {
	t.Helper()
	if s.at == s.two {
		s.mustMove(t)
	}
	if _, err := s.Refresh(t.Context(), s.one); err != nil {
		t.Fatal(err)
	}
}

// converge moves to the other release if the last move did not end there, as the next apply does.
func (s *subject) converge(t *testing.T, outcome string) {
	t.Helper()
	if outcome == newStack {
		return
	}
	s.mustMove(t)
	if looks := s.look(t); looks != s.looks[s.at] {
		t.Errorf("after the next refresh it looks otherwise:\n%s", difference(s.looks[s.at], looks))
	}
}
