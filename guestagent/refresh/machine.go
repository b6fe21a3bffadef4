package refresh

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"google.golang.org/protobuf/proto"

	"github.com/sharedos/terraform-provider-sharedos/guestagent/etcmerge"
	"github.com/sharedos/terraform-provider-sharedos/guestagent/impact"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/agentapi"
	"github.com/sharedos/terraform-provider-sharedos/internal/sharedos/release"
)

// run is one refresh, with what its states pass on to each other.
type run struct {
	*Engine
	request *agentapi.RefreshRequest
	target  *target
	diff    *differences
	// from and to are the mount points of both stacks' layers, bottom to top.
	from, to []string
	// rung is the way by which the new stack takes effect.
	rung Rung
	// before is the assessment just before the swap.
	before *impact.Assessment
	// cause is why the refresh is rolled back.
	cause error
	// observed is when everything was healthy after the last restart; nil if it was not.
	observed *observation
	// manager is locked while a manager of the network is restarted.
	manager sync.Mutex
	// restoredFrom is the moment of the rollback after which a unit that is started runs the old
	// code; 0 before that moment.
	restoredFrom uint64
}

// step is the step from a state to the next one.
type step struct {
	// state is the next state. The loop journals it before anything of it is done.
	state State
	// change changes what else the journal records with the state; nil for nothing.
	change func(*Record)
	// running and generation are the stack that runs from now on, if the state is Idle.
	running    release.Stack
	generation uint64
}

// carryOut takes a refresh from the state that the journal names to its end. err says why it cannot
// go on from this state; nil if it can.
//
// It is the one loop of the state machine: a state acts, then the journal names the next one. An agent that is stopped
// in between starts again at the state that the journal names, so everything that a state does can be done twice.
func (r *run) carryOut(ctx context.Context, state State, err error) {
	defer r.Network.Stop()
	for {
		var next step
		if err == nil {
			next, err = r.act(ctx, state)
		}
		if err == nil && next.state == Idle {
			r.idle(next.running, next.generation)
			return
		}
		if err == nil {
			err = r.enter(next.state, next.change)
		}
		switch {
		case err == nil:
			state = next.state
		case r.life.Err() != nil:
			r.end() // the agent is being stopped: the next one goes on where the journal says
			return
		case state == Staged || state == Verified:
			r.refuse(err)
			return
		case state == RollingBack:
			r.leaveUnfinished(err)
			return
		default:
			r.rollBack(ctx, err)
			state, err = RollingBack, nil
		}
	}
}

// act carries out one state.
func (r *run) act(ctx context.Context, state State) (step, error) {
	switch state {
	case Staged:
		return r.verify(ctx)
	case Verified:
		return r.begin()
	case Swapped:
		return r.swap(ctx)
	case Restarted:
		return r.restartUnits(ctx)
	case Carried:
		return r.carry(ctx)
	case Starting:
		return r.start(ctx)
	case Checking:
		return r.check(ctx)
	case Committed:
		return r.commit()
	case RollingBack:
		return r.goBack()
	default:
		return step{}, fmt.Errorf("the journal has the unknown state %q", state)
	}
}

// startRefresh carries out a new refresh.
func (e *Engine) startRefresh(request *agentapi.RefreshRequest) {
	ctx, cancel := context.WithTimeout(e.life, refreshLimit)
	defer cancel()
	r := &run{Engine: e, request: request}
	data, err := proto.Marshal(request)
	if err == nil {
		err = e.Records.SaveRequest(data)
	}
	if err != nil {
		err = fmt.Errorf("save the request: %w", err)
		if full := e.System.Room(ctx); full != nil { // which says what to do
			err = full
		}
	} else {
		err = r.enter(Staged, nil)
	}
	r.carryOut(ctx, Staged, err)
}

// rollBack journals that the refresh is rolled back. If the private disk takes no more writes, the refresh is rolled
// back all the same: every state that the journal can name by now leads back, too.
func (r *run) rollBack(ctx context.Context, cause error) {
	if err := context.Cause(ctx); err != nil {
		cause = errors.Join(cause, err)
	}
	r.cause = cause
	if err := r.enter(RollingBack, func(record *Record) { record.Cause = cause.Error() }); err != nil {
		r.cause = errors.Join(cause, err)
	}
}

// refuse ends a refresh that has changed nothing.
func (r *run) refuse(cause error) {
	if r.life.Err() != nil {
		r.end()
		return
	}
	r.note(func(report *agentapi.Report) {
		report.Done, report.Refused, report.Error, report.Refusal = true, true, cause.Error(), refusalOf(cause)
	})
	r.idle(r.record.Running, r.record.Generation)
}

// refusalOf returns the code for the cause of a refusal.
func refusalOf(cause error) agentapi.Refusal {
	is := func(kinds ...error) bool {
		return slices.ContainsFunc(kinds, func(kind error) bool { return errors.Is(cause, kind) })
	}
	switch {
	case is(ErrImpact):
		return agentapi.Refusal_REFUSAL_IMPACT
	case is(ErrDeferred):
		return agentapi.Refusal_REFUSAL_STRATEGY
	case is(ErrTarget, ErrDowngrade, ErrStale, release.ErrSignature, release.ErrManifest,
		release.ErrSchema, release.ErrContents):
		return agentapi.Refusal_REFUSAL_TARGET
	case is(ErrAccounts):
		return agentapi.Refusal_REFUSAL_ACCOUNTS
	case is(ErrChecks):
		return agentapi.Refusal_REFUSAL_CHECKS
	}
	return agentapi.Refusal_REFUSAL_SYSTEM
}

// idle journals the end of a refresh. If it cannot, the next agent finds the previous state and ends the refresh again.
func (r *run) idle(running release.Stack, generation uint64) {
	r.noteBehind(running)
	err := r.enter(Idle, func(record *Record) {
		record.Running, record.Generation = running, generation
		if running.Same(record.To) {
			record.Boot = record.NextBoot
		}
		record.NextBoot = nil
	})
	if err := errors.Join(err, r.Blobs.Drop()); err != nil {
		r.note(func(report *agentapi.Report) {
			report.Pending = append(report.Pending, "the agent's records: "+err.Error())
		})
	}
	if err != nil {
		r.mutex.Lock()
		r.record.State, r.record.Running, r.record.Generation = Idle, running, generation
		r.mutex.Unlock()
	}
	r.end()
}

// verify checks everything that can be checked before anything changes, and assesses the impact. The host has attached
// the layers.
func (r *run) verify(ctx context.Context) (step, error) {
	t, err := openTarget(r.request.GetTarget(), r.record.From, r.Operators, r.request.GetAllowDowngrade())
	if err != nil {
		return step{}, err
	}
	r.target = t
	if err := r.timed("stage", func() error { return r.openLayers(ctx) }); err != nil {
		return step{}, err
	}
	if err := r.timed("verify", func() error { return r.readLayers(ctx) }); err != nil {
		return step{}, err
	}
	if err := r.System.Room(ctx); err != nil {
		return step{}, err
	}
	if err := r.timed("assess", func() error { return r.judge(ctx) }); err != nil {
		return step{}, err
	}
	if err := r.Etc.Room(r.diff.etc); err != nil {
		return step{}, err
	}
	baseline, bad := healthy(ctx, r.Health, r.request.GetHealthChecks())
	r.note(func(report *agentapi.Report) { report.Unchecked = bad })
	if r.request.GetRequireChecks() && len(bad) > 0 {
		return step{}, fmt.Errorf("%w: %s", ErrChecks, strings.Join(bad, "; "))
	}
	failed, err := r.Units.Failed(ctx)
	if err != nil {
		return step{}, err
	}
	revive := slices.DeleteFunc(slices.Clone(r.record.Revive),
		func(unit string) bool { return !slices.Contains(failed, unit) })
	var planned []Planned
	var starts []impact.Start
	var ran, idle []string
	if r.rung == Live {
		planned, starts = plan(restarted(revive), r.before), r.before.Starts
		if idle, err = r.idleUnits(ctx); err != nil {
			return step{}, err
		}
	} else if ran, err = r.Units.Ran(ctx); err != nil {
		return step{}, err
	}
	return step{state: Verified, change: func(record *Record) {
		record.Baseline, record.Failed, record.Planned, record.Strategy, record.Left = baseline, failed,
			planned, r.rung, r.before.Left
		record.NewlyEnabled, record.Ran, record.Idle, record.NextBoot, record.Revive = starts, ran,
			idle, r.before.Boot, revive
	}}, nil
}

func (r *run) openLayers(ctx context.Context) error {
	open := func(stack release.Stack) ([]string, error) {
		var paths []string
		for _, layer := range stack.Layers {
			path, err := r.Layers.Open(ctx, layer)
			if err != nil {
				return nil, err
			}
			paths = append(paths, path)
		}
		return paths, nil
	}
	var err error
	if r.from, err = open(r.record.From); err != nil {
		return err
	}
	r.to, err = open(r.record.To)
	return err
}

// readLayers reads the new layers whole, and checks those that the VM stands on: the units that are restarted, and a
// rollback, need them.
func (r *run) readLayers(ctx context.Context) error {
	added := newLayers(r.record.From, r.record.To)
	for _, layer := range slices.Concat(r.record.From.Layers, r.record.To.Layers) {
		if slices.ContainsFunc(added, func(l release.Layer) bool { return l.ID == layer.ID }) {
			continue
		}
		if err := r.Layers.Check(ctx, layer); err != nil {
			return fmt.Errorf("%w: %w; power the VM off and start it, which attaches all layers again", ErrUnreadable,
				err)
		}
	}
	for _, layer := range added {
		if err := r.Layers.Read(ctx, layer); err != nil {
			return err
		}
	}
	return nil
}

// judge compares the stacks, and refuses a refresh that interrupts more than is allowed.
func (r *run) judge(ctx context.Context) error {
	defer collectLess()()
	var err error
	if r.diff, err = r.target.compare(ctx, r.Blobs); err != nil {
		return err
	}
	if err := r.target.checkAccounts(ctx, r.Etc, r.Blobs); err != nil {
		return err
	}
	strategy, err := strategyOf(r.request.GetStrategy())
	if err != nil {
		return err
	}
	if r.rung, r.before, err = r.assessRung(ctx, r.diff.changes, r.record.To.Kernel,
		r.request.GetPolicy(), strategy); err != nil {
		return err
	}
	r.note(func(report *agentapi.Report) {
		report.Impact, report.Left, report.Strategy = message(r.rung, r.before),
			impact.LeftTexts(r.before.Left), string(r.rung)
		if r.rung != Live {
			report.Pending = r.before.Pending // for a live refresh it is found at the end
		}
	})
	allowed := r.request.GetMaxImpact()
	if allowed == agentapi.Level_LEVEL_UNSPECIFIED {
		allowed = agentapi.Level_RESTART
	}
	if level := r.before.Level; level > allowed {
		return fmt.Errorf("%w: it needs %s, and %s is allowed: %v", ErrImpact, level, allowed, r.before.Reasons)
	}
	if r.rung == NextBoot {
		return fmt.Errorf("%w: it needs %s, and the strategy is %s: %v", ErrDeferred, r.before.Level,
			strategy, r.before.Reasons)
	}
	return nil
}

// begin chooses the state of the rung. From that state on the running system changes.
func (r *run) begin() (step, error) {
	err := r.Network.Forget()
	if r.rung == Live {
		// Units may be interrupted from then on if some are stopped before the swap.
		stops := slices.ContainsFunc(r.record.Planned, func(p Planned) bool { return p.Outcome == impact.Stopped })
		return step{state: Swapped, change: func(record *Record) { record.Renewed = stops }}, err
	}
	return step{state: Carried}, err
}

// swap stops what the new stack does not have, swaps /usr and carries /etc.
func (r *run) swap(ctx context.Context) (step, error) {
	if err := r.stopRemoved(ctx); err != nil {
		return step{}, err
	}
	if err := r.timed("swap", func() error { return r.Usr.Swap(ctx, r.to) }); err != nil {
		return step{}, err
	}
	var units []string
	err := r.timed("etc", func() error {
		generate, err := r.carryEtc(ctx)
		if err == nil {
			// systemd has yet to read the new units.
			units = slices.DeleteFunc(slices.Clone(generate), func(name string) bool { return !isUnit(name) })
			r.generate(ctx, slices.DeleteFunc(generate, isUnit))
		}
		return err
	})
	boot := r.carried(r.record.NextBoot)
	return step{state: Restarted, change: func(record *Record) {
		record.Renewed, record.Generate, record.NextBoot = true, units, boot
	}}, err
}

// isUnit reports whether a generator is a unit. Those that make secrets are.
func isUnit(name string) bool { return strings.HasSuffix(name, ".service") }

// carryEtc carries /etc. It returns the names of the tools that have to run once the new /usr is mounted.
func (r *run) carryEtc(ctx context.Context) (generate []string, err error) {
	ends := etcmerge.Ends{From: r.record.From.Key(), To: r.record.To.Key()}
	if err := r.Etc.Keep(r.request.GetKeepFiles(), r.request.GetPurge()); err != nil {
		return nil, err
	}
	outcome, err := r.Etc.Carry(ctx, ends, r.diff.etc, r.from, r.to, len(r.record.To.OfBase()))
	r.note(func(report *agentapi.Report) {
		report.EtcCarried, report.Conflicts, report.ConflictDetails = int64(outcome.Carried), nil, nil
		AddConflicts(report, outcome.Conflicts)
	})
	return outcome.Generate, err
}

// ownStays are the conflicts in which the VM's own version of a path stays.
var ownStays = []etcmerge.Kind{
	etcmerge.Changed, etcmerge.OtherType, etcmerge.Mounted, etcmerge.Protected, etcmerge.Unreadable,
	etcmerge.Unsupported, etcmerge.Kept,
}

// carried returns the files that are now as in the release, or that an earlier refresh has changed.
func (r *run) carried(files []impact.BootFile) []impact.BootFile {
	r.mutex.Lock()
	defer r.mutex.Unlock()
	return slices.DeleteFunc(slices.Clone(files), func(file impact.BootFile) bool {
		return !slices.Contains(r.record.Boot, file) &&
			slices.ContainsFunc(r.report.GetConflictDetails(), func(c *agentapi.Conflict) bool {
				return c.GetPath() == "/"+file.Path && slices.Contains(ownStays, etcmerge.Kind(c.GetKind()))
			})
	})
}

// generate generates files below /etc again. Programs also run with outdated ones, so a failure is only reported.
func (r *run) generate(ctx context.Context, names []string) {
	if len(names) == 0 {
		return
	}
	failures := r.Etc.Generate(ctx, names)
	r.note(func(report *agentapi.Report) { AddConflicts(report, failures) })
}

// AddConflicts reports conflicts of a carry: as texts, and with what an administrator can do.
func AddConflicts(report *agentapi.Report, conflicts []etcmerge.Conflict) {
	report.Conflicts = append(report.Conflicts, etcmerge.Texts(conflicts)...)
	for _, c := range conflicts {
		report.ConflictDetails = append(report.ConflictDetails, &agentapi.Conflict{
			Path: c.File(), Kind: string(c.Kind), Reason: c.Reason, Advice: c.Advice(),
		})
	}
}

// Moved is the report of a boot that has moved the VM to another stack and carried /etc to it.
func Moved(from, to release.Stack, carried int, conflicts []etcmerge.Conflict) *agentapi.Report {
	report := &agentapi.Report{
		From: agentapi.NewStack(from), To: agentapi.NewStack(to), Strategy: string(NextBoot),
		Done: true, Committed: true, State: agentapi.State_COMMITTED, EtcCarried: int64(carried),
	}
	AddConflicts(report, conflicts)
	return report
}

// restartUnits restarts or reloads the units that use what changed.
func (r *run) restartUnits(ctx context.Context) (step, error) {
	err := r.timed("restart", func() error { return r.renew(ctx, r.record.To.Kernel, r.record.Planned, false) })
	return step{state: Checking}, err
}

// check waits until everything that was healthy before is healthy again, and stays so.
func (r *run) check(ctx context.Context) (step, error) {
	err := r.timed("check", func() error {
		if err := r.settle(ctx); err != nil {
			return err
		}
		return r.checkEnabled(ctx)
	})
	return step{state: Committed}, err
}

// commit makes the stack the one that is booted next.
func (r *run) commit() (step, error) {
	started := time.Now()
	generation, err := r.Records.Commit(r.record.To, r.request.GetOwn())
	if err != nil {
		return step{}, fmt.Errorf("commit: %w", err)
	}
	// The commit is the point of no return: a later failure is only reported. Until here, a
	// rollback would have needed the record of the network.
	r.releaseNetwork(r.life, "")
	if err := r.life.Err(); err != nil {
		return step{}, err // the next agent releases it
	}
	err = r.retry(r.life, func() error { return errors.Join(r.Etc.End(r.life, r.record.To), r.Usr.Settle()) })
	if err == nil {
		err = r.purge(r.life)
	}
	r.note(func(report *agentapi.Report) {
		report.Done, report.Committed, report.State = true, true, agentapi.State_COMMITTED
		report.Timings = append(report.Timings,
			&agentapi.Timing{Step: "commit", Micros: time.Since(started).Microseconds()})
		if err != nil {
			report.Pending = append(report.Pending, "the agent's records: "+err.Error())
		}
	})
	return step{state: Idle, running: r.record.To, generation: generation}, nil
}

// purge removes what the detached components brought, and reports that. It comes after the commit,
// because a rollback needs all of it until then. If something fails, the next start of the agent does it.
func (e *Engine) purge(ctx context.Context) error {
	purged, err := e.Etc.Purge(ctx)
	e.mutex.Lock()
	defer e.mutex.Unlock()
	if e.report != nil {
		e.report.Purged += int64(purged.Removed)
		AddConflicts(e.report, purged.Kept)
	}
	return err
}

// plan adds the units that an assessment renews to the planned ones.
func plan(planned []Planned, a *impact.Assessment) []Planned {
	planned = slices.Clone(planned)
	for _, affected := range a.Affected {
		if affected.Outcome.Keeps() {
			continue
		}
		if !slices.ContainsFunc(planned, func(p Planned) bool { return p.Unit == affected.Unit }) {
			planned = append(planned, Planned{Unit: affected.Unit, Outcome: affected.Outcome})
		}
	}
	return planned
}
