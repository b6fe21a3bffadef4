package vm_test

import (
	"cmp"
	"context"
	"crypto/ed25519"
	"encoding/base64"
	"errors"
	"log/slog"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi/agenttest"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor/hypervisortest"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/machine"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/store/storetest"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/transport"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
)

const mebibyte = 1 << 20

// world is a host with two releases of a base, whose guests hold fake agents.
type world struct {
	fleet      *vm.Fleet
	hypervisor *hypervisortest.Hypervisor
	store      *storetest.Store
	guests     *agenttest.Guests
	old, new   tree.Digest
}

func newWorld(t *testing.T) *world {
	t.Helper()
	_, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	w := &world{hypervisor: hypervisortest.New(), store: storetest.New(t)}
	w.guests = agenttest.Inhabit(w.hypervisor)
	t.Cleanup(w.guests.Off)
	w.fleet = &vm.Fleet{
		Hypervisor: w.hypervisor, Machine: machine.Local{}, Store: w.store, Key: key, Pool: "pool",
		Cache: t.TempDir(), ConsoleDir: t.TempDir(),
		AgentBinary: func() ([]byte, error) { return []byte("agent"), nil },
		Initramfs:   func(agent, modules []byte) ([]byte, error) { return slices.Concat(agent, modules), nil },
		ListedFor:   -1,
		BootLimit:   300 * time.Millisecond,
		Log:         slog.New(slog.DiscardHandler),
	}
	full := w.putLayer(t, "full layer", false)
	w.old = w.publish(t, key, &release.Manifest{Sequence: 1, Layers: []release.Layer{full}}, "6.12.1")
	w.new = w.publish(t, key, &release.Manifest{
		Sequence: 2, Previous: w.old, Layers: []release.Layer{full, w.putLayer(t, "delta layer", true)},
	}, "6.12.2")
	return w
}

func (w *world) agent(t *testing.T, name string) *agenttest.Agent {
	t.Helper()
	agent, err := w.guests.Agent(name)
	if err != nil {
		t.Fatal(err)
	}
	return agent
}

func (w *world) putLayer(t *testing.T, text string, delta bool) release.Layer {
	t.Helper()
	content := strings.Repeat(text, 8192)[:8192]
	layer := release.Layer{ID: tree.Sum([]byte(content)), DataSize: 4096, Size: 8192, Delta: delta}
	if _, err := w.store.PutLayer(t.Context(), layer, strings.NewReader(content), nil); err != nil {
		t.Fatal(err)
	}
	return layer
}

func (w *world) putBlob(t *testing.T, text string) release.Blob {
	t.Helper()
	blob := release.Blob{Digest: tree.Sum([]byte(text)), Size: int64(len(text))}
	if err := w.store.PutBlob(t.Context(), blob, strings.NewReader(text), nil); err != nil {
		t.Fatal(err)
	}
	return blob
}

func (w *world) publish(t *testing.T, key ed25519.PrivateKey, m *release.Manifest, kernel string) tree.Digest {
	t.Helper()
	m.Schema, m.Kind, m.Name, m.Architecture, m.OS = release.Schema, release.Base,
		cmp.Or(m.Name, "debian-13"), "amd64", "Debian"
	if m.Contents == (release.Blob{}) {
		m.Contents = w.putBlob(t, "contents of "+kernel)
	}
	m.Kernel = &release.Kernel{Release: kernel, Image: w.putBlob(t, "kernel "+kernel),
		Modules: w.putBlob(t, "modules "+kernel)}
	m.Users, m.Groups = map[string]uint32{"root": 0}, map[string]uint32{"root": 0}
	note, id, err := release.Sign(m, key)
	if err != nil {
		t.Fatal(err)
	}
	if err := w.store.PutManifest(t.Context(), id, note); err != nil {
		t.Fatal(err)
	}
	return id
}

func (w *world) spec() vm.Spec {
	return vm.Spec{
		Name: "web-a", UUID: "6ba7b810-9dad-41d1-80b4-00c04fd430c8", Base: w.old, VCPUs: 1,
		Memory: 512 * mebibyte, DiskSize: 1024 * mebibyte, Hostname: "web-a", Running: true,
		Refresh: vm.RefreshPolicy{Strategy: "live", MaxImpact: agentapi.Level_RESTART},
	}
}

func within(t *testing.T, limit time.Duration) context.Context {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), limit)
	t.Cleanup(cancel)
	return ctx
}

func quiet(string) {}

func (w *world) create(t *testing.T, spec vm.Spec) *vm.VM {
	t.Helper()
	made, err := w.fleet.Create(within(t, time.Minute), spec, quiet)
	if err != nil {
		t.Fatal(err)
	}
	return made
}

func TestCreateStartsTheVMAndPinsItsAgent(t *testing.T) {
	w := newWorld(t)
	made := w.create(t, w.spec())
	if !made.Answered || made.Stack.Base != w.old || made.State != hypervisor.Running || made.ReadySeconds <= 0 {
		t.Fatalf("made %+v", made)
	}
	domain, _, err := w.hypervisor.Lookup(t.Context(), "web-a")
	if err != nil {
		t.Fatal(err)
	}
	if domain.Metadata.AgentKey == "" || domain.Metadata.PrivateVolume == "" {
		t.Fatalf("the definition records %+v", domain.Metadata)
	}
}

func TestCreateAgainFinishesWhatWasCutOff(t *testing.T) {
	for _, step := range []string{"Define", "Start", "SetMetadata", "Dialer"} {
		t.Run("at "+step, func(t *testing.T) {
			w := newWorld(t)
			cut := errors.New("cut off")
			w.hypervisor.Fail = func(method, _ string) error {
				if method == step {
					return cut
				}
				return nil
			}
			if _, err := w.fleet.Create(within(t, time.Second), w.spec(), quiet); err == nil {
				t.Fatal("it was not cut off")
			}
			w.hypervisor.Fail = nil
			if made := w.create(t, w.spec()); !made.Answered {
				t.Fatalf("made %+v", made)
			}
		})
	}
}

func TestCreateLeavesAnotherVMOfTheNameAlone(t *testing.T) {
	w := newWorld(t)
	w.create(t, w.spec())
	other := w.spec()
	other.UUID = "11111111-2222-4333-8444-555555555555"
	if _, err := w.fleet.Create(t.Context(), other, quiet); !errors.Is(err, vm.ErrExists) {
		t.Fatalf("got %v, want %v", err, vm.ErrExists)
	}
	w.hypervisor.AddForeign("stranger", "22222222-2222-4333-8444-555555555555")
	foreign := w.spec()
	foreign.Name = "stranger"
	if _, err := w.fleet.Create(t.Context(), foreign, quiet); !errors.Is(err, hypervisor.ErrForeign) &&
		!errors.Is(err, vm.ErrExists) {
		t.Fatalf("got %v", err)
	}
}

func TestReadTakesNoAnswerForUnknown(t *testing.T) {
	w := newWorld(t)
	w.create(t, w.spec())
	w.agent(t, "web-a").Off()
	read, err := w.fleet.Read(within(t, time.Minute), "web-a")
	if err != nil || read.Answered || read.Stack.Base != w.old {
		t.Fatalf("read %+v, %v", read, err)
	}
	w.hypervisor.Fail = func(string, string) error { return hypervisor.ErrUnreachable }
	if _, err := w.fleet.Read(t.Context(), "web-a"); errors.Is(err, vm.ErrNotFound) ||
		!errors.Is(err, hypervisor.ErrUnreachable) {
		t.Fatalf("an unreachable libvirt reads as %v", err)
	}
	w.hypervisor.Fail = nil
	w.hypervisor.Vanish("web-a")
	if _, err := w.fleet.Read(t.Context(), "web-a"); !errors.Is(err, vm.ErrNotFound) {
		t.Fatalf("a VM that is gone reads as %v", err)
	}
}

func TestReadRefusesAnotherAgent(t *testing.T) {
	w := newWorld(t)
	w.create(t, w.spec())
	domain, _, err := w.hypervisor.Lookup(t.Context(), "web-a")
	if err != nil {
		t.Fatal(err)
	}
	impostor, err := agenttest.New()
	if err != nil {
		t.Fatal(err)
	}
	defer impostor.Off()
	if err := impostor.Boot(domain.BootConfig, []tree.Digest{domain.Layers[0].ID}); err != nil {
		t.Fatal(err)
	}
	w.hypervisor.Dial = func(string) (transport.Dialer, error) { return impostor, nil }
	read, err := w.fleet.Read(t.Context(), "web-a")
	if err != nil || read.Answered {
		t.Fatalf("read %+v, %v", read, err)
	}
}

func TestUpdateRefreshesARunningVM(t *testing.T) {
	w := newWorld(t)
	w.create(t, w.spec())
	spec := w.spec()
	spec.Base = w.new
	updated, report, err := w.fleet.Update(within(t, time.Minute), spec, quiet)
	if err != nil {
		t.Fatal(err)
	}
	if !report.GetCommitted() || updated.Stack.Base != w.new || updated.Spec.Base != w.new {
		t.Fatalf("updated %+v, report %v", updated, report)
	}
	if slices.Contains(w.hypervisor.Calls(), "PowerOff web-a") ||
		slices.Contains(w.hypervisor.Calls(), "Shutdown web-a") {
		t.Fatalf("a live refresh powered the VM off: %v", w.hypervisor.Calls())
	}
	domain, _, err := w.hypervisor.Lookup(t.Context(), "web-a")
	if err != nil {
		t.Fatal(err)
	}
	if len(domain.Layers) != 2 || domain.Metadata.Stack.Base != w.new {
		t.Fatalf("the definition still says %+v", domain)
	}
}

func TestUpdateThatIsRolledBackChangesNothing(t *testing.T) {
	w := newWorld(t)
	w.create(t, w.spec())
	w.agent(t, "web-a").RefreshError = "health check web: nginx.service is failed"
	spec := w.spec()
	spec.Base = w.new
	_, report, err := w.fleet.Update(within(t, time.Minute), spec, quiet)
	if !errors.Is(err, vm.ErrRolledBack) || !strings.Contains(err.Error(), "nginx.service is failed") || report == nil {
		t.Fatalf("got %v, %v", report, err)
	}
	read, err := w.fleet.Read(t.Context(), "web-a")
	if err != nil || read.Spec.Base != w.old || read.Stack.Base != w.old {
		t.Fatalf("read %+v, %v", read, err)
	}
}

func TestUpdateThatWasCutOffConvergesWithoutAnotherRefresh(t *testing.T) {
	for _, step := range []string{"AttachLayer", "Define", "DetachLayer"} {
		t.Run("at "+step, func(t *testing.T) {
			w := newWorld(t)
			w.create(t, w.spec())
			spec := w.spec()
			spec.Base = w.new
			w.hypervisor.Fail = func(method, _ string) error {
				if method == step {
					return errors.New("cut off")
				}
				return nil
			}
			if _, _, err := w.fleet.Update(within(t, time.Minute), spec, quiet); err == nil && step != "DetachLayer" {
				t.Fatal("it was not cut off")
			}
			w.hypervisor.Fail = nil
			updated, _, err := w.fleet.Update(within(t, time.Minute), spec, quiet)
			if err != nil || updated.Stack.Base != w.new || updated.Spec.Base != w.new {
				t.Fatalf("updated %+v, %v", updated, err)
			}
			if n := w.agent(t, "web-a").Refreshes(); n != 1 {
				t.Fatalf("the guest was refreshed %d times", n)
			}
		})
	}
}

func TestUpdateWaitsForARefreshThatIsInFlight(t *testing.T) {
	w := newWorld(t)
	w.create(t, w.spec())
	w.agent(t, "web-a").Polls = 8
	spec := w.spec()
	spec.Base = w.new
	if _, _, err := w.fleet.Update(within(t, 600*time.Millisecond), spec, quiet); !errors.Is(err,
		context.DeadlineExceeded) {
		t.Fatalf("got %v", err)
	}
	if _, _, err := w.fleet.Update(within(t, time.Minute), spec, quiet); err != nil {
		t.Fatal(err)
	}
	if n := w.agent(t, "web-a").Refreshes(); n != 1 {
		t.Fatalf("the guest was refreshed %d times", n)
	}
}

func TestUpdatePowerCyclesOnlyWhenAllowed(t *testing.T) {
	w := newWorld(t)
	w.create(t, w.spec())
	spec := w.spec()
	spec.Memory = 1024 * mebibyte
	if _, _, err := w.fleet.Update(t.Context(), spec, quiet); !errors.Is(err, vm.ErrImpact) {
		t.Fatalf("got %v, want %v", err, vm.ErrImpact)
	}
	if impact, err := w.fleet.Assess(t.Context(), spec); err != nil || impact.GetLevel() != agentapi.Level_REBOOT {
		t.Fatalf("assessed %v, %v", impact, err)
	}
	spec.Refresh.MaxImpact = agentapi.Level_REBOOT
	updated, _, err := w.fleet.Update(within(t, time.Minute), spec, quiet)
	if err != nil || updated.Spec.Memory != spec.Memory || updated.Agent.GetBootId() != "boot-2" {
		t.Fatalf("updated %+v, %v", updated, err)
	}
}

func TestAssessAsksTheAgentAndChangesNothing(t *testing.T) {
	w := newWorld(t)
	w.create(t, w.spec())
	w.agent(t, "web-a").Impact = &agentapi.Impact{Level: agentapi.Level_RESTART,
		Units: []*agentapi.UnitImpact{{Unit: "nginx.service"}}}
	before := len(w.hypervisor.Calls())
	spec := w.spec()
	if impact, err := w.fleet.Assess(t.Context(), spec); err != nil || impact != nil {
		t.Fatalf("nothing changes, and it assessed %v, %v", impact, err)
	}
	spec.Base = w.new
	impact, err := w.fleet.Assess(t.Context(), spec)
	if err != nil || impact.GetUnits()[0].GetUnit() != "nginx.service" {
		t.Fatalf("assessed %v, %v", impact, err)
	}
	if calls := w.hypervisor.Calls(); len(calls) != before {
		t.Fatalf("assessing did %v", calls[before:])
	}
}

func TestDeleteRemovesAllAndMayBeRepeated(t *testing.T) {
	w := newWorld(t)
	w.create(t, w.spec())
	inUse, err := w.fleet.InUse(t.Context())
	if err != nil || !slices.Equal(inUse[w.old], []string{"web-a"}) {
		t.Fatalf("in use %v, %v", inUse, err)
	}
	for range 2 {
		if err := w.fleet.Delete(t.Context(), "web-a", w.spec().UUID, quiet); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := w.fleet.Read(t.Context(), "web-a"); !errors.Is(err, vm.ErrNotFound) {
		t.Fatalf("read after delete: %v", err)
	}
	volumes, err := w.store.Volumes(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, volume := range volumes {
		if strings.HasPrefix(volume.Name, "vm-") {
			t.Fatalf("%s is left", volume.Name)
		}
	}
}

// operators are the public keys of the operator as a boot configuration has them.
func (w *world) operators() []string {
	public, _ := w.fleet.Key.Public().(ed25519.PublicKey)
	return []string{base64.StdEncoding.EncodeToString(public)}
}
