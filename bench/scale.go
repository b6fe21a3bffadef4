package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"testing/fstest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/source/sourcetest"
)

// scaleSteps are the numbers of VMs that one provider process refreshes. The second is scaleFactor times the first.
var scaleSteps = [2]int{250, 1000}

const scaleFactor = 4

// scale measures whether the time and memory for refreshing many VMs is proportional to their number. Provider,
// fleet, Terraform and each VM's TLS server are real; libvirt and the agents' work are fakes. The time is that of
// processors for this process, which is the provider. Terraform's own time is only printed: it grows faster, since
// Terraform writes its whole state after each resource.
func (b *bench) scale(ctx context.Context) error {
	return b.proportional(ctx, "", manyVMsOn, func(vms int) int { return vms + 1 }) // the VMs and their base
}

// rollout measures the same for one rollout, which moves all VMs.
func (b *bench) rollout(ctx context.Context) error {
	return b.proportional(ctx, " in one rollout", func(archive string, vms int) fs.FS {
		text := strings.Replace(manyVMsText(archive, vms), "disk   = ",
			"refresh = { by = \"rollout\" }\n  disk   = ", 1)
		return fstest.MapFS{"main.tf": {Data: []byte(text + manyVMsRollout)}}
	}, func(int) int { return 2 }) // the rollout and the base
}

// manyVMsRollout is a rollout to the VMs of manyVMsText.
const manyVMsRollout = `
resource "sharedos_rollout" "many" {
  base            = sharedos_base.small.release
  vms             = sharedos_vm.many[*].name
  max_unavailable = 10
  soak            = "0s"
}
`

// proportional measures whether what it costs to refresh VMs is proportional to their number.
// updates is how many objects of the configuration change.
func (b *bench) proportional(ctx context.Context, how string, configuration func(archive string, vms int) fs.FS,
	updates func(vms int) int) error {
	var seconds, bytes [2][]float64
	for range turns {
		for i, vms := range scaleSteps {
			took, memory, err := b.refreshMany(ctx, vms, configuration, updates(vms))
			if err != nil {
				return err
			}
			b.tell(fmt.Sprintf("refreshing %d VMs"+how+
				" took %.1f s, %.1f s of a processor for the provider and %.1f s for Terraform, and %.0f MB at most",
				vms, took.whole.Seconds(), took.provider.Seconds(), took.terraform.Seconds(), memory/1e6))
			seconds[i], bytes[i] = append(seconds[i], took.provider.Seconds()), append(bytes[i], memory)
		}
	}
	fewSeconds, fewBytes := scaleFactor*median(seconds[0]), scaleFactor*median(bytes[0])
	// A quarter more than in proportion, on a machine that may do other things.
	b.results.add(fmt.Sprintf("provider's CPU for %d VMs"+how+", against %d × %d", scaleSteps[1],
		scaleFactor, scaleSteps[0]),
		median(seconds[1]), "seconds", fewSeconds, 1.25*fewSeconds)
	b.results.add(fmt.Sprintf("memory for %d VMs"+how+", against %d × %d", scaleSteps[1], scaleFactor, scaleSteps[0]),
		median(bytes[1]), "bytes", fewBytes, 1.25*fewBytes)
	return nil
}

// spent is how long an apply took, and the processor time of the provider and of Terraform.
type spent struct{ whole, provider, terraform time.Duration }

// processor returns the processor time of this process, or of its children that have ended.
func processor(who int) (time.Duration, error) {
	var usage unix.Rusage
	if err := unix.Getrusage(who, &usage); err != nil {
		return 0, fmt.Errorf("read the use of processors: %w", err)
	}
	return time.Duration(usage.Utime.Nano() + usage.Stime.Nano()), nil
}

// refreshMany refreshes a number of VMs of a configuration, of which a number of objects change. It
// returns the times of the apply, and by how much the memory of this process grew at most since
// before it made the VMs. The process is the provider, the fake libvirt and all agents.
func (b *bench) refreshMany(ctx context.Context, vms int, configuration func(archive string, vms int) fs.FS,
	changes int) (took spent, memory float64, err error) {
	before, err := restPeak()
	if err != nil {
		return took, 0, err
	}
	host, err := b.pretendWith(ctx, vms,
		func(archive string) (fs.FS, error) { return configuration(archive, vms), nil })
	if err != nil {
		return took, 0, err
	}
	defer func() { err = errors.Join(err, host.stop()) }()
	if err := host.write(sourcetest.NewSystem("6.12.1").With("usr/bin/server", "version 2")); err != nil {
		return took, 0, err
	}
	plan, err := host.work.Plan(ctx)
	if err != nil {
		return took, 0, err
	}
	updates := 0
	for _, change := range plan.Changes {
		if change.Is("update") {
			updates++
		}
	}
	if updates != changes {
		return took, 0, fmt.Errorf("the plan updates %d objects, not %d", updates, changes)
	}
	whole := time.Now()
	own, err := processor(unix.RUSAGE_SELF)
	if err != nil {
		return took, 0, err
	}
	others, err := processor(unix.RUSAGE_CHILDREN)
	if err != nil {
		return took, 0, err
	}
	if err := host.work.Apply(ctx, plan); err != nil {
		return took, 0, err
	}
	took.whole = time.Since(whole)
	if took.provider, err = processor(unix.RUSAGE_SELF); err == nil {
		took.terraform, err = processor(unix.RUSAGE_CHILDREN)
	}
	if err != nil {
		return took, 0, err
	}
	took.provider, took.terraform = took.provider-own, took.terraform-others
	peak, err := peakMemory()
	return took, peak - before, err
}

// restPeak frees memory, resets the peak of this process's memory, and returns what it uses, in bytes.
func restPeak() (float64, error) {
	runtime.GC()
	debug.FreeOSMemory()
	// 5 resets the peak (proc_pid_clear_refs(5)).
	if err := os.WriteFile("/proc/self/clear_refs", []byte("5"), 0); err != nil {
		return 0, fmt.Errorf("forget the peak of memory: %w", err)
	}
	return peakMemory()
}

// peakMemory is VmHWM of this process in bytes.
func peakMemory() (float64, error) {
	text, err := os.ReadFile("/proc/self/status")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(text)) {
		if value, found := strings.CutPrefix(line, "VmHWM:"); found {
			kibibytes, err := strconv.ParseFloat(strings.TrimSuffix(strings.TrimSpace(value), " kB"), 64)
			return kibibytes * 1024, err
		}
	}
	return 0, errors.New("/proc/self/status tells no VmHWM")
}
