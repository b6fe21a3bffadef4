package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
	"github.com/sharedos/terraform-provider-sharedos/testbed"
	"github.com/sharedos/terraform-provider-sharedos/testbed/guest"
	"github.com/sharedos/terraform-provider-sharedos/testbed/probe"
)

// gapRounds is how often a service is restarted by each of two ways whose gaps are compared.
const gapRounds = 3

// patch measures one VM that gets Debian's own patch by a refresh, next to a plain VM that gets it by apt, and next to
// its own reboot.
func (b *bench) patch(ctx context.Context) (err error) {
	dir, err := testbed.MakeDir("")
	if err != nil {
		return fmt.Errorf("make a directory to work in: %w", err)
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	plain, err := guest.DebianTar(ctx, guest.Plain)
	if err != nil {
		return err
	}
	updated, err := guest.DebianTar(ctx, guest.Updated)
	if err != nil {
		return err
	}
	apt, err := b.aptPatch(ctx, dir, plain, updated)
	if err != nil {
		return err
	}
	bed, err := testbed.Start(ctx, filepath.Join(dir, "bed"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, bed.Close()) }()
	world, err := guest.Open(ctx, bed, b.tell)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, world.Close()) }()
	p := &patched{bench: b, apt: apt}
	if p.releases, err = patchReleases(ctx, world); err != nil {
		return err
	}
	if p.vm, err = world.Create(ctx, "patched", p.releases[0], nil, 80); err != nil {
		return err
	}
	for _, measure := range []func(context.Context) error{p.realPatch, p.gaps, p.starts} {
		if err := measure(ctx); err != nil {
			return err
		}
	}
	return nil
}

// aptPatch measures the yardstick: the time of apt-get upgrade in a plain VM, from a mirror on this machine.
func (b *bench) aptPatch(ctx context.Context, dir, plain, updated string) (took time.Duration, err error) {
	b.tell("fetching the packages of the patch, for the plain VM")
	mirror, err := mirrorPatch(ctx, dir, plain, updated)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, mirror.close()) }()
	key, err := guest.NewKey()
	if err != nil {
		return 0, err
	}
	b.tell(fmt.Sprintf("booting a plain VM for a patch of %d packages, %.1f MB", mirror.Packages, float64(mirror.Bytes)/1e6))
	vm, err := bootPlain(ctx, dir, plain, key, mirror.source())
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, vm.end()) }()
	b.tell("upgrading the plain VM with apt-get")
	took, stale, err := vm.upgrade(ctx)
	if err != nil {
		return 0, err
	}
	b.tell(fmt.Sprintf("apt-get upgrade took %.1f s, and leaves %d processes with replaced code", took.Seconds(), stale))
	return took, nil
}

// patchReleases publishes Debian 13, the same with Debian's patch, then some whose OpenSSL differs once more each, and one
// whose dynamic loader differs.
func patchReleases(ctx context.Context, world *guest.World) ([]tree.Digest, error) {
	first, err := world.Publish(ctx, "debian", guest.Plain)
	if err != nil {
		return nil, err
	}
	edits := [][]guest.Edit{nil}
	for i := range gapRounds {
		more := strings.Repeat("\x00", i+1)
		edits = append(edits, []guest.Edit{guest.Append("/libssl.so.3", more), guest.Append("/libcrypto.so.3", more)})
	}
	edits = append(edits, append([]guest.Edit{guest.Append("/ld-linux-x86-64.so.2", "\x00")}, edits[len(edits)-1]...))
	rest, err := world.Releases(ctx, "debian", guest.Updated, edits...)
	if err != nil {
		return nil, err
	}
	if rest[0] == first {
		return nil, errors.New("the archive's security and updates suites change nothing: there is no patch to measure")
	}
	return append([]tree.Digest{first}, rest...), nil
}

// patched is a VM that is patched.
type patched struct {
	*bench
	vm       *guest.VM
	releases []tree.Digest
	// apt is how long the plain VM took for the first patch, live how long this one did.
	apt, live time.Duration
}

// took adds up what a refresh took inside the guest, from the moment that its layers were attached.
func took(report *agentapi.Report) time.Duration {
	var sum time.Duration
	for _, timing := range report.GetTimings() {
		if agentapi.IsRenewal(timing.GetStep()) {
			continue
		}
		sum += time.Duration(timing.GetMicros()) * time.Microsecond
	}
	return sum
}

func describe(report *agentapi.Report) string {
	var steps []string
	for _, timing := range report.GetTimings() {
		steps = append(steps, fmt.Sprintf("%s %d ms", timing.GetStep(), timing.GetMicros()/1000))
	}
	return strings.Join(steps, ", ")
}

// realPatch refreshes the VM to Debian's patch.
func (p *patched) realPatch(ctx context.Context) error {
	// To look is to log in, which the guest's journal writes down: what that takes is looked at first.
	var seen [3]int64
	var report *agentapi.Report
	for i := range seen {
		var err error
		if i == 2 {
			if report, err = p.vm.Refresh(ctx, p.releases[1]); err != nil {
				return err
			}
		}
		if seen[i], err = p.written(ctx); err != nil {
			return err
		}
	}
	looking := seen[1] - seen[0]
	p.live = took(report)
	p.tell("the refresh: " + describe(report))
	byHand, wroteByHand, err := p.restartByHand(ctx, report)
	if err != nil {
		return err
	}
	wrote := seen[2] - seen[1] - looking
	wroteByHand -= 2 * looking // before, and after
	p.tell(fmt.Sprintf("written: %d bytes by looking, %d besides by the refresh, %d by restarting the same units by hand", looking, wrote, wroteByHand))
	p.results.add("refresh to Debian's patch, against apt-get upgrade", p.live.Seconds(), "seconds", p.apt.Seconds(), p.apt.Seconds()/10)
	p.tell(fmt.Sprintf("restarting the same units by hand takes %.1f s", byHand.Seconds()))
	p.results.add("written to the private disk by that refresh", float64(wrote), "bytes", float64(wroteByHand), 1e6)
	p.results.add("processes of affected units with old code after", float64(len(report.GetRemaining())), "processes", 0, 0)
	return nil
}

// restartByHand does by hand what a refresh has done about units, one after the other, and tells how long that takes and how many bytes
// are written then, looking twice included: systemd's journal writes much of it down. What a refresh restarted together with
// another unit is restarted twice.
func (p *patched) restartByHand(ctx context.Context, report *agentapi.Report) (took time.Duration, bytes int64, err error) {
	before, err := p.written(ctx)
	if err != nil {
		return 0, 0, err
	}
	var commands []string
	for _, restart := range report.GetRestarts() {
		switch {
		case restart.GetUnit() == "init.scope":
			commands = append(commands, "systemctl daemon-reexec")
		case restart.GetLevel() == agentapi.Level_RELOAD:
			commands = append(commands, "systemctl reload '"+restart.GetUnit()+"'")
		default:
			commands = append(commands, "systemctl restart '"+restart.GetUnit()+"'")
		}
	}
	text, err := p.vm.Run(ctx, "set -e; began=$(date +%s%N); "+strings.Join(commands, "; ")+"; echo $(( ($(date +%s%N) - began) / 1000 ))")
	if err != nil {
		return 0, 0, fmt.Errorf("restart by hand what the refresh did: %w", err)
	}
	micros, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
	if err != nil {
		return 0, 0, fmt.Errorf("restart by hand what the refresh did: the guest says %q", text)
	}
	after, err := p.written(ctx)
	return time.Duration(micros) * time.Microsecond, after - before, err
}

// written is how many bytes the guest wrote to its private disk since it booted.
func (p *patched) written(ctx context.Context) (int64, error) {
	const line = `sync; node=$(findmnt -no SOURCE /var | sed 's/\[.*//'); awk '{ print $7 }' /sys/class/block/${node##*/}/stat`
	text, err := p.vm.Run(ctx, line)
	if err != nil {
		return 0, err
	}
	sectors, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("read what was written to the private disk: %w", err)
	}
	return sectors * 512, nil
}

// replaced restarts nginx by hand after its libraries were replaced, as a package manager replaces them: by files that
// nothing has run yet. What an emulator translates anew, or a processor has to fetch, is then as new as after a refresh.
const replaced = `set -e
cd /usr/lib/x86_64-linux-gnu
for library in libssl.so.3 libcrypto.so.3; do
	cp $library /run/$library
	mount --bind /run/$library $library
done
systemctl restart nginx`

// restored takes away what replaced has put in the way, so that the next restart has the release's libraries.
const restored = `cd /usr/lib/x86_64-linux-gnu && umount -l libssl.so.3 libcrypto.so.3 && rm /run/libssl.so.3 /run/libcrypto.so.3`

// gaps compares for how long a service is away: because a refresh restarts it, and because systemctl does, with the code
// that it ran already and with code that is new.
func (p *patched) gaps(ctx context.Context) error {
	var byRefresh, byHand, withNew []time.Duration
	byCommand := func(command string) (time.Duration, error) {
		return p.gap(ctx, func() error {
			_, err := p.vm.Run(ctx, command)
			return err
		})
	}
	for _, next := range p.releases[2 : 2+gapRounds] {
		gap, err := p.gap(ctx, func() error {
			report, err := p.vm.Refresh(ctx, next)
			if err == nil {
				p.tell("the refresh: " + describe(report))
			}
			return err
		})
		if err != nil {
			return err
		}
		byRefresh = append(byRefresh, gap)
		if gap, err = byCommand(replaced); err != nil {
			return err
		}
		withNew = append(withNew, gap)
		if _, err := p.vm.Run(ctx, restored); err != nil {
			return err
		}
		if gap, err = byCommand("systemctl restart nginx"); err != nil {
			return err
		}
		byHand = append(byHand, gap)
	}
	p.tell(fmt.Sprintf("gaps of nginx: by refresh %v, by systemctl restart %v, with replaced libraries %v", byRefresh, byHand, withNew))
	own, hand, fresh := median(byRefresh), median(byHand), median(withNew)
	p.results.add("gap of nginx by a refresh, against systemctl", own.Seconds(), "seconds", hand.Seconds(), 1.25*hand.Seconds())
	p.results.add("the same, against systemctl with new libraries", own.Seconds(), "seconds", fresh.Seconds(), 1.25*fresh.Seconds())
	return nil
}

func median(all []time.Duration) time.Duration {
	all = slices.Sorted(slices.Values(all))
	return all[len(all)/2]
}

// gap is the longest time for which nginx gave no page while act was carried out.
func (p *patched) gap(ctx context.Context, act func() error) (time.Duration, error) {
	watch, err := probe.HTTP(ctx, "http://"+p.vm.Address(80)+"/", 5*time.Millisecond)
	if err != nil {
		return 0, err
	}
	err = act()
	seen := watch.Stop()
	if err != nil {
		return 0, err
	}
	if seen.Failures == 0 {
		return 0, errors.New("nginx was not away for one request: it was not restarted")
	}
	return seen.LongestGap, nil
}

// starts compares the refresh, and one that takes a soft-reboot, with a reboot of the same VM.
func (p *patched) starts(ctx context.Context) error {
	p.vm.Spec.Refresh.Strategy, p.vm.Spec.Refresh.MaxImpact = vm.SoftReboot, agentapi.Level_SOFT_REBOOT
	report, err := p.vm.Refresh(ctx, p.releases[len(p.releases)-1])
	if err != nil {
		return fmt.Errorf("refresh by a soft-reboot: %w", err)
	}
	var soft time.Duration
	for _, timing := range report.GetTimings() {
		if timing.GetStep() == "start" { // from the old userland's end until the new one is up
			soft = time.Duration(timing.GetMicros()) * time.Microsecond
		}
	}
	if report.GetStrategy() != vm.SoftReboot || soft <= 0 {
		return fmt.Errorf("a changed loader was refreshed by %q in %v", report.GetStrategy(), soft)
	}
	before, err := p.vm.Status(ctx)
	if err != nil {
		return err
	}
	began := time.Now()
	// The connection ends before the command can.
	_, _ = p.vm.Run(ctx, "systemctl reboot")
	_, err = p.vm.Await(ctx, "is up again", guest.Services(), func(s *agentapi.StatusResponse) bool {
		return s.GetBootId() != before.GetBootId() && (s.GetSystemState() == "running" || s.GetSystemState() == "degraded")
	})
	if err != nil {
		return err
	}
	rebooted := time.Since(began)
	p.results.add("soft-reboot, against a reboot", soft.Seconds(), "seconds", rebooted.Seconds(), rebooted.Seconds()/2)
	p.results.add("refresh to Debian's patch, against a reboot", p.live.Seconds(), "seconds", rebooted.Seconds(), rebooted.Seconds()/4)
	return nil
}
