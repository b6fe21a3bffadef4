package vm_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/transport"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
)

// mustHavePlugged fails unless the running domain has the layers of a stack and no others.
func (w *world) mustHavePlugged(t *testing.T, want release.Stack) {
	t.Helper()
	plugged, err := w.hypervisor.AttachedLayers(t.Context(), "web-a")
	if err != nil {
		t.Fatal(err)
	}
	var ids []tree.Digest
	for _, layer := range want.Layers {
		ids = append(ids, layer.ID)
	}
	for _, list := range [][]tree.Digest{ids, plugged} {
		slices.SortFunc(list, func(a, b tree.Digest) int { return slices.Compare(a[:], b[:]) })
	}
	if !slices.Equal(ids, plugged) {
		t.Errorf("plugged in are %v, want %v", plugged, ids)
	}
}

func TestUpdateThatDoesNotHappenTakesItsLayersBack(t *testing.T) {
	for name, make := range map[string]func(w *world) error{
		"rolled back": func(w *world) error {
			w.agent(t, "web-a").RefreshError = "health check web: nginx.service is failed"
			return vm.ErrRolledBack
		},
		"too large": func(w *world) error {
			w.agent(t, "web-a").Impact = &agentapi.Impact{Level: agentapi.Level_SOFT_REBOOT}
			return vm.ErrImpact
		},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			made := w.create(t, w.spec())
			want := make(w)
			spec := w.spec()
			spec.Base = w.new
			if _, _, err := w.fleet.Update(within(t, time.Minute), spec, quiet); !errors.Is(err, want) {
				t.Fatalf("got %v, want %v", err, want)
			}
			w.mustHavePlugged(t, made.Stack)
		})
	}
}

// renewed is a release whose loader differs, so that a running VM takes a soft-reboot at least.
func (w *world) renewed(t *testing.T, strategy string) vm.Spec {
	t.Helper()
	w.agent(t, "web-a").Impact = &agentapi.Impact{Level: agentapi.Level_SOFT_REBOOT,
		Reasons: []string{"the dynamic loader differs"}}
	spec := w.spec()
	spec.Base, spec.Refresh.MaxImpact, spec.Refresh.Strategy = w.new, agentapi.Level_REBOOT, strategy
	return spec
}

func TestUpdateClimbsAsHighAsThePlanTells(t *testing.T) {
	for strategy, test := range map[string]struct {
		level agentapi.Level
		boots string
	}{
		vm.SoftReboot: {agentapi.Level_SOFT_REBOOT, "boot-1"},
		vm.Kexec:      {agentapi.Level_KEXEC, "boot-2"},
		vm.Reboot:     {agentapi.Level_REBOOT, "boot-2"},
	} {
		t.Run(strategy, func(t *testing.T) {
			w := newWorld(t)
			w.create(t, w.spec())
			spec := w.renewed(t, strategy)
			if impact, err := w.fleet.Assess(t.Context(), spec); err != nil || impact.GetLevel() != test.level ||
				impact.GetStrategy() != strategy {
				t.Fatalf("assessed %v, %v", impact, err)
			}
			updated, report, err := w.fleet.Update(within(t, time.Minute), spec, quiet)
			if err != nil {
				t.Fatal(err)
			}
			if updated.Stack.Base != w.new || updated.Spec.Base != w.new || updated.Agent.GetBootId() != test.boots ||
				updated.AwaitsPowerCycle {
				t.Errorf("updated %+v", updated)
			}
			if !report.GetCommitted() || report.GetRefused() || report.GetError() != "" ||
				report.GetStrategy() != strategy {
				t.Errorf("it reports %v", report)
			}
			w.mustHavePlugged(t, updated.Stack)
			if impact, err := w.fleet.Assess(t.Context(), spec); err != nil || impact != nil {
				t.Errorf("afterwards it is assessed with %v, %v", impact, err)
			}
		})
	}
}

func TestAStartThatFailsGoesBackToWhatRan(t *testing.T) {
	w := newWorld(t)
	made := w.create(t, w.spec())
	w.agent(t, "web-a").RefreshError = `health check "web": nginx.service is failed`
	_, report, err := w.fleet.Update(within(t, time.Minute), w.renewed(t, vm.Reboot), quiet)
	if !errors.Is(err, vm.ErrRolledBack) ||
		!strings.Contains(err.Error(), "nginx.service is failed") || report.GetCommitted() {
		t.Fatalf("%v, %v", err, report)
	}
	now, err := w.fleet.Read(t.Context(), "web-a")
	if err != nil {
		t.Fatal(err)
	}
	// The kernel is what it was, too: the machine was started once more.
	if now.Stack.Base != w.old || now.Spec.Base != w.old || now.Agent.GetKernel() != made.Stack.Kernel ||
		now.Agent.GetBootId() != "boot-3" {
		t.Errorf("it is %+v", now)
	}
	w.mustHavePlugged(t, made.Stack)
}

func TestAnUpdateThatWasCutOffWhileTheGuestWaitsGoesOn(t *testing.T) {
	w := newWorld(t)
	w.create(t, w.spec())
	spec := w.renewed(t, vm.Reboot)
	ctx, cancel := context.WithCancel(within(t, time.Minute))
	_, _, err := w.fleet.Update(ctx, spec, func(step string) {
		if step == "shutting down" {
			cancel()
		}
	})
	if err == nil {
		t.Fatal("it was not cut off")
	}
	updated, report, err := w.fleet.Update(within(t, time.Minute), spec, quiet)
	if err != nil || updated.Stack.Base != w.new || updated.Spec.Base != w.new {
		t.Errorf("it goes on with %+v, %v, %v", updated, report, err)
	}
}

// To be asked again and again takes a guest time while its services restart: its agent is asked to wait instead.
func TestTheAgentIsAskedToWait(t *testing.T) {
	w := newWorld(t)
	w.create(t, w.spec())
	agent := w.agent(t, "web-a")
	agent.Polls = 3
	before := len(agent.Questions())
	spec := w.renewed(t, vm.Live)
	agent.Impact = nil
	_, report, err := w.fleet.Update(within(t, time.Minute), spec, quiet)
	if err != nil || !report.GetCommitted() {
		t.Fatal(report, err)
	}
	seen := map[agentapi.State]int{}
	for _, question := range agent.Questions()[before:] {
		if question.GetEvent() == agentapi.Event_PROGRESS && question.GetWaitMs() > 0 {
			seen[question.GetSeen()]++
		}
	}
	// The next question says which state was seen.
	if seen[agentapi.State_STATE_UNSPECIFIED] != 1 || seen[agentapi.State_STAGED] != 3 {
		t.Errorf("asked with %v: %v", seen, agent.Questions()[before:])
	}
}

// A guest that says nothing may still serve others; only a kernel that was to be started and hangs serves nobody.
func TestOnlyAKernelThatHangsIsReset(t *testing.T) {
	for strategy, boots := range map[string]string{vm.Live: "boot-1", vm.SoftReboot: "boot-1", vm.Kexec: "boot-2"} {
		t.Run(strategy, func(t *testing.T) {
			w := newWorld(t)
			w.create(t, w.spec())
			spec := w.renewed(t, strategy)
			if strategy == vm.Live {
				w.agent(t, "web-a").Impact = nil
			}
			w.fleet.Silence = time.Second
			dial := w.hypervisor.Dial
			w.agent(t, "web-a").Polls = 1 << 20 // it goes on until it is started again
			_, _, err := w.fleet.Update(within(t, time.Minute), spec, func(step string) {
				switch {
				case step == "refreshing":
					w.hypervisor.Dial = func(string) (transport.Dialer, error) { return nil, vm.ErrNoAnswer }
				case strings.HasPrefix(step, "powering off"):
					w.hypervisor.Dial = dial
				}
			})
			if err == nil {
				t.Fatal("it succeeded")
			}
			w.hypervisor.Dial = dial
			now, readErr := w.fleet.Read(within(t, time.Minute), "web-a")
			if readErr != nil || now.Stack.Base != w.old || now.Agent.GetBootId() != boots {
				t.Errorf("after %v it is %+v, %v", err, now, readErr)
			}
		})
	}
}

func TestAVMThatStaysPausedIsNotWaitedFor(t *testing.T) {
	w := newWorld(t)
	w.fleet.PausedLimit = time.Second
	w.hypervisor.Dial = func(string) (transport.Dialer, error) { return nil, vm.ErrNoAnswer }
	began := time.Now()
	_, err := w.fleet.Create(within(t, time.Minute), w.spec(), func(step string) {
		if step == "waiting for the agent" { // QEMU cannot go on (KVM's internal error) or cannot write the disk
			w.hypervisor.SetState("web-a", hypervisor.Paused)
		}
	})
	if !errors.Is(err, vm.ErrPaused) || !strings.Contains(err.Error(), "virsh resume") {
		t.Fatalf("after %v: %v", time.Since(began), err)
	}
}

func TestAVMWhoseQEMUEndsByItselfDidNotPowerOff(t *testing.T) {
	for _, crashed := range []bool{true, false} {
		w := newWorld(t)
		w.hypervisor.Dial = func(string) (transport.Dialer, error) { return nil, vm.ErrNoAnswer }
		_, err := w.fleet.Create(within(t, time.Minute), w.spec(), func(step string) {
			if step == "waiting for the agent" && crashed {
				w.hypervisor.Break("web-a")
			} else if step == "waiting for the agent" {
				w.hypervisor.SetState("web-a", hypervisor.Off)
			}
		})
		if errors.Is(err, vm.ErrBroke) != crashed || strings.Contains(err.Error(), "powered off while") == crashed {
			t.Errorf("crashed is %v: %v", crashed, err)
		}
	}
}

func TestAVMThatIsPausedForAMomentIsWaitedFor(t *testing.T) {
	w := newWorld(t)
	w.fleet.PausedLimit = time.Minute
	dial := w.hypervisor.Dial
	var resumed atomic.Bool
	w.hypervisor.Dial = func(name string) (transport.Dialer, error) {
		if !resumed.Load() {
			return nil, vm.ErrNoAnswer
		}
		return dial(name)
	}
	var resume *time.Timer
	made, err := w.fleet.Create(within(t, time.Minute), w.spec(), func(step string) {
		if step == "waiting for the agent" {
			w.hypervisor.SetState("web-a", hypervisor.Paused)
			resume = time.AfterFunc(time.Second, func() {
				w.hypervisor.SetState("web-a", hypervisor.Running)
				resumed.Store(true)
			})
		}
	})
	if err != nil || !made.Answered {
		t.Fatalf("made %+v, %v", made, err)
	}
	resume.Stop()
}

func TestWhatTheStrategyDoesNotReachWaitsForTheNextStart(t *testing.T) {
	w := newWorld(t)
	w.create(t, w.spec())
	spec := w.renewed(t, vm.Live)
	if impact, err := w.fleet.Assess(t.Context(), spec); err != nil ||
		impact.GetLevel() != agentapi.Level_SOFT_REBOOT || impact.GetStrategy() != vm.NextBoot {
		t.Fatalf("assessed %v, %v", impact, err)
	}
	updated, report, err := w.fleet.Update(within(t, time.Minute), spec, quiet)
	if err != nil {
		t.Fatal(err)
	}
	if updated.Stack.Base != w.old || updated.Spec.Base != w.new || updated.Agent.GetBootId() != "boot-1" {
		t.Errorf("updated %+v", updated)
	}
	if !updated.AwaitsPowerCycle || updated.Configured.Base != w.new ||
		updated.Configured.ID.IsZero() || !report.GetRefused() {
		t.Errorf("it awaits a power cycle: %v, for %+v, and reports %v", updated.AwaitsPowerCycle,
			updated.Configured, report)
	}
	spec.Running = false
	if _, _, err := w.fleet.Update(within(t, time.Minute), spec, quiet); err != nil {
		t.Fatal(err)
	}
	spec.Running = true
	if updated, _, err = w.fleet.Update(within(t, time.Minute), spec, quiet); err != nil ||
		updated.Stack.Base != w.new || updated.AwaitsPowerCycle {
		t.Errorf("at the next start: %+v, %v", updated, err)
	}
}

func TestARunningVMIsNotMovedWhereNoLiveRefreshLeads(t *testing.T) {
	for name, target := range map[string]func(w *world) tree.Digest{
		"another base": func(w *world) tree.Digest {
			return w.publishAs(t, "debian-12",
				&release.Manifest{Sequence: 1, Layers: []release.Layer{w.putLayer(t, "another full layer", false)}},
				"6.1.0")
		},
		"an earlier release": func(w *world) tree.Digest { return w.old },
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			spec := w.spec()
			spec.Base = w.new
			w.create(t, spec)
			spec.Base = target(w)
			if _, err := w.fleet.Assess(t.Context(), spec); !errors.Is(err, vm.ErrNotLive) {
				t.Errorf("assessed with %v, want %v", err, vm.ErrNotLive)
			}
			if _, _, err := w.fleet.Update(within(t, time.Minute), spec, quiet); !errors.Is(err, vm.ErrNotLive) {
				t.Errorf("updated with %v, want %v", err, vm.ErrNotLive)
			}
			if w.agent(t, "web-a").Refreshes() != 0 {
				t.Error("a refresh was started")
			}
			spec.Refresh.Strategy = "next_boot"
			if updated, _, err := w.fleet.Update(within(t, time.Minute), spec, quiet); err != nil ||
				updated.Spec.Base != spec.Base {
				t.Errorf("for the next start: %+v, %v", updated, err)
			}
			if now := w.agent(t, "web-a").Stack(); now.Base != w.new {
				t.Errorf("the running VM was moved to %s", now.Base)
			}
		})
	}
}

func TestAVMOfAnotherUUIDIsLeftAlone(t *testing.T) {
	w := newWorld(t)
	w.create(t, w.spec())
	spec := w.spec()
	spec.UUID, spec.Running = "11111111-2222-4333-8444-555555555555", false
	if _, _, err := w.fleet.Update(t.Context(), spec, quiet); !errors.Is(err, vm.ErrOther) {
		t.Errorf("update: %v, want %v", err, vm.ErrOther)
	}
	if err := w.fleet.Delete(t.Context(), "web-a", spec.UUID, quiet); !errors.Is(err, vm.ErrOther) {
		t.Errorf("delete: %v, want %v", err, vm.ErrOther)
	}
	if read, err := w.fleet.Read(within(t, time.Minute), "web-a"); err != nil || !read.Answered {
		t.Errorf("it is %+v, %v", read, err)
	}
}

func TestCreateThatFailsToDefineLeavesNothing(t *testing.T) {
	cut := errors.New("cut off")
	for _, at := range []int{1, 2} {
		t.Run(fmt.Sprint("at definition ", at), func(t *testing.T) {
			w := newWorld(t)
			defined := 0
			w.hypervisor.Fail = func(method, _ string) error {
				if method != "Define" {
					return nil
				}
				if defined++; defined == at {
					return cut
				}
				return nil
			}
			if _, err := w.fleet.Create(within(t, time.Minute), w.spec(), quiet); !errors.Is(err, cut) {
				t.Fatalf("got %v, want %v", err, cut)
			}
			if disks, err := w.store.ListDisks(t.Context()); err != nil || len(disks) > 0 {
				t.Errorf("left are the disks %v, %v", disks, err)
			}
			if _, _, err := w.hypervisor.Lookup(t.Context(), "web-a"); !errors.Is(err, hypervisor.ErrNotFound) {
				t.Errorf("the domain is left: %v", err)
			}
		})
	}
}

func TestDeleteRemovesTheConsoleLogs(t *testing.T) {
	w := newWorld(t)
	w.create(t, w.spec())
	log := filepath.Join(w.fleet.ConsoleDir, "web-a.log")
	other := filepath.Join(w.fleet.ConsoleDir, "web-a.login.log")
	for _, path := range []string{log, log + ".0", log + ".2", other} {
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.fleet.Delete(t.Context(), "web-a", w.spec().UUID, quiet); err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(w.fleet.ConsoleDir)
	if err != nil || len(entries) != 1 || entries[0].Name() != filepath.Base(other) {
		t.Errorf("left are %v, %v", entries, err)
	}
}

func TestLayersOfADefinitionAreInUse(t *testing.T) {
	w := newWorld(t)
	made := w.create(t, w.spec())
	inUse, err := w.fleet.InUse(t.Context())
	if err != nil || !slices.Equal(inUse[made.Stack.Layers[0].ID], []string{"web-a"}) {
		t.Errorf("in use are %v, %v", inUse, err)
	}
}

func TestWhatARefreshMovesBetweenIsInUse(t *testing.T) {
	w := newWorld(t)
	w.create(t, w.spec())
	spec := w.spec()
	spec.Base = w.new
	// Cut off when the guest has moved: its definition names what it ran before.
	w.hypervisor.Fail = func(method, _ string) error {
		if method == "Define" {
			return errors.New("cut off")
		}
		return nil
	}
	if _, _, err := w.fleet.Update(within(t, time.Minute), spec, quiet); err == nil {
		t.Fatal("it was not cut off")
	}
	w.hypervisor.Fail = nil
	inUse, err := w.fleet.InUse(t.Context())
	if err != nil || inUse[w.old] == nil || inUse[w.new] == nil {
		t.Errorf("in use are %v, %v, without %s or %s", inUse, err, w.old, w.new)
	}
	if _, _, err := w.fleet.Update(within(t, time.Minute), spec, quiet); err != nil {
		t.Fatal(err)
	}
	if inUse, err = w.fleet.InUse(t.Context()); err != nil || inUse[w.old] != nil || inUse[w.new] == nil {
		t.Errorf("after the move are in use %v, %v", inUse, err)
	}
}

func TestVMsOfAnotherPoolUseNothingOfThisOne(t *testing.T) {
	w := newWorld(t)
	w.create(t, w.spec())
	w.fleet.Pool = "another"
	if inUse, err := w.fleet.InUse(t.Context()); err != nil || len(inUse) != 0 {
		t.Errorf("in use are %v, %v", inUse, err)
	}
}

func (w *world) publishAs(t *testing.T, name string, m *release.Manifest, kernel string) tree.Digest {
	t.Helper()
	m.Name = name
	return w.publish(t, w.fleet.Key, m, kernel)
}

func TestUpdateThatMovesNothingNeedsNoAgent(t *testing.T) {
	w := newWorld(t)
	w.create(t, w.spec())
	w.guests.Silence("web-a", true)
	spec := w.spec()
	spec.Refresh.Settle = time.Second
	updated, report, err := w.fleet.Update(within(t, time.Minute), spec, quiet)
	if err != nil || report != nil || updated.Spec.Refresh.Settle != time.Second {
		t.Fatalf("updated %+v, %v, %v", updated, report, err)
	}
	spec.Base = w.new
	if _, _, err := w.fleet.Update(within(t, time.Minute), spec, quiet); !errors.Is(err, vm.ErrNoAnswer) {
		t.Fatalf("got %v, want %v", err, vm.ErrNoAnswer)
	}
}

func TestHostNameAndKeysReachARunningGuest(t *testing.T) {
	w := newWorld(t)
	w.create(t, w.spec())
	spec := w.spec()
	spec.Hostname, spec.AuthorizedKeys = "other", []string{"ssh-ed25519 AAAA"}
	w.guests.Silence("web-a", true)
	if _, _, err := w.fleet.Update(within(t, time.Minute), spec, quiet); !errors.Is(err, vm.ErrNoAnswer) {
		t.Errorf("its agent is silent: %v", err)
	}
	if found, err := w.fleet.Read(t.Context(), "web-a"); err != nil || found.Spec.Hostname != "web-a" {
		t.Errorf("the definition says that it has what the guest does not have: %+v, %v", found, err)
	}
	w.guests.Silence("web-a", false)
	updated, _, err := w.fleet.Update(within(t, time.Minute), spec, quiet)
	if err != nil || updated.Spec.Hostname != "other" ||
		!slices.Equal(updated.Spec.AuthorizedKeys, spec.AuthorizedKeys) {
		t.Fatalf("updated %+v, %v", updated, err)
	}
	agent, err := w.guests.Agent("web-a")
	if err != nil {
		t.Fatal(err)
	}
	given := agent.Identified()
	if len(given) != 1 || given[0].GetHostname() != "other" ||
		!slices.Equal(given[0].GetAuthorizedKeys(), spec.AuthorizedKeys) {
		t.Errorf("the guest was given %v", given)
	}
	if updated.Agent.GetBootId() != "boot-1" {
		t.Error("it was started again")
	}
	spec.Running = false
	for _, hostname := range []string{"other", "third"} {
		spec.Hostname = hostname
		if _, _, err := w.fleet.Update(within(t, time.Minute), spec, quiet); err != nil {
			t.Fatal(err)
		}
	}
	if len(agent.Identified()) != 1 {
		t.Error("the agent of a VM that is off was asked")
	}
}

// If the definition cannot be changed after the guest was, the guest gets back what its definition says.
func TestAGuestWhoseDefinitionCannotBeChangedKeepsItsHostName(t *testing.T) {
	w := newWorld(t)
	w.create(t, w.spec())
	spec := w.spec()
	spec.Hostname = "other"
	refused := errors.New("no room")
	w.hypervisor.Fail = func(method, _ string) error {
		if method == "Define" {
			return refused
		}
		return nil
	}
	if _, _, err := w.fleet.Update(within(t, time.Minute), spec, quiet); !errors.Is(err, refused) {
		t.Fatal(err)
	}
	given := w.agent(t, "web-a").Identified()
	if len(given) != 2 || given[0].GetHostname() != "other" || given[1].GetHostname() != w.spec().Hostname ||
		!slices.Equal(given[1].GetAuthorizedKeys(), w.spec().AuthorizedKeys) {
		t.Errorf("the guest was given %v", given)
	}
}

// A health check that was good before takes the host name back. One that was bad before says nothing about it.
func TestAHostNameThatAHealthCheckDoesNotLikeIsTakenBack(t *testing.T) {
	w := newWorld(t)
	w.create(t, w.spec())
	agent := w.agent(t, "web-a")
	asked := 0
	agent.Failing = func(checks []*agentapi.HealthCheck) (failed []*agentapi.FailedCheck) {
		asked++
		for _, check := range checks {
			if check.GetName() == "bad" || asked == 3 {
				failed = append(failed, &agentapi.FailedCheck{Name: check.GetName(), Reason: "refused"})
			}
		}
		return failed
	}
	spec := w.spec()
	spec.Hostname = "other"
	spec.Refresh.HealthChecks, spec.Refresh.Settle = []*agentapi.HealthCheck{{Name: "web"}, {Name: "bad"}},
		time.Millisecond
	_, _, err := w.fleet.Update(within(t, time.Minute), spec, quiet)
	if !errors.Is(err, vm.ErrTakenBack) || !strings.Contains(err.Error(), "web: refused") ||
		strings.Contains(err.Error(), "bad: refused") {
		t.Errorf("got %v", err)
	}
	given := agent.Identified()
	if len(given) != 2 || given[1].GetHostname() != w.spec().Hostname {
		t.Errorf("the guest was given %v", given)
	}
	if found, err := w.fleet.Read(t.Context(), "web-a"); err != nil || found.Spec.Hostname != w.spec().Hostname {
		t.Errorf("the definition has %+v, %v", found, err)
	}
	if _, _, err := w.fleet.Update(within(t, time.Minute), spec, quiet); err != nil {
		t.Errorf("the same with a check that is good again: %v", err)
	}
}

// A definition that has again what one before it had is known as a later one.
func TestDefinitionsWithAnotherIdentityAreCounted(t *testing.T) {
	w := newWorld(t)
	spec := w.spec()
	spec.Running = false
	w.create(t, spec)
	for i, hostname := range []string{"web-a", "other", "other", "web-a"} {
		spec.Hostname, spec.VCPUs = hostname, i+1
		if _, _, err := w.fleet.Update(within(t, time.Minute), spec, quiet); err != nil {
			t.Fatal(err)
		}
		var config agentapi.BootConfig
		if err := json.Unmarshal(w.defined(t).BootConfig, &config); err != nil {
			t.Fatal(err)
		}
		if want := []int{0, 1, 1, 2}[i]; config.Changes != want || config.Hostname != hostname {
			t.Errorf("%d: %d changes, %q", i, config.Changes, config.Hostname)
		}
	}
}

// A VM whose new hardware lets QEMU not start runs again with what it had.
func TestAVMThatCannotBeStartedAsWantedIsStartedAsItWas(t *testing.T) {
	w := newWorld(t)
	w.create(t, w.spec())
	before := w.defined(t)
	spec := w.spec()
	spec.VCPUs, spec.Hostname = 2, "other"
	spec.Refresh.MaxImpact = agentapi.Level_REBOOT
	refused := errors.New("device is in use")
	starts := 0
	w.hypervisor.Fail = func(method, _ string) error {
		if method == "Start" {
			if starts++; starts == 1 {
				return refused
			}
		}
		return nil
	}
	if _, _, err := w.fleet.Update(within(t, time.Minute), spec, quiet); !errors.Is(err, refused) {
		t.Fatalf("got %v", err)
	}
	found, err := w.fleet.Read(t.Context(), "web-a")
	if err != nil || found.State != hypervisor.Running || found.Spec.VCPUs != before.VCPUs ||
		found.Spec.Hostname != w.spec().Hostname {
		t.Errorf("it is %+v, %v", found, err)
	}
	if updated, _, err := w.fleet.Update(within(t, time.Minute), spec, quiet); err != nil || updated.Spec.VCPUs != 2 {
		t.Errorf("the next update: %+v, %v", updated, err)
	}
}
