package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/testbed/guest"
)

// The size of the measured assessment, and the memory that it may take in bytes.
const (
	assessProcesses   = 200
	assessPaths       = 5000
	assessMemory      = 20 << 20
	processesPerCrowd = 9
)

// assess measures in a real guest what it costs to assess the impact of a change.
func (b *bench) assess(ctx context.Context) error { return b.inWorld(ctx, b.assessIn) }

func (b *bench) assessIn(ctx context.Context, w *guest.World, _ string) error {
	var edits [][]guest.Edit
	for i := range turns + 1 {
		edits = append(edits, assessed(i))
	}
	ids, err := w.Releases(ctx, "debian", guest.Plain, edits...)
	if err != nil {
		return err
	}
	vm, err := w.Create(ctx, "assess", ids[0], nil)
	if err != nil {
		return err
	}
	var times, growth, plain []float64
	for _, id := range ids[1:] {
		if err := crowd(ctx, vm); err != nil {
			return err
		}
		spec := vm.Spec
		spec.Base = id
		grown, err := memoryOf(ctx, vm, func() error {
			_, err := w.Host.Fleet.Assess(ctx, spec)
			return err
		})
		if err != nil {
			return err
		}
		growth = append(growth, grown)
		took, err := lookedAt(ctx, vm)
		if err != nil {
			return err
		}
		plain = append(plain, took)
		report, err := vm.Refresh(ctx, id)
		if err != nil {
			return err
		}
		if got := report.GetImpact().GetChangedPaths(); got < assessPaths {
			return fmt.Errorf("%d paths differ only", got)
		}
		at := slices.IndexFunc(report.GetTimings(), func(t *agentapi.Timing) bool { return t.GetStep() == "assess" })
		if at < 0 {
			return errors.New("the refresh does not tell how long it assessed")
		}
		times = append(times, float64(report.GetTimings()[at].GetMicros())/1000)
	}
	b.tell(fmt.Sprintf(
		"assessments took %.0f ms and %.0f bytes; cat and ls took %.0f ms to read the same of the processes", times,
		growth, plain))
	read := median(plain)
	b.results.add(fmt.Sprintf("assess %d processes, %d paths, against cat and ls", assessProcesses, assessPaths),
		median(times), "ms", read, read)
	b.results.add("memory of the agent while it assesses", slices.Max(growth), "bytes", 0, assessMemory)
	return nil
}

// assessed returns the edits of one release: many files that differ, among them a library that many processes use.
func assessed(version int) []guest.Edit {
	mark := fmt.Sprintf("%08d", version)
	edits := make([]guest.Edit, 0, assessPaths+1)
	for i := range assessPaths {
		edits = append(edits, guest.Write(fmt.Sprintf("usr/share/filler/%02d/%04d", i%50, i), 0o644, mark))
	}
	return append(edits, guest.Append("/libpcre2-8.so.0.14.0", mark))
}

// crowd starts processes in the guest, in units of a few each.
func crowd(ctx context.Context, vm *guest.VM) error {
	_, err := vm.Run(ctx, fmt.Sprintf(`
have=$(ls -d /proc/[0-9]* | while read -r p; do [ -n "$(readlink "$p/exe")" ] && echo x; done | wc -l)
while [ "$have" -lt %d ]; do
	systemd-run --quiet --property=Type=exec sh -c 'for i in 1 2 3 4 5 6 7 8; do sleep 100000 & done; wait'
	have=$((have + %d))
done
sleep 1`, assessProcesses, processesPerCrowd))
	return err
}

// lookedAt returns how long cat and ls take, in milliseconds, to read what an assessment reads of all processes. An
// absolute limit would be about the speed of emulation, which differs a lot between machines.
func lookedAt(ctx context.Context, vm *guest.VM) (float64, error) {
	text, err := vm.Run(ctx, `
began=$(date +%s%N)
cat /proc/[0-9]*/maps /proc/[0-9]*/cgroup > /dev/null 2>&1
ls -l /proc/[0-9]*/fd /proc/[0-9]*/exe > /dev/null 2>&1
echo $(( ($(date +%s%N) - began) / 1000 ))`)
	if err != nil {
		return 0, err
	}
	micros, err := strconv.ParseFloat(strings.TrimSpace(text), 64)
	return micros / 1000, err
}

// memoryOf returns how many bytes the agent's resident memory grows at most while act runs.
func memoryOf(ctx context.Context, vm *guest.VM, act func() error) (float64, error) {
	const pid = "pid=$(systemctl show --property=MainPID --value sharedos-agent.service); "
	before, err := kilobytes(ctx, vm, pid+"echo 5 > /proc/$pid/clear_refs; grep VmRSS /proc/$pid/status")
	if err != nil {
		return 0, err
	}
	if err := act(); err != nil {
		return 0, err
	}
	peak, err := kilobytes(ctx, vm, pid+"grep VmHWM /proc/$pid/status")
	return (peak - before) * 1024, err
}

// kilobytes reads the second word of what a command prints.
func kilobytes(ctx context.Context, vm *guest.VM, command string) (float64, error) {
	text, err := vm.Run(ctx, command)
	if err != nil {
		return 0, err
	}
	fields := strings.Fields(text)
	if len(fields) < 2 {
		return 0, fmt.Errorf("%q prints %q", command, text)
	}
	return strconv.ParseFloat(fields[1], 64)
}
