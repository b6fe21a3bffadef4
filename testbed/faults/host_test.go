package faults

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/failpoint"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/daemon"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/host"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
	"github.com/sharedos/terraform-provider-sharedos/testbed"
	"github.com/sharedos/terraform-provider-sharedos/testbed/matrix"
)

// stage is a moment of an apply: it begins when the apply reports a step with the prefix step. If hold is set, the agent
// waits at this fault point, so that the apply sees the state.
type stage struct{ name, step, hold string }

var stages = []stage{
	{"attaching layers", "attaching layer", ""},
	{"sending the contents lists", "uploading the contents lists", ""},
	{"requesting the refresh", "refreshing", ""},
	{"the agent has swapped", "refresh: swapped", "between the calls of a swap"},
	{"the agent commits", "refresh: committed", "before commit"},
	{"defining the domain", "defining the domain", ""},
}

// converges is the outcome of a fault at each stage.
const converges = "the next apply converges, the VM keeps running"

// survivesTheProvider kills the applying process at each stage.
func (s *subject) survivesTheProvider(t *testing.T) {
	for _, at := range stages {
		t.Run(at.name, func(t *testing.T) {
			s.during(t, at, func() { s.applyUntilKilled(t, at.step) })
			matrix.Record(t, "SIGKILL of the provider", at.name, converges)
		})
	}
}

// survivesLibvirt kills or stops libvirtd at each stage, and starts it again.
func (s *subject) survivesLibvirt(t *testing.T) {
	for fault, end := range map[string]func(context.Context) error{"SIGKILL of libvirtd": s.Bed.KillLibvirt, "stop of libvirtd": s.Bed.StopLibvirt} {
		for i, at := range stages {
			if fault == "stop of libvirtd" && i != 3 {
				continue // one stage shows that the apply sees no difference between a stop and a kill
			}
			t.Run(fault+" "+at.name, func(t *testing.T) {
				s.during(t, at, func() {
					once := false
					_, _, err := s.Host.Fleet.Update(t.Context(), s.wants(s.two), func(step string) {
						if once || !strings.HasPrefix(step, at.step) {
							return
						}
						once = true
						if err := end(t.Context()); err != nil {
							t.Error(err)
						}
					})
					if !once {
						t.Errorf("the apply did not report the step %q", at.step)
					}
					t.Logf("the interrupted apply: %v", err)
					if err := s.Bed.StartLibvirt(t.Context()); err != nil {
						t.Fatal(err)
					}
				})
				matrix.Record(t, fault, at.name, converges)
			})
		}
	}
}

// during calls apply, which applies with a fault at the stage. It fails the test unless the next apply refreshes the
// VM, and the VM is not restarted.
func (s *subject) during(t *testing.T, at stage, apply func()) {
	t.Helper()
	s.reset(t)
	before, err := s.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if at.hold != "" {
		s.arm(t, failpoint.Hold+" 1 "+at.hold)
	}
	apply()
	if at.hold != "" {
		s.relieve(t)
	}
	s.apply(t)
	if s.ended(t); s.at != s.two {
		t.Error("the next apply succeeded, but the VM runs the old stack")
	}
	after, err := s.Status(t.Context())
	if err != nil || after.GetBootId() != before.GetBootId() {
		t.Errorf("the VM was restarted: %v", err)
	}
	domain, _, err := s.Host.Fleet.Hypervisor.Lookup(t.Context(), s.Spec.Name)
	if err != nil || domain.Metadata.Stack.Base != s.two {
		t.Errorf("the domain's definition has base %s, %v", domain.Metadata.Stack.Base, err)
	}
}

// endsWithoutVSock cuts the vsock permanently during a refresh. The VM completes the refresh without the host. The host
// connects to its agent again after a power-off and start.
func (s *subject) endsWithoutVSock(t *testing.T) {
	s.back(t)
	s.arm(t, failpoint.Hold+" 1 after journal swapped")
	done := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		_, _, err := s.Host.Fleet.Update(ctx, s.wants(s.two), func(string) {})
		done <- err
	}()
	s.held(t)
	want := s.cutVSock(t)
	s.relieve(t)
	if err := <-done; !errors.Is(err, want) {
		t.Errorf("the apply: %v, want %v", err, want)
	}
	s.run(t, "timeout 100 sh -c 'until grep -q two /usr/share/mark && [ ! -e /run/sharedos/private/sharedos/undo ]; do sleep 0.2; done'")
	if looks := s.look(t); looks != s.looks[s.two] {
		t.Errorf("the VM differs from one with the new release:\n%s", difference(s.looks[s.two], looks))
	}
	if err := s.CutPower(t.Context()); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	outcome, _ := s.ended(t)
	s.apply(t)
	matrix.Record(t, "vsock cut for good", "after swapped", outcome+", found by the next apply")
}

// cutVSock kills the daemon that implements the vsock. If the host's kernel implements it, cutVSock unbinds the device
// in the guest. It returns the error of an apply that is interrupted by this.
func (s *subject) cutVSock(t *testing.T) error {
	t.Helper()
	if _, err := os.Stat("/dev/vhost-vsock"); err == nil {
		s.run(t, "cd /sys/bus/virtio/drivers/vmw_vsock_virtio_transport && echo virtio* > unbind")
		return context.DeadlineExceeded
	}
	process, err := daemon.Read(filepath.Join(s.Bed.StateDir(), "vsock-"+strings.ReplaceAll(s.Spec.UUID, "-", "")+daemon.Suffix))
	if err != nil {
		t.Fatal(err)
	}
	running, err := os.FindProcess(process.PID)
	if err == nil {
		err = running.Kill()
	}
	if err != nil {
		t.Fatal(err)
	}
	return hypervisor.ErrVSockEnded
}

// childVariable makes this test binary apply, like a provider, instead of running tests.
const childVariable = "SHAREDOS_TEST_APPLY"

// child is the value of childVariable.
type child struct {
	Host  host.Config
	Agent string
	Spec  vm.Spec
}

// applyAsChild is the main function of such a process.
func applyAsChild(encoded string) error {
	var c child
	if err := json.Unmarshal([]byte(encoded), &c); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	h, err := host.Open(ctx, c.Host)
	if err != nil {
		return err
	}
	h.Fleet.AgentBinary = func() ([]byte, error) { return os.ReadFile(c.Agent) }
	_, _, err = h.Fleet.Update(ctx, c.Spec, func(step string) { fmt.Println(step) })
	return errors.Join(err, h.Close())
}

// applyUntilKilled applies in another process, and kills it when it reports the step.
func (s *subject) applyUntilKilled(t *testing.T, step string) {
	t.Helper()
	cache, err := testbed.CacheDir()
	if err != nil {
		t.Fatal(err)
	}
	encoded, err := json.Marshal(child{Agent: s.agent, Spec: s.wants(s.two), Host: host.Config{
		URI: s.Bed.URI(), PoolPath: filepath.Join(s.Bed.Dir(), "pool"), OperatorKey: filepath.Join(s.Bed.Dir(), "operator.key"),
		Cache: cache, StateDir: s.Bed.StateDir(),
	}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 3*time.Minute)
	defer cancel()
	apply := exec.CommandContext(ctx, "/proc/self/exe")
	apply.Env = append(os.Environ(), childVariable+"="+string(encoded))
	apply.Stderr = os.Stderr
	steps, err := apply.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := apply.Start(); err != nil {
		t.Fatal(err)
	}
	reached := false
	for lines := bufio.NewScanner(steps); !reached && lines.Scan(); {
		if reached = strings.HasPrefix(lines.Text(), step); reached {
			if err := apply.Process.Kill(); err != nil {
				t.Error(err)
			}
		}
	}
	err = apply.Wait()
	if !reached {
		t.Fatalf("the apply did not report the step %q: %v", step, err)
	}
}
