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

// stage is a moment of an apply.
type stage struct {
	name string
	// step is the beginning of the progress message at that moment.
	step string
	// pause is a failpoint that pauses the agent, so that the message comes however fast the guest is; or "".
	pause string
}

var stages = []stage{
	{"attaching layers", "attaching layer", ""},
	{"sending the contents lists", "uploading the contents lists", ""},
	{"requesting the refresh", "refreshing", ""},
	{"the agent has swapped", "refresh: swapped", "between the calls of a swap"},
	{"the agent commits", "refresh: committed", "before commit"},
	{"defining the domain", "defining the domain", ""},
}

// converges is the outcome at each stage.
const converges = "the next apply converges, the VM keeps running"

// survivesTheProvider kills the process that applies at each stage.
func (s *subject) survivesTheProvider(t *testing.T) {
	for _, at := range stages {
		t.Run(at.name, func(t *testing.T) {
			s.during(t, at, func() { s.applyUntilKilled(t, at.step) })
			matrix.Record(t, "SIGKILL of the provider", at.name, converges)
		})
	}
}

// survivesLibvirt kills libvirtd at each stage, or stops it at one, and starts it again.
func (s *subject) survivesLibvirt(t *testing.T) {
	for fault, end := range map[string]func(context.Context) error{"SIGKILL of libvirtd": s.Bed.KillLibvirt,
		"stop of libvirtd": s.Bed.StopLibvirt} {
		for i, at := range stages {
			if fault == "stop of libvirtd" && i != 3 {
				continue // for the apply a stop is the same as a kill, as one stage shows
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
						t.Errorf("the apply never reported %q", at.step)
					}
					t.Logf("the apply: %v", err)
					if err := s.Bed.StartLibvirt(t.Context()); err != nil {
						t.Fatal(err)
					}
				})
				matrix.Record(t, fault, at.name, converges)
			})
		}
	}
}

// during disturbs an apply at a stage. It fails the test unless the next apply moves the VM,
// without a restart of the VM.
func (s *subject) during(t *testing.T, at stage, disturbed func()) {
	t.Helper()
	s.reset(t)
	before, err := s.Status(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if at.pause != "" {
		s.arm(t, failpoint.Pause+" 1 "+at.pause)
	}
	disturbed()
	if at.pause != "" {
		s.resume(t)
	}
	s.apply(t)
	if s.ended(t); s.at != s.two {
		t.Error("the next apply succeeded, but the VM runs the old release")
	}
	after, err := s.Status(t.Context())
	if err != nil || after.GetBootId() != before.GetBootId() {
		t.Errorf("the VM was restarted: %v", err)
	}
	domain, _, err := s.Host.Fleet.Hypervisor.Lookup(t.Context(), s.Spec.Name)
	if err != nil || domain.Metadata.Stack.Base != s.two {
		t.Errorf("its definition has base %s, %v", domain.Metadata.Stack.Base, err)
	}
}

// endsWithoutVSock breaks the VM's vsock for good during a refresh. The VM ends the refresh without
// the host. The host reaches the agent again after a power-off and a start.
func (s *subject) endsWithoutVSock(t *testing.T) {
	s.back(t)
	s.arm(t, failpoint.Pause+" 1 after journal swapped")
	ctx, cancel := context.WithTimeout(t.Context(), 2*callLimit)
	defer cancel()
	done := make(chan error, 1)
	go func() {
		_, _, err := s.Host.Fleet.Update(ctx, s.wants(s.two), func(string) {})
		done <- err
	}()
	s.awaitTriggered(t)
	want := s.cutVSock(t)
	s.resume(t)
	if errors.Is(want, context.Canceled) {
		cancel() // the apply waits for the guest until then
	}
	if err := <-done; !errors.Is(err, want) {
		t.Errorf("the apply says %v, want %v", err, want)
	}
	// The agent was paused with another state in its journal.
	s.run(t, `timeout 300 sh -c 'until grep -q "\"state\": *\"idle\"" /run/sharedos/private/sharedos/journal; do sleep 0.2; done'`)
	if looks := s.look(t); looks != s.looks[s.two] {
		t.Errorf("the VM differs from the new release:\n%s", difference(s.looks[s.two], looks))
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

// cutVSock kills the VM's vsock daemon. If the host's kernel provides the vsock, it unbinds the driver in
// the guest. It returns the error of an apply after that: context.Canceled if the apply does not notice.
func (s *subject) cutVSock(t *testing.T) error {
	t.Helper()
	if _, err := os.Stat("/dev/vhost-vsock"); err == nil {
		s.run(t, "cd /sys/bus/virtio/drivers/vmw_vsock_virtio_transport && echo virtio* > unbind")
		return context.Canceled
	}
	process, err := daemon.Read(filepath.Join(s.Bed.StateDir(),
		"vsock-"+strings.ReplaceAll(s.Spec.UUID, "-", "")+daemon.Suffix))
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

// childVariable makes this test binary apply, as the provider does, instead of running tests.
const childVariable = "SHAREDOS_TEST_APPLY"

// child is what such a process reads from the variable.
type child struct {
	Host  host.Config
	Agent string
	Spec  vm.Spec
}

// applyAsChild is the main function of that process.
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

// applyUntilKilled applies in a process of its own, and kills it when it reports a step.
func (s *subject) applyUntilKilled(t *testing.T, step string) {
	t.Helper()
	cache, err := testbed.CacheDir()
	if err != nil {
		t.Fatal(err)
	}
	encoded, err := json.Marshal(child{Agent: s.agent, Spec: s.wants(s.two), Host: host.Config{
		URI: s.Bed.URI(), PoolPath: filepath.Join(s.Bed.Dir(), "pool"),
		OperatorKey: filepath.Join(s.Bed.Dir(), "operator.key"),
		Cache:       cache, StateDir: s.Bed.StateDir(),
	}})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(t.Context(), 2*callLimit)
	defer cancel()
	apply := exec.CommandContext(ctx, "/proc/self/exe")
	apply.Env = append(os.Environ(), childVariable+"="+string(encoded))
	apply.Stderr = os.Stderr
	output, err := apply.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := apply.Start(); err != nil {
		t.Fatal(err)
	}
	reached := false
	for lines := bufio.NewScanner(output); !reached && lines.Scan(); {
		if reached = strings.HasPrefix(lines.Text(), step); reached {
			if err := apply.Process.Kill(); err != nil {
				t.Error(err)
			}
		}
	}
	err = apply.Wait()
	if !reached {
		t.Fatalf("the apply never reported %q: %v", step, err)
	}
}
