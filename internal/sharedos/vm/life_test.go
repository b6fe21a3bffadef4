package vm_test

import (
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
)

// renamed is the smallest change of a VM: no refresh comes with it.
func (w *world) renamed() vm.Spec {
	spec := w.spec()
	spec.Hostname = "renamed"
	return spec
}

func TestUpdateHasThisProgramsAgentTakeOver(t *testing.T) {
	w := newWorld(t)
	w.agent(t, "web-a").Binary = []byte("an earlier agent")
	w.create(t, w.spec())
	var steps []string
	updated, _, err := w.fleet.Update(within(t, time.Minute), w.renamed(),
		func(step string) { steps = append(steps, step) })
	if err != nil {
		t.Fatal(err)
	}
	if updated.Agent.GetAgentDigest() != tree.Sum([]byte("agent")).String() || updated.OtherAgent != "" {
		t.Errorf("%s answers, %q", updated.Agent.GetAgentDigest(), updated.OtherAgent)
	}
	if !slices.Contains(steps, "replacing the agent") {
		t.Errorf("its steps are %q", steps)
	}
	steps = nil
	if _, _, err := w.fleet.Update(within(t, time.Minute), w.spec(),
		func(step string) { steps = append(steps, step) }); err != nil ||
		slices.Contains(steps, "replacing the agent") {
		t.Errorf("once more its steps are %q, %v", steps, err)
	}
}

func TestAnAgentThatDoesNotComeUpFailsNoUpdate(t *testing.T) {
	w := newWorld(t)
	agent := w.agent(t, "web-a")
	agent.Binary, agent.RefuseAgent = []byte("an earlier agent"), "it ended before it listened"
	w.create(t, w.spec())
	for range 2 { // it is not tried again in the same boot
		updated, _, err := w.fleet.Update(within(t, time.Minute), w.renamed(), quiet)
		if err != nil || updated.Spec.Hostname != "renamed" {
			t.Fatalf("updated %+v, %v", updated, err)
		}
		if !strings.Contains(updated.OtherAgent, "it ended before it listened") {
			t.Errorf("it says %q", updated.OtherAgent)
		}
		agent.RefuseAgent = "" // from here on it would come up
	}
	spec := w.spec()
	spec.Base = w.new
	if updated, report, err := w.fleet.Update(within(t, time.Minute), spec, quiet); err != nil ||
		!report.GetCommitted() || updated.Stack.Base != w.new {
		t.Errorf("the refresh: %v, %v", report, err)
	}
}

func TestALargerDiskIsGrownWhileTheVMRuns(t *testing.T) {
	w := newWorld(t)
	w.create(t, w.spec())
	spec := w.spec()
	spec.DiskSize *= 2
	if impact, err := w.fleet.Assess(t.Context(), spec); err != nil || impact != nil {
		t.Errorf("assessed %v, %v", impact, err)
	}
	updated, _, err := w.fleet.Update(within(t, time.Minute), spec, quiet)
	if err != nil || updated.Spec.DiskSize != spec.DiskSize || updated.Agent.GetBootId() != "boot-1" {
		t.Fatalf("updated %+v, %v", updated, err)
	}
	if got := w.agent(t, "web-a").FileSystem(); got != spec.DiskSize {
		t.Errorf("the file system has %d bytes, not %d", got, spec.DiskSize)
	}
	if _, _, err := w.fleet.Update(within(t, time.Minute), w.spec(), quiet); err == nil ||
		!strings.Contains(err.Error(), "cannot shrink") {
		t.Errorf("it shrank: %v", err)
	}
}

func TestAGrowthThatWasCutOffIsAskedForAgain(t *testing.T) {
	cut := errors.New("cut off")
	for _, at := range []string{"ResizeDisk", "Dialer", "Define"} {
		t.Run(at, func(t *testing.T) {
			w := newWorld(t)
			w.create(t, w.spec())
			spec := w.spec()
			spec.DiskSize *= 2
			resized := false
			w.hypervisor.Fail = func(method, _ string) error {
				resized = resized || method == "ResizeDisk"
				if method == at && (resized || at == "ResizeDisk") {
					return cut
				}
				return nil
			}
			if _, _, err := w.fleet.Update(within(t, time.Minute), spec, quiet); !errors.Is(err, cut) {
				t.Fatalf("got %v, want %v", err, cut)
			}
			w.hypervisor.Fail = nil
			read, err := w.fleet.Read(within(t, time.Minute), "web-a")
			if err != nil || read.Spec.DiskSize != w.spec().DiskSize {
				t.Fatalf("a plan sees %d bytes (%v) and changes nothing", read.Spec.DiskSize, err)
			}
			updated, _, err := w.fleet.Update(within(t, time.Minute), spec, quiet)
			if err != nil || updated.Spec.DiskSize != spec.DiskSize ||
				w.agent(t, "web-a").FileSystem() != spec.DiskSize {
				t.Errorf("updated %+v, %v", updated, err)
			}
			// What the user asked for first can be had back while the definition still names it; the volume stays.
			spec.Hostname = "renamed"
			if _, _, err := w.fleet.Update(within(t, time.Minute), spec, quiet); err != nil {
				t.Error(err)
			}
		})
	}
}

func TestALayerThatIsHeldIsToldAndGoesLater(t *testing.T) {
	w := newWorld(t)
	full := w.publishAs(t, "debian-13", &release.Manifest{
		Sequence: 3, Previous: w.new, Layers: []release.Layer{w.putLayer(t, "another full layer", false)},
	}, "6.12.2")
	spec := w.spec()
	spec.Base = w.new
	made := w.create(t, spec)
	first, delta := made.Stack.Layers[0].ID, made.Stack.Layers[1].ID
	agent := w.agent(t, "web-a")
	by := []string{"web.service: process 12 (web) maps /usr/lib/x.so"}
	agent.Hold = map[string][]string{delta.String(): by}
	spec.Base = full
	updated, report, err := w.fleet.Update(within(t, time.Minute), spec, quiet)
	if err != nil || !report.GetCommitted() {
		t.Fatalf("%v, %v", report, err)
	}
	if len(updated.Surplus) != 1 || updated.Surplus[0].ID != delta || !slices.Equal(updated.Surplus[0].InUseBy, by) {
		t.Errorf("held are %v, want %s; %s was free", updated.Surplus, delta, first)
	}
	agent.Hold = nil
	read, err := w.fleet.Read(within(t, time.Minute), "web-a")
	if err != nil || len(read.Surplus) != 1 || len(read.Surplus[0].InUseBy) != 0 {
		t.Errorf("once it is free, it is read as %v, %v", read.Surplus, err)
	}
	w.mustHavePlugged(t,
		release.Stack{Layers: slices.Concat(updated.Stack.Layers, made.Stack.Layers[1:])}) // reading changes nothing
	if updated, _, err = w.fleet.Update(within(t, time.Minute), spec, quiet); err != nil || len(updated.Surplus) != 0 {
		t.Errorf("held are %v, %v", updated.Surplus, err)
	}
	w.mustHavePlugged(t, updated.Stack)
}

func TestAVMThatIsStillBootingIsWaitedFor(t *testing.T) {
	w := newWorld(t)
	w.create(t, w.spec())
	w.fleet.BootLimit = time.Minute
	w.guests.Silence("web-a", true)
	var steps []string
	answers := time.AfterFunc(time.Second, func() { w.guests.Silence("web-a", false) })
	defer answers.Stop()
	spec := w.spec()
	spec.Base = w.new
	updated, report, err := w.fleet.Update(within(t, time.Minute), spec,
		func(step string) { steps = append(steps, step) })
	if err != nil || !report.GetCommitted() || updated.Stack.Base != w.new {
		t.Errorf("updated %+v, %v", updated, err)
	}
	if !slices.ContainsFunc(steps, func(step string) bool { return strings.Contains(step, "may be booting") }) {
		t.Errorf("its steps are %q", steps)
	}
}

func TestAVMThatStaysSilentIsRefusedAfterAWhile(t *testing.T) {
	w := newWorld(t)
	w.create(t, w.spec())
	w.guests.Silence("web-a", true)
	spec := w.spec()
	spec.Base = w.new
	if _, _, err := w.fleet.Update(within(t, time.Minute), spec, quiet); !errors.Is(err, vm.ErrNoAnswer) {
		t.Errorf("got %v", err)
	}
}

// A VM that was started is waited for until it has an address at which the host reaches it, and not for ever.
func TestAVMThatIsStartedIsWaitedForUntilItHasAnAddress(t *testing.T) {
	user := map[string]hypervisor.Interface{"lan": {User: &hypervisor.UserNetwork{}}}
	bridged := map[string]hypervisor.Interface{"lan": {Bridge: "br0"}}
	late := func(addresses ...string) func() []string {
		asked := 0
		return func() []string {
			if asked++; asked < 4 {
				return nil
			}
			return addresses
		}
	}
	for name, c := range map[string]struct {
		interfaces  map[string]hypervisor.Interface
		addresses   func() []string
		unreachable bool
	}{
		"it comes late":           {user, late("10.0.2.15"), false},
		"of IPv6 on a bridge":     {bridged, late("2001:db8::5"), false},
		"of IPv6 in user mode":    {user, late("fec0::5"), true},
		"none comes":              {bridged, func() []string { return nil }, true},
		"no interface":            {nil, func() []string { return nil }, false},
		"an agent of last year's": {user, nil, false},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			w.fleet.AddressLimit = 3 * time.Second
			w.agent(t, "web-a").Addresses = c.addresses
			spec := w.spec()
			spec.Interfaces = c.interfaces
			var steps []string
			made, err := w.fleet.Create(within(t, time.Minute), spec, func(step string) { steps = append(steps, step) })
			if err != nil || made.Unreachable != c.unreachable {
				t.Fatalf("%+v, %v", made, err)
			}
			if told := slices.Contains(steps,
				"the services have started; waiting for an address"); told != (len(c.interfaces) > 0) {
				t.Errorf("its steps are %q", steps)
			}
		})
	}
}
