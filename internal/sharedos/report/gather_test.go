package report_test

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/hypervisor"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/publish"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/report"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/archive"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/sourcetest"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
	"github.com/sharedos/terraform-provider-sharedos/provider"
	"github.com/sharedos/terraform-provider-sharedos/provider/providertest"
)

const poolName = "pool"

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// host is a host with a fake libvirt and fake agents, and the real store, publisher and fleet.
type host struct {
	*providertest.World
	backend provider.Backend
	dir     string
}

func newHost(t *testing.T) *host {
	t.Helper()
	world, err := providertest.New(t.TempDir())
	must(t, err)
	t.Cleanup(world.Off)
	backend, err := world.Open(t.Context(), provider.Config{Pool: poolName})
	must(t, err)
	return &host{world, backend, t.TempDir()}
}

// publish publishes the next release of a base.
func (h *host) publish(t *testing.T, version string) tree.Digest {
	t.Helper()
	stream, err := sourcetest.NewSystem("6.12."+version).With("usr/bin/server", "version "+version).Tar()
	must(t, err)
	path := filepath.Join(h.dir, "rootfs-"+version+".tar")
	must(t, os.WriteFile(path, stream, 0o600))
	quiet := func(string, int64, int64) {}
	prepared, err := h.backend.Publisher().Prepare(t.Context(),
		publish.Spec{Name: "debian-13", Source: archive.Source{Path: path}}, quiet)
	must(t, err)
	must(t, h.backend.Publisher().Publish(t.Context(), prepared, quiet))
	return prepared.ID
}

func spec(name string, base tree.Digest) vm.Spec {
	return vm.Spec{
		Name: name, UUID: "6ba7b810-9dad-41d1-80b4-" + strings.Repeat("0", 12-len(name)) + strings.Map(hexDigit, name),
		Base: base, VCPUs: 1,
		Memory: 512 << 20, DiskSize: 1 << 30, Hostname: name, Running: true,
		Refresh: vm.RefreshPolicy{Strategy: "live", MaxImpact: agentapi.Level_RESTART},
	}
}

func hexDigit(r rune) rune { return 'a' + r%6 }

func (h *host) create(t *testing.T, spec vm.Spec) {
	t.Helper()
	_, err := h.backend.VMs().Create(t.Context(), spec, func(string) {})
	must(t, err)
}

func (h *host) update(t *testing.T, spec vm.Spec) error {
	t.Helper()
	_, _, err := h.backend.VMs().Update(t.Context(), spec, func(string) {})
	return err
}

func (h *host) sources() report.Sources {
	return report.Sources{
		Pool: poolName, Store: h.Volumes, Domains: h.Domains, VMs: h.backend.VMs(), Publisher: h.backend.Publisher(),
	}
}

func (h *host) gather(t *testing.T) *report.Report {
	t.Helper()
	made, err := report.Gather(t.Context(), h.sources())
	must(t, err)
	return made
}

func vmOf(t *testing.T, r *report.Report, name string) report.VM {
	t.Helper()
	i := slices.IndexFunc(r.VMs, func(v report.VM) bool { return v.Name == name })
	if i < 0 {
		t.Fatalf("there is no VM %q in the report", name)
	}
	return r.VMs[i]
}

func waitsFor(v report.VM) []string {
	var found []string
	for _, wait := range v.Waits {
		found = append(found, wait.For+": "+wait.What)
	}
	return found
}

func TestAReportSaysWhoRunsWhatAndWhoWaits(t *testing.T) {
	h := newHost(t)
	first := h.publish(t, "1")
	for _, name := range []string{"a", "b", "c"} {
		h.create(t, spec(name, first))
	}
	off := spec("off", first)
	off.Running = false
	h.create(t, off)
	second := h.publish(t, "2")
	must(t, h.update(t, spec("a", second)))
	later := spec("c", second)
	later.Refresh.Strategy = "next_boot"
	must(t, h.update(t, later))
	h.Guests.Silence("b", true)

	made := h.gather(t)
	if len(made.Incomplete) > 0 {
		t.Errorf("incomplete: %q", made.Incomplete)
	}
	if len(made.Releases) != 2 || made.Releases[0].Sequence != 2 || !made.Releases[0].Newest ||
		made.Releases[1].Newest {
		t.Fatalf("releases: %+v", made.Releases)
	}
	if made.Releases[0].Kernel != "6.12.2" || made.Releases[1].Kernel != "6.12.1" {
		t.Errorf("the kernels are %q and %q", made.Releases[0].Kernel, made.Releases[1].Kernel)
	}
	if got := made.Releases[0].VMs; !slices.Equal(got, []string{"a"}) {
		t.Errorf("release 2 is run by %q", got)
	}
	if got := made.Releases[1].VMs; !slices.Equal(got, []string{"b", "c", "off"}) {
		t.Errorf("release 1 is run by %q", got)
	}
	if len(made.Layers) != 2 || made.Layers[0].Kind != "full" || made.Layers[1].Kind != "delta" {
		t.Fatalf("layers: %+v", made.Layers)
	}
	full, delta := made.Layers[0], made.Layers[1]
	if !slices.Equal(full.VMs, []string{"a", "b", "c", "off"}) || full.Bytes == 0 ||
		full.Saved != 3*full.Bytes || full.Of.Sequence != 1 {
		t.Errorf("the full layer: %+v", full)
	}
	if !slices.Equal(delta.VMs, []string{"a", "c"}) || delta.Of.Sequence != 2 {
		t.Errorf("the delta: %+v", delta)
	}
	for name, want := range map[string]struct {
		state, agent string
		waits        []string
	}{
		"a": {"running", report.Answers, []string{report.ForStart + ": kernel 6.12.1 runs, 6.12.2 is installed"}},
		"b": {"running", report.Silent, []string{report.ForApply + ": debian-13, release 2"}},
		"c": {"running", report.Answers, []string{report.ForStart + ": debian-13, release 2"}},
		// An update has brought neither of them to release 2.
		"off": {"off", report.NotAsked, []string{report.ForApply + ": debian-13, release 2"}},
	} {
		got := vmOf(t, made, name)
		if got.State != want.state || got.Agent != want.agent || !slices.Equal(waitsFor(got), want.waits) {
			t.Errorf("VM %s is %s, its agent %s, and it waits %q", name, got.State, got.Agent, waitsFor(got))
		}
	}
	if vmOf(t, made, "b").Silence == "" {
		t.Error("nothing says why b is silent")
	}
	last := vmOf(t, made, "a").LastRefresh
	if last == nil || last.Result != "committed" || last.From.Sequence != 1 ||
		last.To.Sequence != 2 || last.Longest != 12.5 ||
		len(last.Interrupted) != 1 || last.Interrupted[0].Unit != "nginx.service" || last.Milliseconds != 1.75 {
		t.Errorf("the last refresh of a: %+v", last)
	}
	if !made.Space.Known || made.Space.Saved <= 0 || made.Space.Saved != made.Space.Full-made.Space.Stored {
		t.Errorf("space: %+v", made.Space)
	}
}

// A layer that a VM runs and that its definition does not have is shared by it, too.
func TestALayerIsOfThoseThatRunIt(t *testing.T) {
	h := newHost(t)
	first, second := h.publish(t, "1"), h.publish(t, "2")
	h.create(t, spec("a", first))
	before, _, err := h.Domains.Lookup(t.Context(), "a")
	must(t, err)
	must(t, h.update(t, spec("a", second)))
	h.Domains.Alter("a",
		func(d *hypervisor.Domain) { d.Layers, d.Metadata.Stack = before.Layers, before.Metadata.Stack })
	made := h.gather(t)
	if len(made.Layers) != 2 {
		t.Fatalf("layers: %+v", made.Layers)
	}
	for _, layer := range made.Layers {
		if !slices.Equal(layer.VMs, []string{"a"}) || len(layer.HeldBy) > 0 {
			t.Errorf("layer: %+v", layer)
		}
	}
}

// What a read of a VM says of its agent is in the report.
func TestWhatAnAgentIsDoing(t *testing.T) {
	h := newHost(t)
	h.create(t, spec("a", h.publish(t, "1")))
	flight := func(state agentapi.State) func(*vm.VM) {
		return func(found *vm.VM) {
			found.Agent = &agentapi.StatusResponse{State: state, Last: &agentapi.Report{To: found.Agent.GetStack()}}
		}
	}
	silent := func(why error) func(*vm.VM) {
		return func(found *vm.VM) { found.Answered, found.NoAnswer = false, why }
	}
	for name, c := range map[string]struct {
		alter                func(*vm.VM)
		agent, silence, wait string
	}{
		"it refreshes": {flight(agentapi.State_ROLLING_BACK), report.Answers, "",
			"the agent is at work: rolling back"},
		"it is in a state of others": {flight(99), report.Answers, "", "the agent is at work: unknown state"},
		"it is silent, and why": {silent(errors.New("the connection was refused")), report.Silent,
			"the connection was refused", ""},
		"it is silent": {silent(nil), report.Silent, "its agent does not answer", ""},
	} {
		from := h.sources()
		from.VMs = altering{h.backend.VMs(), c.alter}
		made, err := report.Gather(t.Context(), from)
		must(t, err)
		got := vmOf(t, made, "a")
		i := slices.IndexFunc(got.Waits, func(w report.Wait) bool { return w.For == report.ForRefresh })
		switch {
		case got.Agent != c.agent || got.Silence != c.silence || (i >= 0) != (c.wait != ""):
			t.Errorf("%s: %s, %q, it waits for %+v", name, got.Agent, got.Silence, got.Waits)
		case i >= 0 && got.Waits[i].Why != c.wait:
			t.Errorf("%s: %q", name, got.Waits[i].Why)
		}
	}
}

func TestARefreshThatWasRolledBackIsTold(t *testing.T) {
	h := newHost(t)
	h.Guests.OnNew = withError(h.Guests.OnNew, "the health check web failed")
	h.create(t, spec("a", h.publish(t, "1")))
	if err := h.update(t, spec("a", h.publish(t, "2"))); !errors.Is(err, vm.ErrRolledBack) {
		t.Fatal(err)
	}
	got := vmOf(t, h.gather(t), "a")
	if got.LastRefresh == nil || got.LastRefresh.Result != "rolled back" ||
		!strings.Contains(got.LastRefresh.Error, "web failed") {
		t.Errorf("the last refresh: %+v", got.LastRefresh)
	}
}

func TestLayersThatAreHeldAndGoneAreTold(t *testing.T) {
	h := newHost(t)
	first := h.publish(t, "1")
	h.create(t, spec("a", first))
	stray := tree.Sum([]byte("stray"))
	must(t, h.hold(t.Context(), "a", stray, "cron.service (pid 7)"))
	made := h.gather(t)
	got := vmOf(t, made, "a")
	if len(got.Held) != 1 || got.Held[0].Layer != stray.String() ||
		!slices.Equal(got.Held[0].By, []string{"cron.service (pid 7)"}) {
		t.Errorf("held: %+v", got.Held)
	}
	i := slices.IndexFunc(made.Layers, func(l report.Layer) bool { return l.ID == stray.String() })
	if i < 0 || made.Layers[i].InPool || len(made.Layers[i].VMs) > 0 || len(made.Layers[i].HeldBy) != 1 ||
		made.Layers[i].Kind != "unknown" {
		t.Errorf("layers: %+v", made.Layers)
	}
}

// A VM, a manifest or a measure that cannot be read is named, and everything else is reported.
func TestWhatCannotBeReadIsNamed(t *testing.T) {
	h := newHost(t)
	first := h.publish(t, "1")
	h.create(t, spec("a", first))
	h.create(t, spec("b", first))
	from := h.sources()
	from.VMs = failing{h.backend.VMs(), "b"}
	var steps []string
	from.Progress = func(step string) { steps = append(steps, step) }
	made, err := report.Gather(t.Context(), from)
	must(t, err)
	if len(steps) != 3 || !strings.Contains(steps[1], "1 release") || !strings.Contains(steps[2], "2 VMs") {
		t.Errorf("the steps are %q", steps)
	}
	if len(made.Incomplete) != 2 || !strings.Contains(made.Incomplete[0], "saved") ||
		!strings.Contains(made.Incomplete[1], `VM "b"`) {
		t.Errorf("incomplete: %q", made.Incomplete)
	}
	if got := vmOf(t, made, "b"); got.State != "unknown" || got.Agent != report.Silent ||
		got.Base.Sequence != 1 || got.Silence == "" {
		t.Errorf("b: %+v", got)
	}
	if vmOf(t, made, "a").Agent != report.Answers || made.Space.Known {
		t.Errorf("a: %+v, %+v", vmOf(t, made, "a"), made.Space)
	}
}

// A domain whose record is damaged does not keep the others from being reported.
func TestADamagedDomainIsNamed(t *testing.T) {
	h := newHost(t)
	first := h.publish(t, "1")
	h.create(t, spec("a", first))
	h.create(t, spec("b", first))
	h.Domains.Damage("b")
	made, err := report.Gather(t.Context(), h.sources())
	must(t, err)
	if len(made.VMs) != 1 || made.VMs[0].Name != "a" ||
		!slices.ContainsFunc(made.Incomplete, func(text string) bool { return strings.HasPrefix(text, `VM "b": `) }) {
		t.Errorf("VMs %+v, incomplete %q", made.VMs, made.Incomplete)
	}
}

func TestWhenTheTimeIsUpDefinitionsAreReported(t *testing.T) {
	h := newHost(t)
	first := h.publish(t, "1")
	for _, name := range []string{"a", "b", "c"} {
		h.create(t, spec(name, first))
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	from := h.sources()
	from.VMs = ending{h.backend.VMs(), func() { cancel(errors.New("the time is up")) }}
	made, err := report.Gather(ctx, from)
	must(t, err)
	if len(made.VMs) != 3 || len(made.Incomplete) < 3 {
		t.Fatalf("%d VMs, incomplete: %q", len(made.VMs), made.Incomplete)
	}
	for _, one := range made.VMs {
		if one.Agent != report.Silent || one.Base.Sequence != 1 || len(one.Layers) != 1 {
			t.Errorf("%+v", one)
		}
	}
}

// What a guest says is cut, cleaned and counted before it is shown.
func TestTextsOfGuestsAreBounded(t *testing.T) {
	h := newHost(t)
	units := make([]*agentapi.UnitImpact, 200)
	for i := range units {
		units[i] = &agentapi.UnitImpact{Unit: strings.Repeat("u", 2000) + "\x1b[2J", Level: agentapi.Level(99)}
	}
	fresh := h.Guests.OnNew
	h.Guests.OnNew = func(name string, agent *agent) {
		fresh(name, agent)
		agent.Impact = &agentapi.Impact{Level: agentapi.Level_RESTART, Units: units}
	}
	h.create(t, spec("a", h.publish(t, "1")))
	must(t, h.update(t, spec("a", h.publish(t, "2"))))
	guest, err := h.Guests.Agent("a")
	must(t, err)
	guest.SystemState = "running\u202e <b>\nhttps://user:secret@example.net/"
	made := h.gather(t)
	nothingForeign(t, parse(t, pageOf(t, made)))
	got := vmOf(t, made, "a")
	if got.LastRefresh == nil || len(got.LastRefresh.Interrupted) != 50 {
		t.Fatalf("the last refresh: %+v", got.LastRefresh)
	}
	if one := got.LastRefresh.Interrupted[0]; len(one.Unit) > 310 || one.Level != "unknown" {
		t.Errorf("%d bytes, level %s", len(one.Unit), one.Level)
	}
	if strings.ContainsAny(got.System, "\n\u202e") || strings.Contains(got.System, "secret") {
		t.Errorf("system state %q", got.System)
	}
}

func TestJSONHasNoNullLists(t *testing.T) {
	h := newHost(t)
	h.create(t, spec("a", h.publish(t, "1")))
	var out bytes.Buffer
	must(t, report.WriteJSON(&out, h.gather(t)))
	var decoded report.Report
	must(t, json.Unmarshal(out.Bytes(), &decoded))
	if decoded.Format != report.Format || len(decoded.VMs) != 1 {
		t.Errorf("decoded: %+v", decoded)
	}
	if text := strings.ReplaceAll(out.String(), `"last_refresh": null`, ""); strings.Contains(text, "null") {
		t.Errorf("there is a null in %s", text)
	}
}
