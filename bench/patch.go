package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/vm"
	"github.com/sharedos/terraform-provider-sharedos/testbed/guest"
	"github.com/sharedos/terraform-provider-sharedos/testbed/probe"
)

// patch measures a refresh of one VM to Debian's own patch. Yardsticks are restarts of the same units by hand, a
// plain VM that gets the patch by apt, and a reboot of the VM.
func (b *bench) patch(ctx context.Context) error { return b.inWorld(ctx, b.patchIn) }

func (b *bench) patchIn(ctx context.Context, world *guest.World, dir string) error {
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

// aptPatch returns how long "apt-get upgrade" takes in a plain VM, from a mirror on this machine.
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
	b.tell(fmt.Sprintf("booting a plain VM for a patch of %d packages, %.1f MB", mirror.Packages,
		float64(mirror.Bytes)/1e6))
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
	b.tell(fmt.Sprintf("apt-get upgrade took %.1f s, and leaves %d processes with replaced code", took.Seconds(),
		stale))
	return took, nil
}

// patchReleases publishes Debian 13, the same with Debian's patch, then for each turn a release with another
// OpenSSL and a release with another dynamic loader.
func patchReleases(ctx context.Context, world *guest.World) ([]tree.Digest, error) {
	first, err := world.Publish(ctx, "debian", guest.Plain)
	if err != nil {
		return nil, err
	}
	edits := [][]guest.Edit{nil}
	for i := range turns {
		more := strings.Repeat("\x00", i+1)
		edits = append(edits, []guest.Edit{guest.Append("/libssl.so.3", more), guest.Append("/libcrypto.so.3", more)})
	}
	last := edits[len(edits)-1]
	for i := range turns {
		edits = append(edits,
			append([]guest.Edit{guest.Append("/ld-linux-x86-64.so.2", strings.Repeat("\x00", i+1))}, last...))
	}
	rest, err := world.Releases(ctx, "debian", guest.Updated, edits...)
	if err != nil {
		return nil, err
	}
	if rest[0] == first {
		return nil, errors.New("the archive's security and updates suites change nothing: there is no patch to measure")
	}
	return append([]tree.Digest{first}, rest...), nil
}

// patched is the VM that is patched.
type patched struct {
	*bench
	vm       *guest.VM
	releases []tree.Digest
	// apt is how long the plain VM took for the patch, live how long this VM took.
	apt, live time.Duration
}

// took returns how long a refresh took in the guest, from the moment at which its layers were attached.
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

// realPatch refreshes the VM to Debian's patch and restarts the same units by hand, in turns.
func (p *patched) realPatch(ctx context.Context) error {
	var live, byHand []time.Duration
	var wrote, wroteByHand []int64
	var report *agentapi.Report
	for turn := range turns {
		if turn > 0 {
			if err := p.withoutPatch(ctx); err != nil {
				return err
			}
		}
		bytes, err := p.writtenBy(ctx, func() (err error) {
			report, err = p.vm.Refresh(ctx, p.releases[1])
			return err
		})
		if err != nil {
			return err
		}
		live, wrote = append(live, took(report)), append(wrote, bytes)
		p.tell("the refresh: " + describe(report))
		bytes, err = p.writtenBy(ctx, func() error {
			took, err := p.restartByHand(ctx, report)
			byHand = append(byHand, took)
			return err
		})
		if err != nil {
			return err
		}
		wroteByHand = append(wroteByHand, bytes)
	}
	p.tell(fmt.Sprintf(
		"refreshes took %v and wrote %d bytes; restarting the same units by hand took %v and wrote %d bytes", live,
		wrote, byHand, wroteByHand))
	p.live = median(live)
	hand, handBytes := median(byHand).Seconds(), float64(median(wroteByHand))
	p.results.add("refresh to Debian's patch, against the same restarts by hand", p.live.Seconds(),
		"seconds", hand, 1.25*hand)
	p.results.add("written by that refresh, against the same restarts by hand", float64(median(wrote)), "bytes",
		handBytes, 1.5*handBytes)
	p.results.inform("refresh to Debian's patch, against apt-get upgrade", p.live.Seconds(), "seconds", p.apt.Seconds())
	p.results.add("processes of affected units with old code after",
		float64(len(report.GetRemaining())), "processes", 0, 0)
	return nil
}

// withoutPatch takes the VM back to the first release.
func (p *patched) withoutPatch(ctx context.Context) error {
	report, err := p.vm.Swing(ctx, p.releases[0])
	if err == nil && !report.GetCommitted() {
		err = errors.New(report.GetError())
	}
	if err != nil {
		return fmt.Errorf("refresh back to the release without the patch: %w", err)
	}
	_, err = p.vm.Refresh(ctx, p.releases[0]) // it runs this release already, so only its definition changes
	return err
}

// writtenBy returns how many bytes the guest writes to its private disk because of act. To ask the guest is to log
// in, which its journal records; the bytes for that are measured first and subtracted.
func (p *patched) writtenBy(ctx context.Context, act func() error) (int64, error) {
	var seen [3]int64
	for i := range seen {
		var err error
		if i == len(seen)-1 {
			err = act()
		}
		if err == nil {
			seen[i], err = p.written(ctx)
		}
		if err != nil {
			return 0, err
		}
	}
	looking := seen[1] - seen[0]
	return seen[2] - seen[1] - looking, nil
}

// restartByHand restarts and reloads the same units as a refresh, one after the other, and returns how long that
// takes. A unit that the refresh restarted together with another one is restarted twice.
func (p *patched) restartByHand(ctx context.Context, report *agentapi.Report) (time.Duration, error) {
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
	text, err := p.vm.Run(ctx,
		"set -e; began=$(date +%s%N); "+strings.Join(commands, "; ")+"; echo $(( ($(date +%s%N) - began) / 1000 ))")
	if err != nil {
		return 0, fmt.Errorf("restart by hand what the refresh did: %w", err)
	}
	micros, err := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
	if err != nil {
		return 0, fmt.Errorf("restart by hand what the refresh did: the guest says %q", text)
	}
	return time.Duration(micros) * time.Microsecond, nil
}

// written returns how many bytes the guest has written to its private disk since it booted.
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

// replaced restarts nginx by hand after its libraries were replaced by new files, as a package manager does it. As
// after a refresh, an emulator has to translate the code again, and a processor has to load it.
const replaced = `set -e
cd /usr/lib/x86_64-linux-gnu
for library in libssl.so.3 libcrypto.so.3; do
	cp $library /run/$library
	mount --bind /run/$library $library
done
systemctl restart nginx`

// restored removes these files, so that the next restart uses the libraries of the release.
const restored = `cd /usr/lib/x86_64-linux-gnu && umount -l libssl.so.3 libcrypto.so.3 && rm /run/libssl.so.3 /run/libcrypto.so.3`

// gaps compares for how long a service is away when a refresh restarts it, and when systemctl does, with the same
// code as before and with new code.
func (p *patched) gaps(ctx context.Context) error {
	var byRefresh, byHand, withNew []time.Duration
	byCommand := func(command string) (time.Duration, error) {
		return p.gap(ctx, func() error {
			_, err := p.vm.Run(ctx, command)
			return err
		})
	}
	for _, next := range p.releases[2 : 2+turns] {
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
	p.tell(fmt.Sprintf("gaps of nginx: by refresh %v, by systemctl restart %v, with replaced libraries %v",
		byRefresh, byHand, withNew))
	own, hand, fresh := median(byRefresh), median(byHand), median(withNew)
	p.results.add("gap of nginx by a refresh, against systemctl", own.Seconds(), "seconds",
		hand.Seconds(), 1.25*hand.Seconds())
	p.results.add("the same, against systemctl with new libraries", own.Seconds(), "seconds",
		fresh.Seconds(), 1.25*fresh.Seconds())
	return nil
}

// gap returns the longest time during act in which nginx served no page.
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

// starts compares a refresh that starts the new userland, by a soft-reboot, with a reboot of the same VM.
func (p *patched) starts(ctx context.Context) error {
	p.vm.Spec.Refresh.Strategy, p.vm.Spec.Refresh.MaxImpact = vm.SoftReboot, agentapi.Level_SOFT_REBOOT
	var soft, rebooted []time.Duration
	for _, next := range p.releases[len(p.releases)-turns:] {
		took, err := p.softReboot(ctx, next)
		if err != nil {
			return err
		}
		soft = append(soft, took)
		if took, err = p.reboot(ctx); err != nil {
			return err
		}
		rebooted = append(rebooted, took)
	}
	p.tell(fmt.Sprintf("soft-reboots took %v, reboots %v", soft, rebooted))
	reboot := median(rebooted).Seconds()
	p.results.add("soft-reboot, against a reboot", median(soft).Seconds(), "seconds", reboot, reboot/2)
	p.results.add("refresh to Debian's patch, against a reboot", p.live.Seconds(), "seconds", reboot, reboot/4)
	return nil
}

// softReboot refreshes to a release with another loader, and returns how long the soft-reboot took:
// from the old userland's end until the new one has started.
func (p *patched) softReboot(ctx context.Context, to tree.Digest) (soft time.Duration, err error) {
	report, err := p.vm.Refresh(ctx, to)
	if err != nil {
		return 0, fmt.Errorf("refresh by a soft-reboot: %w", err)
	}
	for _, timing := range report.GetTimings() {
		if timing.GetStep() == "start" {
			soft = time.Duration(timing.GetMicros()) * time.Microsecond
		}
	}
	if report.GetStrategy() != vm.SoftReboot || soft <= 0 {
		return 0, fmt.Errorf("a changed loader was refreshed by %q in %v", report.GetStrategy(), soft)
	}
	return soft, nil
}

// reboot reboots the VM from within, and returns how long it takes until its services have started.
func (p *patched) reboot(ctx context.Context) (time.Duration, error) {
	before, err := p.vm.Status(ctx)
	if err != nil {
		return 0, err
	}
	began := time.Now()
	// The connection ends before the command can.
	_, _ = p.vm.Run(ctx, "systemctl reboot")
	_, err = p.vm.Await(ctx, "has rebooted", guest.Services(), func(s *agentapi.StatusResponse) bool {
		return s.GetBootId() != before.GetBootId() &&
			(s.GetSystemState() == "running" || s.GetSystemState() == "degraded")
	})
	return time.Since(began), err
}
