package refresh

import (
	"bytes"
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/etcmerge"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/impact"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/journal"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/network"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/proc"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/tree"
)

// What the engine has for this system (seams.go), in the model of a VM.

type worldStarter struct{ *world }

func (w worldStarter) Obstacles(context.Context) (map[Rung]string, error) {
	return w.obstacles, w.do("obstacles", func() error { return nil })
}

func (w worldStarter) SoftReboot(context.Context) error {
	return w.ends("soft-reboot", func() {
		switch {
		case w.stay != "":
			w.notSwitched = w.stay
			w.services = map[string]tree.Digest{"a.service": w.usr, "b.service": w.usr}
		case w.journal.State == Starting:
			w.begin(w.journal.To)
		case w.journal.State == RollingBack:
			w.begin(w.journal.From)
		default:
			w.t.Errorf("a soft-reboot in state %s", w.journal.State)
		}
	})
}

func (w worldStarter) Kexec(_ context.Context, kernel, initramfs io.Reader, commandLine string,
	trial release.Stack) error {
	if kernel == nil {
		return nil
	}
	for what, file := range map[string]io.Reader{"kernel": kernel, "initramfs": initramfs} {
		if text, err := io.ReadAll(file); err != nil || string(text) != what {
			w.t.Errorf("the %s is %q, %v", what, text, err)
		}
	}
	if commandLine != "quiet" {
		w.t.Errorf("the command line is %q", commandLine)
	}
	return w.ends("kexec", func() {
		w.trial = trial.Base
		w.start()
	})
}

func (w worldStarter) Reboot(context.Context) error {
	return w.ends("reboot", func() {
		w.trial = tree.Digest{}
		w.start()
	})
}

type worldLayers struct{ *world }

func (w worldLayers) Open(_ context.Context, layer release.Layer) (string, error) {
	return layerPath(layer), w.do("open", func() error { w.open[layer.ID] = true; return nil })
}

func (w worldLayers) Check(_ context.Context, layer release.Layer) error {
	return w.do("check layer", func() error {
		if !w.open[layer.ID] {
			return errors.New("a layer that is not open was checked")
		}
		return w.unreadableLayers[layer.ID]
	})
}

func (w worldLayers) Read(_ context.Context, layer release.Layer) error {
	return w.do("read", func() error {
		if !w.open[layer.ID] {
			return errors.New("a layer that is not open was read")
		}
		return w.readError
	})
}

type worldUsr struct{ *world }

func (w worldUsr) of(layers []string) (tree.Digest, error) {
	if len(layers) == 0 {
		return tree.Digest{}, errors.New("a /usr without layers")
	}
	base, known := w.pathOf[layers[len(layers)-1]]
	if !known {
		return base, fmt.Errorf("unknown layer %s", layers[len(layers)-1])
	}
	return base, nil
}

func (w worldUsr) Swap(_ context.Context, layers []string) error {
	return w.do("swap", func() error {
		base, err := w.of(layers)
		w.usr, w.swapped = base, true
		return err
	})
}

func (w worldUsr) Back(_ context.Context, layers []string) error {
	return w.do("back", func() error {
		base, err := w.of(layers)
		w.usr = base
		return err
	})
}

func (w worldUsr) Prefetch(context.Context, []string) error {
	return w.do("prefetch", func() error { return nil })
}

func (w worldUsr) Settle() error { return w.do("settle usr", func() error { return nil }) }

type worldEtc struct{ *world }

func (w worldEtc) Carry(_ context.Context, _ etcmerge.Ends, differences []etcmerge.Difference, _, to []string,
	_ int) (etcmerge.Outcome, error) {
	begin := func() error {
		base, err := worldUsr(w).of(to)
		if err != nil {
			return err
		}
		if w.etcUndo == nil {
			was := w.etc
			w.etcUndo = &was
		}
		w.etc, w.etcTo = w.torn, base
		return nil
	}
	err := w.doInParts("carry", begin, func() error {
		if !w.anyEtc && (len(differences) != 1 || differences[0].Path != settings) {
			return fmt.Errorf("differences %v", differences)
		}
		if err := begin(); err != nil {
			return err
		}
		w.etc = w.etcTo
		return nil
	})
	return etcmerge.Outcome{Carried: 1, Generate: append([]string{"ld.so.cache"}, w.generate...),
		Conflicts: w.conflicts}, err
}

func (w worldEtc) Keep(patterns []string, purge bool) error {
	w.kept, w.purge = patterns, purge
	return nil
}

// Purge removes what components of the old stack brought, once the new one is committed.
func (w worldEtc) Purge(context.Context) (purged etcmerge.Purged, _ error) {
	return purged, w.do("purge", func() error {
		if w.etcUndo != nil {
			w.t.Errorf("a purge while /etc can still be undone")
		}
		if w.purge {
			purged.Removed = 1
		}
		w.purge = false
		return nil
	})
}

func (w worldEtc) Accounts() (etcmerge.AccountTexts, error) { return w.accounts, nil }

func (w worldEtc) Room([]etcmerge.Difference) error {
	return w.do("room for etc", func() error { return nil })
}

func (w worldEtc) Behind(release.Stack) error { return w.behind }

func (w worldEtc) Generate(_ context.Context, names []string) []etcmerge.Conflict {
	if len(names) == 0 {
		w.t.Errorf("nothing is to be generated")
	}
	name := "generate"
	if isUnit(names[0]) {
		name += " " + names[0]
	}
	if err := w.do(name, func() error { return nil }); err != nil {
		return []etcmerge.Conflict{etcmerge.GeneratorNamed(names[0]).Failed(err)}
	}
	return nil
}

func (w worldEtc) Undo(context.Context) ([]etcmerge.Conflict, error) {
	return w.left, w.doInParts("undo etc", func() error {
		if w.etcUndo != nil {
			w.etc = w.torn
		}
		return nil
	}, func() error {
		if w.etcUndo != nil {
			w.etc, w.etcUndo = *w.etcUndo, nil
		}
		return nil
	})
}

func (w worldEtc) End(_ context.Context, running release.Stack) error {
	return w.do("end etc", func() error {
		if w.etcUndo != nil && w.etcTo != running.Base {
			w.etc = *w.etcUndo
		}
		w.etcUndo = nil
		return nil
	})
}

type worldUnits struct{ *world }

func (w worldUnits) Reload(context.Context) error { return w.do("reload", func() error { return nil }) }

func (w worldUnits) Reexecute(context.Context) error {
	return w.do("reexecute", func() error { w.manager = w.usr; return nil })
}

func (w worldUnits) Order(_ context.Context, names []string, _ map[string]impact.Unit) (ordered []string,
	after map[string][]string, err error) {
	return slices.Sorted(slices.Values(names)), w.after, nil
}

// allow records the limit of an operation on a unit.
func (w worldUnits) allow(ctx context.Context, what, unit string) {
	deadline, _ := ctx.Deadline()
	w.mutex.Lock()
	defer w.mutex.Unlock()
	if w.within == nil {
		w.within = map[string]time.Duration{}
	}
	w.within[what+" "+unit] = time.Until(deadline)
}

func (w worldUnits) Restart(ctx context.Context, unit string) (time.Duration, error) {
	w.allow(ctx, "restart", unit)
	return time.Millisecond, w.do("restart "+unit, func() error {
		if _, known := w.services[unit]; !known {
			return fmt.Errorf("unknown unit %s", unit)
		}
		if w.failed[unit] {
			return nil
		}
		return w.launch(unit)
	})
}

// launch runs a unit from the present /usr, and those that follow it.
func (w worldUnits) launch(unit string) error {
	w.network = w.network && impact.ManagesNetwork(unit) == impact.NoManager
	for _, one := range append([]string{unit}, w.followers[unit]...) {
		w.services[one] = w.usr
		w.restartedAt[one] = time.Now()
		w.failed[one] = w.broken[one] == w.usr
	}
	if w.failed[unit] {
		return errors.New("the job failed")
	}
	return nil
}

func (w worldUnits) Restore(ctx context.Context, unit string) (time.Duration, error) {
	w.allow(ctx, "restore", unit)
	return time.Millisecond, w.do("restore "+unit, func() error { return w.launch(unit) })
}

func (w worldUnits) Stop(_ context.Context, unit string) error {
	return w.do("stop "+unit, func() error { delete(w.services, unit); return nil })
}

func (w worldUnits) Startable(_ context.Context, unit, _ string) (running bool, why string, err error) {
	err = w.do("startable", func() error {
		_, running = w.services[unit]
		why = w.notStartable[unit]
		return nil
	})
	return running, why, err
}

func (w worldUnits) Start(_ context.Context, unit string) (took time.Duration, skipped bool, err error) {
	err = w.do("start "+unit, func() error {
		if w.unmet[unit] {
			skipped = true
			return nil
		}
		return w.launch(unit)
	})
	return time.Millisecond, skipped, err
}

func (w worldUnits) Withdraw(_ context.Context, unit string) error {
	return w.do("withdraw "+unit, func() error {
		delete(w.services, unit)
		delete(w.failed, unit)
		return nil
	})
}

func (w worldUnits) Ran(context.Context) (ran []string, err error) {
	err = w.do("ran", func() error { ran = slices.Sorted(maps.Keys(w.services)); return nil })
	return ran, err
}

func (w worldUnits) Restarted(_ context.Context, unit string,
	since uint64) (restarted bool, away time.Duration, err error) {
	err = w.do("ask", func() error {
		restarted = uint64(w.restartedAt[unit].UnixMicro()) >= since && !w.restartedAt[unit].IsZero()
		return nil
	})
	return restarted, time.Millisecond, err
}

func (w worldUnits) Active(ctx context.Context, unit string) (string, uint64, error) {
	state, err := w.ActiveState(ctx, unit)
	w.mutex.Lock()
	defer w.mutex.Unlock()
	return state, uint64(w.restartedAt[unit].UnixMicro()), err
}

func (w worldUnits) ReloadUnit(context.Context, string) error {
	return w.do("reload unit", func() error { return nil })
}

func (w worldUnits) ActiveState(_ context.Context, unit string) (state string, err error) {
	err = w.do("state", func() error {
		state = "active"
		_, runs := w.services[unit]
		switch {
		case !runs && unit != impact.ManagerUnit && !slices.Contains(w.active, unit):
			state = "inactive"
		case w.failed[unit] || w.flaky[unit] == w.usr && time.Since(w.restartedAt[unit]) > 30*time.Millisecond:
			state = "failed"
		}
		return nil
	})
	return state, err
}

func (w worldUnits) Failure(_ context.Context, unit string) string {
	return unit + " is failed; it logged last: boom"
}
func (w worldUnits) ApplyAccounts(context.Context, []string) error  { return nil }
func (w worldUnits) ApplyTemporary(context.Context, []string) error { return nil }

func (w worldUnits) State(context.Context) (state string, err error) {
	err = w.do("system state", func() error {
		state = "running"
		switch {
		case w.hopeless == w.usr:
			state = "maintenance"
		case len(w.failedUnits()) > 0:
			state = "degraded"
		}
		return nil
	})
	return state, err
}

func (w worldUnits) Failed(context.Context) (names []string, err error) {
	err = w.do("failed units", func() error { names = w.failedUnits(); return nil })
	return names, err
}

func (w *world) failedUnits() (names []string) {
	for unit, version := range w.broken {
		if version == w.usr {
			names = append(names, unit)
		}
	}
	for unit, failed := range w.failed {
		if failed && !slices.Contains(names, unit) {
			names = append(names, unit)
		}
	}
	return names
}

type worldSystem struct{ *world }

func (w worldSystem) Root() (string, error) {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	return fmt.Sprint(w.root), nil
}

func (w worldSystem) BootID() (string, error) {
	w.mutex.Lock()
	defer w.mutex.Unlock()
	return fmt.Sprint(w.boot), nil
}
func (w worldSystem) Kernel() (string, error) { return cmp.Or(w.kernel, "6.12.0"), nil }
func (w worldSystem) Obstacle() string        { return w.obstacle }
func (w worldSystem) ForeignGenerators() (bool, error) {
	return true, w.do("generators", func() error { return nil })
}

// errNoRoom is what Room says of a full disk.
var errNoRoom = errors.New("no room: remove files")

func (w worldSystem) Room(context.Context) error {
	return w.do("room", func() error {
		if w.full {
			return errNoRoom
		}
		return nil
	})
}

func device(version tree.Digest) proc.Device { return proc.Device{Minor: uint32(version[0]) + 1} }

func (w worldSystem) Swapped() (swapped bool, err error) {
	err = w.do("swapped", func() error { swapped = w.swapped; return nil })
	return swapped, err
}

func (w worldSystem) Moment() (uint64, error) { return uint64(time.Now().UnixMicro()), nil }

func (w worldSystem) Packages(context.Context, *impact.Assessment) error { return nil }

func (w worldSystem) Snapshot(_ context.Context, _ *impact.Changes, _ []string,
	swapped bool) (s impact.Snapshot, err error) {
	err = w.do("snapshot", func() error {
		s.Units = map[string]impact.Unit{}
		for _, unit := range w.active {
			s.Units[unit] = impact.Unit{Name: unit, State: "active"}
		}
		for unit := range w.services {
			s.Units[unit] = impact.Unit{Name: unit, State: "active", Followers: w.followers[unit],
				Fragment: "usr/lib/systemd/system/" + unit}
			if unit == w.script {
				s.Units[unit] = impact.Unit{
					Name: unit, State: "active", Fragment: "run/systemd/generator.late/" + unit,
					DropIns: []string{"etc/init.d/" + strings.TrimSuffix(unit, ".service")},
				}
			}
			if unit == w.standIn && w.usr == w.releases["one"].stack.Base {
				s.Units[unit] = impact.Unit{Name: unit, State: "activating", Once: true,
					Fragment: "run/systemd/generator.late/" + unit}
			}
		}
		use := func(version tree.Digest) []impact.Use {
			use := impact.Use{Path: library, Device: device(version), Mapped: true, Version: impact.Earlier}
			if strings.TrimSuffix(w.name(version), "+") == strings.TrimSuffix(w.name(w.usr), "+") {
				use.Version = impact.Mounted
			}
			return []impact.Use{use}
		}
		s.Processes = append(s.Processes,
			impact.Process{PID: 1, Unit: impact.ManagerUnit, SystemRoot: true, Uses: use(w.manager)},
			impact.Process{PID: 2, Unit: "agent.service", SystemRoot: true},
			impact.Process{PID: 3, Unit: "idle.service", SystemRoot: true})
		for unit, version := range w.services {
			if !w.failed[unit] {
				s.Processes = append(s.Processes,
					impact.Process{PID: 10, Unit: unit, SystemRoot: true, Uses: use(version)})
			}
		}
		if swapped {
			s.Fresh = device(w.usr)
		}
		return nil
	})
	return s, err
}

func (w worldSystem) Pinned(context.Context) ([]string, error) {
	return nil, w.do("audit", func() error { return nil })
}

type worldHealth struct{ *world }

func (w worldHealth) Check(context.Context, *agentapi.HealthCheck) error {
	return w.do("check", func() error {
		if w.usr == w.unhealthy {
			return errors.New("status 500")
		}
		return nil
	})
}

type worldRecords struct{ *world }

func (w worldRecords) Journal() (r Record, err error) {
	err = w.do("read journal", func() error {
		if w.unreadable != nil {
			return w.unreadable
		}
		if w.journal == nil {
			return journal.ErrNone
		}
		r = *w.journal
		return nil
	})
	return r, err
}

func (w worldRecords) SaveJournal(r Record) error {
	return w.do("journal "+string(r.State), func() error {
		seen(w.journal, r)
		w.journal = &r
		return nil
	})
}

func (w worldRecords) Request() (data []byte, err error) {
	return w.request, w.do("read request", func() error { return nil })
}

func (w worldRecords) SaveRequest(data []byte) error {
	return w.do("keep request", func() error {
		if w.full {
			return syscall.ENOSPC
		}
		w.request = data
		return nil
	})
}

func (w worldRecords) Committed() (release.Stack, uint64, bool, error) {
	if w.committed == nil {
		return release.Stack{}, 0, false, nil
	}
	return *w.committed, w.commits, true, nil
}

func (w worldRecords) Commit(stack release.Stack, _ bool) (uint64, error) {
	err := w.do("commit", func() error {
		if w.committed == nil || !w.committed.Same(stack) {
			w.commits++
		}
		w.committed = &stack
		return nil
	})
	return w.commits, err
}

func (w worldRecords) MarkBad(stack release.Stack) error {
	return w.do("mark bad", func() error { w.distrusted[stack.Base] = true; return nil })
}

func (w worldRecords) MarkGood(stack release.Stack) error {
	return w.do("mark good", func() error {
		delete(w.distrusted, stack.Base)
		delete(w.trials, stack.Base)
		return nil
	})
}

type worldBlobs struct{ *world }

func (w worldBlobs) Open(digest tree.Digest) (file io.ReadCloser, err error) {
	err = w.do("open blob", func() error {
		data, has := w.blobs[digest]
		if !has {
			return fmt.Errorf("no blob %s", digest)
		}
		file = io.NopCloser(bytes.NewReader(data))
		return nil
	})
	return file, err
}

func (w worldBlobs) Drop() error {
	return w.do("drop blobs", func() error { clear(w.blobs); return nil })
}

type worldNetwork struct{ *world }

func (w worldNetwork) Keep(_ context.Context, sure network.Sure) error {
	return w.do("keep network", func() error {
		if w.keptNetwork == nil {
			w.keptNetwork, w.sure = &w.network, sure
		}
		return nil
	})
}

func (w worldNetwork) Continue(context.Context) (found bool, err error) {
	err = w.do("continue network", func() error { found = w.keptNetwork != nil; return nil })
	return found, err
}

func (w worldNetwork) Release(context.Context, string) (missing []string, err error) {
	err = w.do("release network", func() error {
		if w.keptNetwork == nil {
			return nil
		}
		if w.sure == network.SureOfAll {
			w.network = true
		} else if !w.network {
			missing = []string{"address 10.0.0.1/24 on eth0: unsure"}
		}
		w.keptNetwork = nil
		return nil
	})
	return missing, err
}

func (w worldNetwork) Stop() {}

func (w worldNetwork) Forget() error {
	return w.do("forget network", func() error { w.keptNetwork = nil; return nil })
}
