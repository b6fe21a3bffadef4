package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
	"github.com/sharedos/terraform-provider-sharedos/testbed/workspace"
)

// The component of the demo: its package, and the unit and the command that come with it. Another one is on demand: its
// package, and a command of it.
const (
	component        = "redis"
	componentPackage = "redis-server"
	componentUnit    = "redis-server.service"

	demanded        = "uuid"
	demandedPackage = "uuid-runtime"
	demandedCommand = "uuidgen"
)

// installed prints whether the package of the component on demand is installed. dpkg may know it by
// others that suggest it.
const installed = "dpkg-query -W -f '${db:Status-Abbrev}' " + demandedPackage +
	" 2>/dev/null | grep -q ^ii && printf 'installed ' || printf 'gone '"

// componentConfiguration is added to the example: components, and the VMs with them while attach or offer
// is true. Terraform merges a file whose name ends in _override.tf into the resources that it names.
var componentConfiguration = map[string]string{
	"component.tf": `
variable "attach" { type = bool }
variable "offer" { type = bool }

resource "sharedos_component" "` + component + `" {
  name   = "` + component + `"
  base   = sharedos_base.debian.release
  debian = { packages = ["` + componentPackage + `"] }
}

resource "sharedos_component" "` + demanded + `" {
  name   = "` + demanded + `"
  base   = sharedos_base.debian.release
  debian = { packages = ["` + demandedPackage + `"] }
}
`,
	"component_override.tf": `
resource "sharedos_vm" "web" {
  components = var.attach ? [sharedos_component.` + component + `.release] : []
  on_demand  = var.offer ? [sharedos_component.` + demanded + `.release] : []
}
`,
}

// components attaches a component to the running VMs, and detaches it, while clients use them.
func (d *demo) components(ctx context.Context) error {
	for name, text := range componentConfiguration {
		if err := os.WriteFile(filepath.Join(d.dir, "tf", name), []byte(text), 0o600); err != nil {
			return fmt.Errorf("extend the configuration: %w", err)
		}
	}
	d.work.Variables["offer"] = false
	d.out.title("Apply 3: a component, %s, comes to the running VMs", component)
	if err := d.move(ctx, true); err != nil {
		return err
	}
	d.out.title("Apply 4: another component, %s, is offered to them, to be attached when it is used", demanded)
	if err := d.offer(ctx, true); err != nil {
		return err
	}
	d.out.title("Nobody applies anything: a command of the component on demand is called in each VM")
	for _, name := range d.vms {
		if err := d.use(ctx, name); err != nil {
			return fmt.Errorf("VM %q: %w", name, err)
		}
	}
	p, err := d.work.Plan(ctx)
	if err != nil {
		return err
	}
	changes := slices.DeleteFunc(slices.Clone(p.Changes),
		func(c workspace.Change) bool { return c.Is("no-op") || c.Is("read") })
	d.out.claim(len(changes) == 0, "the next plan leaves it as it is", "%d changes", len(changes))
	d.out.title("Apply 5: it is not offered any more, and goes")
	if err := d.offer(ctx, false); err != nil {
		return err
	}
	d.out.title("Apply 6: the other one goes, too")
	return d.move(ctx, false)
}

// offer has the VMs have a component on demand, or no more, while clients use them.
func (d *demo) offer(ctx context.Context, offered bool) error {
	d.work.Variables["offer"] = offered
	p, err := d.work.Plan(ctx)
	if err != nil {
		return err
	}
	all, err := d.applyWatched(ctx, p)
	if err != nil {
		return err
	}
	for _, w := range all {
		after, err := d.host.Fleet.Read(ctx, w.name)
		if err != nil {
			return err
		}
		if !after.Answered {
			return fmt.Errorf("VM %q: %w", w.name, vm.ErrNoAnswer)
		}
		d.out.print("\n  %s\n", w.name)
		for _, p := range w.probes {
			d.judge(w.name, p, after.Agent.GetLast())
		}
		said, err := d.ask(ctx, w.name, installed+"; type "+
			demandedCommand+" >/dev/null 2>&1 && echo ' there' || echo ' not there'", nil)
		if err != nil {
			return err
		}
		want := map[bool]string{true: "gone  there", false: "gone  not there"}[offered]
		d.out.claim(strings.TrimSpace(said) == want,
			w.name+" has "+map[bool]string{true: "its commands, and not the package",
				false: "nothing of it left"}[offered],
			"package, command: %s", strings.TrimSpace(said))
	}
	return nil
}

// use calls a command of the component on demand, as a user would, while clients use the VM.
func (d *demo) use(ctx context.Context, name string) error {
	w, err := d.watch(ctx, name)
	if err != nil {
		return err
	}
	defer w.stop()
	before, err := d.ask(ctx, name, installed, nil)
	if err != nil {
		return err
	}
	began := time.Now()
	printed, err := d.ask(ctx, name, "setpriv --reuid=65534 --regid=65534 --clear-groups "+demandedCommand, nil)
	if err != nil {
		return err
	}
	first := time.Since(began)
	w.stop()
	after, err := d.ask(ctx, name,
		installed+"; sharedos component list | awk '$1 == \""+demanded+
			"\" { printf $2 }'; dpkg --audit; apt-get -q check >/dev/null && echo ' true'", nil)
	if err != nil {
		return err
	}
	out := d.out
	out.print("\n  %s\n", name)
	out.claim(len(strings.TrimSpace(printed)) == len("01234567-0123-0123-0123-0123456789ab"),
		name+"'s command of a component that was not attached answers",
		"%s after %.1f s", strings.TrimSpace(printed), first.Seconds())
	said := strings.TrimSpace(before) + ", then " + strings.TrimSpace(after)
	out.claim(said == "gone, then installed yes true",
		name+" has the component since then, and its package database is whole", "%s", said)
	for _, p := range w.probes {
		d.judge(name, p, nil)
	}
	return nil
}

// move attaches or detaches the component.
func (d *demo) move(ctx context.Context, attach bool) error {
	d.work.Variables["attach"] = attach
	p, err := d.work.Plan(ctx)
	if err != nil {
		return err
	}
	said, err := foretold(p)
	if err != nil {
		return err
	}
	all, err := d.applyWatched(ctx, p)
	if err != nil {
		return err
	}
	if err := d.bytes(ctx); err != nil {
		return err
	}
	did := map[string]outcome{}
	for _, w := range all {
		after, err := d.host.Fleet.Read(ctx, w.name)
		if err != nil {
			return err
		}
		if !after.Answered {
			return fmt.Errorf("VM %q: %w", w.name, vm.ErrNoAnswer)
		}
		did[w.name] = happened(after)
		if err := d.moved(ctx, w, after, attach); err != nil {
			return fmt.Errorf("VM %q: %w", w.name, err)
		}
	}
	d.out.table(said, did)
	return nil
}

// moved checks one VM from outside and inside.
func (d *demo) moved(ctx context.Context, w *watched, after *vm.VM, attach bool) error {
	report, out := after.Agent.GetLast(), d.out
	out.print("\n  %s\n", w.name)
	out.fact("own disk", "grew by %s", size(after.DiskAllocated-w.before.DiskAllocated))
	out.claim(after.Agent.GetBootId() == w.before.Agent.GetBootId(), w.name+" was not rebooted",
		"boot id %s", after.Agent.GetBootId())
	out.claim(len(after.Surplus) == 0, w.name+" has no layer that it does not need", "%d", len(after.Surplus))
	for _, p := range w.probes {
		d.judge(w.name, p, report)
	}
	answers := map[bool]string{true: "installed active PONG", false: "gone inactive gone"}
	said, err := d.ask(ctx, w.name, fmt.Sprintf(`
dpkg-query -W -f '${db:Status-Status} ' %[1]s 2>/dev/null || printf 'gone '
systemctl is-active %[2]s | tr '\n' ' '
redis-cli ping 2>/dev/null || echo gone`, componentPackage, componentUnit), nil)
	if err != nil {
		return err
	}
	said = strings.TrimSpace(said)
	what := map[bool]string{true: w.name + " has the component, and it serves",
		false: w.name + " has nothing of the component left"}
	out.claim(said == answers[attach], what[attach], "package, unit, answer: %s", said)
	checked, err := d.ask(ctx, w.name, `dpkg --audit && apt-get -q check >/dev/null && echo true`, nil)
	if err != nil {
		return err
	}
	out.claim(strings.TrimSpace(checked) == "true", w.name+"'s package database is whole", "%s",
		strings.TrimSpace(checked))
	return nil
}
