package live

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/network"
)

// aloneInNetwork is set in the environment of a test that runs in a network namespace of its own.
const aloneInNetwork = "LIVE_TEST_ALONE"

func ip(t *testing.T, commands ...string) string {
	t.Helper()
	var all strings.Builder
	for _, command := range commands {
		out, err := exec.CommandContext(t.Context(), "ip", strings.Fields(command)...).CombinedOutput()
		if err != nil {
			t.Fatalf("ip %s: %v: %s", command, err, out)
		}
		all.Write(out)
	}
	return all.String()
}

func TestTheNetworkIsKept(t *testing.T) {
	if os.Getenv(aloneInNetwork) == "" {
		again := exec.CommandContext(t.Context(), os.Args[0], "-test.run=^"+t.Name()+"$", "-test.v")
		again.Env = append(os.Environ(), aloneInNetwork+"=1")
		again.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET}
		if out, err := again.CombinedOutput(); err != nil {
			t.Errorf("%v\n%s", err, out)
		}
		return
	}
	ip(t, "link set lo up", "address add 10.1.0.1/24 dev lo")
	record := filepath.Join(t.TempDir(), "network.json")
	rules := func() string { return ip(t, "rule", "route show table 99") }
	// drop removes what was added by hand, as a network manager does.
	const rule, route = "from 10.9.0.0/24 lookup 99 priority 70", "10.8.0.0/16 via 10.1.0.5 dev lo table 99"
	add := func() { ip(t, "rule add "+rule, "route add "+route) }
	drop := func() { ip(t, "rule del "+rule, "route del "+route) }
	has := func() bool { return strings.Contains(rules(), "70:") && strings.Contains(rules(), "10.8.0.0/16") }
	add()

	n := &Network{Record: record}
	if err := n.Keep(t.Context(), network.SureOfAll); err != nil {
		t.Fatal(err)
	}
	drop()
	for end := time.Now().Add(5 * time.Second); !has() && time.Now().Before(end); time.Sleep(time.Millisecond) {
	}
	if !has() {
		t.Fatalf("it is not added again at once: %s", rules())
	}
	// The agent is stopped. The next one goes on with the record.
	n.Stop()
	drop()
	n = &Network{Record: record}
	if err := n.Keep(t.Context(), network.SureOfNothing); err != nil {
		t.Fatal(err)
	}
	if missing, err := n.Release(t.Context(), ""); err != nil || len(missing) > 0 || !has() {
		t.Errorf("missing %q, %v: %s", missing, err, rules())
	}
	if _, err := os.Stat(record); !os.IsNotExist(err) {
		t.Errorf("the record stays: %v", err)
	}
	// Without a record nothing is done.
	drop()
	if missing, err := n.Release(t.Context(), ""); err != nil || len(missing) > 0 || has() {
		t.Errorf("missing %q, %v: %s", missing, err, rules())
	}
	add()

	// What may have been the manager's own is only reported.
	if err := n.Keep(t.Context(), network.SureOfNothing); err != nil {
		t.Fatal(err)
	}
	drop()
	missing, err := n.Release(t.Context(), "")
	if err != nil || has() || len(missing) != 2 || !strings.HasPrefix(missing[0],
		"route 10.8.0.0/16 via 10.1.0.5 in table 99 on lo: the release changes") {
		t.Errorf("missing %q, %v: %s", missing, err, rules())
	}
	// A route that cannot be added yet is added once it can be.
	add()
	if err := n.Keep(t.Context(), network.SureOfAll); err != nil {
		t.Fatal(err)
	}
	ip(t, "address del 10.1.0.1/24 dev lo", "rule del "+rule)
	n.Stop() // which may have added the address again
	if err := n.Forget(); err != nil {
		t.Error(err)
	}
}

// fakeGroup is the control group of every unit.
type fakeGroup string

func (g fakeGroup) ControlGroup(context.Context, string) (string, error) { return string(g), nil }

// A manager that has done its work is not waited for any longer, and one that works is.
func TestANetworkManagerIsWaitedForUntilItIsIdle(t *testing.T) {
	group := t.TempDir()
	use := func(micros int) {
		text := fmt.Sprintf("usage_usec %d\nuser_usec 1\n", micros)
		if err := os.WriteFile(filepath.Join(group, "cpu.stat"), []byte(text), 0o600); err != nil {
			t.Error(err)
		}
	}
	wait := func(group, unit string, working time.Duration) time.Duration {
		n := &Network{Units: fakeGroup(group)}
		n.noteGone()
		began := time.Now()
		use(0)
		var worker sync.WaitGroup
		worker.Go(func() {
			for used := 1000; time.Since(began) < working; used += 1000 {
				use(used)
				time.Sleep(10 * time.Millisecond)
			}
		})
		if err := n.awaitCalm(t.Context(), unit); err != nil {
			t.Error(err)
		}
		took := time.Since(began)
		worker.Wait()
		return took
	}
	if took := wait(group, "idle.service", 0); took < idleCalm || took >= calm {
		t.Errorf("an idle one is waited for for %v", took)
	}
	if took := wait(group, "busy.service", time.Second); took < time.Second+idleCalm/2 || took > calm+time.Second {
		t.Errorf("one that works for a second is waited for for %v", took)
	}
	for name, took := range map[string]time.Duration{
		"unknown": wait(group, "", 0), "without a group": wait("", "a.service", 0),
		"gone": wait(group+"/gone", "a.service", 0),
	} {
		if took < calm {
			t.Errorf("%s: waited for %v only", name, took)
		}
	}
}
