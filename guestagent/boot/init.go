package boot

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime/debug"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/disks"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/journal"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/mounts"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
)

const (
	// newRoot is where the initramfs mounts the system, lowerRoot where it mounts only the layers.
	newRoot   = "/newroot"
	lowerRoot = "/lower"
	// bootTimeout bounds all of init. A check of a large private disk takes long.
	bootTimeout = 20 * time.Minute
	// diskTimeout bounds the wait for a disk without which the VM cannot boot.
	diskTimeout = 20 * time.Second
	// preferredTimeout bounds the wait for the layers of a stack if there is another stack to boot.
	preferredTimeout = 2 * time.Second
	// lastWords is the time for a message to be sent over the console before the VM is powered off.
	lastWords = 2 * time.Second
)

// Init is process 1 of the initramfs. It executes the system's init, or prints on the console why it cannot and powers
// the VM off. It never returns.
func Init() {
	err := recovered(func() error {
		ctx, cancel := context.WithTimeout(context.Background(), bootTimeout)
		defer cancel()
		return run(ctx)
	})
	say("this VM cannot boot: %v", err)
	say("powering off")
	unix.Sync()
	time.Sleep(lastWords)
	if err := unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF); err != nil {
		say("power off: %v", err)
	}
	for {
		time.Sleep(time.Hour) // process 1 that ends is a kernel panic
	}
}

// recovered turns a panic into an error: if process 1 ends, the kernel panics and hides the reason.
func recovered(f func() error) (err error) {
	defer func() {
		if value := recover(); value != nil {
			err = fmt.Errorf("defect in the agent: %v\n%s", value, debug.Stack())
		}
	}()
	return f()
}

// say writes one line to the console.
func say(format string, values ...any) {
	// A console that cannot be written cannot be reported anywhere.
	_, _ = fmt.Fprintf(os.Stderr, "sharedos: "+format+"\n", values...)
}

// stopwatch times the steps of init.
type stopwatch struct {
	started, last time.Time
	steps         []Step
}

func newStopwatch() *stopwatch {
	now := time.Now()
	return &stopwatch{started: now, last: now}
}

// done ends a step, which began when the previous step ended.
func (w *stopwatch) done(name string) {
	now := time.Now()
	w.steps = append(w.steps, Step{Name: name, Milliseconds: now.Sub(w.last).Milliseconds()})
	w.last = now
}

// String is the times in one line.
func (w *stopwatch) String() string {
	var steps []string
	for _, step := range w.steps {
		steps = append(steps, fmt.Sprintf("%s %d", step.Name, step.Milliseconds))
	}
	return fmt.Sprintf("%d ms (%s)", w.last.Sub(w.started).Milliseconds(), strings.Join(steps, ", "))
}

// run assembles the root and switches to it. It returns only on failure.
func run(ctx context.Context) error {
	watch := newStopwatch()
	if err := mountKernelFileSystems(); err != nil {
		return err
	}
	if err := os.MkdirAll(mounts.RunDir, 0o755); err != nil {
		return err
	}
	if err := loadBootModules(); err != nil {
		return err
	}
	watch.done("modules")
	config, err := readBootConfig()
	if err != nil {
		return err
	}
	uuid, err := readUUID()
	if err != nil {
		return err
	}
	record, err := assemble(ctx, config, watch)
	if err != nil {
		return err
	}
	record.UUID = uuid
	if record.Root, err = mounts.RootDevice(newRoot); err != nil {
		return err
	}
	if config, err = withGiven(identityFile, config); err != nil {
		say("%v", err) // which is no reason not to boot
	}
	record.Hostname = config.Hostname
	if err := writeIdentity(newRoot, uuid, config); err != nil {
		return err
	}
	if err := installService("/proc/self/exe", record.PrivateDisk); err != nil {
		return err
	}
	if err := disks.Install(disks.Firmware{Disks: config.Disks, Changes: config.Changes}); err != nil {
		say("disks: %v", err) // which is no reason not to boot
	}
	if err := installHostKeys(newRoot); err != nil {
		return err
	}
	if err := installNetwork(newRoot); err != nil {
		return err
	}
	if err := installNetworks(newRoot, "/run", mounts.StateDir, config.Networks); err != nil {
		say("networks: %v", err) // the agent takes them on when it is asked to, over vsock
	}
	watch.done("install")
	record.Steps = watch.steps
	if err := WriteRecord(mounts.BootRecord, record); err != nil {
		return err
	}
	say("booting the %s stack of base %s: %d layers, generation %d, assembled in %v",
		record.Origin, record.Stack.Base, len(record.Stack.Layers), record.Generation, watch)
	return switchRoot(newRoot)
}

// assemble chooses a stack and mounts it with the private disk at newRoot.
func assemble(ctx context.Context, config agentapi.BootConfig, watch *stopwatch) (BootRecord, error) {
	diskCtx, cancel := context.WithTimeout(ctx, diskTimeout)
	defer cancel()
	private, err := findPrivateDisk(diskCtx, agentapi.PrivateDiskSerial)
	if err != nil {
		return BootRecord{}, err
	}
	var records privateRecords
	if private.state == diskComplete {
		if err := private.mountChecked(ctx, config.Stack); err != nil {
			return BootRecord{}, err
		}
		records = readPrivateRecords()
		watch.done("private disk")
	}
	all := candidates(known{
		configured: config.Stack, detaches: config.Detaches, committed: records.committed,
		attempts: records.attempts, flight: records.flight,
		trial: trialOf(readCommandLine()),
	})
	chosen, err := choose(ctx, all)
	if err != nil {
		return BootRecord{}, err
	}
	watch.done("layers")
	if err := private.prepare(ctx, chosen.lower, chosen.stack, watch); err != nil {
		return BootRecord{}, err
	}
	if err := records.attempts.count(chosen.stack); err != nil {
		// The disk is full or read-only. A VM that runs can be repaired, a VM that does not boot cannot.
		say("this boot is not counted: %v", err)
	}
	if err := assembleRoot(ctx, chosen, config.Stack); err != nil {
		return BootRecord{}, err
	}
	watch.done("root")
	moved, err := records.settleEtc(ctx, chosen, config)
	if err != nil {
		// The next boot tries again, and the agent reports it. Services start with a mixed /etc, which is better than
		// none at all.
		say("%v", err)
		if !errors.Is(err, ErrBehind) { // which the agent finds itself
			chosen.refused = append(chosen.refused, err.Error())
		}
	}
	watch.done("etc")
	return BootRecord{
		Stack: chosen.stack, Origin: chosen.origin, Generation: chosen.generation,
		Configured: config.Stack, Detaches: config.Detaches, Operators: config.Operators, Hostname: config.Hostname,
		PrivateDisk: private.Node, FirstBoot: private.state != diskComplete, Refused: chosen.refused,
		Alone: len(all) == 1 || chosen.deferred != "", Moved: moved,
	}, nil
}

// prepare creates the private disk. It seeds a complete one with the new paths of the stack if no carry can: an earlier
// version has left no baseline.
func (d privateDisk) prepare(ctx context.Context, lower lowerTree, stack release.Stack, watch *stopwatch) error {
	if d.state != diskComplete {
		if err := d.make(ctx, lower, stack, watch); err != nil {
			return err
		}
		watch.done("complete")
		return nil
	}
	if baseline, err := Carrier(newRoot).BaselineHead(); err == nil && !baseline.Unlisted {
		return nil // a carry brings new paths
	}
	if _, err := Seed(string(lower), mounts.PrivateDir, stack); err != nil {
		// New paths of the stack below /var may be missing then. The VM's files are not touched.
		say("%v", err)
	}
	watch.done("seed")
	return nil
}

// assembleRoot mounts the chosen stack at newRoot and unmounts the lower tree, which only init needs.
func assembleRoot(ctx context.Context, chosen opened, configured release.Stack) error {
	kernel, modules, err := runningModules(ctx, chosen, configured)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(newRoot, 0o755); err != nil {
		return err
	}
	root := mounts.Root{Layers: chosen.layers, Base: len(chosen.stack.OfBase()), Private: mounts.PrivateDir,
		Modules: modules, Kernel: kernel}
	if err := mounts.AssembleRoot(ctx, newRoot, root); err != nil {
		return err
	}
	return chosen.lower.unmount()
}

// privateRecords are what earlier boots and refreshes left on the private disk.
type privateRecords struct {
	committed *CommittedRecord
	attempts  AttemptsRecord
	flight    *journal.Record
}

// readPrivateRecords reads the records. A record that cannot be read is reported and ignored: the configured stack
// boots without it, and a VM that runs can be repaired.
func readPrivateRecords() privateRecords {
	var records privateRecords
	committed, err := ReadCommitted()
	if err == nil {
		err = checkStack(committed.Stack)
	}
	switch {
	case err == nil:
		records.committed = &committed
	case !errors.Is(err, ErrNoRecord):
		say("the record of the committed stack is not used: %v", err)
	}
	records.attempts, err = readRecord[AttemptsRecord](attemptsPath)
	if err != nil && !errors.Is(err, ErrNoRecord) {
		say("the record of boot attempts is not used: %v", err)
	}
	if records.flight, err = readFlight(); err != nil {
		say("the journal of refreshes is not used: %v", err)
	}
	return records
}

// mountChecked mounts a complete disk. If the disk has errors, it is checked with the configured stack's tools first.
func (d privateDisk) mountChecked(ctx context.Context, configured release.Stack) error {
	if d.super.errors {
		tools, err := open(ctx, candidate{stack: configured, origin: Configured})
		if err != nil {
			return fmt.Errorf("private disk %s has errors and no stack to check it with: %w", d.Node, err)
		}
		if err := errors.Join(d.check(ctx, tools.lower), tools.lower.unmount()); err != nil {
			return err
		}
	}
	return d.mount()
}

// opened is a candidate with its layers mounted.
type opened struct {
	candidate
	layers []string
	lower  lowerTree
	// refused says why the candidates before it are not booted.
	refused []string
}

// choose opens the first candidate whose layers are attached and verify. Deferred candidates are reported, too.
func choose(ctx context.Context, all []candidate) (opened, error) {
	var refused []string
	var failures []error
	for i, c := range all {
		timeout := preferredTimeout
		if i == len(all)-1 {
			timeout = diskTimeout
		}
		openCtx, cancel := context.WithTimeout(ctx, timeout)
		found, err := open(openCtx, c)
		cancel()
		if err == nil {
			found.refused = append(refused, deferredIn(all[i+1:])...)
			return found, nil
		}
		failures = append(failures, fmt.Errorf("%s stack of base %s: %w", c.origin, c.stack.Base, err))
		refused = append(refused, failures[len(failures)-1].Error())
		say("refused: %v", failures[len(failures)-1])
	}
	return opened{}, fmt.Errorf("no stack can be booted: %w", errors.Join(failures...))
}

// deferredIn describes the deferred candidates.
func deferredIn(rest []candidate) []string {
	var texts []string
	for _, c := range rest {
		if c.deferred != "" {
			texts = append(texts, fmt.Sprintf("%s stack of base %s: %s", c.origin, c.stack.Base, c.deferred))
			say("refused: %s", texts[len(texts)-1])
		}
	}
	return texts
}

// open mounts a candidate's layers and reads its init. After a failure no layer of it stays open.
func open(ctx context.Context, c candidate) (found opened, err error) {
	found.candidate = c
	defer func() {
		if err == nil {
			return
		}
		for _, layer := range c.stack.Layers {
			if closeErr := mounts.CloseLayer(context.WithoutCancel(ctx), layer.ID); closeErr != nil {
				err = errors.Join(err, closeErr)
			}
		}
	}()
	for _, layer := range c.stack.Layers {
		path, err := mounts.OpenLayer(ctx, layer)
		if err != nil {
			return opened{}, err
		}
		found.layers = append(found.layers, path)
	}
	found.lower, err = mountLower(found.layers, lowerRoot)
	if err != nil {
		return opened{}, err
	}
	if err := found.lower.probe(); err != nil {
		return opened{}, errors.Join(fmt.Errorf("read the stack: %w", err), found.lower.unmount())
	}
	return found, nil
}

// of returns how many boots of a stack have failed.
func (a AttemptsRecord) of(stack release.Stack) (most int) {
	for key, n := range a.Counts {
		if stack.HasKey(key) {
			most = max(most, n)
		}
	}
	return most
}

// count records one more boot of a stack, before it is tried.
func (a AttemptsRecord) count(stack release.Stack) error {
	return a.set(stack, min(a.of(stack)+1, maxAttempts))
}

func (a AttemptsRecord) set(stack release.Stack, attempts int) error {
	next := a.without(stack)
	next.Counts[stack.Key()] = attempts
	return WriteRecord(attemptsPath, next)
}

// without is the record without a stack.
func (a AttemptsRecord) without(stack release.Stack) AttemptsRecord {
	counts := map[string]int{}
	for key, n := range a.Counts {
		// Stacks that nothing refers to any more would pile up; no VM has that many in turn.
		if !stack.HasKey(key) && len(counts) < 16 {
			counts[key] = n
		}
	}
	return AttemptsRecord{Counts: counts}
}

// runningModules finds the modules of the running kernel if the chosen stack has those of another kernel: after a
// reboot in the same QEMU process, the kernel is still the one with which the VM was started.
func runningModules(ctx context.Context, chosen opened, configured release.Stack) (kernel, usr string, err error) {
	kernel, err = mounts.KernelRelease()
	if err != nil {
		return "", "", err
	}
	modules := filepath.Join("usr/lib/modules", kernel, "modules.dep")
	if present(string(chosen.lower), modules) {
		return kernel, "", nil
	}
	for _, layer := range append(append([]release.Layer(nil), chosen.stack.Layers...), configured.Layers...) {
		openCtx, cancel := context.WithTimeout(ctx, preferredTimeout)
		path, err := mounts.OpenLayer(openCtx, layer)
		cancel()
		if err != nil {
			say("modules of %s: %v", kernel, err)
			continue
		}
		if present(path, modules) {
			return kernel, filepath.Join(path, "usr"), nil
		}
	}
	say("the stack has no modules of the running kernel %s", kernel)
	return kernel, "", loadDeviceModules()
}
