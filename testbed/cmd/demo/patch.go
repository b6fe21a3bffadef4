package main

import (
	"context"
	"fmt"
	"maps"
	"path"
	"slices"
	"strings"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
	"github.com/sharedos/terraform-provider-sharedos/testbed/probe"
	"github.com/sharedos/terraform-provider-sharedos/testbed/workspace"
)

// interval between a client's requests to each service while it is patched.
const interval = 5 * time.Millisecond

// watched is one VM while it is patched.
type watched struct {
	name   string
	before *vm.VM
	probes []*probed
}

// probed is one service of a VM, with the unit that serves it.
type probed struct {
	service, unit string
	probe         *probe.Probe
	seen          probe.Result
}

// patch moves the base to the patched archive while clients use the VMs.
func (d *demo) patch(ctx context.Context) (err error) {
	d.out.title("Apply 2: the same Debian with its security and updates suites, while clients use the VMs")
	d.work.Variables["additional_suites"] = []string{"trixie-updates", "trixie-security"}
	p, err := d.plan(ctx, "update")
	if err != nil {
		return err
	}
	if d.foretold, err = foretold(p); err != nil {
		return err
	}
	all, err := d.applyWatched(ctx, p)
	if err != nil {
		return err
	}
	base, _, err := d.resources(ctx)
	if err != nil {
		return err
	}
	id, err := tree.ParseDigest(base.Release)
	if err != nil {
		return err
	}
	d.out.title("What apply 2 did")
	d.describeChange(base)
	if err := d.bytes(ctx); err != nil {
		return err
	}
	for _, w := range all {
		if err := d.patched(ctx, w, id); err != nil {
			return fmt.Errorf("VM %q: %w", w.name, err)
		}
	}
	return nil
}

// applyWatched applies a plan while clients use the VMs.
func (d *demo) applyWatched(ctx context.Context, p *workspace.Plan) (all []*watched, err error) {
	defer func() {
		for _, w := range all {
			w.stop()
		}
	}()
	for _, name := range d.vms {
		w, err := d.watch(ctx, name)
		if err != nil {
			return all, err
		}
		all = append(all, w)
	}
	return all, d.work.Apply(ctx, p)
}

// watch starts clients of a VM's services.
func (d *demo) watch(ctx context.Context, name string) (*watched, error) {
	before, err := d.host.Fleet.Read(ctx, name)
	if err != nil {
		return nil, err
	}
	if !before.Answered {
		return nil, fmt.Errorf("VM %q: %w", name, vm.ErrNoAnswer)
	}
	at, err := d.forwards(ctx, name)
	if err != nil {
		return nil, err
	}
	w := &watched{name: name, before: before}
	web, err := probe.HTTP(ctx, "http://"+at[guestHTTP]+"/", interval)
	if err != nil {
		return nil, err
	}
	w.probes = append(w.probes, &probed{service: "a page of nginx", unit: "nginx.service", probe: web})
	return w, nil
}

func (w *watched) stop() {
	for _, p := range w.probes {
		if p.probe != nil {
			p.seen, p.probe = p.probe.Stop(), nil
		}
	}
}

func (d *demo) describeChange(base baseValues) {
	c := base.Change
	d.out.claim(c != nil && c.Changed > 0 && len(c.Packages) > 0, "the patch is real",
		"release %d of the base", base.Sequence)
	if c == nil {
		return
	}
	d.out.fact("packages", "%d differ", len(c.Packages))
	for _, name := range slices.Sorted(maps.Keys(c.Packages)) {
		d.out.fact("", "%s %s", name, c.Packages[name])
	}
	d.out.fact("files", "%d changed, %d added, %d removed: %s", c.Changed, c.Added, c.Removed,
		size(c.AddedBytes+c.ChangedBytes))
	d.out.fact("delta layer", "%s, stored once for every VM", size(c.LayerBytes))
}

// patched prints what the refresh of one VM did, and checks it from outside and inside.
func (d *demo) patched(ctx context.Context, w *watched, base tree.Digest) error {
	after, err := d.host.Fleet.Read(ctx, w.name)
	if err != nil {
		return err
	}
	if !after.Answered {
		return vm.ErrNoAnswer
	}
	report := after.Agent.GetLast()
	d.happened[w.name] = happened(after)
	out := d.out
	out.print("\n  %s\n", w.name)
	attached, err := d.added(ctx, w.before.Stack, base)
	if err != nil {
		return err
	}
	out.fact("delta", "%s attached; its own disk grew by %s", size(attached),
		size(after.DiskAllocated-w.before.DiskAllocated))
	var restarted []string
	for _, r := range report.GetRestarts() {
		text := fmt.Sprintf("%s (%s, %.2f s)", r.GetUnit(), strings.ToLower(r.GetLevel().String()),
			float64(r.GetInterruptionUs())/1e6)
		if r.GetError() != "" {
			text += " FAILED: " + r.GetError()
		}
		restarted = append(restarted, text)
	}
	out.fact("units restarted", "%s", list(restarted))
	out.fact("units left alone", "%s", list(report.GetImpact().GetUnaffected()))
	out.fact("units on the old /usr, unaffected", "%s", list(report.GetPinned()))
	out.fact("/etc", "%d carried; conflicts, where the local file won: %s", report.GetEtcCarried(),
		list(report.GetConflicts()))
	out.fact("waits for power-off, start", "%s", list(after.Agent.GetPending()))
	out.claim(report.GetCommitted() && report.GetError() == "" && after.Stack.Base == base,
		w.name+" runs the patched release",
		"%s, generation %d", short(after.Stack.Base), after.Agent.GetGeneration())
	out.claim(after.Agent.GetBootId() == w.before.Agent.GetBootId(), w.name+" was not rebooted",
		"boot id %s", after.Agent.GetBootId())
	out.claim(len(report.GetRemaining()) == 0, w.name+" runs no old code", "still old: %s", list(report.GetRemaining()))
	for _, p := range w.probes {
		d.judge(w.name, p, report)
	}
	if err := d.kernelIsPending(ctx, w, after, base); err != nil {
		return err
	}
	if err := d.runsNewCode(ctx, w, base); err != nil {
		return err
	}
	return d.inspect(ctx, w, base)
}

// judge prints what the client saw of a service. One that the refresh left alone must not have failed once; one that
// was restarted must have come back.
func (d *demo) judge(name string, p *probed, report *agentapi.Report) {
	restarted := slices.ContainsFunc(report.GetRestarts(),
		func(r *agentapi.UnitRestart) bool { return r.GetUnit() == p.unit })
	seen := fmt.Sprintf("%d requests, %d failed, longest gap %d ms", p.seen.Requests, p.seen.Failures,
		p.seen.LongestGap.Milliseconds())
	if restarted {
		d.out.claim(p.seen.Requests > p.seen.Failures, name+" served "+p.service+" but for its restart", "%s", seen)
		return
	}
	d.out.claim(p.seen.Failures == 0, name+" served "+p.service+" all the time", "%s", seen)
}

// kernelIsPending claims that a new kernel, if the release has one, awaits the next power-off and start.
func (d *demo) kernelIsPending(ctx context.Context, w *watched, after *vm.VM, base tree.Digest) error {
	manifest, err := d.host.Publisher.Get(ctx, base)
	if err != nil {
		return err
	}
	if manifest.Kernel == nil || manifest.Kernel.Release == after.Agent.GetKernel() {
		return nil
	}
	says := slices.ContainsFunc(after.Agent.GetPending(), func(text string) bool {
		return strings.Contains(text, manifest.Kernel.Release)
	})
	d.out.claim(says, w.name+" says that the new kernel waits", "runs %s, has %s",
		after.Agent.GetKernel(), manifest.Kernel.Release)
	return nil
}

// runsNewCode proves what runs: the bytes that processes map, as the agent read them from /proc/<pid>/map_files, have
// the digests that the new release's contents list gives, for every program and library that the patch changed.
func (d *demo) runsNewCode(ctx context.Context, w *watched, base tree.Digest) error {
	changed, err := d.changedCode(ctx, w.before.Stack.Base, base)
	if err != nil {
		return err
	}
	var old, inNginx []string
	maps := 0
	for _, code := range changed {
		// The kernel shows files of a /usr that was swapped out without the "/usr" in front.
		mapped, err := d.mapped(ctx, w.name, strings.TrimPrefix(code.Path, "usr"))
		if err != nil {
			return err
		}
		byNginx := false
		for _, file := range mapped {
			maps++
			if file.GetDigest() != code.Digest.String() {
				old = append(old, fmt.Sprintf("%s (%s, pid %d)", file.GetPath(), file.GetUnit(), file.GetPid()))
				continue
			}
			byNginx = byNginx || file.GetUnit() == "nginx.service"
		}
		if byNginx {
			inNginx = append(inNginx, path.Base(code.Path)+" "+short(code.Digest))
		}
	}
	d.out.claim(len(old) == 0, w.name+"'s processes map no old code",
		"%d files of code changed, mapped %d times, old: %s", len(changed), maps, list(old))
	d.out.fact("new code in nginx", "%s", list(inNginx))
	for _, library := range []string{"libssl.so.3", "libcrypto.so.3"} {
		differs := slices.ContainsFunc(changed, func(e tree.Entry) bool { return path.Base(e.Path) == library })
		runs := slices.ContainsFunc(inNginx, func(s string) bool { return strings.HasPrefix(s, library+" ") })
		if differs {
			d.out.claim(runs, w.name+"'s nginx maps the new "+library, "by the digest of what it maps")
		} else {
			d.out.fact(library, "the archive has no newer one today")
		}
	}
	return nil
}

// added counts the bytes of the layers of a release that a stack does not have.
func (d *demo) added(ctx context.Context, before release.Stack, base tree.Digest) (int64, error) {
	manifest, err := d.host.Publisher.Get(ctx, base)
	if err != nil {
		return 0, err
	}
	var total int64
	for _, layer := range manifest.Layers {
		known := slices.ContainsFunc(before.Layers, func(l release.Layer) bool { return l.ID == layer.ID })
		if !known {
			total += layer.Size
		}
	}
	return total, nil
}

func short(d tree.Digest) string { return d.Hex()[:12] }
